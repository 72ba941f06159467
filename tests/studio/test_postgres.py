"""A dbt project whose target is a PostgreSQL server: every verb, and what arrives at real servers on the loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from compiler.errors import WarehouseError
from flows.journal.tables import stage
from flows.project import load_project
from flows.warehouse.location import ServerLocation
from flows.warehouse.postgres import PostgresWarehouse
from studio import cli
from studio.demo.mail_server import MailServer
from studio.demo.raw import MARK, clear_database
from studio.demo.sink import WebhookSink
from tests.flows.warehouse.postgres_server import Server
from tests.studio.projects import FILES, replaced, write

PASSWORD = "never-to-be-seen-7391"
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()
DBT = {
    "dbt_project.yml": """
        name: greenhouse
        version: 1.0.0
        config-version: 2
        profile: glass
        model-paths: [models]
        flags: {send_anonymous_usage_stats: false}
    """,
    "profiles.yml": """
        glass:
          target: laptop
          outputs:
            laptop: {type: duckdb, path: glass.duckdb, schema: plants}
            server:
              type: postgres
              host: "{{ env_var('GLASS_HOST') }}"
              port: "{{ env_var('GLASS_PORT') | int }}"
              user: "{{ env_var('GLASS_USER') }}"
              pass: "{{ env_var('GLASS_PASSWORD') }}"
              dbname: "{{ env_var('GLASS_DATABASE') }}"
              schema: plants
              threads: 2
    """,
    "models/growers.sql": """
        select grower_no, mailbox, forename, area, signed_for_news, bed_count, updated_on, beds
        from (values
            (17, 'ida@mail.example', 'Ida', 'Europe/Rome', true, 3.50, '2026-01-01 08:00:00', array['herbs', 'peas']),
            (18, 'leo@mail.example', 'Leo', null, true, 1.25, '2026-01-01 08:00:00', array['roses']),
            (19, 'mia@mail.example', 'Mia', 'Asia/Tokyo', false, null, '2026-01-01 08:00:00', null)
        ) as t(grower_no, mailbox, forename, area, signed_for_news, beds_counted, changed, beds)
        cross join lateral (
            select changed::timestamptz as updated_on, beds_counted::numeric(6, 2) as bed_count
        ) as typed
    """,
    "models/doings.sql": """
        {{ config(materialized='table') }}
        select code, grower_no, doing, happened, arrived, extra::json as extra
        from (values
            ('d1', 17, 'seeds_bought', timestamptz '2026-02-01 09:00:00+00', timestamptz '2026-02-01 09:01:00+00',
             '{"packets": 12, "kind": "peas"}'),
            ('d2', 18, 'seeds_bought', timestamptz '2026-02-01 10:00:00+00', timestamptz '2026-02-01 10:01:00+00',
             '{"packets": 2}'),
            ('d3', 19, 'seeds_bought', timestamptz '2026-02-01 11:00:00+00', timestamptz '2026-02-01 11:01:00+00',
             '{"packets": 30}')
        ) as t(code, grower_no, doing, happened, arrived, extra)
    """,
    "models/schema.yml": """
        version: 2
        models:
          - name: growers
            columns: [{name: grower_no, data_tests: [unique, not_null]}]
    """,
}  # fmt: skip
PENSTOCK = {
    "penstock.yaml": """
        version: 1
        contact:
          {model: ref('growers'), id: grower_no, email: mailbox, timezone: area, updated_at: updated_on, tags: beds}
        events:
          model: ref('doings')
          id: code
          contact: grower_no
          name: doing
          at: happened
          loaded_at: arrived
          data: extra
          properties: {seeds_bought: {packets: integer, kind: text}}
        policy: {default_timezone: Europe/Berlin, require: {email: contact.signed_for_news}}
        audiences: {big: contact.bed_count > 2}
        destinations:
          mail: {type: smtp, host: 127.0.0.1, port: @mail@, tls: none, from: hi@green.example, allow_hosts: [127.0.0.1]}
          shed: {type: webhook, url: "@hooks@/shed", secret: "{{ env_var('GLASS_SECRET') }}", allow_hosts: [127.0.0.1]}
        targets:
          laptop: {deliver: outbox}
          server: {deliver: live}
    """,
    "workflows/sowing.yaml": """
        version: 1
        workflow: sowing
        trigger:
          event: seeds_bought
          where: entry.packets > 1
        entry: {backfill: true, max_age: 20000d}
        steps:
          - {id: hello, email: sowing}
          - id: many
            if: entry.packets >= 10 and in_audience('big')
            then: [{id: tell, webhook: shed, body: {who: contact.forename, packets: entry.packets}}]
            else: [{id: few, tag: small}]
          - {id: rest, wait: 9000d}
          - {id: bye, exit: done}
    """,
    "templates/sowing.mjml": """
        ---
        subject: Sow well, {{ contact.forename }}
        ---
        <mjml><mj-body><mj-section><mj-column><mj-text>
        {{ entry.packets }} packets of {{ entry.kind | default: "seeds" }}.
        </mj-text></mj-column></mj-section></mj-body></mjml>
    """,
}


@dataclass
class Greenhouse:
    """The project, its servers, and what its verbs said."""

    folder: Path
    server: dict[str, str | int]
    mail: MailServer
    hooks: WebhookSink
    capture: pytest.CaptureFixture[str]
    said: str = ""

    def penstock(self, *words: str, code: int = 0) -> str:
        """One command for the target `server`; gives what it printed on stdout."""
        found = cli.run([*words, "--project-dir", str(self.folder), "--target", "server"])
        told = self.capture.readouterr()
        self.said += told.out + told.err
        assert found == code, told.out + told.err
        return told.out

    def data(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.penstock(*words, "--output", "json", code=code))


@pytest.fixture
def greenhouse(
    tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Greenhouse]:
    given = postgres_server.database()
    variables = {"HOST": given["host"], "PORT": given["port"], "USER": given["user"], "DATABASE": given["dbname"],
                 "PASSWORD": PASSWORD, "SECRET": SECRET}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"GLASS_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    with MailServer() as mail, WebhookSink(secret=SECRET) as hooks:
        folder = write(tmp_path / "green", DBT, PENSTOCK)
        replaced(folder / "penstock.yaml", "@mail@", str(mail.port))
        replaced(folder / "penstock.yaml", "@hooks@", hooks.url)
        yield Greenhouse(folder, given, mail, hooks, capsys)


def test_a_project_is_built_applied_and_delivers(greenhouse: Greenhouse) -> None:
    green = greenhouse
    green.penstock("dbt", "build", "--quiet")
    assert green.data("validate")["problems"] == []
    assert "sowing" in green.penstock("plan")
    assert "JSONB_BUILD_OBJECT" in green.penstock("compile", "--select", "sowing")
    green.penstock("apply", "--yes")
    assert green.data("run")["delivered"] == {"sent": 3}
    received = {(mail.recipients[0], mail.header("Subject")) for mail in green.mail.messages}
    assert received == {
        ("ida@mail.example", "Sow well, Ida"), ("leo@mail.example", "Sow well, Leo"),
    }, "Mia has not signed for news"  # fmt: skip
    assert [hook.body for hook in green.hooks.kept.values()] == [{"who": "Ida", "packets": 12}]
    assert green.data("run")["delivered"] == {}, "a second run sends nothing again"
    _look(green)
    assert green.hooks.unsigned == 0 and len(green.mail.messages) == 2, "who only looks sends nothing"
    replaced(green.folder / "workflows/sowing.yaml", "wait: 9000d", "wait: 9500d")
    green.penstock("plan")
    green.penstock("apply", "--yes", "--in-flight", "migrate")
    green.penstock("run")
    green.penstock("pause", "sowing")
    green.penstock("run")
    green.penstock("resume", "sowing")
    green.penstock("approve", "sowing", "--because", "looked at it", code=2)
    assert PASSWORD not in green.said
    kept = [file for file in green.folder.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
    assert kept == []
    assert PASSWORD not in repr(load_project(green.folder, "server"))


def _look(green: Greenhouse) -> None:
    """Every verb that only looks, against the same server."""
    [sowing] = green.data("status")["workflows"]
    assert (sowing["in_flight"], sowing["sent"], sowing["failed"]) == (3, 3, 0)
    logged = {(row["contact"], row["step"], row["outcome"]) for row in green.data("logs")}
    assert {("17", "tell", "webhook:shed sent"), ("19", "hello", "email:sowing skipped(no_consent)")} <= logged
    assert green.data("audience", "in_audience('big') and has_tag('peas')")["count"] == 1
    waits = green.penstock("explain", "sowing", "--contact", "18")
    assert waits.startswith("in flight · sowing, 18") and "tag:small ok" in waits
    walked = green.data("preview", "sowing", "--contact", "17", "--until", "40d")
    assert [item["subject"] for item in walked["timeline"] if item["subject"]] == ["Sow well, Ida"]
    tested = green.data("backtest", "sowing", "--since", "2026-01-31", "--until", "2026-02-03")
    assert tested["events"] == 3
    replayed = green.data("replay", "--since", "1")
    assert (len(replayed["ticks"]), replayed["accuracy"]) == (2, 1.0) and replayed["decisions"] > 5
    checks = {check["name"]: check for check in green.data("doctor")["checks"]}
    assert checks["warehouse"]["status"] == "ok"
    assert "PostgreSQL database test_" in checks["warehouse"]["detail"]


def test_a_session_that_looks_cannot_write(greenhouse: Greenhouse) -> None:
    location = load_project(greenhouse.folder, "server").warehouse.location
    with location.open("penstock") as writer:
        writer.execute("create table shelf (a integer)")
    with location.open("penstock", read_only=True) as reader:
        stage(reader, "some_rows", pa.table({"name": ["x"]}))
        assert reader.rows("select name from some_rows") == [{"name": "x"}]
        for statement in ("insert into shelf values (1)", "create table other (a integer)", "drop table shelf"):
            with pytest.raises(WarehouseError, match="read-only"):
                reader.execute(statement)
        assert reader.rows("select a from shelf") == []


def test_a_server_that_is_away_is_said_without_the_password(
    greenhouse: Greenhouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASS_PORT", "1")
    for words in (["apply", "--yes"], ["run"], ["status"], ["audience", "true"], ["preview", "sowing", "-c", "17"]):
        greenhouse.penstock(*words, code=2)
    greenhouse.penstock("doctor", code=1)
    assert greenhouse.said.count("E601") >= 5
    assert PASSWORD not in greenhouse.said


def test_init_finds_contacts_and_events_on_the_server(greenhouse: Greenhouse) -> None:
    folder = greenhouse.folder
    location = load_project(folder, "server").warehouse.location
    for name in (*DBT, *PENSTOCK):
        if "/" in name or name == "penstock.yaml":
            (folder / name).unlink()
    models = ("people", "activity")
    write(folder, {name: FILES[name] for name in (f"models/{model}.sql" for model in models)})
    with location.open("") as warehouse:
        warehouse.execute("create schema plants")
        for model in models:
            warehouse.execute(f"create table plants.{model} as {FILES[f'models/{model}.sql']}")
    found = greenhouse.data("init", "--no-input")
    assert (found["contact"], found["events"], found["event"]) == ("people", "activity", "order_placed")
    assert "server: {deliver: outbox}" in (folder / "penstock.yaml").read_text()
    greenhouse.penstock("run")


@pytest.fixture
def shop_database(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int]:
    """An empty database, named by the variables of the shipped profile."""
    given = postgres_server.database()
    for name, key in (("HOST", "host"), ("PORT", "port"), ("USER", "user"), ("DATABASE", "dbname")):
        monkeypatch.setenv(f"PG{name}", str(given[key]))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return given


def test_the_demo_runs_on_a_server_and_empties_only_its_own_database(
    shop_database: dict[str, str | int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    line = ["demo", "--target", "pg", "--contacts", "250", "--days", "5", "--every", "24", "--output", "json"]
    assert cli.run(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == 1.0 and found["audit"]["expected"] > 10 and found["totals"]["messages"] > 1
    with PostgresWarehouse(shop_database) as warehouse:
        assert warehouse.rows("select count(*) as n from penstock.ticks") == [{"n": 5}]
        clear_database(ServerLocation(shop_database))
        assert {place[0] for place in warehouse.relations()} == {MARK[0]}
        warehouse.execute(f"drop schema {MARK[0]} cascade")
        warehouse.execute("create table mine (a integer)")
        assert cli.run(line) == 2
        assert "holds something that no demo made: public" in capsys.readouterr().err
        assert warehouse.rows("select a from mine") == []
        assert cli.run(["init", "my_shop", "--target", "pg", "--no-input"]) == 2
        assert not (tmp_path / "my_shop").exists()
        warehouse.execute("drop table mine")
    assert cli.run(["init", "my_other_shop", "--target", "pg", "--no-input"]) == 0
    with PostgresWarehouse(shop_database) as warehouse:
        assert warehouse.rows("select count(*) as n from raw.crm_contacts")[0]["n"] > 900
    written = [file for file in tmp_path.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
    assert written == []
