"""Why a contact is, or is not, in a workflow: the state at an instant, and the value of every condition then.

Reads only; its temporary table belongs to the connection. What a condition's parts are worth, the warehouse says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from sqlglot import exp

from compiler.catalog import Catalog
from compiler.condition import relation_table
from compiler.errors import ProjectError
from compiler.explanation import (
    CONTACT_ID,
    Question,
    Subject,
    asking,
    contact_events,
    is_contact,
    newest_event,
    newest_row,
    next_steps,
    questions,
)
from compiler.frames import ADDRESS_KEY, text
from compiler.graph import FlowNode, flow
from compiler.workflow import AudienceTrigger, EventTrigger, ModelTrigger, Policy, WaitForStep, Workflow
from flows.engine.log import LogRow, log_rows
from flows.engine.merging import check_not_merged
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

State = Literal["in flight", "ended", "not entered"]
REFUSALS = {
    "activation": "older than the workflow's activation minus backfill",
    "stale_trigger": "older than max_age when a tick saw it",
    "reentry": "reentry: this contact and key had entered already",
    "min_gap": "min_gap: too soon after the last entry",
    "entry_cap": "entry cap: too many entries of this contact",
    "paused": "the workflow was paused",
}
"""Verdict of a candidate -> what it means."""
_SHOWN = 5
_EVENTS = "explained_events"


@dataclass(frozen=True)
class Value:
    """One conjunct of a condition: true, false or unknown (None), and the values of what it names."""

    text: str
    value: bool | None
    operands: Mapping[str, Any]

    @property
    def unknown(self) -> tuple[str, ...]:
        """What is NULL in it, when that makes it unknown."""
        return tuple(name for name, value in self.operands.items() if value is None) if self.value is None else ()


@dataclass(frozen=True)
class Answer:
    """One condition; no parts when there was nothing to ask about, such as no event of that name."""

    place: str
    subject: Subject
    text: str
    parts: tuple[Value, ...]

    @property
    def value(self) -> bool | None:
        """Whether it holds; unknown routes as false."""
        values = [part.value for part in self.parts]
        return False if False in values else None if None in values or not values else True


@dataclass(frozen=True)
class Considered:
    """A candidate that a tick considered: its time, the tick's, and `entered` or why it was refused."""

    at: datetime | None
    considered_at: datetime
    verdict: str
    cause: str | None

    @property
    def meaning(self) -> str:
        """The verdict in words."""
        return REFUSALS.get(self.verdict, self.verdict)


@dataclass(frozen=True)
class Standing:
    """An enrollment as it was at the instant; `due_at` and `waits` are None when it had ended or is not known."""

    enrollment_id: str
    key: str | None
    version: int
    entry_at: datetime
    entered_at: datetime
    position: str | None
    logical_at: datetime | None
    due_at: datetime | None
    waits: str | None
    exit: str | None
    exited_at: datetime | None


@dataclass(frozen=True)
class Explanation:
    """All that `penstock explain` says.

    Attributes:
        trigger: what the newest event or row is, or since when the contact is in the audience; None when there is none.
        enrollments: newest first; the questions about an enrollment are about the first one.
        answers: conditions with their values.
        considered: the newest candidates first, silent refusals included.
        intents: actions decided and not final, only for the present.
        log: the newest rows, oldest first.
    """

    workflow: str
    contact: str
    at: datetime
    version: int | None
    trigger: str | None
    enrollments: tuple[Standing, ...]
    answers: tuple[Answer, ...]
    considered: tuple[Considered, ...]
    intents: tuple[Mapping[str, Any], ...]
    log: tuple[LogRow, ...]

    @property
    def state(self) -> State:
        """Where the contact is."""
        if not self.enrollments:
            return "not entered"
        return "in flight" if self.enrollments[0].exit is None else "ended"


