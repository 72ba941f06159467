"""`penstock preview`: what a walk on a copy shows, and that the warehouse and the outside stay as they are."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.engine.clock import VirtualClock
from flows.engine.log import log_rows
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, write

START = datetime(2026, 3, 1, 8)
FILES = {
    "workflows/thanks.yaml": """
        version: 1
        workflow: thanks
        owner: Baker
        trigger: {event: order_placed, where: "given_name <> 'Zoe'"}
        goals: [{name: again, when: "did('order_placed', event.activity_id = 'x')"}]
        steps:
          - id: pause
            wait: 1h
          - id: mail
            email: thanks
          - id: look
            wait_for: opened('mail')
            within: 2d
            then: [{tag: reader}]
            else: [{tag: gone}]
          - id: loyal
            if: has_tag('regular')
            then: [{email: thanks, id: more}]
            else: []
    """,
    "workflows/lookers.yaml": """
        version: 1
        workflow: lookers
        owner: Baker
        trigger: {audience: "exists (select 1 from ref('shops') s where s.zone = contact.tz)"}
        steps: [{id: rest, wait: 1d}, {id: mark, tag: seen}]
    """,
    "models/shops.sql": "select 'Europe/Paris' as zone",
    "models/shops.yml": """
        version: 2
        models:
          - name: shops
            columns: [{name: zone, data_type: varchar}]
    """,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann ordered at 09:00, loaded at 09:05; the engine ticked until 4 March, when Ann was done without opening."""
    import duckdb

    folder = write(built(tmp_path_factory.mktemp("bakery")), FILES)
    with duckdb.connect(str(folder / "bakery.duckdb")) as connection:
        connection.execute("create table shop.shops as select 'Europe/Paris' as zone")
    return folder


@pytest.fixture(scope="module")
def ticked(project: Path) -> Path:
    clock = VirtualClock(START)
    runner = Runner(load_project(project), clock)
    runner.apply(who="test")
    for moment in (START, START + timedelta(minutes=65), START + timedelta(hours=2), START + timedelta(days=3)):
        clock.advance_to(moment)
        runner.tick()
        runner.deliver()
    return project


