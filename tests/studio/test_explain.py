"""`penstock explain` after real ticks: who entered, was refused or waits, and what parts of conditions are worth."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.engine.clock import VirtualClock
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced, write

START = datetime(2026, 3, 1, 8)
FILES = {
    "models/activity.sql": """
        select * from (values
            ('a1', 'p1', 'order_placed', timestamp '2026-03-01 09:00:00', timestamp '2026-03-01 09:05:00'),
            ('a2', 'p2', 'page_seen', timestamp '2026-03-01 10:00:00', timestamp '2026-03-01 10:05:00'),
            ('a3', 'p1', 'order_placed', timestamp '2026-03-01 09:40:00', timestamp '2026-03-01 09:41:00'),
            ('a4', 'p3', 'order_placed', timestamp '2026-03-01 07:00:00', timestamp '2026-03-01 07:01:00')
        ) as t(activity_id, person_id, activity, happened_at, arrived_at)
    """,
    "models/people.sql": """
        select * from (values
            ('p1', 'ann@example.com', 'Ann', 'Europe/Berlin', timestamp '2026-01-01 00:00:00'),
            ('p2', 'bob@example.com', null, 'Europe/Paris', timestamp '2026-01-01 00:00:00'),
            ('p3', 'cy@example.com', 'Cy', 'Europe/Paris', timestamp '2026-01-01 00:00:00')
        ) as t(person_id, email_address, given_name, tz, changed_at)
    """,
    "workflows/thanks.yaml": """
        version: 1
        workflow: thanks
        owner: Baker
        trigger:
          event: order_placed
          where: contact.tz in ('Europe/Berlin', 'Europe/Paris') and (entry.activity_id <> 'a9' and given_name = 'Ann')
        goals: [{name: looked, when: "did('page_seen', since => 'entry')"}]
        policy: {require: "given_name <> 'Zoe'"}
        steps:
          - id: pause
            wait: 1h
          - id: mail
            email: thanks
          - id: look
            wait_for: did('page_seen')
            within: 2d
            then: []
            else: [{tag: gone}]
    """,
    "workflows/rows.yaml": """
        version: 1
        workflow: rows
        owner: Baker
        trigger:
          from: ref('activity')
          key: activity_id
          contact: person_id
          at: happened_at
          where: activity = 'page_seen' and contact.given_name = 'Bob'
        steps: [{id: mark, tag: looked}]
    """,
    "workflows/lookers.yaml": """
        version: 1
        workflow: lookers
        owner: Baker
        trigger: {audience: "tz = 'Europe/Paris' or did('page_seen')"}
        steps: [{id: mark, tag: seen}]
    """,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann ordered at 09:00 and 09:40; ticks at 08:00, 09:10, 10:10 and 11:10."""
    import duckdb

    folder = write(built(tmp_path_factory.mktemp("bakery")), FILES)
    with duckdb.connect(str(folder / "bakery.duckdb")) as connection:
        for name in ("people", "activity"):
            connection.execute(f"create or replace table shop.{name} as {FILES[f'models/{name}.sql']}")
    clock = VirtualClock(START)
    runner = Runner(load_project(folder), clock)
    runner.apply(who="test")
    for minutes in (0, 70, 130):
        clock.advance_to(START + timedelta(minutes=minutes))
        runner.tick()
        runner.deliver()
    replaced(folder / "workflows/thanks.yaml", "given_name = 'Ann'", "given_name = 'Draft'")
    return folder


