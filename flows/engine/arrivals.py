"""What is new at a tick: events that arrived, by loading order and never by event time (architecture §7).

A user's model may show rows later than their `loaded_at`, so its watermark is the greatest one seen, minus an overlap
whose rows are remembered in `event_seen`. Events dated ahead, and events of contacts that do not exist, wait there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlglot import exp

from compiler import frames
from compiler.condition import relation_table
from compiler.lookup import event
from compiler.plan import EventEntry
from flows.engine.deployment import BEGINNING, Deployed
from flows.engine.holding import Held
from flows.engine.work import Work

KEEP_SEEN = timedelta(days=30)
_FORGET_EVERY = 50


@dataclass(frozen=True)
class Absence:
    """Since which tick a workflow has been set aside, and the time of the tick before, None if there was none."""

    tick: int
    after: datetime | None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Absence:
        """Read the JSON of a tick row."""
        after = value.get("after")
        return cls(int(value["tick"]), datetime.fromisoformat(after) if after else None)

    def as_json(self) -> dict[str, Any]:
        """The JSON of a tick row."""
        return {"tick": self.tick, "after": self.after.isoformat() if self.after else None}


@dataclass(frozen=True)
class Watermarks:
    """How far the engine has read.

    `model` greatest loaded_at, `own` last seq, `started` workflows it has evaluated, `zones` digest of the contacts'
    time zones, None where no wait counts in calendar days, `held` workflows that did not advance (paused, set aside),
    `guarded` those that the size guard holds, `absent` those that were set aside, with what they have missed since,
    `audiences` the statements whose results stand in `audience_masks`, `named` the named audiences with members kept.
    """

    model: datetime | None = None
    own: int = 0
    started: frozenset[str] = frozenset()
    zones: str | None = None
    held: frozenset[str] = frozenset()
    guarded: Mapping[str, Held] = field(default_factory=dict)
    absent: Mapping[str, Absence] = field(default_factory=dict)
    audiences: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Watermarks:
        """Read the JSON of a tick row."""
        if not value:
            return cls()
        model = value.get("model")
        return cls(datetime.fromisoformat(model) if model else None, int(value.get("own", 0)),
                   frozenset(value.get("started", ())), value.get("zones"),
                   frozenset(value.get("held", ())),
                   {name: Held.of(held) for name, held in value.get("guarded", {}).items()},
                   {name: Absence.of(absence) for name, absence in value.get("absent", {}).items()},
                   frozenset(value.get("audiences", ())), frozenset(value.get("named", ())))  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The JSON of a tick row."""
        model = self.model.isoformat() if self.model else None
        return {"model": model, "own": self.own, "started": sorted(self.started), "zones": self.zones,
                "held": sorted(self.held), "audiences": sorted(self.audiences), "named": sorted(self.named),
                "guarded": {name: held.as_json() for name, held in sorted(self.guarded.items())},
                "absent": {name: absence.as_json() for name, absence in sorted(self.absent.items())}}  # fmt: skip

    def still_absent(self, aside: Iterable[str], tick: int, previous: datetime | None) -> Mapping[str, Absence]:
        """The absences after a tick that set some workflows aside; who was never evaluated misses nothing."""
        return {name: self.absent.get(name, Absence(tick, previous)) for name in aside if name in self.started}


def collect(work: Work, before: Watermarks, pending: datetime | None) -> tuple[Watermarks, dict[str, int]]:
    """Fill `tick_arrivals` and remember what was seen; gives the new watermarks and arrivals per event name.

    `pending`: when the first of the events in `event_seen` that wait for their time or their contact was loaded.
    """
    overlap = timedelta(seconds=work.deployment.catalog.events.overlap_seconds)
    first = before.model is None and not before.started
    since = BEGINNING if before.model is None else max(before.model - overlap, BEGINNING)
    after = _newest(work, before, since) if first else before
    if first and after.model is not None:
        since = max(after.model - overlap, BEGINNING)
    seen = work.make(
        "tick_window", lambda: _window(work), *sorted(work.deployment.trigger_names),
        parameters={"since": since, "own": 0 if first else before.own},
    )  # fmt: skip
    fresh, back = _fresh(work, before), _back(work, before)
    if not seen and not pending and not fresh and not back:
        work.run(_NO_ARRIVALS)
        return after, {}
    if not first:
        after = _newest(work, before, since)
    if pending:
        work.make(
            "tick_matured", lambda: _matured(work), *sorted(work.deployment.trigger_names),
            parameters={"pending": pending},
        )  # fmt: skip
    work.make("tick_arrivals", lambda: _arrivals(work, matured=pending is not None), str(pending is not None))
    work.run(_SEE)
    if first:  # nobody waits yet; what the workflows want of history comes below
        work.run("DELETE FROM tick_arrivals")
    if pending:
        work.run(_MATURE)
    if work.tick % _FORGET_EVERY == 0:
        work.run(_FORGET, old=_forget(after, overlap))
    _add_fresh(work, fresh)
    for deployed in back:
        _add_missed(work, deployed, before.absent[deployed.name].tick)
    found = work.rows("SELECT name, count(*) - count(missed_by) AS n FROM tick_arrivals GROUP BY name")
    return after, {row["name"]: row["n"] for row in found}


