"""What holds whatever a case says: with other ticks, with everything looked at, on PostgreSQL, with state rebuilt."""

import copy
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from flows.engine import evaluator
from flows.engine.deployment import BEGINNING, Deployment
from flows.engine.simulation import read_cases
from flows.engine.simulator import SCHEMA, Simulation, in_memory, run_case
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.warehouse.postgres_server import Server
from tests.oracle.calm import calm, told, with_ticks
from tests.oracle.compare import differences
from tests.oracle.engine import engine_log, read
from tests.oracle.generate import generate
from tests.oracle.interpreter import run
from tests.oracle.tally import count

FEW, MANY, BLOCK = 4, 200, 4
Rows = list[dict[str, Any]]


def many(few: int = FEW, many: int = MANY) -> list[Any]:
    """Blocks of seeds: some in every run, the rest in the soak."""
    blocks = [range(first, first + BLOCK) for first in range(0, many, BLOCK)]
    return [
        pytest.param(block, id=str(block.start), marks=[pytest.mark.soak] if block.start >= few else [])
        for block in blocks
    ]


def told_by(case: dict[str, Any], seed: int, found: list[str]) -> str:
    """What a failure shows."""
    return f"seed {seed}\n" + "\n".join(found) + f"\n{json.dumps(case)}"


# ---------------------------------------------------------------- ticks


@pytest.mark.parametrize("seeds", many())
def test_other_ticks_decide_alike(seeds: range) -> None:
    """Up to `grace` apart, and nothing held or flipping: the same rows, but for the tick that wrote them."""
    for seed in seeds:
        random = Random(seed)
        one, other = (with_ticks(calm(seed), random) for _ in range(2))
        assert told(run(one)) == told(run(other)), f"the oracle, seed {seed}"
        logs = [told(engine_log(case)) for case in (one, other)]
        found = [f"- {row}" for row in logs[0] if row not in logs[1]]
        found += [f"+ {row}" for row in logs[1] if row not in logs[0]]
        count("other ticks", seed, one, logs[0], found)
        assert logs[0] == logs[1], told_by(one, seed, found)