def _explain(project: Path, capsys: pytest.CaptureFixture[str], workflow: str, contact: str, at: str) -> dict[str, Any]:
    line = ["explain", workflow, "--contact", contact, "--output", "json"]
    assert cli.run(["--project-dir", str(project), *line, *(["--at", at] if at else [])]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _parts(found: dict[str, Any], place: str) -> list[tuple[str, bool | None, dict[str, Any]]]:
    [condition] = [item for item in found["conditions"] if item["place"] == place]
    return [(part["text"], part["value"], part["operands"]) for part in condition["parts"]]


def test_one_who_waits(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _explain(project, capsys, "thanks", "p1", "2026-03-01T11:00Z")
    assert (found["state"], found["version"]) == ("in flight", 1)
    [standing] = found["enrollments"]
    assert (standing["position"], standing["waits"]) == ("look", "wait_for: did('page_seen') within 2d")
    # grace is 1 h, so the mail of 10:00 at the tick of 10:10 leaves L at 10:00
    assert (standing["logical_at"], standing["due_at"]) == ("2026-03-01T10:00:00", "2026-03-03T10:00:00")
    assert _parts(found, "goals.looked") == [
        ("did('page_seen', since => 'entry')", False, {"did('page_seen', since => 'entry')": False})
    ]
    assert [(row["step"], row["outcome"]) for row in found["log"]] == [(None, "enter"), ("mail", "email:thanks sent")]
    assert found["trigger"] == "order_placed a3 at 2026-03-01 09:40:00"


def test_a_refusal_that_no_log_shows(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _explain(project, capsys, "thanks", "p1", "2026-03-01T11:00Z")
    assert [(item["at"], item["verdict"], item["cause"]) for item in found["considered"]] == [
        ("2026-03-01T09:40:00", "reentry", "a3"), ("2026-03-01T09:00:00", "entered", "a1"),
    ]  # fmt: skip
    assert "entered already" in found["considered"][0]["meaning"]


def test_the_published_version_is_explained_part_by_part(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _explain(project, capsys, "thanks", "p1", "2026-03-01T11:00Z")
    assert _parts(found, "trigger.where") == [
        ("contact.tz IN ('Europe/Berlin', 'Europe/Paris')", True, {"contact.tz": "Europe/Berlin"}),
        ("entry.activity_id <> 'a9'", True, {"entry.activity_id": "a3"}),
        ("given_name = 'Ann'", True, {"given_name": "Ann"}),
    ]
    assert _parts(found, "policy.require") == [("given_name <> 'Zoe'", True, {"given_name": "Ann"})]


def test_the_past_is_as_it_was(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _explain(project, capsys, "thanks", "p1", "2026-03-01T09:09Z")
    assert (before["state"], before["considered"], before["log"]) == ("not entered", [], [])
    assert before["trigger"] == "order_placed a1 at 2026-03-01 09:00:00, not a candidate in any tick so far"
    inside = _explain(project, capsys, "thanks", "p1", "2026-03-01T09:30Z")
    [standing] = inside["enrollments"]
    assert (standing["position"], standing["waits"], standing["exit"]) == ("pause", "wait: 1h", None)
    assert [item["verdict"] for item in inside["considered"]] == ["entered"]


def test_who_never_entered(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = _explain(project, capsys, "thanks", "p2", "")
    assert (without["state"], without["trigger"], _parts(without, "trigger.where")) == ("not entered", None, [])
    [unknown] = [item for item in without["conditions"] if item["place"] == "policy.require"]
    assert unknown["value"] is None
    assert unknown["parts"][0]["unknown"] == ["given_name"]
    old = _explain(project, capsys, "thanks", "p3", "")
    assert old["trigger"] == (
        "order_placed a4 at 2026-03-01 07:00:00, older than the workflow's activation minus backfill"
    )
    assert [value for _, value, _ in _parts(old, "trigger.where")] == [True, True, False]


def test_rows_and_audiences(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = _explain(project, capsys, "rows", "p2", "")
    assert row["trigger"] == "row a2 at 2026-03-01 10:00:00, not a candidate in any tick so far"
    assert _parts(row, "trigger.where") == [
        ("activity = 'page_seen'", True, {"activity": "page_seen"}),
        ("contact.given_name = 'Bob'", None, {"contact.given_name": None}),
    ]
    member = _explain(project, capsys, "lookers", "p2", "")
    assert "backfill is off" in member["trigger"]
    assert _parts(member, "trigger.audience") == [
        ("tz = 'Europe/Paris' OR did('page_seen')", True, {"tz": "Europe/Paris", "did('page_seen')": True})
    ]


def test_a_person_reads_marks_and_what_is_null(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "explain", "thanks", "-c", "p2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("not entered · thanks, p2 · evaluated ") and lines[0].endswith("UTC, version 1")
    assert "  – no event that triggers it" in lines
    assert "  – given_name <> 'Zoe'" in "\n".join(lines)
    assert any(line.endswith("unknown: given_name is NULL") for line in lines)
    assert cli.run(["--project-dir", str(project), "explain", "thanks", "-c", "p1", "--at", "2026-03-01T11:00Z"]) == 0
    out = capsys.readouterr().out
    assert "stands at  look since 2026-03-01 10:00:00 · wait_for: did('page_seen') within 2d · until 2026-03-03" in out
    assert "  2026-03-01 09:40:00  reentry: this contact and key had entered already" in out


def test_what_cannot_be_explained(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, said in ((["thank", "-c", "p1"], "did you mean 'thanks'?"), (["thanks", "-c", "p9"], "no contact 'p9'")):
        assert cli.run(["--project-dir", str(project), "explain", *line]) == 2
        assert said in capsys.readouterr().err


def test_what_the_next_steps_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to the next wait; a step behind it when it is named."""
    folder = write(built(tmp_path), {"workflows/thanks.yaml": """
        version: 1
        workflow: thanks
        trigger: {event: order_placed}
        steps:
          - {id: pause, wait: 1h}
          - {id: vip, if: "given_name = 'Ann' and tz = 'Europe/Paris'", then: [{id: yes, tag: vip}], else: []}
          - {id: mail, if: given_name <> 'Ann', email: thanks}
          - {id: rest, wait: 1d}
          - {id: late, if: tz = 'Europe/Berlin', tag: late}
    """})  # fmt: skip
    clock = VirtualClock(START)
    runner = Runner(load_project(folder), clock)
    runner.apply(who="test")
    for minutes in (0, 70):
        clock.advance_to(START + timedelta(minutes=minutes))
        runner.tick()
    found = _explain(folder, capsys, "thanks", "p1", "2026-03-01T09:30Z")
    assert _parts(found, "vip.if") == [
        ("given_name = 'Ann'", True, {"given_name": "Ann"}),
        ("tz = 'Europe/Paris'", False, {"tz": "Europe/Berlin"}),
    ]
    assert _parts(found, "mail.if") == [("given_name <> 'Ann'", False, {"given_name": "Ann"})]
    assert [item["place"] for item in found["conditions"]] == ["vip.if", "mail.if"]
    line = ["--project-dir", str(folder), "explain", "thanks", "--contact", "p1", "--step"]
    assert cli.run([*line, "late"]) == 0
    assert "late.if" in capsys.readouterr().out
    assert cli.run([*line, "lat"]) == 2
    assert "E508: thanks has no step 'lat'" in capsys.readouterr().err