@dataclass(frozen=True)
class Subjects:
    """What is explained: the workflow's versions as published, and what they are compiled against.

    `admitting` is the version that admits, None when the workflow is retired; `earliest` the time before which nothing
    is a candidate.
    """

    name: str
    versions: Mapping[int, Workflow]
    admitting: int | None
    earliest: datetime
    catalog: Catalog
    policy: Policy
    address_key: str

    @property
    def zone(self) -> str:
        """The time zone of contacts without one."""
        return self.policy.default_timezone or "UTC"

    @property
    def newest(self) -> Workflow:
        """The version that admits, else the last one."""
        return self.versions[self.admitting if self.admitting is not None else max(self.versions)]


def explain(
    warehouse: Warehouse, subjects: Subjects, contact: str, at: datetime, *, present: bool, step: str | None = None
) -> Explanation:
    """Explain one contact in one workflow at an instant; also what `step` asks, else the steps it may come to next.

    Raises:
        ProjectError: E516, there is no such contact, or it became part of another one.
        ConditionError: a published condition no longer compiles.
    """
    look = _Look(warehouse, subjects, contact, at, step)
    look.check_contact()
    look = look.narrowed()
    enrollments = look.enrollments()
    return Explanation(
        subjects.name, contact, at, subjects.admitting, look.trigger(), enrollments, look.answers(enrollments),
        look.considered(), look.intents() if present else (), look.log(),
    )  # fmt: skip


