"""Previews: one contact walks through a workflow on a copy, under a virtual clock, with the engine's own tick.

Nothing leaves: the tick runs on an in-memory copy of the contact's data, and the only destinations that can be given
are recorders. The clock jumps from one instant at which something can happen to the next.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog
from compiler.errors import DefinitionError, Problem, ProjectError
from compiler.explanation import newest_event, newest_row
from compiler.functions import MESSAGE_EVENTS
from compiler.graph import flow
from compiler.plan import Plan, ScheduleEntry
from compiler.workflow import (
    AudienceTrigger,
    Duration,
    EventTrigger,
    ModelTrigger,
    ScheduleTrigger,
    WaitForStep,
    Workflow,
)
from destinations.base import Action
from destinations.recorder import Recorder
from flows.engine.clock import VirtualClock, naive_utc
from flows.engine.contact_copy import ContactCopy
from flows.engine.deployment import Deployed, Deployment
from flows.engine.dispatcher import Delivery, deliver
from flows.engine.evaluator import Evaluator
from flows.engine.intents import Render
from flows.engine.log import log_rows
from flows.engine.occurrences import occurrences
from flows.engine.recheck import rechecker
from flows.journal.ids import identity
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

HELD = timedelta(minutes=15)
"""How soon a held send is looked at again."""
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
_YEAR = timedelta(days=366)
_TICKS = 2000
_ASSUMED = re.compile(
    r"(?:(?P<function>\w+)\(\s*'(?P<argument>[^']+)'\s*\)|(?P<event>\w+))\s*(?P<data>\{.*\})?\s*"
    r"(?:after\s+(?P<after>\d+[smhdw])|at\s+(?P<at>\S+))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Assumed:
    """Something that is taken to happen: an event, or what a person does with the message of a step.

    `after` counts from the message, or for another event from the start of the walk; `at` is an instant.
    """

    text: str
    event: str
    step: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    after: timedelta = timedelta()
    at: datetime | None = None


def assumed(text: str) -> Assumed:
    """Read `opened('welcome') after 5h`, `purchase {"amount": 80} after 2d` or `did('purchase') at 2026-03-02T09:00Z`.

    Raises:
        ProjectError: E517, it is none of these.
    """
    found = _ASSUMED.fullmatch(text.strip())
    function = found["function"] if found else None
    if found is None or (function is not None and function != "did" and function not in MESSAGE_EVENTS):
        raise _unreadable(text)
    try:
        data = json.loads(found["data"]) if found["data"] else {}
        at = naive_utc(datetime.fromisoformat(found["at"])) if found["at"] else None
        after = Duration.parse(found["after"]).elapsed if found["after"] else timedelta()
    except ValueError:
        raise _unreadable(text) from None
    if function in MESSAGE_EVENTS:
        return Assumed(text, MESSAGE_EVENTS[function], found["argument"], data, after, at)
    return Assumed(text, found["event"] or found["argument"], None, data, after, at)


def _unreadable(text: str) -> ProjectError:
    forms = "opened('welcome') after 5h, or purchase {\"amount\": 80} at 2026-03-02T09:00Z"
    return ProjectError(f"--assume {text}: this is no event", code="E517", hint=f"write it as {forms}")


@dataclass(frozen=True)
class Moment:
    """One line of the timeline.

    `kind`: `log` a row of the log, `assumed` what was taken to happen, `rest` where the contact waits and until when,
    `answer` which way a wait_for went. `message` is the number of the recorded action, if it is one; `workflow` is set
    where it is not the one that is previewed.
    """

    at: datetime
    kind: Literal["log", "assumed", "rest", "answer"]
    step: str | None
    text: str
    until: datetime | None = None
    message: int | None = None
    workflow: str | None = None


@dataclass(frozen=True)
class Walked:
    """What came of it: the timeline, the recorded actions, and how the enrollment ended (None: it has not)."""

    start: datetime
    end: datetime
    entered: bool
    exit: str | None
    timeline: tuple[Moment, ...]
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Walk:
    """All that a walk needs; `recorders` by destination name, `others` the workflows that `enroll` steps lead to."""

    workflow: Workflow
    plan: Plan
    catalog: Catalog
    workspace: str
    zone: str
    templates: Mapping[str, str]
    render: Render
    recorders: Mapping[str, Recorder]
    contact: str
    assume: Sequence[Assumed]
    others: Mapping[str, tuple[Workflow, Plan]] = field(default_factory=dict)


def walk(copy: ContactCopy, what: Walk, at: datetime, until: timedelta) -> Walked:
    """Walk the contact through: from the newest event or row that triggers the workflow at `at`, else from `at` on.

    Raises:
        ProjectError: E518, nothing would make the contact enter; E517, an assumption names no message of the workflow.
        DefinitionError: E690, a statement of the workflow failed.
    """
    return _Walk(copy, what, at, until).run()


class _Walk:
    def __init__(self, copy: ContactCopy, what: Walk, at: datetime, until: timedelta) -> None:
        self.copy, self.what = copy, what
        self.warehouse = copy.warehouse
        walked = {what.plan.workflow: what.workflow} | {name: other for name, (other, _) in what.others.items()}
        self.nodes = {name: {node.id: node for node in flow(each).nodes} for name, each in walked.items()}
        self.state = StateTables(what.catalog.state_schema)
        self.coming = [
            (max(row["event_time"], row["loaded_at"] or row["event_time"]), dict(row)) for row in copy.events
        ]
        self.former = frozenset(row["enrollment_id"] for row in self._rows(_ENROLLMENTS))
        self.start, activated = self._beginning(at)
        self.until = self.start + until
        self.clock = VirtualClock(self.start)
        self.evaluator = Evaluator(self._deployment(activated), self.clock)
        self.moments: list[Moment] = []
        self.open = [item for item in what.assume if item.step is not None]
        self._check_steps()
        for number, item in enumerate(what.assume):
            if item.step is None:
                self._assume(item, item.at or self.start + item.after, number)
        self.loads = self._model_loads()

    def _deployment(self, activated: datetime) -> Deployment:
        what = self.what
        audience = isinstance(what.workflow.trigger, AudienceTrigger)
        # the walk is about this entry: a member enters, an event before the chosen one does not
        rules = replace(what.plan.rules, backfill=None if audience else 0.0, ramp_count=None)
        plan = replace(what.plan, rules=rules)
        plans = {**{name: other for name, (_, other) in what.others.items()}, plan.workflow: plan}
        deployed = {name: Deployed(name, one.version, activated, {one.version: one}) for name, one in plans.items()}
        return Deployment(what.workspace, self.state.schema, what.catalog, what.zone, deployed, what.templates)

    def _check_steps(self) -> None:
        steps = {node.id for node in flow(self.what.workflow).nodes}
        for item in self.open:
            if item.step not in steps:
                raise ProjectError(f"--assume {item.text}: no step '{item.step}'", code="E517", hint=", ".join(steps))

    def _beginning(self, at: datetime) -> tuple[datetime, datetime]:
        """When the walk starts, and the time before which nothing is a candidate."""
        what = self.what
        given = {"tick_at": at, "contact_id": what.contact}
        match what.workflow.trigger:
            case EventTrigger(names=names):
                for _, row in self.coming:
                    self._insert(row)
                rows = self.warehouse.rows(newest_event(what.workflow, what.catalog), given)
                self.warehouse.execute(exp.delete(self.state["events"]))
                if rows and not any(item.event in names for item in what.assume):
                    return max(rows[0]["event_time"], rows[0]["loaded_at"]), rows[0]["event_time"]
                if not any(item.event in names for item in what.assume):
                    raise ProjectError(
                        f"{what.contact} has no event that triggers {what.workflow.workflow}", code="E518",
                        hint=f'--assume "{names[0]}"',
                    )  # fmt: skip
            case ModelTrigger():
                rows = self.warehouse.rows(newest_row(what.workflow, what.catalog), given)
                if not rows:
                    raise ProjectError(
                        f"no row of the model triggers {what.workflow.workflow} for {what.contact}", code="E518"
                    )
                return rows[0]["entry_at"], rows[0]["entry_at"]
            case ScheduleTrigger(schedule=cron):
                moment = self._next_occurrence(cron, at)
                return moment, moment
        return at, at

    def _next_occurrence(self, cron: str, at: datetime) -> datetime:
        """The next time that the schedule comes round for the contact."""
        entry = self.what.plan.entry
        zone = entry.zone if isinstance(entry, ScheduleEntry) else None
        if zone is None:
            rows = frames.contact_rows(self.what.catalog, (), self.what.zone)
            given = {"tick_at": at, frames.ADDRESS_KEY: ""}
            found = self.warehouse.rows(exp.select("c.tz").from_(rows.subquery("c")), given)
            zone = str(found[0]["tz"]) if found else self.what.zone
        coming = occurrences(cron, zone, at - timedelta(microseconds=1), at + 2 * _YEAR)
        if not coming:
            raise ProjectError(f"'{cron}' does not come round within two years", code="E518", hint="--at, a later time")
        return coming[0]

    # ------------------------------------------------------------ the clock

    def run(self) -> Walked:
        moment = self.start
        for _ in range(_TICKS):
            self._tick(moment)
            following = self._next(moment)
            if following is None or following > self.until:
                break
            moment = following
        rows = self._own()
        timeline = sorted(
            [*self._log(), *self.moments],
            key=lambda item: (item.at, ("assumed", "answer", "log", "rest").index(item.kind)),
        )
        return Walked(self.start, moment, bool(rows), rows[-1]["exit"] if rows else None, tuple(timeline),
                      tuple(self._actions()))  # fmt: skip

    def _tick(self, moment: datetime) -> None:
        self.clock.advance_to(moment)
        before = {row["enrollment_id"]: row for row in self._enrollments()}
        due = [row for time, row in self.coming if time <= moment]
        self.coming = [(time, row) for time, row in self.coming if time > moment]
        for row in due:
            self._insert(row)
        failed = self.evaluator.tick(self.warehouse).set_aside
        if failed:
            raise DefinitionError(Problem("E690", f"workflow {name} failed: {why}") for name, why in failed.items())
        asyncio.run(deliver(Delivery(
            open_warehouse=self._open, schema=self.state.schema, destinations=self.what.recorders,
            render=self.what.render, clock=self.clock, recheck=rechecker(self.evaluator),
        )))  # fmt: skip
        self._react()
        for row in self._enrollments():
            self._moved(before.get(row["enrollment_id"]), row, moment)

    def _next(self, moment: datetime) -> datetime | None:
        """The next instant at which something can happen; None when the walk is over."""
        rows = self._enrollments()
        active = [row for row in rows if row["exit"] is None]
        waiting = self._rows(_RETRIES)
        asked = self._rows(_ASKED)
        if self._own() and not active and not waiting and not asked:
            return None
        found = [time for time, _ in self.coming] + [time for time in self.loads if time > moment]
        found += [max(row["due_at"], moment + HELD) if row["due_at"] <= moment else row["due_at"]
                  for row in active if row["due_at"] is not None]  # fmt: skip
        found += [moment + MINUTE] if asked else []
        found += [max(row["next_attempt_at"] or moment, moment + HELD) for row in waiting]
        if active and any(plan.watches_state for plan in self.evaluator.deployment.plans):
            found.append(moment + DAY)
        return min(found, default=None)

    @contextmanager
    def _open(self) -> Iterator[Warehouse]:
        yield self.warehouse

    # ------------------------------------------------------------ what happens

    def _assume(self, item: Assumed, time: datetime, number: int, action_id: str | None = None) -> None:
        data = {**item.data, **({"action_id": action_id} if action_id else {})}
        named = data.get(self.what.catalog.events.id) or identity("assumed", str(number), item.text)
        row = {
            "event_id": str(named), "contact_id": self.what.contact,
            "action_id": action_id, "name": item.event, "event_time": time, "loaded_at": time,
            "data": json.dumps(data), "source": "preview",
        }  # fmt: skip
        self.coming.append((time, row))
        self.moments.append(Moment(time, "assumed", item.step, item.text))

    def _react(self) -> None:
        """A message that was sent starts what was assumed about it."""
        sent = {row["step"]: row for row in self._rows(_SENT)}
        for item in list(self.open):
            message = sent.get(item.step)
            if message is not None:
                self.open.remove(item)
                time = item.at or message["executed_at"] + item.after
                self._assume(item, max(time, self.clock.now()), len(self.moments) + 1000, message["action_id"])

    def _insert(self, row: Mapping[str, Any]) -> None:
        last = self._rows("SELECT coalesce(max(seq), 0) AS seq FROM events")[0]["seq"]
        values = {name: value for name, value in row.items() if value is not None} | {"seq": last + 1}
        columns = {
            name: pa.array([value], pa.timestamp("us") if isinstance(value, datetime) else pa.scalar(value).type)
            for name, value in values.items()
        }
        self.warehouse.load(self.state.place("events"), pa.table(columns))

    def _moved(self, before: Mapping[str, Any] | None, row: Mapping[str, Any], moment: datetime) -> None:
        stood = before["position"] if before is not None else None
        nodes, other = self.nodes[row["workflow"]], self._other(row["workflow"])
        left = nodes.get(stood) if stood is not None and (stood != row["position"] or row["exit"]) else None
        if before is not None and left is not None and isinstance(left.step, WaitForStep):
            in_time = before["due_at"] is None or moment < before["due_at"]
            said = "then" if in_time else f"else: nothing within {left.step.within}"
            if row["exit"] in (None, "completed"):
                self.moments.append(Moment(moment, "answer", left.id, f"{left.step.wait_for}: {said}", workflow=other))
        same = before is not None and (before["position"], before["due_at"]) == (row["position"], row["due_at"])
        node = nodes.get(row["position"])
        if row["exit"] is None and not same and node is not None:
            value = node.step.model_dump(mode="json", by_alias=True).get(node.kind)
            said = f"{node.kind}: {value}"
            self.moments.append(Moment(moment, "rest", node.id, said, row["due_at"], workflow=other))

    def _other(self, workflow: str) -> str | None:
        return workflow if workflow != self.what.plan.workflow else None

    # ------------------------------------------------------------ what came of it

    def _log(self) -> Iterator[Moment]:
        every = log_rows(self.warehouse, self.state.schema, contact=self.what.contact)
        rows = [row for row in every if row.workflow in self.nodes]
        numbers: dict[str, list[int]] = {}
        for number, action in enumerate(self._actions()):
            numbers.setdefault(f"{action.kind}:{action.what}", []).append(number)
        for row in rows:
            what, _, word = row.outcome.rpartition(" ")
            known = numbers.get(what, [])
            yield Moment(row.executed_at, "log", row.step, row.outcome,
                         message=known.pop(0) if known and word == "sent" else None,
                         workflow=self._other(row.workflow))  # fmt: skip

    def _actions(self) -> list[Action]:
        return [action for recorder in self.what.recorders.values() for action in recorder.actions]

    def _enrollments(self) -> list[dict[str, Any]]:
        return [row for row in self._rows(_ENROLLMENTS) if row["enrollment_id"] not in self.former]

    def _own(self) -> list[dict[str, Any]]:
        return [row for row in self._enrollments() if row["workflow"] == self.what.plan.workflow]

    def _rows(self, text: str) -> list[dict[str, Any]]:
        given = {"workflow": self.what.plan.workflow, "contact_id": self.what.contact,
                 "workflows": [self.what.plan.workflow, *self.what.others]}  # fmt: skip
        return self.warehouse.rows(self.state.statement(self.warehouse, text), given)

    def _model_loads(self) -> list[datetime]:
        """When the events model showed, or will show, the contact's rows."""
        rows = self.warehouse.rows(newest_loads(self.what.catalog), {"tick_at": datetime.max})
        return sorted({row["moment"] for row in rows if row["moment"] is not None})


