"""Operators' hands on deliveries: pause and resume a destination or a channel, try again, and what status shows."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from flows.engine.clock import VirtualClock
from flows.project import Project, load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built

START = datetime(2026, 3, 1, 8)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Ann's mail is decided and waits."""
    folder = built(tmp_path)
    monkeypatch.setenv("PENSTOCK_PROJECT_DIR", str(folder))
    clock = VirtualClock(START)
    found = load_project(folder)
    runner = Runner(found, clock)
    runner.apply(who="test")
    for minutes in (0, 70, 130):
        clock.advance_to(START + timedelta(minutes=minutes))
        runner.tick()
    return found


def deliver(project: Project, **at: int) -> Runner:
    runner = Runner(project, VirtualClock(START + timedelta(**at)))
    runner.deliver()
    return runner


def states(project: Project) -> list[str]:
    with project.open_warehouse(read_only=True) as warehouse:
        found = warehouse.rows("select state from penstock_dev.deliveries")
    return [row["state"] for row in found]


def status(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.run(["status"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("scope", ["destination:post", "channel:email"])
def test_a_paused_scope_keeps_its_deliveries_until_it_is_resumed(
    project: Project, capsys: pytest.CaptureFixture[str], scope: str
) -> None:
    assert cli.run(["pause", scope, "--because", "wrong sender"]) == 0
    deliver(project, hours=3)
    assert states(project) == ["pending"]
    text = status(capsys)
    assert "wrong sender" in text and f"penstock resume {scope}" in text
    assert cli.run(["resume", scope]) == 0
    deliver(project, hours=3)
    assert states(project) == ["sent"]
    assert "wrong sender" not in status(capsys)


def test_an_unknown_destination_or_channel_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pause", "destination:psot"]) == 2
    assert "did you mean 'post'?" in capsys.readouterr().err
    assert cli.run(["pause", "channel:emial"]) == 2
    assert "did you mean 'email'?" in capsys.readouterr().err
    assert cli.run(["retry", "--failed", "--destination", "psot"]) == 2
    assert "did you mean 'post'?" in capsys.readouterr().err
    assert cli.run(["retry"]) == 2
    assert "say which" in capsys.readouterr().err


def test_status_says_who_rests_why_and_what_is_held(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rests = {
        "account": ["post"], "reason": ["credentials"], "code": ["401"], "failures": [3],
        "since": [datetime(2026, 3, 1)], "until": [datetime(2100, 1, 1)],
    }  # fmt: skip
    with project.open_warehouse() as warehouse:
        warehouse.load(("penstock_dev", "breakers"), pa.table(rests))
        warehouse.execute("update penstock_dev.outbox set state = 'unknown'")
        action = warehouse.rows("select action_id from penstock_dev.outbox")[0]["action_id"]
        lost = {"action_id": [action], "attempt": [1], "ambiguous": [True], "outcome": ["unknown"]}
        warehouse.load(("penstock_dev", "attempts"), pa.table(lost))
    text = status(capsys)
    assert "post rests: credentials (401), until 2100-01-01 00:00:00 UTC → penstock resume destination:post" in text
    assert "post holds 1 of which nobody knows" in text
    assert cli.run(["status", "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["destinations"]
    assert (found["destination"], found["unknown"], found["ambiguous"]) == ("post", 1, 1)
    assert cli.run(["resume", "destination:post"]) == 0
    assert "rests" not in status(capsys)


def test_what_is_held_is_tried_again_by_hand_and_the_log_says_so(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with project.open_warehouse() as warehouse:
        warehouse.execute("update penstock_dev.outbox set state = 'unknown'")
    assert cli.run(["retry", "--failed"]) == 0
    assert "nothing fits" in capsys.readouterr().out
    assert cli.run(["retry", "--unknown", "--because", "it never arrived"]) == 0
    assert "1 action is tried again" in capsys.readouterr().out
    deliver(project, hours=3)
    assert states(project) == ["sent"]
    assert cli.run(["logs"]) == 0
    out = capsys.readouterr().out
    assert "email:thanks retry(by hand)" in out and "email:thanks sent" in out


def test_the_log_shows_which_destinations_rested(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"tick": [3], "seq": [99], "executed_at": [START + timedelta(hours=3)], "kind": ["destination"],
           "what": ["post"], "outcome": ["rests: throttled (429), until 2026-03-01 11:00:10 UTC"]}  # fmt: skip
    with project.open_warehouse() as warehouse:
        warehouse.load(("penstock_dev", "journal"), pa.table(row))
    assert cli.run(["logs", "-o", "json", "--failed"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["outcome"].startswith("destination:post rests: throttled (429)")
