"""`penstock status` and `penstock logs` after real ticks and deliveries."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.engine.clock import VirtualClock
from flows.engine.overview import overview
from flows.project import load_project
from flows.runner import Runner
from flows.warehouse.lock import Patience, SidecarLock
from studio import cli
from tests.studio.projects import built

START = datetime(2026, 3, 1, 8)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann ordered at 09:00, got her mail at 10:10, and has not left a trace since."""
    folder = built(tmp_path_factory.mktemp("bakery"))
    clock = VirtualClock(START)
    runner = Runner(load_project(folder), clock)
    runner.apply(who="test")
    for minutes in (0, 70, 130):
        clock.advance_to(START + timedelta(minutes=minutes))
        runner.tick()
        runner.deliver()
    return folder


def test_status_shows_workflows_tick_and_outbox(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["WORKFLOW", "STATE", "VER"]
    assert lines[1].split()[:3] == ["thanks", "live", "v1"]
    assert lines[2].startswith("last tick  3, ")
    assert lines[3] == "outbox     empty"


def test_status_counts_entries_and_deliveries(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "status", "--output", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    workflow = report["workflows"][0]
    assert (workflow["entered"], workflow["in_flight"], workflow["ended"], workflow["done_share"]) == (1, 0, 1, 1.0)
    assert (workflow["sent"], workflow["failed"], workflow["actions_ok"]) == (1, 0, 1.0)
    assert report["last_tick"] == {"tick": 3, "tick_at": "2026-03-01T10:10:00"}


def test_entries_of_the_last_day_are_counted_from_now(project: Path) -> None:
    loaded = load_project(project)
    with loaded.open_warehouse(read_only=True) as warehouse:
        later = [overview(warehouse, loaded.state_schema, START + timedelta(hours=hours)) for hours in (3, 30)]
    assert [seen.workflows[0].entered_24h for seen in later] == [1, 0]


def test_logs_show_decisions_and_deliveries_oldest_first(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--project-dir", str(project), "logs", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["contact"], row["step"], row["outcome"]) for row in rows] == [
        ("p1", None, "enter"), ("p1", "mail", "email:thanks sent"), ("p1", None, "exit completed"),
    ]  # fmt: skip
    assert cli.run(["--project-dir", str(project), "logs", "--step", "mail"]) == 0
    out = capsys.readouterr().out
    assert "email:thanks sent" in out
    assert "enter" not in out
    assert cli.run(["--project-dir", str(project), "logs", "--failed"]) == 0
    assert capsys.readouterr().out == "nothing in the log that fits\n"


def test_status_before_anything_is_built_says_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = built(tmp_path)
    assert cli.run(["--project-dir", str(folder), "status"]) == 2
    assert "`penstock apply` publishes the workflows" in capsys.readouterr().err
    (folder / "bakery.duckdb").unlink()
    assert cli.run(["--project-dir", str(folder), "status"]) == 2
    assert "`penstock dbt build` makes it" in capsys.readouterr().err


def test_status_names_who_holds_the_warehouse(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.state.LOOK", timedelta(0))
    lock = SidecarLock(project / "bakery.duckdb")
    assert lock.acquire(Patience(timedelta(0)))
    try:
        assert cli.run(["--project-dir", str(project), "status"]) == 2
    finally:
        lock.release()
    assert "held by process" in capsys.readouterr().err
