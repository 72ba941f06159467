"""What the tick promises beside the log: isolation, identities, atomicity, time that never goes back."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from compiler.errors import WarehouseError
from flows.engine.simulation import read_cases
from flows.engine.simulator import SCHEMA, Simulation
from flows.journal.tables import StateTables
from flows.warehouse.postgres import PostgresWarehouse

Simulate = Callable[[str], Simulation]
TWO_WORKFLOWS = """
contacts: [{id: ann, big: 900000000000000000}]
events: [[e1, ann, joined, 2026-01-01T09:00Z]]
workflows:
- version: 1
  workflow: broken
  trigger: {event: joined}
  steps:
  - {id: check, if: contact.big * contact.big > 1, then: [{id: t, tag: x}]}
  - {id: mail, email: hello}
- version: 1
  workflow: sound
  trigger: {event: joined}
  steps: [{id: mail, email: hello}]
ticks: [2026-01-01T09:00Z, 2026-01-01T10:00Z, 2026-01-01T11:00Z, 2026-01-01T12:00Z]
"""


@pytest.fixture(params=["duckdb", "postgres"])
def simulation(request: pytest.FixtureRequest) -> Simulate:
    """Makes a simulation of a case, on each warehouse; a second one in a test has a database of its own."""

    def made(text: str) -> Simulation:
        case = read_cases(Path("case.yaml"), text)[0]
        if request.param == "duckdb":
            return Simulation(case)
        server = request.getfixturevalue("postgres_server")
        return Simulation(case, lambda: PostgresWarehouse(server.database(), schema="public"))

    return made


def rows(run: Simulation, text: str) -> list[dict[str, object]]:
    return run.warehouse.rows(StateTables(SCHEMA).statement(run.warehouse, text))


def test_a_failing_workflow_is_set_aside_and_the_others_go_on(simulation: Simulate) -> None:
    with simulation(TWO_WORKFLOWS) as run:
        report = run.step(datetime(2026, 1, 1, 9))
        assert set(report.set_aside) == {"broken"}
        assert re.search("Overflow|out of range", report.set_aside["broken"])
        assert [row for row in run.log() if "sound" in row] == [
            "2026-01-01T09:00Z | 2026-01-01T09:00Z | sound/ann | - | enter",
            "2026-01-01T09:00Z | 2026-01-01T09:00Z | sound/ann | mail | email:hello sent",
            "2026-01-01T09:00Z | - | sound/ann | - | exit completed",
        ]
        assert rows(run, "SELECT workflow, outcome FROM journal WHERE kind = 'workflow'") == [
            {"workflow": "broken", "outcome": "set_aside"}
        ]


def test_the_third_failure_in_a_row_is_a_quarantine(simulation: Simulate) -> None:
    with simulation(TWO_WORKFLOWS) as run:
        for hour in (9, 10, 11, 12):
            report = run.step(datetime(2026, 1, 1, hour))
        assert report.set_aside == {"broken": "quarantined"}
        assert len(rows(run, "SELECT 1 AS n FROM journal WHERE outcome = 'set_aside'")) == 3
        assert rows(run, "SELECT scope, action FROM controls") == [{"scope": "workflow:broken", "action": "quarantine"}]


def test_a_failed_tick_leaves_nothing_behind(simulation: Simulate) -> None:
    with simulation(TWO_WORKFLOWS) as run:
        run.warehouse.execute("DROP VIEW penstock.deliveries")
        run.warehouse.execute("ALTER TABLE penstock.ticks RENAME TO ticks_gone")
        with pytest.raises(WarehouseError):
            run.step(datetime(2026, 1, 1, 9))
        assert rows(run, "SELECT 1 AS n FROM journal") == []
        assert rows(run, "SELECT 1 AS n FROM enrollments") == []
        assert rows(run, "SELECT 1 AS n FROM outbox") == []


def test_the_same_input_gives_the_same_identities_and_rows(simulation: Simulate) -> None:
    def decided() -> list[list[dict[str, object]]]:
        with simulation(TWO_WORKFLOWS.replace("contact.big * contact.big", "contact.big")) as run:
            run.run()
            return [
                rows(run, "SELECT enrollment_id, contact_id, position, exit FROM enrollments ORDER BY enrollment_id"),
                rows(run, "SELECT action_id, step, state, payload FROM outbox_closed ORDER BY action_id"),
                rows(run, "SELECT tick, seq, kind, step, outcome FROM journal ORDER BY tick, seq"),
                rows(run, "SELECT tick, checksum FROM ticks ORDER BY tick"),
            ]

    assert decided() == decided()


def test_the_time_of_ticks_never_goes_back(simulation: Simulate) -> None:
    with simulation(TWO_WORKFLOWS.replace("contact.big * contact.big", "contact.big")) as run:
        run.step(datetime(2026, 1, 1, 10))
        run.warehouse.execute("UPDATE penstock.ticks SET tick_at = TIMESTAMP '2026-01-01 11:00:00'")
        report = run.step(datetime(2026, 1, 1, 10, 30))
        assert report.tick_at == datetime(2026, 1, 1, 11)


def test_every_position_lies_in_the_journal(simulation: Simulate) -> None:
    text = """
