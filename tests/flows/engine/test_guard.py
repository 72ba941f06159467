"""The size guard holds what is far more than usual until a person approves, on every warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.engine.holding import Guard
from flows.engine.simulation import read_cases
from flows.engine.simulator import SCHEMA, Simulation
from flows.journal.ids import identity
from flows.warehouse.base import Warehouse

LIMITS = Guard(factor=2, minimum=2)
EVENTS: dict[str, Any] = {
    "contacts": [{"id": f"c{n}"} for n in range(5)],
    "events": [[f"e{n}", f"c{n}", "joined", "2026-01-01T08:30Z"] for n in range(5)],
    "workflows": [{"version": 1, "workflow": "w", "trigger": {"event": "joined"},
                   "steps": [{"id": "mark", "tag": "in"}]}],
    "ticks": ["2026-01-01T09:00Z"],
}  # fmt: skip


@contextmanager
def simulation(case: dict[str, Any], warehouse: Warehouse, guard: Guard = LIMITS) -> Iterator[Simulation]:
    with Simulation(read_cases(Path("case.yaml"), json.dumps(case))[0], lambda: warehouse, guard) as run:
        yield run


def hour(number: int, minute: int = 0) -> datetime:
    return datetime(2026, 1, 1, number, minute)


def approve(run: Simulation, at: datetime) -> None:
    row = {"control_id": identity("approve", str(at)), "scope": "workflow:w", "action": "approve", "who": "dana",
           "because": "we asked for it", "created_at": at}  # fmt: skip
    run.warehouse.load((SCHEMA, "controls"), pa.Table.from_pylist([row]))


def noted(run: Simulation) -> list[tuple[str, str]]:
    rows = run.warehouse.rows(
        f"SELECT outcome, cause FROM {SCHEMA}.journal WHERE kind = 'workflow' ORDER BY tick, seq"  # a constant name
    )
    return [(row["outcome"], row["cause"]) for row in rows]


def entered(run: Simulation) -> list[str]:
    return [row for row in run.log() if row.endswith("| enter")]


def test_a_runaway_waits_for_an_approval_and_then_enters_with_its_own_time(warehouse: Warehouse) -> None:
    with simulation(EVENTS, warehouse) as run:
        for number in (9, 10):
            report = run.step(hour(number))
            assert report.guarded["w"].said == "5 would enter, usual are 0 a day"
            assert report.guarded["w"].since == hour(9)
        assert run.log() == ()
        approve(run, hour(10, 30))
        assert run.step(hour(11)).guarded == {}
        assert entered(run) == [f"2026-01-01T11:00Z | 2026-01-01T08:30Z | c{n} | - | enter" for n in range(5)]
        assert [outcome for outcome, _ in noted(run)] == ["held", "approved"]
        assert noted(run)[1][1].endswith("dana: we asked for it")


def test_an_approval_is_for_what_was_held_and_not_for_the_next_time(warehouse: Warehouse) -> None:
    more = [[f"f{n}", f"c{n}", "joined", "2026-01-02T08:30Z"] for n in range(5)]
    case = EVENTS | {
        "events": EVENTS["events"] + [[*row[:3], "2026-01-01T12:30Z"] for row in more],
        "workflows": [EVENTS["workflows"][0] | {"entry": {"reentry": "after_exit"}}],
    }
    with simulation(case, warehouse, Guard(factor=1, minimum=2, max_entries=4)) as run:
        run.step(hour(9))
        approve(run, hour(9, 30))
        assert run.step(hour(10)).counts["entered"] == 5
        assert run.step(hour(13)).guarded["w"].since == hour(13)
        assert len(entered(run)) == 5


def test_more_than_the_minimum_enters_when_that_is_usual(warehouse: Warehouse) -> None:
    """Two entered before, so on the first day up to four are usual enough, and three enter."""
    times = ["08:30Z", "08:30Z", "09:30Z", "09:30Z", "09:30Z"]
    case = EVENTS | {"events": [[f"e{n}", f"c{n}", "joined", f"2026-01-01T{at}"] for n, at in enumerate(times)]}
    with simulation(case, warehouse) as run:
        assert run.step(hour(9)).counts["entered"] == 2
        assert run.step(hour(10)).counts["entered"] == 3


def test_what_is_held_may_become_stale_and_then_nothing_is_held(warehouse: Warehouse) -> None:
    case = EVENTS | {"workflows": [EVENTS["workflows"][0] | {"entry": {"max_age": "1h"}}]}
    with simulation(case, warehouse) as run:
        assert set(run.step(hour(9)).guarded) == {"w"}
        assert run.step(hour(10)).guarded == {}
        assert [row.split(" | ")[4] for row in run.log()] == ["rejected stale_trigger"] * 5


def test_a_pause_comes_before_the_guard_and_the_waiting_are_not_forgotten(warehouse: Warehouse) -> None:
    case = EVENTS | {"control": [{"at": "2026-01-01T09:30Z", "pause": "w"}, {"at": "2026-01-01T10:30Z", "resume": "w"}]}
    with simulation(case, warehouse) as run:
        run.step(hour(9))
        run.step(hour(10))
        assert set(run.step(hour(11)).guarded) == {"w"}
        approve(run, hour(11, 30))
        assert run.step(hour(12)).counts["entered"] == 5


def audience(changes: list[tuple[str, str, int]], contacts: int = 120) -> dict[str, Any]:
    """A workflow over contacts with plan pro; each change gives the first so many contacts a plan at a time."""
    return {
        "contacts": [{"id": f"c{n:03}", "plan": "free"} for n in range(contacts)],
        "changes": [{"contact": f"c{n:03}", "at": at, "set": {"plan": plan}}
                    for at, plan, number in changes for n in range(number)],
        "workflows": [{"version": 1, "workflow": "w", "trigger": {"audience": "plan = 'pro'"}, "exit_on_leave": True,
                       "entry": {"reentry": "after_exit"},
                       "steps": [{"id": "rest", "wait": "30d"}]}],
        "ticks": ["2026-01-01T08:00Z"],
    }  # fmt: skip


def test_a_runaway_audience_that_is_back_in_range_leaves_no_trace(warehouse: Warehouse) -> None:
    case = audience([("2026-01-01T09:00Z", "pro", 50), ("2026-01-01T10:00Z", "free", 49)])
    with simulation(case, warehouse) as run:
        run.step(hour(8))
        assert run.step(hour(9)).guarded["w"].number == 50
        assert run.step(hour(10)).guarded == {}
        assert [row.split(" | ")[2] for row in entered(run)] == ["c049"]


def test_an_audience_that_is_suddenly_empty_is_left_by_nobody(warehouse: Warehouse) -> None:
    case = audience([
        ("2026-01-01T09:00Z", "pro", 120), ("2026-01-01T10:00Z", "free", 119), ("2026-01-01T11:00Z", "pro", 120),
        ("2026-01-01T12:00Z", "free", 119),
    ])  # fmt: skip
    with simulation(case, warehouse, Guard(factor=2, minimum=1000)) as run:
        run.step(hour(8))
        assert run.step(hour(9)).counts["entered"] == 120
        assert run.step(hour(10)).guarded["w"].said == "119 of 120 members would leave"
        assert run.step(hour(11)).guarded == {}
        assert len(run.log()) == 120
        run.step(hour(12))
        approve(run, hour(12, 30))
        run.step(hour(13))
        left = [row for row in run.log() if row.endswith("exit left_audience")]
        assert len(left) == 119 and left[0].startswith("2026-01-01T13:00Z")


@pytest.mark.parametrize("small", [99, 100])
def test_a_small_audience_may_become_empty(warehouse: Warehouse, small: int) -> None:
    case = audience([("2026-01-01T09:00Z", "pro", small), ("2026-01-01T10:00Z", "free", small)])
    with simulation(case, warehouse, Guard(minimum=1000)) as run:
        run.step(hour(8))
        run.step(hour(9))
        assert bool(run.step(hour(10)).guarded) is (small == 100)
