"""Replay: every decision of a past tick worked out again, by the engine itself, and compared with the log.

The state is that before the tick, the data are those that it could see. What differs has a cause outside the engine: a
row of the warehouse that was changed since and keeps no history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog
from compiler.condition import relation_table
from compiler.plan import AudienceEntry
from flows.engine.audiences import find_edges
from flows.engine.clock import VirtualClock
from flows.engine.deployment import Deployment
from flows.engine.evaluator import Evaluator
from flows.engine.history import History
from flows.engine.past_state import PastState, PastTick
from flows.engine.work import Texts, Work
from flows.journal.tables import stage
from flows.warehouse.base import Warehouse

Deploy = Callable[[], Deployment]
"""What was published, read from the tables as they were."""


@dataclass(frozen=True)
class Decision:
    """A row of the journal, as far as a tick decides it."""

    workflow: str
    enrollment: str | None
    contact: str | None
    key: str | None
    step: str | None
    kind: str
    what: str | None
    outcome: str | None
    due: datetime | None

    @property
    def said(self) -> str:
        """The decision in words of the log."""
        what = f"{self.what} {self.outcome}" if self.what else f"{self.kind} {self.outcome or ''}".strip()
        return f"{self.step or '-'} | {what}"


@dataclass(frozen=True)
class Difference:
    """A decision that stands only in the log, or only came out now, and why that may be."""

    decision: Decision
    only: str
    cause: str


@dataclass(frozen=True)
class ReplayedTick:
    """One tick: decisions in the log, how many came out the same, and what differs.

    `intact`: the log of the tick has the checksum that the tick wrote. `left_out`: workflows that do not compile any
    more, so nothing of them was worked out.
    """

    tick: int
    tick_at: datetime
    decisions: int
    same: int
    differences: tuple[Difference, ...]
    intact: bool
    left_out: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of the decisions that came out the same; one that is only there now counts as wrong too."""
        every = self.decisions + sum(item.only == "replay" for item in self.differences)
        return 1.0 if not every else self.same / every


def replay_tick(
    history: History, past: PastState, tick: PastTick, deploy: Deploy, contact: str | None = None
) -> ReplayedTick:
    """Work one tick out again; ticks must be replayed in order, because the copy's data only grow."""
    past.fill(tick, {})
    deployment = replace(deploy(), guard=None, audiences=())
    members = _members(history, past, tick, deployment)
    past.fill(tick, {(plan.workflow, plan.version): plan.first_step for plan in deployment.plans})
    if members is not None:
        history.warehouse.load(past.state.place("audience_members"), members)
        for plan in deployment.plans:
            if isinstance(plan.entry, AudienceEntry):
                past.edges(plan.workflow, tick.number)
    history.show(tick.tick_at)
    report = Evaluator(deployment, VirtualClock(tick.tick_at)).tick(history.warehouse)
    left_out = frozenset(report.set_aside)
    logged = [row for row in _decisions(past, _LOGGED, tick, contact) if row.workflow not in left_out]
    again = _decisions(past, _AGAIN, tick, contact)
    missing, extra = _apart(logged, again)
    found = [*((row, "log") for row in missing), *((row, "replay") for row in extra)]
    causes = _causes(
        history.warehouse, past, deployment.catalog, tick, {row.contact for row, _ in found if row.contact}
    )
    return ReplayedTick(
        tick.number, tick.tick_at, len(logged), len(logged) - len(missing),
        tuple(Difference(row, only, causes.get(row.contact or "", _UNKNOWN)) for row, only in found),
        _intact(past, tick), tuple(sorted(left_out)),
    )  # fmt: skip


def _members(history: History, past: PastState, tick: PastTick, deployment: Deployment) -> pa.Table | None:
    """Who was in the audiences at the tick before, worked out at its time; None without audiences, or such a tick."""
    audiences = [plan for plan in deployment.plans if isinstance(plan.entry, AudienceEntry)]
    if not audiences or tick.previous is None:
        return None
    history.show(tick.previous)
    # that tick looked at the audiences before it wrote anything
    past.fill(PastTick(tick.number - 1, tick.previous, None, tick.own), {})
    meta = past.rows("SELECT state_id FROM meta")[0]["state_id"]
    work = Work(history.warehouse, deployment, Texts(), tick.number - 1, tick.previous, str(meta))
    find_edges(work, frozenset(deployment.workflows))
    return history.warehouse.fetch(exp.select("*").from_(past.state["audience_members"]))


def _decisions(past: PastState, text: str, tick: PastTick, contact: str | None) -> list[Decision]:
    return [Decision(**row) for row in past.rows(text, tick=tick.number, contact=contact)]


