"""Every tick of random journeys is worked out again from the log, and what was changed since is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.engine.deployment import Deployment
from flows.engine.history import Span, copy_history
from flows.engine.past_state import copy_state, past_tick
from flows.engine.replay import ReplayedTick, replay_tick
from flows.engine.scratch import Scratch
from flows.engine.simulation import Case, read_cases
from flows.engine.simulator import WORKSPACE, Simulation, in_memory
from flows.warehouse.base import Warehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.warehouse.postgres_server import Server
from tests.oracle.compare import read as journeys
from tests.oracle.generate import generate

FEW, MANY, BLOCK = 8, 1000, 4
MERGES = Path(__file__).parents[2] / "scenarios" / "workflow_tests" / "merges.yaml"


def remembered(seed: int) -> dict[str, Any]:
    """The random case of a seed without changes of contacts and models, which keep no history."""
    case = generate(seed)
    case.pop("changes", None)
    case["models"] = {
        name: [{key: value for key, value in row.items() if key != "visible_at"} for row in rows]
        for name, rows in case["models"].items()
    }
    return case


def read(case: dict[str, Any]) -> Case:
    return read_cases(Path("random.yaml"), json.dumps(case))[0]


def walked(simulation: Simulation, case: Case) -> list[Deployment]:
    """What was deployed at each tick of a simulation, which is run."""
    found = []
    for moment in case.ticks:
        assert not simulation.step(moment).set_aside
        found.append(simulation.deployment)
    return found


def replayed(simulation: Simulation, case: Case, deployments: Sequence[Deployment]) -> Iterator[ReplayedTick]:
    """All ticks of a simulation, each worked out again from what it left behind."""
    deployment, live = deployments[-1], simulation.warehouse
    span = Span("", WORKSPACE, case.ticks[-1])
    with copy_history(live, deployment.catalog, deployment.plans, case.models, span, state=False) as history:
        scratch = Scratch(live, history.warehouse)
        past = copy_state(scratch, deployment.schema, WORKSPACE, case.ticks[0], deployment.catalog.points)
        for number in range(1, len(case.ticks) + 1):
            tick = past_tick(past, number)
            assert tick is not None
            yield replay_tick(history, past, tick, partial(deployments.__getitem__, number - 1))


def check(seeds: range, warehouse: Callable[[], Warehouse] = in_memory) -> int:
    """All ticks of every seed come out the same; gives the number of decisions."""
    decisions = 0
    for seed in seeds:
        case = read(remembered(seed))
        with Simulation(case, warehouse) as simulation:
            deployments = walked(simulation, case)
            for tick in replayed(simulation, case, deployments):
                rows = [f"{item.only}: {item.decision}" for item in tick.differences]
                assert not rows and tick.intact, "\n".join([f"seed {seed}, tick {tick.tick}", *rows])
                decisions += tick.decisions
    return decisions


@pytest.mark.parametrize("first", range(0, FEW, BLOCK))
def test_every_decision_comes_out_the_same(first: int) -> None:
    assert check(range(first, first + BLOCK)) > 20


@pytest.mark.parametrize("name", ["both_are_in_it", "chain", "waiting"])
def test_merges_of_contacts_come_out_the_same(name: str) -> None:
    (journey,) = [journey for journey in journeys(MERGES.read_text("utf-8")) if journey["id"] == name]
    case = read(journey)
    with Simulation(case) as simulation:
        deployments = walked(simulation, case)
        assert [tick.tick for tick in replayed(simulation, case, deployments) if tick.differences] == []


def test_ticks_of_a_server_are_worked_out_again_as_well(postgres_server: Server) -> None:
    assert check(range(2), lambda: PostgresWarehouse(postgres_server.database())) > 5


@pytest.mark.soak
@pytest.mark.parametrize("first", range(FEW, MANY, BLOCK))
def test_every_decision_comes_out_the_same_for_long(first: int) -> None:
    check(range(first, first + BLOCK))
