"""What a backtest came to, read from the state tables that it wrote: entries, exits, steps, sends per day, people."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from compiler.graph import Flow, flow
from compiler.workflow import ExitStep, Workflow
from flows.engine.backtest import Ran
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

IN_FLIGHT = "in flight"


@dataclass(frozen=True)
class StepFigures:
    """One step: contacts that left a trace there, rows per outcome, and whether anybody came by at all.

    Waits and branches that were passed at once leave no trace; `reached` knows them by the steps behind them.
    """

    step: str
    kind: str
    depth: int
    contacts: int
    outcomes: Mapping[str, int]
    reached: bool


@dataclass(frozen=True)
class Summary:
    """One version in figures.

    Attributes:
        ran: ticks of the period, and how many were evaluated.
        entered, contacts: enrollments, and the contacts that they are of.
        refused: verdict -> candidates that did not enter.
        exits: reason -> enrollments; `in flight` are those that had not ended.
        steps: in the order of the file.
        sends: day, kind and number of what a destination would have taken.
    """

    ran: Ran
    entered: int
    contacts: int
    refused: Mapping[str, int]
    exits: Mapping[str, int]
    steps: tuple[StepFigures, ...]
    sends: tuple[tuple[date, str, int], ...]

    @property
    def sent(self) -> int:
        """All sends together."""
        return sum(number for _, _, number in self.sends)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Steps that no contact reached."""
        return tuple(step.step for step in self.steps if not step.reached)


@dataclass(frozen=True)
class Person:
    """What happened to a contact: entries, sends in order with their instants, and exits."""

    entries: int
    sends: tuple[str, ...]
    sent_at: tuple[str, ...]
    exits: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two versions person by person; each value is a number of contacts and some of their ids.

    `sends`: both entered, and other messages or actions went out; `times`: the same ones at other times; `exits`: the
    same sends, and another end.
    """

    same: int
    differing: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)


def summarise(warehouse: Warehouse, schema: str, workflow: Workflow, ran: Ran) -> Summary:
    """The figures of one workflow."""
    state = StateTables(schema)

    def rows(text: str) -> list[dict[str, Any]]:
        return warehouse.rows(state.statement(warehouse, text), {"workflow": workflow.workflow})

    entered = rows(_ENTERED)[0]
    exits = {row["exit"] or IN_FLIGHT: row["n"] for row in rows(_EXITS)}
    return Summary(
        ran, entered["n"], entered["contacts"], {row["outcome"]: row["n"] for row in rows(_REFUSED)}, exits,
        tuple(_steps(flow(workflow), rows(_CONTACTS), rows(_STEPS), exits)),
        tuple((row["day"], row["kind"], row["n"]) for row in rows(_SENDS)),
    )  # fmt: skip


def _steps(
    graph: Flow, contacts: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], exits: Mapping[str, int]
) -> Iterator[StepFigures]:
    seen = {row["step"]: row["contacts"] for row in contacts}
    outcomes: dict[str, dict[str, int]] = {}
    for row in rows:
        outcomes.setdefault(row["step"], {})[row["outcome"]] = row["n"]
    met = {node.index for node in graph.nodes if node.id in seen}
    met |= {node.index for node in graph.nodes if isinstance(node.step, ExitStep) and node.step.exit in exits}
    passed = _passed(graph, met, ended=bool(exits.get("completed")))
    for node in graph.nodes:
        yield StepFigures(
            node.id, node.kind, node.depth, seen.get(node.id, 0), outcomes.get(node.id, {}), node.index in passed
        )


def _passed(graph: Flow, met: Collection[int], *, ended: bool) -> frozenset[int]:
    """The steps somebody came by: those that were met, and those without which no way leads to one of them."""
    found = set(met)
    for node in graph.nodes:
        if node.index in found:
            continue
        without, ends = _reached_without(graph, node.index)
        if any(index not in without for index in met) or (ended and not ends):
            found.add(node.index)
    return frozenset(found)


def _reached_without(graph: Flow, left_out: int) -> tuple[set[int], bool]:
    """The steps that can be met when one is left out, and whether the end can."""
    found: set[int] = set()
    ends = False
    queue = [0] if graph.nodes and left_out != 0 else []
    while queue:
        index = queue.pop()
        if index in found:
            continue
        found.add(index)
        for following in graph.nodes[index].successors.values():
            if following is None:
                ends = True
            elif following != left_out:
                queue.append(following)
    return found, ends


def people(warehouse: Warehouse, schema: str, workflow: str) -> dict[str, Person]:
    """What happened to every contact that entered."""
    state = StateTables(schema)
    rows = warehouse.rows(state.statement(warehouse, _PEOPLE), {"workflow": workflow})
    return {
        row["contact_id"]: Person(
            row["entries"], tuple(row["sends"] or ()), tuple(row["sent_at"] or ()), tuple(row["exits"] or ())
        )
        for row in rows
    }


def compare(old: Mapping[str, Person], new: Mapping[str, Person], sample: int = 5) -> Comparison:
    """Two versions person by person; `sample` ids are kept of each kind of difference."""
    found: dict[str, list[str]] = {}
    same = 0
    for contact in sorted({*old, *new}):
        kind = _difference(old.get(contact), new.get(contact))
        if kind is None:
            same += 1
        else:
            found.setdefault(kind, []).append(contact)
    return Comparison(same, {kind: (len(ids), tuple(ids[:sample])) for kind, ids in found.items()})


def _difference(old: Person | None, new: Person | None) -> str | None:
    if old is None or new is None:
        return "only in the new one" if old is None else "only in the old one"
    if sorted(old.sends) != sorted(new.sends):
        return "other sends"
    if old.entries != new.entries or old.exits != new.exits:
        return "other entries or exits"
    return None if (old.sends, old.sent_at) == (new.sends, new.sent_at) else "other times"


_ENTERED = """
    SELECT count(*) AS n, count(DISTINCT contact_id) AS contacts FROM journal
    WHERE kind = 'enter' AND workflow = $workflow