contacts: [{id: ann}, {id: bob}]
events: [[e1, ann, joined, 2026-01-01T09:00Z], [e2, bob, joined, 2026-01-01T09:00Z], [e3, bob, used, 2026-01-01T11:00Z]]
workflows:
- version: 1
  workflow: welcome
  trigger: {event: joined}
  steps:
  - {id: pause, wait: 1h}
  - {id: use, wait_for: did('used'), within: 2d, then: [{id: t, tag: used}, {id: out, exit: active}], else: []}
ticks: [2026-01-01T09:00Z, 2026-01-01T10:00Z, 2026-01-01T11:00Z]
"""
    with simulation(text) as run:
        run.run()
        last = """
            SELECT j.contact_id, j.step, j.due, j.outcome FROM journal AS j WHERE j.kind IN ('rest', 'exit')
            QUALIFY row_number() OVER (PARTITION BY j.enrollment_id ORDER BY j.tick DESC, j.seq DESC) = 1
            ORDER BY j.contact_id
        """
        stored = "SELECT contact_id, position, logical_at, exit FROM enrollments ORDER BY contact_id"
        found = [(row["contact_id"], row["step"], row["due"], row["outcome"]) for row in rows(run, last)]
        kept = [
            (
                row["contact_id"],
                None if row["exit"] else row["position"],
                None if row["exit"] else row["logical_at"],
                row["exit"],
            )
            for row in rows(run, stored)
        ]
        assert found == kept
        assert [row[3] for row in found] == [None, "active"]


SET_ASIDE = """
contacts: [{id: ann, big: 900000000000000000}, {id: bob, big: 1}]
changes: [{contact: ann, at: 2026-01-01T11:30Z, set: {big: 2}}]
events:
- [e0, bob, joined, 2026-01-01T08:30Z]
- [e1, ann, joined, 2026-01-01T09:30Z]
- [e2, bob, left, 2026-01-01T10:30Z]
- [e3, bob, joined, 2026-01-01T10:40Z]
workflows:
- version: 1
  workflow: broken
  trigger: {event: [joined, left], where: contact.big * contact.big > 0}
  entry: {reentry: always}
  steps: [{id: t, tag: x}]
- version: 1
  workflow: daily
  trigger: {schedule: "15 * * * *", audience: contact.big * contact.big > 0}
  entry: {reentry: always}
  steps: [{id: d, tag: y}]
ticks: [2026-01-01T09:00Z, 2026-01-01T10:00Z, 2026-01-01T11:00Z, 2026-01-01T12:00Z]
"""


def test_what_came_while_a_workflow_was_set_aside_enters_when_it_is_mended(simulation: Simulate) -> None:
    with simulation(SET_ASIDE) as run:
        run.warehouse.execute("update contacts set big = 3 where id = 'ann'")
        asides = []
        for hour in (9, 10, 11, 12):
            if hour == 10:
                run.warehouse.execute("update contacts set big = 900000000000000000 where id = 'ann'")
            asides.append(set(run.step(datetime(2026, 1, 1, hour)).set_aside))
        assert asides == [set(), {"broken", "daily"}, {"broken", "daily"}, set()]
        entered = [row for row in run.log() if row.endswith("enter")]
        assert [row for row in entered if "broken" in row] == [
            "2026-01-01T09:00Z | 2026-01-01T08:30Z | broken/bob | - | enter",
            "2026-01-01T12:00Z | 2026-01-01T09:30Z | broken/ann | - | enter",
            "2026-01-01T12:00Z | 2026-01-01T10:30Z | broken/bob | - | enter",
            "2026-01-01T12:00Z | 2026-01-01T10:40Z | broken/bob | - | enter",
        ]
        assert [row for row in entered if "daily/bob" in row] == [
            f"2026-01-01T12:00Z | 2026-01-01T{hour:02}:15Z | daily/bob | - | enter" for hour in (9, 10, 11)
        ]
        assert run.step(datetime(2026, 1, 1, 13)).counts.get("entered") == 2  # ann and bob at 12:15, nothing twice
