"""Small projects on disk for tests of verbs; their names have nothing in common with the shipped one."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "dbt_project.yml": """
        name: bakery
        version: 1.0.0
        config-version: 2
        profile: oven
        model-paths: [models]
        flags: {send_anonymous_usage_stats: false}
        models:
          bakery: {+materialized: table}
    """,
    "profiles.yml": """
        oven:
          target: dev
          outputs:
            dev: {type: duckdb, path: bakery.duckdb, schema: shop, threads: 1}
    """,
    "models/people.sql": """
        select * from (values
            ('p1', 'ann@example.com', 'Ann', 'Europe/Berlin', timestamp '2026-01-01 00:00:00'),
            ('p2', 'bob@example.com', 'Bob', 'Europe/Paris', timestamp '2026-01-01 00:00:00')
        ) as t(person_id, email_address, given_name, tz, changed_at)
    """,
    "models/activity.sql": """
        select * from (values
            ('a1', 'p1', 'order_placed', timestamp '2026-03-01 09:00:00', timestamp '2026-03-01 09:05:00'),
            ('a2', 'p2', 'page_seen', timestamp '2026-03-01 10:00:00', timestamp '2026-03-01 10:05:00')
        ) as t(activity_id, person_id, activity, happened_at, arrived_at)
    """,
    "models/schema.yml": """
        version: 2
        models:
          - name: people
            columns:
              - {name: person_id, data_type: varchar}
              - {name: email_address, data_type: varchar}
              - {name: given_name, data_type: varchar}
              - {name: tz, data_type: varchar}
              - {name: changed_at, data_type: timestamp}
          - name: activity
            columns:
              - {name: activity_id, data_type: varchar}
              - {name: person_id, data_type: varchar}
              - {name: activity, data_type: varchar}
              - {name: happened_at, data_type: timestamp}
              - {name: arrived_at, data_type: timestamp}
    """,
}
PENSTOCK = {
    "penstock.yaml": """
        version: 1
        contact: {model: ref('people'), id: person_id, email: email_address, timezone: tz, updated_at: changed_at}
        events:
          {model: ref('activity'), id: activity_id, contact: person_id, name: activity, at: happened_at,
           loaded_at: arrived_at}
        destinations:
          post: {type: recorder, folder: .penstock/sent}
        targets:
          dev: {deliver: outbox}
    """,
    "workflows/thanks.yaml": """
        version: 1
        workflow: thanks
        owner: Baker
        trigger: {event: order_placed}
        steps:
          - id: pause
            wait: 1h
          - id: mail
            email: thanks
          - id: back
            if: did('order_placed', since => 'mail')
            then: [{tag: loyal}]
            else: []
    """,
    "templates/thanks.mjml": """
        ---
        subject: Thank you
        ---
        <mjml><mj-body><mj-section><mj-column><mj-text>
        Dear {{ contact.given_name | default: "guest" }}, thank you.
        </mj-text></mj-column></mj-section></mj-body></mjml>
    """,
}


def write(folder: Path, *parts: dict[str, str]) -> Path:
    """Writes files, their common indentation removed, and gives the folder back."""
    from textwrap import dedent

    for part in parts:
        for name, text in part.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


def bakery(folder: Path) -> Path:
    """A dbt project with Penstock's files, nothing built."""
    return write(folder, FILES, PENSTOCK)


def replaced(file: Path, old: str, new: str) -> None:
    """Changes a file; the old text must be there."""
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file} does not hold {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def built(folder: Path) -> Path:
    """The bakery with its two models as tables, as dbt would leave them."""
    import duckdb

    project = bakery(folder)
    with duckdb.connect(str(project / "bakery.duckdb")) as connection:
        connection.execute("create schema shop")
        for name in ("people", "activity"):
            connection.execute(f"create table shop.{name} as {FILES[f'models/{name}.sql']}")
    return project
