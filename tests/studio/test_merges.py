"""`contact.merges` of a project: what the verbs show of a contact that became part of another one."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from flows.engine.clock import VirtualClock
from flows.engine.log import log_rows
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced, write

START = datetime(2026, 3, 1, 8)
MERGES = {
    "models/same_person.sql": "select 'p1' as old, 'p2' as kept, timestamp '2026-03-01 10:30:00' as merged_at",
    "models/same_person.yml": """
        version: 2
        models:
          - name: same_person
            columns:
              - {name: old, data_type: varchar}
              - {name: kept, data_type: varchar}
              - {name: merged_at, data_type: timestamp}
    """,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A merge at 10:30 of who had ordered at 9:00; the last tick was at 11:00."""
    project = write(built(tmp_path), MERGES)
    replaced(project / "penstock.yaml", "timezone: tz,",
             "timezone: tz, merges: {model: ref('same_person'), from: old, into: kept, at: merged_at},")  # fmt: skip
    with duckdb.connect(str(project / "bakery.duckdb")) as connection:
        connection.execute(f"create table shop.same_person as {MERGES['models/same_person.sql']}")
    clock = VirtualClock(START)
    runner = Runner(load_project(project), clock)
    runner.apply()
    for hours in range(4):
        clock.advance_to(START + timedelta(hours=hours))
        runner.tick()
        runner.deliver()
    return project


def asked(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = cli.run([*words, "--project-dir", str(folder), "--output", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_contact_goes_on_as_the_other_one(folder: Path) -> None:
    with Runner(load_project(folder)).open() as warehouse:
        assert [row.text(prefix=False) for row in log_rows(warehouse, "penstock_dev")] == [
            "2026-03-01T10:00Z | 2026-03-01T09:00Z | p1 | - | enter",
            "2026-03-01T10:00Z | 2026-03-01T10:00Z | p1 | mail | email:thanks sent",
            "2026-03-01T10:00Z | - | p1 | - | exit completed",
        ]


def test_explain_speaks_of_whom_the_contact_is_now(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = asked(folder, capsys, "explain", "thanks", "-c", "p2", "--at", "2026-03-01T11:00Z")
    assert (code, told["state"]) == (0, "ended")
    assert told["trigger"].startswith("order_placed a1")
    assert cli.run(["explain", "thanks", "-c", "p1", "--project-dir", str(folder)]) == 2
    assert "contact 'p1' was merged into 'p2' at 2026-03-01 10:30" in " ".join(capsys.readouterr().err.split())


def test_preview_copies_the_events_of_both(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(folder / "workflows" / "thanks.yaml", "wait: 1h", "wait: 2h")
    code, told = asked(folder, capsys, "preview", "thanks", "--contact", "p2")
    assert code == 0
    assert "email:thanks" in json.dumps(told)


def test_a_mapping_to_a_column_that_is_not_there_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(folder / "penstock.yaml", "into: kept", "into: keep")
    code, told = asked(folder, capsys, "validate")
    assert code == 1
    assert "same_person has no column 'keep'" in json.dumps(told)
