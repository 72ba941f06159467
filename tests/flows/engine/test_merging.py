"""Merges beside their journeys: their order, opt-outs that Penstock recorded, and what the state says afterwards."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from compiler.errors import SimulationError
from flows.engine.merging import Found, in_rounds
from flows.engine.simulation import read_cases
from flows.engine.simulator import SCHEMA, Simulation
from flows.journal.ids import identity
from flows.journal.tables import StateTables

NINE = datetime(2026, 1, 1, 9)
CASE = """
contacts: [{id: ann}, {id: bob}]
events: [[e1, ann, joined, 2026-01-01T09:00Z], [e2, bob, joined, 2026-01-01T11:00Z]]
merges: [{from: ann, into: bob, at: 2026-01-01T09:30Z}]
workflows:
- version: 1
  workflow: w
  trigger: {event: joined}
  entry: {reentry: always}
  steps: [{id: one, email: one}, {wait: 1h}, {id: two, email: two}, {wait: 1h}, {id: three, email: three}]
ticks: [[2026-01-01T09:00Z, 2026-01-01T11:00Z, 1h]]
"""


def found(*rows: tuple[str, str, int], known: str = "abcdefgxyz") -> list[Found]:
    return [Found(source, into, NINE + timedelta(minutes=at), into in known) for source, into, at in rows]


def made(*rows: tuple[str, str, int], known: str = "abcdefgxyz") -> list[tuple[str, str, int]]:
    return [(merge.source, merge.into, merge.round) for merge in in_rounds(found(*rows, known=known))]


def test_many_into_one_are_one_round_and_a_chain_is_a_round_for_each_link() -> None:
    assert made(("a", "d", 1), ("b", "d", 2), ("c", "d", 3)) == [("a", "d", 1), ("b", "d", 1), ("c", "d", 1)]
    assert made(("a", "b", 1), ("b", "c", 2), ("c", "d", 3)) == [("a", "b", 1), ("b", "c", 2), ("c", "d", 3)]


def test_a_merge_into_a_contact_that_is_merged_already_is_one_into_whom_it_became() -> None:
    assert made(("b", "c", 1), ("a", "b", 2)) == [("b", "c", 1), ("a", "c", 1)]


def test_who_comes_later_goes_in_no_earlier_round() -> None:
    # d comes to c after what b had taken over from a
    assert made(("a", "b", 1), ("b", "c", 2), ("d", "c", 3)) == [("a", "b", 1), ("b", "c", 2), ("d", "c", 2)]


def test_a_second_merge_of_a_contact_and_one_in_a_circle_are_left_out() -> None:
    assert made(("a", "a", 0), ("a", "b", 1), ("b", "a", 2), ("a", "c", 3)) == [("a", "b", 1)]
    assert made(("a", "b", 1), ("b", "c", 2), ("c", "a", 3)) == [("a", "b", 1), ("b", "c", 2)]


def test_a_merge_waits_for_the_contact_it_leads_to_in_the_end() -> None:
    assert made(("a", "b", 1), known="a") == []
    assert made(("a", "b", 1), ("b", "c", 2), known="c") == [("a", "b", 1), ("b", "c", 2)]
    assert made(("a", "b", 1), ("b", "c", 2), known="b") == []


def suppress(run: Simulation, contact: str, action: str, at: datetime, reason: str = "asked") -> None:
    row = {
        "suppression_id": identity(contact, action, at.isoformat()), "contact_id": contact, "scope": "all",
        "action": action, "reason": reason, "created_at": at,
    }  # fmt: skip
    run.warehouse.load((SCHEMA, "suppressions"), pa.Table.from_pylist([row]))


def sent(run: Simulation) -> list[str]:
    return [row.partition("email:")[2] for row in run.log() if "email:" in row]


def test_a_recorded_opt_out_of_either_side_wins_until_it_is_lifted_after_the_merge() -> None:
    with Simulation(read_cases(Path("case.yaml"), CASE)[0]) as run:
        run.step(NINE)
        suppress(run, "bob", "add", NINE)
        # the other side's earlier consent does not take it back
        suppress(run, "ann", "lift", NINE + timedelta(minutes=10))
        run.step(NINE + timedelta(hours=1))
        suppress(run, "bob", "lift", NINE + timedelta(hours=1, minutes=10))
        run.step(NINE + timedelta(hours=2))
        assert sent(run)[:2] == ["one sent", "two skipped(unsubscribed)"]
        assert sorted(sent(run)[2:]) == ["one sent", "three sent"]


def test_an_opt_out_under_the_old_id_still_counts_and_a_bounce_of_the_old_address_does_not() -> None:
    with Simulation(read_cases(Path("case.yaml"), CASE)[0]) as run:
        run.step(NINE)
        suppress(run, "ann", "add", NINE + timedelta(minutes=10), "bounced")
        run.step(NINE + timedelta(hours=1))
        suppress(run, "ann", "add", NINE + timedelta(hours=1, minutes=10))
        run.step(NINE + timedelta(hours=2))
        assert sent(run)[:2] == ["one sent", "two sent"]
        assert sorted(sent(run)[2:]) == ["one skipped(unsubscribed)", "three skipped(unsubscribed)"]


def test_the_state_has_the_contact_as_it_is_now_and_the_journal_as_it_was() -> None:
    with Simulation(read_cases(Path("case.yaml"), CASE)[0]) as run:
        run.step(NINE)
        run.step(NINE + timedelta(hours=1))
        state = StateTables(SCHEMA)

        def rows(text: str) -> list[tuple[object, ...]]:
            return [tuple(row.values()) for row in run.warehouse.rows(state.statement(run.warehouse, text))]

        assert rows("SELECT from_id, into_id FROM contact_merges") == [("ann", "bob")]
        assert rows("SELECT contact_id, position FROM enrollments") == [("bob", "wait_4")]
        assert rows("SELECT DISTINCT contact_id FROM deliveries") == [("bob",)]
        assert rows("SELECT contact_id, cause FROM journal WHERE kind = 'merged'") == [("bob", "ann")]
        assert rows("SELECT contact_id FROM journal WHERE kind = 'enter'") == [("ann",)]


def test_a_simulation_refuses_a_merge_into_nobody() -> None:
    with pytest.raises(SimulationError, match="no contact 'bop'"):
        read_cases(Path("case.yaml"), CASE.replace("into: bob", "into: bop"))