def _preview(project: Path, capsys: pytest.CaptureFixture[str], *line: str) -> dict[str, Any]:
    assert cli.run(["--project-dir", str(project), "preview", *line, "--output", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _log(found: dict[str, Any]) -> list[tuple[str, str | None, str]]:
    return [(item["at"], item["step"], item["text"]) for item in found["timeline"] if item["kind"] == "log"]


def test_before_anything_is_published_a_walk_is_possible(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _preview(project, capsys, "thanks", "--contact", "p1")
    assert _log(found) == [
        ("2026-03-01T09:05:00", None, "enter"),
        ("2026-03-01T10:00:00", "mail", "email:thanks sent"),
        ("2026-03-03T10:00:00", "tag_3_else_1", "tag:gone ok"),
        ("2026-03-03T10:00:00", None, "exit completed"),
    ]
    assert found["exit"] == "completed"
    rests = [(item["step"], item["until"]) for item in found["timeline"] if item["kind"] == "rest"]
    assert rests == [("pause", "2026-03-01T10:00:00"), ("look", "2026-03-03T10:00:00")]
    [answer] = [item["text"] for item in found["timeline"] if item["kind"] == "answer"]
    assert answer == "opened('mail'): else: nothing within 2d"


def test_messages_are_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _preview(project, capsys, "thanks", "--contact", "p1")
    [mail] = [item for item in found["timeline"] if item["file"] is not None]
    assert mail["subject"] == "Thank you"
    file = Path(mail["file"])
    assert file.parent == project / ".penstock" / "dev" / "preview" / "thanks-p1"
    assert "Dear Ann, thank you." in file.read_text(encoding="utf-8")


def test_an_assumed_open_takes_the_other_arm(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _preview(project, capsys, "thanks", "-c", "p1", "--assume", "opened('mail') after 5h")
    said = [(item["at"], item["kind"], item["text"]) for item in found["timeline"] if item["kind"] != "rest"]
    assert said[1:5] == [
        ("2026-03-01T10:00:00", "log", "email:thanks sent"),
        ("2026-03-01T15:00:00", "assumed", "opened('mail') after 5h"),
        ("2026-03-01T15:00:00", "answer", "opened('mail'): then"),
        ("2026-03-01T15:00:00", "log", "tag:reader ok"),
    ]


def test_an_assumed_event_enters_and_another_meets_the_goal(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _preview(
        project, capsys, "thanks", "-c", "p2", "--at", "2026-03-05T12:00Z",
        "--assume", "order_placed", "--assume", 'order_placed {"activity_id": "x"} after 30m',
    )  # fmt: skip
    assert found["start"] == "2026-03-05T12:00:00"
    assert _log(found)[0] == ("2026-03-05T12:00:00", None, "enter")
    assert _log(found)[-1] == ("2026-03-05T12:30:00", None, "exit goal")
    assert found["timezone"] == "Europe/Paris"


def test_an_audience_with_a_subselect(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["lookers", "--at", "2026-03-05T12:00Z"]
    assert _log(_preview(project, capsys, *line, "-c", "p2")) == [
        ("2026-03-05T12:00:00", None, "enter"), ("2026-03-06T12:00:00", "mark", "tag:seen ok"),
        ("2026-03-06T12:00:00", None, "exit completed"),
    ]  # fmt: skip
    assert _log(_preview(project, capsys, *line, "-c", "p2", "--until", "2h")) == [
        ("2026-03-05T12:00:00", None, "enter")
    ]
    outside = _preview(project, capsys, *line, "-c", "p1")
    assert (outside["entered"], outside["timeline"]) == (False, [])


def test_a_preview_says_what_the_engine_did_and_changes_nothing(
    ticked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ticked / "bakery.duckdb"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    found = _preview(ticked, capsys, "thanks", "--contact", "p1")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    loaded = load_project(ticked)
    with loaded.open_warehouse(read_only=True) as warehouse:
        rows = log_rows(warehouse, loaded.state_schema, workflow="thanks", contact="p1")
    assert [(step, text) for _, step, text in _log(found)] == [(row.step, row.outcome) for row in rows]


def test_a_person_reads_a_timeline(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "preview", "thanks", "-c", "p1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "p1 · thanks · Europe/Berlin"
    assert lines[1].split() == ["Sun", "01", "Mar", "10:05", "-", "enter"]
    assert '"Thank you"  → .penstock/dev/preview/thanks-p1/' in "\n".join(lines)
    assert lines[-1] == " exit completed after 2.0 d · 1 action written · nothing was sent"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["thank", "-c", "p1"], "did you mean 'thanks'?"),
        (["thanks", "-c", "p9"], "no contact 'p9'"),
        (["thanks", "-c", "p2"], '--assume "order_placed"'),
        (["thanks", "-c", "p1", "--assume", "opened('mial')"], "no step 'mial'"),
        (["thanks", "-c", "p1", "--assume", "opened the mail"], "E517"),
        (["thanks", "-c", "p1", "--until", "soon"], "E515"),
    ],
)
def test_what_cannot_be_previewed(
    project: Path, capsys: pytest.CaptureFixture[str], line: list[str], said: str
) -> None:
    assert cli.run(["--project-dir", str(project), "preview", *line]) == 2
    assert said in capsys.readouterr().err


def test_a_schedule_begins_when_it_comes_round_for_the_contact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On Sunday the next Monday at nine in Berlin is 08:00 UTC; who is not in the audience does not enter."""
    folder = write(built(tmp_path), {"workflows/weekly.yaml": """
        version: 1
        workflow: weekly
        trigger: {schedule: "0 9 * * MON", timezone: contact, audience: "tz = 'Europe/Berlin'"}
        steps: [{id: pause, wait: 1d}, {id: mail, email: thanks}]
    """})  # fmt: skip
    found = _preview(folder, capsys, "weekly", "-c", "p1", "--at", "2026-03-01T12:00Z")
    assert _log(found) == [
        ("2026-03-02T08:00:00", None, "enter"),
        ("2026-03-03T08:00:00", "mail", "email:thanks sent"),
        ("2026-03-03T08:00:00", None, "exit completed"),
    ]
    assert not _preview(folder, capsys, "weekly", "-c", "p2", "--at", "2026-03-01T12:00Z")["entered"]


def test_a_workflow_that_is_enrolled_in_is_walked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The order of 09:00 is seen at 09:05; the other workflow takes the contact at the next tick."""
    folder = write(built(tmp_path), {
        "workflows/first.yaml": """
            version: 1
            workflow: first
            trigger: {event: order_placed}
            steps: [{id: pass, enroll: second}]
        """,
        "workflows/second.yaml": """
            version: 1
            workflow: second
            trigger: {event: page_seen}
            steps: [{id: pause, wait: 1h}, {id: mail, email: thanks}]
        """,
    })  # fmt: skip
    found = _preview(folder, capsys, "first", "-c", "p1")
    rows = [(item["at"], item["workflow"], item["text"]) for item in found["timeline"] if item["kind"] == "log"]
    assert rows == [
        ("2026-03-01T09:05:00", "first", "enter"),
        ("2026-03-01T09:05:00", "first", "enroll:second ok"),
        ("2026-03-01T09:05:00", "first", "exit completed"),
        ("2026-03-01T09:06:00", "second", "enter"),
        ("2026-03-01T10:00:00", "second", "email:thanks sent"),
        ("2026-03-01T10:00:00", "second", "exit completed"),
    ]
    assert found["exit"] == "completed"