def _newest(work: Work, before: Watermarks, since: datetime) -> Watermarks:
    text = work.texts.text(("newest",), lambda: _newest_rows(work), work.warehouse)
    newest = work.warehouse.rows(text, {**work.parameters, "since": since, "own": before.own})[0]
    models = [moment for moment in (before.model, newest["model"]) if moment is not None]
    return Watermarks(max(models, default=None), max(before.own, newest["own"] or 0), before.started)


def _forget(after: Watermarks, overlap: timedelta) -> datetime:
    if after.model is None:
        return BEGINNING
    return max(after.model - max(KEEP_SEEN, overlap), BEGINNING)


def _newest_rows(work: Work) -> exp.Expr:
    rows = frames.event_rows(work.deployment.catalog, {}, unique=False, ahead=True).where(_unread())
    loaded = exp.Case(ifs=[exp.If(this="e.source = 'model'", true=exp.column("loaded_at", table="e"))])
    return exp.select(exp.Max(this=loaded).as_("model"), exp.Max(this=exp.column("seq", table="e")).as_("own")).from_(
        rows.subquery("e")
    )


def _unread() -> exp.Expr:
    loaded = exp.and_("e.source = 'model'", exp.GT(this=event("loaded_at"), expression=exp.Placeholder(this="since")))
    own = exp.and_("e.source = 'penstock'", exp.GT(this=event("seq"), expression=exp.Placeholder(this="own")))
    return exp.or_(loaded, own)


def _window(work: Work) -> exp.Expr:
    """Rows not seen before: loaded after the watermark minus overlap, or with a higher seq."""
    names = work.deployment.trigger_names
    rows = frames.event_rows(work.deployment.catalog, {}, entry=names, unique=False, ahead=True)
    # An outer join, since what EXISTS is planned as reads the events twice.
    seen = exp.alias_(work.state["event_seen"], "s", table=True)
    rows = rows.where(_unread()).join(seen, on="s.event_id = e.event_id", join_type="left")
    return frames.first_of_each(rows.where(exp.Is(this=exp.column("event_id", table="s"), expression=exp.null())))


def _matured(work: Work) -> exp.Expr:
    """Events that were seen before their time, or before their contact."""
    rows = frames.event_rows(work.deployment.catalog, {}, entry=work.deployment.trigger_names, unique=False)
    waiting = exp.select("s.event_id").from_(exp.alias_(work.state["event_seen"], "s", table=True)).where(
        "s.arrived_tick IS NULL"
    )  # fmt: skip
    rows = rows.where(exp.In(this=event("event_id"), query=exp.Subquery(this=waiting)))
    # what was loaded before the first of them need not be read
    loaded = exp.GTE(this=event("loaded_at"), expression=exp.Placeholder(this="pending"))
    return frames.first_of_each(rows.where(loaded))


def _arrivals(work: Work, *, matured: bool) -> exp.Expr:
    columns = ["event_id", "contact_id", "name", "event_time", "loaded_at", "entry"]
    contact = work.deployment.catalog.contact
    known = exp.select(frames.text(contact.relation, contact.id, "m")).from_(relation_table(contact.relation, "m"))
    both: exp.Query = exp.select(*columns).from_("tick_window AS w").where("w.event_time <= $tick_at")
    if matured:
        both = exp.union(both, exp.select(*columns).from_("tick_matured AS w"), distinct=False)
    missed_by = exp.cast(exp.null(), "text").as_("missed_by")
    rows = exp.select(*columns, exp.false().as_("fresh"), missed_by).from_(both.subquery("a"))
    rows = rows.where(exp.In(this=exp.column("contact_id", table="a"), query=exp.Subquery(this=known)))
    return rows