@dataclass(frozen=True)
class _Look:
    warehouse: Warehouse
    subjects: Subjects
    contact: str
    at: datetime
    step: str | None

    @property
    def given(self) -> dict[str, Any]:
        return {"tick_at": self.at, ADDRESS_KEY: self.subjects.address_key, CONTACT_ID: self.contact,
                "workflow": self.subjects.name}  # fmt: skip

    def rows(self, statement: str, **more: Any) -> list[dict[str, Any]]:
        state = StateTables(self.subjects.catalog.state_schema)
        return self.warehouse.rows(state.statement(self.warehouse, statement), {**self.given, **more})

    def check_contact(self) -> None:
        model = self.subjects.catalog.contact
        check_not_merged(self.warehouse, self.subjects.catalog.state_schema, self.contact)
        identity = text(model.relation, model.id, "m")
        known = exp.select(identity.as_("id")).from_(relation_table(model.relation, "m"))
        known = known.where(is_contact(self.subjects.catalog))
        if not self.warehouse.rows(known, self.given):
            raise ProjectError(
                f"no contact '{self.contact}' in {model.relation.name}", code="E516", hint="penstock audience true"
            )

    def narrowed(self) -> _Look:
        """The same with a copy of the contact's events, so that all events are read once and not for each question."""
        catalog = self.subjects.catalog
        rows = contact_events(catalog)
        self.warehouse.execute(exp.Create(
            this=exp.to_table(_EVENTS), kind="TABLE", replace=True, expression=rows,
            properties=exp.Properties(expressions=[exp.TemporaryProperty()]),
        ), self.given)  # fmt: skip
        relation = replace(catalog.events.relation, place=(_EVENTS,))
        catalog = replace(catalog, events=replace(catalog.events, relation=relation))
        return replace(self, subjects=replace(self.subjects, catalog=catalog))

    def enrollments(self) -> tuple[Standing, ...]:
        state = StateTables(self.subjects.catalog.state_schema)
        self.warehouse.execute(state.statement(self.warehouse, _SCOPE), self.given)
        return tuple(self._standing(row) for row in self.rows(_ENROLLMENTS))

    def _standing(self, row: Mapping[str, Any]) -> Standing:
        active = row["exit"] is None
        definition = self.subjects.versions.get(row["version"])
        nodes = flow(definition).nodes if definition is not None else ()
        position = row["position"] or (nodes[0].id if nodes else None)
        return Standing(
            row["enrollment_id"], row["key"], row["version"], row["entry_at"], row["entered_at"], position,
            row["logical_at"], row["due_at"] if active else None, _waits(nodes, position) if active else None,
            row["exit"], row["exited_at"],
        )  # fmt: skip

    def trigger(self) -> str | None:
        subjects = self.subjects
        definition = subjects.newest
        match definition.trigger:
            case EventTrigger():
                rows = self.warehouse.rows(newest_event(definition, subjects.catalog), self.given)
                return self._seen(f"{rows[0]['name']} {rows[0]['event_id']}", rows[0]["event_time"],
                                  rows[0]["event_id"]) if rows else None  # fmt: skip
            case ModelTrigger():
                rows = self.warehouse.rows(newest_row(definition, subjects.catalog), self.given)
                return self._seen(f"row {rows[0]['entry_ref']}", rows[0]["entry_at"],
                                  rows[0]["entry_ref"]) if rows else None  # fmt: skip
            case AudienceTrigger():
                members = self.rows(_MEMBER)
                return _membership(members[0]) if members else None
            case _:
                return None

    def _seen(self, what: str, moment: datetime, reference: str) -> str:
        """The newest event or row, and whether a tick has considered it."""
        said = f"{what} at {moment:%Y-%m-%d %H:%M:%S}"
        if any(row["cause"] == reference for row in self._considered):
            return said
        if moment < self.subjects.earliest:
            return f"{said}, {REFUSALS['activation']}"
        return f"{said}, not a candidate in any tick so far"

    def answers(self, enrollments: Sequence[Standing]) -> tuple[Answer, ...]:
        subjects = self.subjects
        entry = subjects.newest
        found = self._asked(entry, ("contact", "event", "row"))
        inside = subjects.versions.get(enrollments[0].version) if enrollments else None
        if inside is None:
            return found
        return (*found, *self._asked(inside, ("enrollment",), self._steps(inside, enrollments[0])))

    def _steps(self, workflow: Workflow, standing: Standing) -> Collection[str]:
        """The steps whose conditions are of interest."""
        if self.step is not None:
            return (self.step,)
        return next_steps(workflow, standing.position) if standing.exit is None and standing.position else ()

    def _asked(self, workflow: Workflow, about: Sequence[Subject], steps: Collection[str] = ()) -> tuple[Answer, ...]:
        subjects = self.subjects
        asked = questions(workflow, subjects.catalog, subjects.policy, steps=steps)
        values: dict[str, Any] = {}
        for subject in about:
            query = asking(asked, workflow, subjects.catalog, subjects.zone, subject=subject)
            if query is not None:
                for row in self.warehouse.rows(query, self.given)[:1]:
                    values.update(row)
        return tuple(
            _answer(number, question, values) for number, question in enumerate(asked) if question.subject in about
        )

    def considered(self) -> tuple[Considered, ...]:
        return tuple(
            Considered(row["due"], row["executed_at"], row["outcome"], row["cause"])
            for row in self._considered[:_SHOWN]
        )

    @cached_property
    def _considered(self) -> list[dict[str, Any]]:
        return self.rows(_CONSIDERED, shown=1000)

    def intents(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(self.rows(_INTENTS))

    def log(self) -> tuple[LogRow, ...]:
        rows = log_rows(
            self.warehouse, self.subjects.catalog.state_schema, workflow=self.subjects.name, contact=self.contact
        )
        return tuple([row for row in rows if row.executed_at <= self.at][-_SHOWN:])


def _waits(nodes: Sequence[FlowNode], position: str | None) -> str | None:
    """What the step is where an enrollment stands."""
    for node in nodes:
        if node.id == position:
            said = node.step.model_dump(mode="json", by_alias=True, exclude_unset=True)
            within = f" within {said['within']}" if isinstance(node.step, WaitForStep) and "within" in said else ""
            return f"{node.kind}: {said.get(node.kind)}{within}"
    return None


def _membership(row: Mapping[str, Any]) -> str:
    since = f"{row['since']:%Y-%m-%d %H:%M:%S}"
    if not row["member"]:
        return f"not in the audience since {since}"
    if row["edge"] == 0:
        return f"in the audience since the workflow's first tick at {since}; backfill is off, so that is no entry"
    return f"in the audience since {since}"


def _answer(number: int, question: Question, values: Mapping[str, Any]) -> Answer:
    parts = tuple(
        Value(part.text, values[f"v{number}_{place}"], {
            name: values[f"o{number}_{place}_{operand}"] for operand, (name, _) in enumerate(part.operands)
        })
        for place, part in enumerate(question.parts) if f"v{number}_{place}" in values
    )  # fmt: skip
    return Answer(question.place, question.subject, question.text, parts)


# What moved after the instant is taken back: where it stood is the last row `rest` of the journal until then.
_AT = """
    SELECT n.enrollment_id, n.contact_id, n.key, n.entry_ref, n.entry, n.entry_at, n.version, e.tick_at AS entered_at,
        CASE WHEN m.tick_at <= $tick_at THEN n.position ELSE r.step END AS position,
        CASE WHEN m.tick_at <= $tick_at THEN n.logical_at ELSE coalesce(r.due, n.entry_at) END AS logical_at,
        CASE WHEN m.tick_at <= $tick_at THEN n.due_at END AS due_at,
        CASE WHEN m.tick_at <= $tick_at THEN n.steps END AS steps, n.arms, n.visits,
        CASE WHEN n.exited_at <= $tick_at THEN n.exit END AS exit,
        CASE WHEN n.exited_at <= $tick_at THEN n.exited_at END AS exited_at
    FROM enrollments AS n
    JOIN ticks AS e ON e.tick = n.entered_tick
    LEFT JOIN ticks AS m ON m.tick = coalesce(n.moved_tick, n.entered_tick)
    LEFT JOIN (
        SELECT j.enrollment_id, j.step, j.due, row_number() OVER (
            PARTITION BY j.enrollment_id ORDER BY j.tick DESC, j.seq DESC) AS place
        FROM journal AS j
        WHERE j.kind = 'rest' AND j.executed_at <= $tick_at AND j.workflow = $workflow AND j.contact_id IN (
            SELECT CAST($contact_id AS TEXT) UNION ALL
            SELECT g.from_id FROM contact_merges AS g WHERE g.into_id = $contact_id
        )
    ) AS r ON r.enrollment_id = n.enrollment_id AND r.place = 1
    WHERE n.workflow = $workflow AND n.contact_id = $contact_id AND e.tick_at <= $tick_at
"""
_NEWEST = " ORDER BY CASE WHEN x.exit IS NULL THEN 0 ELSE 1 END, x.entry_at DESC, x.enrollment_id LIMIT "
_ENROLLMENTS = "SELECT x.* FROM (" + _AT + ") AS x" + _NEWEST + "5"
_SCOPE = (
    "CREATE OR REPLACE TEMP TABLE tick_scope AS SELECT x.enrollment_id, x.contact_id, x.key, x.entry_ref, x.entry, "
    "x.entry_at, x.position, x.logical_at, x.due_at, x.steps, x.arms, x.visits, CAST($tick_at AS TIMESTAMP) AS tick_at "
    "FROM (" + _AT + ") AS x" + _NEWEST + "1"
)
_CONSIDERED = """
    SELECT j.due, j.executed_at, j.outcome, j.cause FROM journal AS j
    WHERE j.kind IN ('enter', 'rejected', 'refused') AND j.workflow = $workflow AND j.contact_id = $contact_id
        AND j.executed_at <= $tick_at
    ORDER BY j.tick DESC, j.seq DESC LIMIT $shown
"""
_MEMBER = """
    SELECT member, since, edge FROM audience_members
    WHERE name = $workflow AND contact_id = $contact_id AND since <= $tick_at
"""
_INTENTS = """
    SELECT o.step, o.kind || ':' || o.what AS action, o.state, o.reason, o.code, o.attempts, o.next_attempt_at
    FROM outbox AS o WHERE o.workflow = $workflow AND o.contact_id = $contact_id ORDER BY o.tick, o.seq
"""