@pytest.mark.parametrize("seeds", many())
def test_looking_at_everything_decides_alike(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every enrollment looked at in every tick, over all of history, instead of what is due or woken."""
    monkeypatch.setattr(
        evaluator, "_released",
        lambda work, _: frozenset((plan.workflow, plan.version) for plan in work.deployment.plans),
    )  # fmt: skip
    monkeypatch.setattr(Deployment, "earliest_event", lambda self, tick_at, entries: BEGINNING)
    for seed in seeds:
        case = generate(seed)
        found = differences(log := run(case), engine_log(case))
        count("everything looked at", seed, case, log, found)
        assert not found, told_by(case, seed, found)


# ---------------------------------------------------------------- the journal


def rebuilt(journal: Rows) -> dict[str, dict[str, Any]]:
    """Enrollments from their journal rows, in order."""
    found: dict[str, dict[str, Any]] = {}
    for row in journal:
        name, details = str(row["enrollment_id"]), json.loads(row["details"] or "{}")
        if row["kind"] == "enter":
            found[name] = {
                **{key: row[key] for key in ("workflow", "version", "contact_id", "key")},
                "entry_ref": row["cause"],
                "entry": details,
                "entry_at": row["due"],
                "logical_at": row["due"],
                "entered_tick": row["tick"],
                "position": None,
                "exit": None,
                "exited_at": None,
                "steps": None,
                "arms": None,
                "visits": None,
            }
        elif row["kind"] == "rest":
            kept = {key: value for key, value in details.items() if value is not None}
            found[name] |= {"version": row["version"], "position": row["step"], "logical_at": row["due"], **kept}
        elif row["kind"] == "exit":
            found[name] |= {"exit": row["outcome"], "exited_at": row["executed_at"]}
    return found


def stored(rows: Rows) -> dict[str, dict[str, Any]]:
    """Enrollments as they are stored, their JSON read."""
    read = ("entry", "steps", "arms", "visits")
    return {
        str(row["enrollment_id"]): {
            key: json.loads(value or "null") if key in read else value for key, value in row.items()
        }
        for row in rows
    }


def compared(enrollment: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal; where somebody stood who has left means nothing any more."""
    names = [
        "workflow",
        "version",
        "contact_id",
        "key",
        "entry_ref",
        "entry",
        "entry_at",
        "entered_tick",
        "exit",
        "exited_at",
    ]
    names += [] if enrollment["exit"] else ["position", "logical_at", "steps", "arms", "visits"]
    return {name: enrollment[name] for name in names}


def asked(simulation: Simulation, text: str) -> Rows:
    """Rows of the state."""
    warehouse = simulation.warehouse
    return warehouse.rows(StateTables(SCHEMA).statement(warehouse, text))


JOURNAL = "SELECT j.* FROM journal AS j WHERE j.kind IN ('enter', 'rest', 'exit') ORDER BY j.tick, j.seq"
STORED = "SELECT n.* FROM enrollments AS n"


def first_positions(simulation: Simulation) -> dict[tuple[str, int], str]:
    """Where each version begins: who has entered and not moved yet stands there."""
    assert simulation._evaluator is not None
    return {(plan.workflow, plan.version): plan.first_step for plan in simulation._evaluator.deployment.plans}


def from_the_journal(simulation: Simulation) -> dict[str, dict[str, Any]]:
    """Enrollments rebuilt."""
    found, first = rebuilt(asked(simulation, JOURNAL)), first_positions(simulation)
    for each in found.values():
        if each["position"] is None:
            each["position"] = first[each["workflow"], each["version"]]
    return found


@pytest.mark.parametrize("seeds", many())
def test_enrollments_follow_from_the_journal(seeds: range) -> None:
    """After every tick they are as stored; half-way they replace them, and everything goes on as it would have."""
    for seed in seeds:
        case = generate(seed)
        given = read(case)
        with Simulation(given) as simulation:
            for number, tick in enumerate(given.ticks):
                simulation.step(tick)
                ours = {name: compared(each) for name, each in from_the_journal(simulation).items()}
                theirs = {name: compared(each) for name, each in stored(asked(simulation, STORED)).items()}
                assert ours == theirs, f"seed {seed}, tick {tick}\n{json.dumps(case)}"
                if number == len(given.ticks) // 2:
                    replace_enrollments(simulation, tick)
            found = differences(log := run(case), list(simulation.log()))
            count("enrollments from the journal", seed, case, log, found)
            assert not found, told_by(case, seed, found)


def replace_enrollments(simulation: Simulation, tick: datetime) -> None:
    """Stores what the journal says; everybody is looked at anew in the next tick."""
    rows = []
    for name, each in from_the_journal(simulation).items():
        plain = {key: json.dumps(each[key]) if each[key] else None for key in ("entry", "steps", "arms", "visits")}
        due = None if each["exit"] else tick
        rows.append({**each, **plain, "enrollment_id": name, "due_at": due, "moved_tick": each["entered_tick"]})
    asked(simulation, "DELETE FROM enrollments")
    if rows:
        simulation.warehouse.load((SCHEMA, "enrollments"), pa.Table.from_pylist(rows))


# ---------------------------------------------------------------- PostgreSQL

_EMPTY = ("DROP SCHEMA IF EXISTS penstock CASCADE", "DROP SCHEMA IF EXISTS random CASCADE", "CREATE SCHEMA random")


@pytest.fixture(scope="module")
def postgres(postgres_server: Server) -> Iterator[Callable[[], Warehouse]]:
    """Opens an empty database, the same one again and again."""
    database = postgres_server.database()

    def opened() -> Warehouse:
        warehouse = PostgresWarehouse(database, schema="random")
        for statement in _EMPTY:
            warehouse.execute(statement)
        return warehouse

    yield opened


@pytest.mark.parametrize("seeds", many(20, 600))
def test_postgresql_agrees(seeds: range, postgres: Callable[[], Warehouse]) -> None:
    """The same cases, the same logs."""
    for seed in seeds:
        case = generate(seed)
        found = differences(log := run(case), list(run_case(read(case), postgres).log))
        count("PostgreSQL", seed, case, log, found)
        assert not found, told_by(case, seed, found)


# ---------------------------------------------------------------- files of steps


@pytest.mark.parametrize("seeds", many(4))
def test_steps_in_files_of_their_own_are_the_same_steps(seeds: range, tmp_path: Path) -> None:
    """A run of steps moved into a file, and read by `include`."""
    (tmp_path / "steps").mkdir()
    for seed in seeds:
        case, random = generate(seed), Random(seed)
        cut = copy.deepcopy(case)
        for workflow in cut["workflows"]:
            steps = workflow["steps"]
            first = random.randrange(len(steps))
            last = random.randint(first + 1, len(steps))
            file = tmp_path / "steps" / f"{workflow['workflow']}.yaml"
            with file.open("w", encoding="utf-8") as stream:
                YAML().dump(json.loads(json.dumps(steps[first:last])), stream)
            workflow["steps"] = [*steps[:first], {"include": f"steps/{file.name}"}, *steps[last:]]
        (from_file,) = read_cases(tmp_path / "random.yaml", json.dumps(cut))
        found = differences(run(case), list(run_case(from_file, in_memory).log))
        assert not found, told_by(cut, seed, found)
