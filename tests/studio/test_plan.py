"""`penstock plan`: the difference between files and a target with people in flight."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

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
    return cli.run(["--project-dir", str(project), "plan", *arguments])


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
