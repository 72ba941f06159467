"""`penstock plan`: the difference between files and a target with people in flight."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.engine.clock import VirtualClock
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced

START = datetime(2026, 3, 1, 8)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Ann ordered at 09:00 and waits in the pause."""
    folder = built(tmp_path)
    clock = VirtualClock(START)
    runner = Runner(load_project(folder), clock)
    runner.apply(who="test")
    for minutes in (0, 70):
        clock.advance_to(START + timedelta(minutes=minutes))
        runner.tick()
    return folder


def _plan(project: Path, *arguments: str) -> int:
    return cli.run(["--project-dir", str(project), "plan", "--no-forecast", *arguments])


def _ahead(project: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.run(["--project-dir", str(project), "plan", "--output", "json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["forecast"]
    return found


def test_nothing_changed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan(project, "--detailed-exitcode") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing would change"


def test_a_changed_workflow_shows_its_steps_and_who_is_in_flight(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(project / "workflows/thanks.yaml", "wait: 1h", "wait: 2h")
    replaced(project / "workflows/thanks.yaml", "then: [{tag: loyal}]", "then: [{id: loyal, tag: loyal}]")
    assert _plan(project, "--detailed-exitcode") == 2
    assert capsys.readouterr().out.splitlines() == [
        "Compared with what dev runs (schema penstock_dev)",
        "",
        "~ thanks v1 → v2",
        '    ~ pause  {"wait": "1h"} → {"wait": "2h"}',
        '    + loyal  {"tag": "loyal"}',
        '    - tag_3_then_1  {"tag": "loyal"}',
        "    in flight  1 contact (pause 1)",
        "    migrating  1 at a changed step",
        "= 0 unchanged",
        "`penstock apply` publishes it",
    ]


def test_nothing_is_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(project / "workflows/thanks.yaml", "wait: 1h", "wait: 2h")
    assert _plan(project) == _plan(project) == 0
    with load_project(project).open_warehouse() as warehouse:
        versions = warehouse.rows("select version from penstock_dev.workflow_versions")
    assert versions == [{"version": 1}]


def test_a_removed_step_counts_who_stands_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(project / "workflows/thanks.yaml", "- id: pause", "- id: rest")
    assert _plan(project, "--output", "json") == 0
    workflow = json.loads(capsys.readouterr().out)["workflows"][0]
    assert (workflow["before"], workflow["version"], workflow["in_flight"]) == (1, 2, {"pause": 1})
    assert workflow["migrating"] == {"kept": 0, "changed": 0, "redirected": {}, "removed": 1}
    assert [(step["action"], step["step"]) for step in workflow["steps"]] == [("added", "rest"), ("removed", "pause")]


def test_a_target_that_never_ran_gets_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan(built(tmp_path), "--output", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in report["workflows"]] == ["thanks"]
    assert [item["kind"] for item in report["others"]] == ["config", "template"]


def test_a_file_that_is_gone_retires_its_workflow(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "workflows/thanks.yaml").unlink()
    assert _plan(project) == 0
    assert "- thanks v1 retired: nobody enters, 1 in flight finish" in capsys.readouterr().out


def test_the_next_day_is_run_ahead_on_a_copy(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The wait of who is in flight is over long since: one mail at once, and nothing was written."""
    before = hashlib.sha256((project / "bakery.duckdb").read_bytes()).hexdigest()
    found = _ahead(project, capsys)
    assert found["kinds"] == {"email": 1}
    assert found["workflows"]["thanks"]["sends"] == {"mail": {"email": 1}}
    assert found["workflows"]["thanks"]["entering"] == [0, 0]
    assert hashlib.sha256((project / "bakery.duckdb").read_bytes()).hexdigest() == before
    assert cli.run(["--project-dir", str(project), "plan"]) == 0
    text = capsys.readouterr().out
    assert "next 24 h   email 1\n    thanks  mail email 1\n" in text


def test_the_forecast_is_of_the_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the new version a contact that migrates gets a task, too; a message in quiet hours waits."""
    replaced(
        project / "workflows/thanks.yaml",
        "    email: thanks",
        "    email: thanks\n  - id: call\n    notify: post.shop\n    text: call",
    )
    assert _ahead(project, capsys)["kinds"] == {"email": 1}
    assert _ahead(project, capsys, "--in-flight", "migrate")["kinds"] == {"email": 1, "notify": 1}


def test_a_first_publication_says_who_would_enter_and_what_would_be_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everybody is in the audience; on a target without state all of them enter at once, with a guard nobody does."""
    folder = built(tmp_path)
    replaced(
        folder / "workflows/thanks.yaml",
        "{event: order_placed}",
        '{audience: "tz is not null"}\nentry: {backfill: true}',
    )
    assert _ahead(folder, capsys)["workflows"]["thanks"]["entering"] == [2, 2]
    replaced(folder / "penstock.yaml", "targets:", "guards: {minimum: 1}\ntargets:")
    found = _ahead(folder, capsys)["workflows"]["thanks"]
    assert (found["entering"], found["held"]) == ([0, 0], "2 would enter, usual are 0 a day")
    cli.run(["--project-dir", str(folder), "plan"])
    assert "! thanks  2 would enter, usual are 0 a day; the size guard will hold it" in capsys.readouterr().out