def _apart(logged: Sequence[Decision], again: Sequence[Decision]) -> tuple[list[Decision], list[Decision]]:
    left, right = Counter(logged), Counter(again)
    return list((left - right).elements()), list((right - left).elements())


def _intact(past: PastState, tick: PastTick) -> bool:
    row = past.rows(_CHECKSUM, tick=tick.number)[0]
    return row["written"] is None or row["written"] == row["now"]


# ---------------------------------------------------------------- causes

_UNKNOWN = "a column of the contact, or a row of another model, may have changed; they keep no history"


def _causes(
    warehouse: Warehouse, past: PastState, catalog: Catalog, tick: PastTick, contacts: Iterable[str]
) -> dict[str, str]:
    """What is known to have changed about contacts since the tick."""
    ids = sorted(contacts)
    if not ids:
        return {}
    stage(warehouse, "replay_contacts", pa.table({"contact_id": pa.array(ids, pa.string())}))
    found: dict[str, str] = {}
    for row in (
        warehouse.rows(_changed_contacts(catalog), {"tick_at": tick.tick_at}) if catalog.contact.updated_at else ()
    ):
        found[row["contact_id"]] = f"the contact's row was changed at {row['updated_at']:%Y-%m-%d %H:%M:%S}"
    present = {row["contact_id"] for row in warehouse.rows(_known(catalog))}
    found.update({contact: "the contact's row is gone" for contact in ids if contact not in present})
    for row in past.rows(_EVENT_CAUSES, tick=tick.number):
        if row["event_id"] not in _model_events(warehouse, catalog, row["event_id"]):
            found[row["contact_id"]] = f"event {row['event_id']} is gone from the events model"
    return found


def _changed_contacts(catalog: Catalog) -> exp.Select:
    model = catalog.contact
    updated = frames.timestamp(model.relation, str(model.updated_at), "m")
    later = exp.GT(this=updated, expression=exp.Placeholder(this="tick_at"))
    return _known(catalog).select(updated.copy().as_("updated_at")).where(later)


def _known(catalog: Catalog) -> exp.Select:
    model = catalog.contact
    identity = frames.text(model.relation, model.id, "m")
    concerned = exp.select("contact_id").from_("replay_contacts")
    rows = exp.select(identity.as_("contact_id")).from_(relation_table(model.relation, "m"))
    return rows.where(exp.In(this=identity.copy(), query=exp.Subquery(this=concerned)))


def _model_events(warehouse: Warehouse, catalog: Catalog, event_id: str) -> set[str]:
    rows = exp.select(frames.text(catalog.events.relation, catalog.events.id, "m").as_("event_id"))
    rows = rows.from_(relation_table(catalog.events.relation, "m"))
    same = exp.EQ(this=frames.text(catalog.events.relation, catalog.events.id, "m"),
                  expression=exp.Placeholder(this="event_id"))  # fmt: skip
    return {row["event_id"] for row in warehouse.rows(rows.where(same), {"event_id": event_id})}


_COLUMNS = """
    SELECT j.workflow, CAST(j.enrollment_id AS TEXT) AS enrollment, j.contact_id AS contact, j.key, j.step, j.kind,
        j.what, j.outcome, j.due
"""
_DECIDED = """
    WHERE j.tick = $tick AND j.kind IN ('enter', 'rejected', 'refused', 'waiting', 'exit', 'action', 'split', 'intent',
        'rest') AND (j.kind <> 'exit' OR j.cause IS DISTINCT FROM 'delivery')
        AND ($contact IS NULL OR j.contact_id = $contact)
    ORDER BY j.seq
"""
_LOGGED = _COLUMNS + "FROM penstock_copied.journal AS j" + _DECIDED
_AGAIN = _COLUMNS + "FROM journal AS j" + _DECIDED
_CHECKSUM = """
    SELECT t.checksum AS written, (
        SELECT md5(coalesce(
            string_agg(concat_ws('|', j.seq, j.enrollment_id, j.step, j.kind, j.outcome), ';' ORDER BY j.seq), ''))
        FROM penstock_copied.journal AS j
        WHERE j.tick = $tick AND j.kind <> 'delivery' AND (j.kind <> 'exit' OR j.cause IS DISTINCT FROM 'delivery')
    ) AS now
    FROM penstock_copied.ticks AS t WHERE t.tick = $tick
"""
_EVENT_CAUSES = """
    SELECT DISTINCT e.contact_id, e.cause AS event_id
    FROM penstock_copied.journal AS e
    JOIN penstock_copied.event_seen AS s ON s.event_id = e.cause AND s.source = 'model'
    WHERE e.kind = 'enter' AND e.tick <= $tick AND e.contact_id IN (SELECT r.contact_id FROM replay_contacts AS r)
"""
