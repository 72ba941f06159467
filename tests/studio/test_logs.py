"""`penstock logs --follow` as a process: what is there, then each row once as it comes, until it is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from flows.engine.clock import VirtualClock
from flows.project import load_project
from flows.runner import Runner
from tests.studio.projects import built

START = datetime(2026, 3, 1, 8)


def test_follow_prints_each_row_once_and_ends_when_interrupted(tmp_path: Path) -> None:
    folder = built(tmp_path)
    clock = VirtualClock(START)
    runner = Runner(load_project(folder), clock)
    runner.apply(who="test")
    runner.tick()
    penstock = str(Path(sys.executable).with_name("penstock"))
    command = [penstock, "logs", "--follow", "-o", "json", "--project-dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        rows = []
        for minutes in (70, 130):
            clock.advance_to(START + timedelta(minutes=minutes))
            runner.tick()
            runner.deliver()
            rows.append(json.loads(following.stdout.readline()))
        following.send_signal(signal.SIGINT)
        rows += [json.loads(line) for line in following.stdout]
    assert following.returncode == 0
    said = [(row["executed_at"], row["contact"], row["outcome"]) for row in rows]
    assert len(said) == len(set(said))
    assert said == sorted(said)
    assert {row["executed_at"] for row in rows} == {"2026-03-01T09:10Z", "2026-03-01T10:10Z"}