"""
_REFUSED = """
    SELECT outcome, count(*) AS n FROM journal WHERE kind IN ('rejected', 'refused') AND workflow = $workflow
    GROUP BY outcome ORDER BY n DESC, outcome
"""
_EXITS = """
    SELECT exit, count(*) AS n FROM enrollments WHERE workflow = $workflow GROUP BY exit ORDER BY n DESC, exit
"""
_CONTACTS = """
    SELECT step, count(DISTINCT contact_id) AS contacts FROM journal
    WHERE kind IN ('action', 'split', 'delivery', 'rest') AND step IS NOT NULL AND workflow = $workflow GROUP BY step
"""
_STEPS = """
    SELECT step, outcome, count(*) AS n FROM journal
    WHERE kind IN ('action', 'split', 'delivery') AND step IS NOT NULL AND workflow = $workflow
    GROUP BY step, outcome ORDER BY step, n DESC, outcome
"""
_SENDS = """
    SELECT CAST(j.executed_at AS DATE) AS day, split_part(j.what, ':', 1) AS kind, count(*) AS n FROM journal AS j
    WHERE j.kind = 'delivery' AND j.outcome = 'sent' AND j.workflow = $workflow GROUP BY 1, 2 ORDER BY 1, 2
"""
_PEOPLE = """
    SELECT e.contact_id, e.entries, e.exits, s.sends, s.sent_at
    FROM (
        SELECT contact_id, count(*) AS entries,
            list(coalesce(exit, 'in flight') ORDER BY entry_at, enrollment_id) AS exits
        FROM enrollments WHERE workflow = $workflow GROUP BY contact_id
    ) AS e
    LEFT JOIN (
        SELECT contact_id, list(step || ' ' || what ORDER BY executed_at, seq) AS sends,
            list(CAST(executed_at AS TEXT) ORDER BY executed_at, seq) AS sent_at
        FROM journal WHERE kind = 'delivery' AND outcome = 'sent' AND workflow = $workflow GROUP BY contact_id
    ) AS s ON s.contact_id = e.contact_id
"""
