"""`penstock audience` on a warehouse with real ticks: conditions, named audiences, workflows, steps."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import DefinitionError
from flows.engine.clock import VirtualClock
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced, write

START = datetime(2026, 3, 1, 8)
EXTRA = {
    "workflows/lookers.yaml": """
        version: 1
        workflow: lookers
        owner: Baker
        trigger: {audience: "in_audience('window') and given_name = 'Bob'"}
        entry: {backfill: true}
        steps:
          - {id: rest, wait: 2h}
          - {id: mark, tag: seen}
    """,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann ordered at 09:00, Bob looked at 10:00; ticks at 08:00, 09:10 and 10:10."""
    folder = write(built(tmp_path_factory.mktemp("bakery")), EXTRA)
    replaced(
        folder / "penstock.yaml", "destinations:",
        "audiences:\n  buyers: did('order_placed', within => '30d')\n"
        "  window: did('page_seen') and not in_audience('buyers')\ndestinations:",
    )  # fmt: skip
    clock = VirtualClock(START)
    runner = Runner(load_project(folder), clock)
    runner.apply(who="test")
    for minutes in (0, 70, 130):
        clock.advance_to(START + timedelta(minutes=minutes))
        runner.tick()
    return folder


def _ask(project: Path, capsys: pytest.CaptureFixture[str], *line: str, code: int = 0) -> dict[str, Any]:
    assert cli.run(["--project-dir", str(project), "audience", *line, "--output", "json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("what", "at", "kind", "contacts"),
    [
        ("given_name like '%nn' or tz = 'Europe/Paris'", "2026-03-01T11:00Z", "condition", ["p1", "p2"]),
        ("did('order_placed')", "2026-03-01T09:04Z", "condition", []),  # loaded at 09:05
        ("did('order_placed')", "2026-03-01 09:05", "condition", ["p1"]),
        ("exists (select 1 from ref('activity') a where a.person_id = contact.person_id and a.activity = 'page_seen')",
         "2026-03-01T11:00Z", "condition", ["p2"]),
        ("buyers", "2026-03-01T11:00Z", "audience", ["p1"]),
        ("buyers", "2026-03-31T09:00:00Z", "audience", ["p1"]),
        ("buyers", "2026-03-31T09:00:01Z", "audience", []),
        ("in_audience('window')", "2026-03-01T11:00Z", "condition", ["p2"]),
        ("in_audience('window')", "2026-04-30T11:00+02:00", "condition", ["p2"]),
        ("lookers", "2026-03-01T11:00Z", "trigger", ["p2"]),
        ("thanks", "2026-03-01T09:09Z", "in_flight", []),
        ("thanks", "2026-03-01T09:30Z", "in_flight", ["p1"]),
        ("thanks.pause", "2026-03-01T09:30Z", "step", ["p1"]),
        ("thanks.pause", "2026-03-01T10:30Z", "step", []),
        ("lookers.rest", "2026-03-01T10:30Z", "step", ["p2"]),
        ("lookers.mark", "2026-03-01T10:30Z", "step", []),
    ],
)  # fmt: skip
def test_who_is_counted(
    project: Path, capsys: pytest.CaptureFixture[str], what: str, at: str, kind: str, contacts: list[str]
) -> None:
    found = _ask(project, capsys, what, "--at", at)
    assert (found["kind"], found["count"]) == (kind, len(contacts))
    assert [row["person_id"] for row in found["sample"]] == contacts
    assert "SELECT" in found["sql"]


def test_a_person_sees_number_sample_and_sql(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["audience", "window", "--limit", "1", "--at", "2026-03-01T11:00Z"]
    assert cli.run(["--project-dir", str(project), *line]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 contact in audience window · at 2026-03-01 11:00:00 UTC"
    assert lines[1] == "  did('page_seen') and not in_audience('buyers')"
    assert lines[3].split() == ["person_id", "email_address", "given_name", "tz", "changed_at"]
    assert lines[4].split()[:3] == ["p2", "bob@example.com", "Bob"]
    assert "SELECT" in lines[7]
    assert cli.run(["--project-dir", str(project), "audience", "true", "--limit", "1"]) == 0
    assert "… 1 more (--limit)" in capsys.readouterr().out


def test_without_an_instant_now_counts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _ask(project, capsys, "did('page_seen')")["count"] == 1
    assert _ask(project, capsys, "did('page_seen', within => '1d')")["count"] == 0


def test_members_of_named_audiences_are_kept_by_the_tick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = built(tmp_path)
    named = "audiences:\n  buyers: did('order_placed', within => '1h')\n  window: did('page_seen')\ndestinations:"
    replaced(folder / "penstock.yaml", "destinations:", named)
    clock = VirtualClock(START)

    def kept() -> list[list[Any]]:
        with load_project(folder).open_warehouse() as warehouse:
            rows = warehouse.rows("SELECT name, contact_id, member, since, edge FROM penstock_dev.audience_members "
                                  "ORDER BY name, contact_id")  # fmt: skip
        return [list(row.values()) for row in rows]

    def tick(minutes: int) -> None:
        clock.advance_to(START + timedelta(minutes=minutes))
        runner = Runner(load_project(folder), clock)
        runner.apply(who="test")
        assert not runner.tick().set_aside

    tick(0)
    assert kept() == []
    tick(70)
    ann = ["buyers", "p1", True, START + timedelta(minutes=70), 1]
    assert kept() == [ann]
    tick(130)  # Ann's order is an hour and ten minutes old
    ann = ["buyers", "p1", False, START + timedelta(minutes=130), 1]
    bob = ["window", "p2", True, START + timedelta(minutes=130), 1]
    assert kept() == [ann, bob]
    found = _ask(folder, capsys, "window")["kept"]
    assert (found["members"], found["joined"], found["left"]) == (1, 1, 0)
    assert cli.run(["--project-dir", str(folder), "audience", "buyers"]) == 0
    assert "audience_members at 2026-03-01 10:10:00: 0; in the 24 hours before 0 joined and 1 left" in (
        capsys.readouterr().out
    )
    replaced(folder / "penstock.yaml", "  window: did('page_seen')\n", "")
    tick(140)  # an audience that is no more has no members
    assert kept() == [ann, ["window", "p2", False, START + timedelta(minutes=140), 1]]


def test_an_audience_has_no_name_of_a_workflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = built(tmp_path)
    replaced(folder / "penstock.yaml", "destinations:", "audiences: {thanks: tz = 'UTC'}\ndestinations:")
    assert cli.run(["--project-dir", str(folder), "validate", "--output", "json"]) == 1
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["code"], problem["line"]) == ("E501", 6)
    assert "audience 'thanks' has the name of a workflow" in problem["message"]
    with pytest.raises(DefinitionError, match="has the name of a workflow"):
        Runner(load_project(folder), VirtualClock(START)).apply(who="test")


@pytest.mark.parametrize(
    ("what", "code", "column", "hint"),
    [
        ("given_nam = 'Ann'", "E203", 1, "given_name"),
        ("tz = 'UTC' and givn = 'Ann'", "E203", 16, "given_name"),
        ("buyer", "E203", 1, "buyers"),
        ("tz = = 'UTC'", "E202", 6, ""),
        ("read_csv('/etc/passwd')", "E201", 1, ""),
        ("opened('mail')", "E207", 1, ""),
        ("in_audience('vip')", "E205", 1, "buyers"),
        ("exists (select 1 from people)", "E205", 23, "ref('model')"),
    ],
)
def test_a_refused_condition_has_its_place(
    project: Path, capsys: pytest.CaptureFixture[str], what: str, code: str, column: int, hint: str
) -> None:
    [problem] = _ask(project, capsys, what, code=1)["problems"]
    assert (problem["code"], problem["line"], problem["column"]) == (code, 1, column)
    assert hint in problem["hint"]


def test_a_refused_condition_is_shown_with_a_caret(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "audience", "tz = 'UTC'\n and givn = 'Ann'"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✗ condition:2:6  E203 ")
    assert lines[2] == "    2 │  and givn = 'Ann'"
    assert lines[3] == "      │      ^^^^"


def test_a_refused_named_audience_stands_in_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = built(tmp_path)
    Runner(load_project(folder), VirtualClock(START)).apply(who="test")
    replaced(folder / "penstock.yaml", "destinations:", "audiences: {buyers: tz = 'UTC' and nme = 'x'}\ndestinations:")
    [problem] = _ask(folder, capsys, "buyers", code=1)["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == ("penstock.yaml", 6, 36)
    assert cli.run(["--project-dir", str(folder), "validate", "--output", "json"]) == 1
    [same] = json.loads(capsys.readouterr().out)["problems"]
    assert (same["code"], same["line"], same["column"]) == ("E203", 6, 36)


def test_what_cannot_be_asked(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "audience", "thanks.paus"]) == 2
    assert "did you mean 'pause'?" in capsys.readouterr().err
    assert cli.run(["--project-dir", str(project), "audience", "true", "--at", "noon"]) == 2
    assert "E515" in capsys.readouterr().err
    assert cli.run(["--project-dir", str(built(tmp_path)), "audience", "true"]) == 2
    assert "`penstock apply`" in capsys.readouterr().err