def _fresh(work: Work, before: Watermarks) -> list[Deployed]:
    return [
        deployed for deployed in work.deployment.workflows.values()
        if deployed.name not in before.started
        and deployed.admitting and isinstance(deployed.admitting.entry, EventEntry)
    ]  # fmt: skip


def _add_fresh(work: Work, fresh: list[Deployed]) -> None:
    """History for event workflows that are evaluated for the first time."""
    if not fresh:
        return
    names = sorted({name for d in fresh if d.admitting for name in d.admitting.trigger_events})
    contact = work.deployment.catalog.contact
    known = exp.select(frames.text(contact.relation, contact.id, "m")).from_(relation_table(contact.relation, "m"))

    def history() -> exp.Expr:
        rows = frames.event_rows(work.deployment.catalog, {}, names=names, entry=names)
        rows = rows.where(exp.GTE(this=event("event_time"), expression=exp.Placeholder(this="earliest")))
        rows = rows.where(exp.In(this=event("contact_id"), query=exp.Subquery(this=known)))
        return exp.select(
            "e.event_id", "e.contact_id", "e.name", "e.event_time", "e.loaded_at", "e.entry", exp.true().as_("fresh"),
            exp.cast(exp.null(), "text").as_("missed_by"),
        ).from_(rows.subquery("e")).where("NOT e.event_id IN (SELECT event_id FROM tick_arrivals)")  # fmt: skip

    work.make("tick_fresh", history, *names, parameters={"earliest": min(d.earliest for d in fresh)})
    work.run("INSERT INTO tick_arrivals SELECT * FROM tick_fresh")


def _back(work: Work, before: Watermarks) -> list[Deployed]:
    """Event workflows that had been set aside and are evaluated again."""
    return [
        deployed for deployed in work.deployment.workflows.values()
        if deployed.name in before.absent and deployed.admitting and isinstance(deployed.admitting.entry, EventEntry)
    ]  # fmt: skip


def _add_missed(work: Work, deployed: Deployed, since: int) -> None:
    """What arrived while a workflow was set aside, for this workflow alone; remembered as long as `event_seen` is."""
    names = sorted(deployed.admitting.trigger_events) if deployed.admitting else []

    def missed() -> exp.Expr:
        seen = exp.select("s.event_id").from_(exp.alias_(work.state["event_seen"], "s", table=True)).where(exp.and_(
            exp.GTE(this=exp.column("arrived_tick", table="s"), expression=exp.Placeholder(this="since")),
            exp.LT(this=exp.column("arrived_tick", table="s"), expression=exp.Placeholder(this="tick")),
        ))  # fmt: skip
        rows = frames.event_rows(work.deployment.catalog, {}, names=names, entry=names)
        rows = rows.where(exp.In(this=event("event_id"), query=exp.Subquery(this=seen)))
        return exp.select(
            "e.event_id", "e.contact_id", "e.name", "e.event_time", "e.loaded_at", "e.entry", exp.false().as_("fresh"),
            exp.Literal.string(deployed.name).as_("missed_by"),
        ).from_(rows.subquery("e"))  # fmt: skip

    work.make("tick_missed", missed, deployed.name, *names, parameters={"since": since})
    work.run("INSERT INTO tick_arrivals SELECT * FROM tick_missed")


_NO_ARRIVALS = """
    CREATE OR REPLACE TEMP TABLE tick_arrivals (event_id TEXT, contact_id TEXT, name TEXT, event_time TIMESTAMP,
        loaded_at TIMESTAMP, entry JSON, fresh BOOLEAN, missed_by TEXT)
"""
_FORGET = "DELETE FROM event_seen WHERE seen_tick < $tick AND coalesce(loaded_at, event_time) < $old"
_SEE = """
    INSERT INTO event_seen
    SELECT w.source, w.event_id, $tick, CASE WHEN a.event_id IS NOT NULL THEN $tick END, w.event_time, w.loaded_at
    FROM tick_window AS w LEFT JOIN tick_arrivals AS a ON a.event_id = w.event_id
"""
_MATURE = """
    UPDATE event_seen SET arrived_tick = $tick
    WHERE arrived_tick IS NULL AND event_id IN (
        SELECT m.event_id FROM tick_matured AS m JOIN tick_arrivals AS a ON a.event_id = m.event_id
    )
"""
