"""A backtest writes the log that live ticks over the same data wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.engine.backtest import run_backtest
from flows.engine.history import Span, copy_history
from flows.engine.log import log_rows
from flows.engine.simulation import read_cases
from flows.engine.simulator import WORKSPACE, Simulation, in_memory
from flows.warehouse.base import Warehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.warehouse.postgres_server import Server
from tests.oracle.compare import differences, read
from tests.oracle.generate import generate

FEW, MANY, BLOCK = 18, 1500, 6
MERGES = Path(__file__).parents[2] / "scenarios" / "workflow_tests" / "merges.yaml"


def told(seed: int) -> dict[str, Any]:
    """The random case of a seed without what history does not tell.

    Those are former values of contacts and models, refusals of destinations, pauses, former versions, and what a second
    workflow did.
    """
    case = generate(seed)
    if any(f'"{each["workflow"]}"' in json.dumps(case["workflows"][0]["steps"]) for each in case["workflows"][1:]):
        return told(seed + 10 * MANY)
    for key in ("changes", "destination", "control", "publish"):
        case.pop(key, None)
    case["models"] = {
        name: [{key: value for key, value in row.items() if key != "visible_at"} for row in rows]
        for name, rows in case["models"].items()
    }
    case["workflows"] = case["workflows"][:1]
    return case


def both(case: dict[str, Any], warehouse: Callable[[], Warehouse] = in_memory) -> tuple[list[str], list[str], int]:
    """The logs of live ticks and of a backtest over what they left behind, and how many ticks it left out."""
    (journey,) = read_cases(Path("random.yaml"), json.dumps(case))
    with Simulation(journey, warehouse) as simulation:
        live = list(simulation.run().log)
        deployment = simulation.deployment
        (workflow,) = deployment.workflows
        span = Span(workflow, WORKSPACE, journey.ticks[-1])
        with copy_history(simulation.warehouse, deployment.catalog, deployment.plans, journey.models, span) as history:
            ran = run_backtest(history, deployment, journey.ticks)
            again = [row.text(prefix=False) for row in log_rows(history.warehouse, deployment.schema)]
    return live, again, ran.ticks - ran.evaluated


def check(seeds: range, warehouse: Callable[[], Warehouse] = in_memory) -> int:
    """Both logs of every seed are equal; gives the number of ticks left out."""
    left_out = 0
    for seed in seeds:
        case = told(seed)
        live, again, skipped = both(case, warehouse)
        found = differences(live, again)
        rows = "\n".join(found)
        assert not found, f"seed {seed}: live -, backtest +\n{rows}\n{json.dumps(case)}"
        left_out += skipped
    return left_out


@pytest.mark.parametrize("first", range(0, FEW, BLOCK))
def test_a_backtest_is_what_live_ticks_wrote(first: int) -> None:
    assert check(range(first, first + BLOCK)) > 0, "ticks without anything to do are left out"


def test_the_past_of_a_server_is_copied_as_well(postgres_server: Server) -> None:
    check(range(4), lambda: PostgresWarehouse(postgres_server.database()))


def late() -> dict[str, Any]:
    """An event of nine o'clock that the model shows only at eleven, after somebody else's."""
    return {
        "contacts": [{"id": "ann"}, {"id": "bob"}],
        "events": [
            ["e1", "ann", "joined", "2026-01-01T08:50Z", {}, "2026-01-01T09:00Z", "2026-01-01T11:00Z"],
            ["e2", "bob", "joined", "2026-01-01T09:30Z"],
        ],
        "models": {},
        "workflows": [{"version": 1, "workflow": "w", "trigger": {"event": "joined"},
                       "steps": [{"id": "mail", "email": "hello"}]}],
        "ticks": [["2026-01-01T08:00Z", "2026-01-01T13:00Z", "1h"]],
    }  # fmt: skip


def test_a_row_that_came_late_comes_late_in_a_backtest() -> None:
    """Bob enters at ten and Ann at eleven, when the row was there, not at nine, when it says that it was loaded."""
    live, again, left_out = both(late())
    entries = [row.split(" | ")[0] for row in again if row.endswith("| enter")]
    assert entries == ["2026-01-01T10:00Z", "2026-01-01T11:00Z"]
    assert again == live
    assert left_out == 3


@pytest.mark.parametrize("name", ["continues", "by_key", "had_been_in_it", "a_visitor", "chain", "arm", "zone"])
def test_contacts_are_merged_in_a_backtest_when_they_were_live(name: str) -> None:
    (case,) = [case for case in read(MERGES.read_text("utf-8")) if case["id"] == name]
    live, again, _ = both(case)
    assert not differences(live, again)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(FEW, MANY, BLOCK))
def test_a_backtest_is_what_live_ticks_wrote_for_long(first: int) -> None:
    check(range(first, first + BLOCK))