def newest_loads(catalog: Catalog) -> Any:
    """The instants from which the events of the model can be seen."""
    rows = frames.event_rows(catalog, {}, unique=False, ahead=True)
    seen = exp.Greatest(this=exp.column("loaded_at", table="e"), expressions=[exp.column("event_time", table="e")])
    return exp.select(seen.as_("moment")).from_(rows.subquery("e"))


_ENROLLMENTS = """
    SELECT n.enrollment_id, n.workflow, n.position, n.due_at, n.exit
    FROM enrollments AS n
    WHERE list_contains($workflows, n.workflow) AND n.contact_id = $contact_id
    ORDER BY n.entry_at, n.entered_tick
"""
_ASKED = """
    SELECT k.workflow FROM candidates AS k
    WHERE k.verdict = 'asked' AND k.contact_id = $contact_id AND list_contains($workflows, k.workflow)
"""
_SENT = """
    SELECT j.step, j.action_id, j.executed_at FROM journal AS j
    WHERE j.kind = 'delivery' AND j.outcome = 'sent' AND j.workflow = $workflow AND j.contact_id = $contact_id
"""
_RETRIES = (
    "SELECT o.next_attempt_at FROM outbox AS o WHERE list_contains($workflows, o.workflow) AND o.state NOT IN ('held')"
)
