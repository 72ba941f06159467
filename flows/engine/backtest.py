"""Backtests: the engine's own ticks over the past, under an explicit clock; every send is taken to be accepted.

Ticks at which nothing can happen are left out: no event of interest appears, nothing is due, no occurrence comes round
and no condition that may change by itself is watched. A tick that is left out would have written nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlglot import exp

from compiler.errors import DefinitionError, Problem
from compiler.plan import AudienceEntry, ModelEntry, Plan, ScheduleEntry
from flows.engine.acceptance import accept_all
from flows.engine.clock import VirtualClock
from flows.engine.deployment import Deployment
from flows.engine.evaluator import Evaluator
from flows.engine.history import History
from flows.engine.merging import merge_times
from flows.engine.occurrences import occurrences
from flows.engine.recheck import WITHDRAWING, rechecker
from flows.journal.tables import StateTables

Progress = Callable[[int, int], None]
"""Told how many ticks are behind, of how many."""
_CHUNK = 500
_MOST_OPEN = 20_000
_SENT_EVENTS = frozenset({"email_sent", "sms_sent", "push_sent"})


@dataclass(frozen=True)
class Ran:
    """How much there was to do: ticks of the period, and those that were evaluated."""

    ticks: int
    evaluated: int


def ticks_of(start: datetime, until: datetime, every: timedelta) -> list[datetime]:
    """The ticks of a period, both ends included."""
    return [start + number * every for number in range(int((until - start) / every) + 1)]


def run_backtest(
    history: History, deployment: Deployment, ticks: Sequence[datetime], progress: Progress | None = None
) -> Ran:
    """Evaluate a deployment at the ticks; what came of it stands in the history's state tables.

    Raises:
        DefinitionError: E690, a statement of a workflow failed.
    """
    return _Backtest(history, deployment, ticks).run(progress or (lambda _done, _of: None))


class _Backtest:
    def __init__(self, history: History, deployment: Deployment, ticks: Sequence[datetime]) -> None:
        self.history, self.deployment, self.ticks = history, deployment, ticks
        self.warehouse = history.warehouse
        self.state = StateTables(deployment.schema)
        self.clock = VirtualClock(ticks[0])
        self.evaluator = Evaluator(deployment, self.clock)
        self.recheck = rechecker(self.evaluator)
        plans = deployment.plans
        read = {
            name for plan in plans
            for name in (*plan.events, *plan.wakes, *plan.trigger_events, *plan.audience_events)
        }  # fmt: skip
        self.reads_sent = bool(read & _SENT_EVENTS)
        self.watching = [plan.workflow for plan in plans if plan.watches_state]
        # whoever is in an audience may change with every event, and by time alone
        self.always = any(isinstance(plan.entry, AudienceEntry) for plan in plans)
        self.names = sorted(deployment.workflows)
        self.emits = any(action.kind == "emit" and action.what in read for plan in plans for action in plan.actions)
        self.wrote = False
        # an open intent means the same as one that was sent, but to whom asks about its state or changes its contact
        asked = bool(self.watching) or self.reads_sent or any(map(_asks_for_deliveries, plans))
        self.eager = asked or deployment.catalog.contact.merges is not None
        self.open = 0
        self.busy = self._busy()

    def run(self, progress: Progress) -> Ran:
        evaluated, number = 0, 0
        while number < len(self.ticks):
            self._tick(self.ticks[number])
            evaluated += 1
            number = self._next(number)
            progress(min(number, len(self.ticks)), len(self.ticks))
        self._accept(left=False)
        return Ran(len(self.ticks), evaluated)

    def _tick(self, moment: datetime) -> None:
        self.clock.advance_to(moment)
        self.history.show(moment)
        report = self.evaluator.tick(self.warehouse)
        if report.set_aside:
            raise DefinitionError(
                Problem("E690", f"workflow {name} failed: {why}") for name, why in report.set_aside.items()
            )
        decided = bool(report.counts.get("decided"))
        # an event that this tick wrote is seen by the next one
        self.wrote = decided and self.reads_sent or self.emits and bool(report.counts.get("done"))
        left = bool(report.counts.get("exits"))
        self.open += report.counts.get("decided", 0)
        if decided and (left or self.eager) or self.open >= _MOST_OPEN:
            self._accept(left=left)

    def _accept(self, *, left: bool) -> None:
        """What a destination that accepts everything makes of the intents; `left`: somebody left at this tick.

        Goals and exits are read again, as at a claim, where they can have come true since the decision.
        """
        withdrawn: dict[str, str] = {}
        with self.warehouse.transaction():
            if left or self.watching:
                given = {"watching": self.watching, "reasons": list(WITHDRAWING)}
                doubtful = [row["action_id"] for row in self._rows(_DOUBTFUL, **given)]
                for first in range(0, len(doubtful), _CHUNK):
                    withdrawn |= self.recheck(self.warehouse, doubtful[first : first + _CHUNK], self.clock.now())
            accept_all(self.warehouse, self.state, withdrawn, events=self.reads_sent)
        self.open = 0

    # ------------------------------------------------------------ when something can happen

    def _next(self, number: int) -> int:
        """The next tick at which something can happen."""
        following = number + 1
        if self.always or self.wrote:
            return following
        state = self._rows(_DUE, watching=self.watching, names=self.names)[0]
        if state["watched"] or state["asked"] or state["waits"]:
            return following
        found = [self.busy[place]] if (place := bisect_left(self.busy, following)) < len(self.busy) else []
        if state["due_at"] is not None:
            found.append(max(following, bisect_left(self.ticks, state["due_at"])))
        return min(found, default=len(self.ticks))

    def _busy(self) -> list[int]:
        """The ticks at which something appears that may wake, or make somebody enter."""
        moments = set(self._event_moments())
        moments.update(merge_times(self.warehouse, self.deployment.catalog))
        for plan in self.deployment.plans:
            moments.update(self._entries(plan))
        numbers = {bisect_left(self.ticks, moment) for moment in moments}
        return sorted(number for number in numbers if number < len(self.ticks))

    def _event_moments(self) -> Iterator[datetime]:
        names = {name for plan in self.deployment.plans for name in (*plan.wakes, *plan.trigger_events)}
        yield from self.history.moments(self.deployment.catalog, names)

    def _entries(self, plan: Plan) -> Iterator[datetime]:
        match plan.entry:
            case ModelEntry():
                rows = exp.select(exp.column("entry_at", table="r")).distinct().from_(plan.entry.rows.subquery("r"))
                given = {"tick_at": self.ticks[-1], "earliest": datetime.min}
                yield from (row["entry_at"] for row in self.warehouse.rows(rows, given))
            case ScheduleEntry():
                zones = [plan.entry.zone] if plan.entry.zone is not None else self._zones()
                for zone in zones:
                    yield from occurrences(plan.entry.cron, zone, self.ticks[0], self.ticks[-1])
            case _:
                return

    def _zones(self) -> list[str]:
        found = self.warehouse.rows(self.deployment.contact_zones(), {"tick_at": self.ticks[0], "address_key": ""})
        return sorted(row["tz"] for row in found)

    def _rows(self, text: str, **given: Any) -> list[dict[str, Any]]:
        return self.warehouse.rows(self.state.statement(self.warehouse, text), given)


def _asks_for_deliveries(plan: Plan) -> bool:
    return any("steps." in text or "failed(" in text.lower() for text in plan.conditions.values())


_DOUBTFUL = """
    SELECT CAST(o.action_id AS TEXT) AS action_id FROM outbox AS o
    WHERE o.tick = (SELECT max(t.tick) FROM ticks AS t) AND (
        list_contains($watching, o.workflow) OR o.enrollment_id IN (
            SELECT n.enrollment_id FROM enrollments AS n WHERE list_contains($reasons, n.exit)
        )
    )
"""
_DUE = """
    SELECT (SELECT min(n.due_at) FROM enrollments AS n WHERE n.exit IS NULL) AS due_at,
        EXISTS (
            SELECT 1 FROM enrollments AS n WHERE n.exit IS NULL AND list_contains($watching, n.workflow)
        ) AS watched,
        EXISTS (
            SELECT 1 FROM candidates AS k WHERE k.verdict = 'asked' AND list_contains($names, k.workflow)
        ) AS asked,
        EXISTS (SELECT 1 FROM candidates AS k WHERE k.verdict = 'waiting') AS waits
"""
