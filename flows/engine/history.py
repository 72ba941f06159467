"""The past of a warehouse as a copy in memory, in which rows appear when they could be seen then.

Events appear with their `loaded_at`, or with the tick that first saw them where the engine noted that they came later;
scores with `scored_at`; what Penstock keeps (tags, fields, campaigns) with the time it was written. Everything else has
no history: it stands there from the beginning, as it is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog, EventModel, Relation, ScoreInfo
from compiler.plan import Plan
from flows.engine.scratch import Scratch
from flows.journal.migrations import migrate, read_meta
from flows.journal.schema import create_schema
from flows.journal.tables import StateName, StateTables
from flows.warehouse.base import Place, Warehouse, table
from flows.warehouse.duckdb import DuckDBWarehouse

STAGED = "penstock_history"
"""Schema of the copies that do not appear yet."""
MESSAGES = ("email", "sms", "push", "channel")
_VISIBLE = "penstock_visible_at"
_SINCE: tuple[StateName, ...] = ("contact_tags", "contact_untags", "contact_fields", "campaign_members")


@dataclass(frozen=True)
class Span:
    """What is copied: up to when, and for which workflow, whose own traces are left out."""

    workflow: str
    workspace: str
    until: datetime


@dataclass
class History:
    """The copy; `show` makes appear what could be seen at a moment."""

    warehouse: Warehouse
    schema: str
    _appearing: list[str] = field(default_factory=list)
    _shown: datetime = datetime.min

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.warehouse.close()

    def show(self, moment: datetime) -> None:
        """Let everything appear that could be seen at a moment."""
        given = {"shown": self._shown, "now": moment}
        for text in self._appearing:
            self.warehouse.execute(text, given)
        self._shown = moment

    def count(self, place: Place) -> int:
        """How many rows a table has."""
        return int(self.warehouse.rows(exp.select(exp.Count(this=exp.Star()).as_("n")).from_(table(place)))[0]["n"])

    def staged(self, name: str) -> int:
        """How many rows of a copy will appear in all."""
        return self.count((STAGED, name)) if self.warehouse.relation_exists((STAGED, name)) else 0

    def moments(self, catalog: Catalog, names: Iterable[str]) -> list[datetime]:
        """The full minutes before and after events of some names appear, or come to their time, each once."""
        state = StateTables(self.schema)
        own = {"event_id": "event_id", "contact": "contact_id", "name": "name", "time": "event_time"}
        sources = [
            (Relation("events", (STAGED, "events"), catalog.events.relation.columns), catalog.events),
            (Relation("own", (STAGED, "own_events"), self.warehouse.columns(state.place("events"))),
             replace(catalog.events, time=own["time"], name=own["name"])),
        ]  # fmt: skip
        found: set[datetime] = set()
        for relation, events in sources:
            if self.warehouse.relation_exists(relation.place):
                rows = self.warehouse.rows(_moments(relation, events, sorted(names)))
                found.update(row[side] for row in rows for side in ("before", "after") if row[side] is not None)
        return sorted(found)

    def appear(self, source: Place, into: Place, *, numbered: bool = False) -> None:
        """Let rows of a staged table appear in another with the same columns; `numbered`: with a `seq` anew."""
        names = list(self.warehouse.columns(into))
        values = [exp.column(name, quoted=True, table="h") for name in names]
        given: list[exp.Expr] = list(values)
        if numbered:
            last = exp.select(exp.Coalesce(this=exp.Max(this=exp.column("seq")), expressions=[exp.Literal.number(0)]))
            order = exp.Order(expressions=[exp.Ordered(this=exp.column("seq", table="h"))])
            place = exp.Window(this=exp.RowNumber(), order=order)
            seq = exp.Add(this=exp.Subquery(this=last.from_(table(into))), expression=place)
            given[names.index("seq")] = seq
        visible = exp.column(_VISIBLE, table="h")
        rows = exp.select(*given).from_(exp.alias_(table(source), "h", table=True)).where(exp.and_(
            exp.GT(this=visible, expression=exp.Placeholder(this="shown")),
            exp.LTE(this=visible.copy(), expression=exp.Placeholder(this="now")),
        ))  # fmt: skip
        target = exp.Schema(this=table(into), expressions=[exp.to_identifier(name, quoted=True) for name in names])
        self._appearing.append(self.warehouse.sql(exp.Insert(this=target, expression=rows)))


def copy_history(
    live: Warehouse, catalog: Catalog, plans: Sequence[Plan], named: Iterable[str], span: Span, *, state: bool = True
) -> History:
    """Copy what some versions of one workflow may read, from a connection that may be read-only.

    Contacts and the models in `named` whole; of the events those that the plans look at, without plans all of them;
    scores; and, when `state` is wanted, suppressions, messages of other workflows, and what they keep about contacts.
    """
    memory = DuckDBWarehouse(None)
    try:
        memory.execute("SET threads = 1")  # a tick is many small statements, which two threads only hold up
        given = {"workflow": span.workflow, "until": span.until}
        copier = _Copier(Scratch(live, memory, given), catalog, span, History(memory, catalog.state_schema))
        copier.models(plans, set(named))
        if state:
            copier.state()
    except BaseException:
        memory.close()
        raise
    return copier.history


@dataclass(frozen=True)
class _Copier:
    scratch: Scratch
    catalog: Catalog
    span: Span
    history: History

    def models(self, plans: Sequence[Plan], named: set[str]) -> None:
        self.scratch.memory.execute(create_schema(STAGED))
        contact, events = self.catalog.contact, self.catalog.events
        done = {contact.relation.place, events.relation.place}
        self.scratch.relation(contact.relation)
        if events.relation.place != contact.relation.place:
            names = {
                name for plan in plans
                for name in (*plan.events, *plan.wakes, *plan.trigger_events, *plan.audience_events)
            }  # fmt: skip
            self._events(None if events.relation.name in named or not plans else sorted(names))
        if contact.merges is not None and contact.merges.relation.place not in done:
            done.add(contact.merges.relation.place)
            self.scratch.relation(contact.merges.relation)  # its rows have their own time
        for score in self.catalog.scores.values():
            if score.relation.place not in done:
                done.add(score.relation.place)
                self._score(score)
        for name in sorted(named):
            relation = self.catalog.relations.get(name)
            if relation is not None and relation.place not in done:
                done.add(relation.place)
                self.scratch.relation(relation)

    def _events(self, names: Sequence[str] | None) -> None:
        events, relation = self.catalog.events, self.catalog.events.relation
        self.scratch.shape(relation)
        loaded = frames.timestamp(relation, events.loaded_at, "m")
        rows = self.scratch.rows_of(relation)
        visible: exp.Expr = loaded
        if read_meta(self.scratch.live, self.catalog.state_schema) is not None:
            state = StateTables(self.catalog.state_schema)
            same = exp.EQ(this=exp.column("event_id", table="s"), expression=frames.text(relation, events.id, "m"))
            rows = rows.join(_seen(state, "model").subquery("s"), on=same, join_type="left")
            visible = _first_seen(loaded)
        if names is not None:
            listed: list[exp.Expr] = [exp.Literal.string(name) for name in names] or [exp.null()]
            rows = rows.where(exp.In(this=frames.text(relation, events.name, "m"), expressions=listed))
        self._stage(relation, rows, visible, "events")

    def _score(self, score: ScoreInfo) -> None:
        if score.scored_at is None:
            self.scratch.relation(score.relation)
            return
        self.scratch.shape(score.relation)
        rows = self.scratch.rows_of(score.relation)
        self._stage(score.relation, rows, frames.timestamp(score.relation, score.scored_at, "m"), f"s_{score.name}")

    def _stage(self, relation: Relation, rows: exp.Select, visible: exp.Expr, name: str) -> None:
        """Copy rows that appear later; in the order in which they do, so that few blocks are read each time."""
        place = (STAGED, name)
        self.scratch.shape(relation, place, **{_VISIBLE: "timestamp"})
        timed = rows.select(visible.as_(_VISIBLE)).where(
            exp.LTE(this=visible.copy(), expression=exp.Placeholder(this="until"))
        )
        self.scratch.fill(relation, timed.order_by(visible.copy()), place)
        self.history.appear(place, relation.place)

    # ------------------------------------------------------------ what Penstock wrote

    def state(self) -> None:
        state = StateTables(self.catalog.state_schema)
        live, memory = self.scratch.live, self.scratch.memory
        meta = read_meta(live, state.schema)
        migrate(memory, state.schema, self.span.until, self.span.workspace, state_id=meta.state_id if meta else None)
        if meta is None:
            return
        self.scratch.state(state, "suppressions")
        message = exp.In(this=exp.column("kind", table="m"),
                         expressions=[exp.Literal.string(kind) for kind in MESSAGES])  # fmt: skip
        other = exp.NEQ(this=exp.column("workflow", table="m"), expression=exp.Placeholder(this="workflow"))
        self.scratch.state(state, "deliveries", "outbox_closed", exp.and_(message, other))
        for name in _SINCE:
            self._kept(state, name, exp.column("since", table="m"), "cause", name)
        self._kept(state, "events", exp.column("loaded_at", table="m"), "action_id", "own_events", numbered=True)

    def _kept(
        self, state: StateTables, name: StateName, since: exp.Expr, cause: str, into: str, *, numbered: bool = False
    ) -> None:
        """Copy rows of a state table that this workflow did not write."""
        live, place = self.scratch.live, state.place(name)
        relation = Relation(name, place, live.columns(place))
        done = exp.select(exp.cast(exp.column("action_id", table="j"), "text"))
        done = done.from_(exp.alias_(state["journal"], "j", table=True)).where(exp.and_(
            exp.EQ(this=exp.column("workflow", table="j"), expression=exp.Placeholder(this="workflow")),
            exp.Not(this=exp.Is(this=exp.column("action_id", table="j"), expression=exp.Null())),
        ))  # fmt: skip
        caused = exp.Coalesce(this=exp.cast(exp.column(cause, table="m"), "text"), expressions=[exp.Literal.string("")])
        written: exp.Expr = exp.In(this=caused, query=exp.Subquery(this=done))
        if name == "events":  # what people did with its messages stays; what it wrote itself is written anew
            itself = exp.In(this=exp.column("source", table="m"),
                            expressions=[exp.Literal.string(source) for source in ("delivery", "emit")])  # fmt: skip
            written = exp.and_(itself, written)
        rows = self.scratch.rows_of(relation).where(exp.Not(this=exp.paren(written)))
        rows = rows.where(exp.LTE(this=since.copy(), expression=exp.Placeholder(this="until")))
        staged = (STAGED, into)
        self.scratch.shape(relation, staged, **{_VISIBLE: "timestamp"})
        if self.scratch.fill(relation, rows.select(since.copy().as_(_VISIBLE)), staged):
            self.history.appear(staged, place, numbered=numbered)


def _seen(state: StateTables, source: str) -> exp.Select:
    """When a tick first saw an event, when the tick before it was, and the load time that it saw."""
    return (
        exp.select(
            "v.event_id", exp.Min(this=exp.column("loaded_at", table="v")).as_("loaded_at"),
            exp.Min(this=exp.column("tick_at", table="t")).as_("tick_at"),
            exp.Max(this=exp.column("tick_at", table="b")).as_("before"),
        )
        .from_(exp.alias_(state["event_seen"], "v", table=True))
        .join(exp.alias_(state["ticks"], "t", table=True), on="t.tick = v.seen_tick")
        .join(exp.alias_(state["ticks"], "b", table=True), on="b.tick = v.seen_tick - 1", join_type="left")
        .where(exp.EQ(this=exp.column("source", table="v"), expression=exp.Literal.string(source)))
        .group_by("v.event_id")
    )  # fmt: skip


def _first_seen(loaded: exp.Expr) -> exp.Expr:
    """When a row could be seen: with its load time, unless a tick after that did not see it yet."""
    noted, tick_at = exp.column("loaded_at", table="s"), exp.column("tick_at", table="s")
    moment = exp.Interval(this=exp.Literal.string("1"), unit=exp.var("MICROSECOND"))
    missed = exp.LTE(this=noted.copy(), expression=exp.column("before", table="s"))
    return exp.Case(
        ifs=[
            # the tick saw the same event with a later load time, so this row was not there yet
            exp.If(this=exp.LT(this=loaded.copy(), expression=noted), true=exp.Add(this=tick_at, expression=moment)),
            exp.If(this=exp.and_(exp.EQ(this=loaded.copy(), expression=noted.copy()), missed), true=tick_at.copy()),
        ],
        default=loaded.copy(),
    )


def _moments(relation: Relation, events: EventModel, names: Sequence[str]) -> exp.Select:
    seen = exp.Greatest(this=exp.column(_VISIBLE, table="m"),
                        expressions=[frames.timestamp(relation, events.time, "m")])  # fmt: skip
    listed: list[exp.Expr] = [exp.Literal.string(name) for name in names] or [exp.null()]
    almost = exp.Interval(this=exp.Literal.string("59999999"), unit=exp.var("MICROSECOND"))
    before = exp.TimestampTrunc(this=seen.copy(), unit=exp.var("MINUTE"))
    after = exp.TimestampTrunc(this=exp.Add(this=seen, expression=almost), unit=exp.var("MINUTE"))
    rows = exp.select(before.as_("before"), after.as_("after")).distinct()
    rows = rows.from_(exp.alias_(table(relation.place), "m", table=True))
    return rows.where(exp.In(this=frames.text(relation, events.name, "m"), expressions=listed))
