"""One pass over the events for many conditions: every aggregate that any of them asks for, per contact.

The model's events are read under the ids as they stand there. Penstock's own events, and events that stand there twice,
are few and are added up in a second, small pass beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog, Relation
from compiler.condition import relation_table
from compiler.frames import Needs
from compiler.lookup import Lookup, event, names_match, seconds, tick_at

WIDTH = 60
"""Bits of a whole number."""
REPEATED = "tick_repeated_ids"
"""Table of the events that stand there twice: `event_id`, and `id` as it stands in the model."""
TORN = "tick_torn_blocks"
"""Table of the blocks of event ids in which one may stand twice: `block`."""
CHANGED = "tick_changed"
"""Table of the contacts that may have changed: `contact_id`, and `id` as it is compared with the model's events."""
SOME_EVENTS = "tick_some_events"
"""Table of their events in the model."""
SAMPLE = 10_000
"""So many ids tell whether a model's ids ascend."""
_NAME = "penstock_name"
"""Column of a scan of the model: the event's name as a bit, found once per row and not once per aggregate."""


@dataclass(frozen=True)
class EventScan:
    """The aggregates of `needs` over the events that a catalog knows, as `looked` by the model and `beside` it."""

    catalog: Catalog
    needs: Needs

    @cached_property
    def _distinct(self) -> dict[str, tuple[str, Lookup]]:
        """By what they compute, the lookups with the name of their column: one of those that compute the same."""
        return {lookup.described: (name, lookup) for name, lookup in sorted(self.needs.lookups.items(), reverse=True)}

    @cached_property
    def _flags(self) -> dict[str, tuple[str, int]]:
        """Lookups that say yes or no are bits of few columns: described -> column and bit."""
        asked = [described for described, (_, lookup) in sorted(self._distinct.items()) if lookup.kind == "exists"]
        return {each: (f"flags_{place // WIDTH}", 1 << place % WIDTH) for place, each in enumerate(asked)}

    @cached_property
    def _bits(self) -> dict[str, int]:
        """A bit for each name of an event."""
        return {name: 1 << place for place, name in enumerate(sorted(self.needs.events))}

    @property
    def counted(self) -> frozenset[str]:
        """Names of the events of which one that stands there twice would be counted twice."""
        return frozenset(name for lookup in self._counting for name in lookup.names)

    @cached_property
    def _counting(self) -> list[Lookup]:
        return [lookup for lookup in self.needs.lookups.values() if lookup.kind in ("count", "sum", "times")]

    @cached_property
    def _plain_keys(self) -> bool:
        """Whether contacts and their events are joined by the ids as they stand there, not as text."""
        contact, events = self.catalog.contact, self.catalog.events
        return frames.id_kind(contact.relation, contact.id) == frames.id_kind(events.relation, events.contact)

    def contact_key(self, relation: Relation, column: str) -> exp.Expr:
        """The id of a contact, in a row `m` of a relation, as it is compared."""
        return frames.id_as_it_stands(relation, column, "m") if self._plain_keys else frames.text(relation, column, "m")

    def as_contact_key(self, text: exp.Expr) -> exp.Expr:
        """The id of a contact that is text as it is compared; NULL when it cannot be one."""
        contact = self.catalog.contact
        return frames.id_in_model(text, contact.relation, contact.id) if self._plain_keys else text.copy()

    # ------------------------------------------------------------ the aggregates

    def looked(self, *, own: bool, among: bool) -> exp.Select:
        """Per contact the aggregates over the model's events. Properties are read where they are asked for, in CASE."""
        events, relation = self.catalog.events, self.catalog.events.relation
        key = owner = self.contact_key(relation, events.contact)
        merges = own and self.catalog.contact.merges is not None
        if merges:
            owner = exp.Coalesce(this=exp.column("into_id", table="g"), expressions=[key.copy()])
        aggregates = [
            each.transform(self._in_model) for each in (*self._flag_columns(), *self._aggregates(flags=False))
        ]
        rows = exp.select(owner.as_("id"), *aggregates).from_(self._named(among=among).subquery("m"))
        if merges:
            rows = self._with_owners(rows, key)
        rows = rows.group_by(owner.copy())
        if len(self._bits) < WIDTH:
            known = exp.Is(this=exp.column(_NAME, table="m"), expression=exp.Null())
            rows = rows.where(exp.Not(this=known))
        if own:
            again = exp.select("1").from_(f"{REPEATED} AS r").where(
                exp.EQ(this=exp.column("id", table="r"), expression=frames.id_as_it_stands(relation, events.id, "m"))
            )  # fmt: skip
            rows = rows.where(exp.Not(this=exp.Exists(this=again)))
        return rows

    def beside(self, *, among: bool) -> exp.Select:
        """Per contact the same aggregates over Penstock's own events, and over one of each that stands there twice."""
        needs = self.needs
        again = exp.select("r.event_id").from_(f"{REPEATED} AS r")
        repeated = exp.In(this=event("event_id"), query=exp.Subquery(this=again))
        rows = frames.event_rows(self.catalog, needs.properties, names=needs.events, unique=False)
        if among:
            some = exp.select("d.contact_id").from_(f"{CHANGED} AS d")
            rows = rows.where(exp.In(this=event("contact_id"), query=exp.Subquery(this=some)))
        single = rows.where(exp.and_(
            exp.EQ(this=event("source"), expression=exp.Literal.string("penstock")), exp.Not(this=repeated)
        ))  # fmt: skip
        first = frames.first_of_each(rows.where(repeated.copy()))
        both = exp.union(exp.select("q.*").from_(single.subquery("q")), exp.select("q.*").from_(first.subquery("q")),
                         distinct=False)  # fmt: skip
        aggregates = self._aggregates(flags=True)
        return exp.select(event("contact_id"), *aggregates).from_(both.subquery("e")).group_by(event("contact_id"))

    def found(self, lookup: Lookup, *, looked: str, beside: str | None) -> exp.Expr:
        """A lookup's column, from the aliases of what `looked` and, unless it is None, `beside` gave."""
        name = self._distinct[lookup.described][0]
        first: exp.Expr = exp.column(name, table=looked)
        if lookup.described in self._flags:
            column, bit = self._flags[lookup.described]
            first = exp.Case(ifs=[exp.If(this=_has(exp.column(column, table=looked), bit), true=exp.Literal.number(1))])
        return first if beside is None else _together(lookup, first, exp.column(name, table=beside))

    def _aggregates(self, *, flags: bool) -> list[exp.Expr]:
        """The aggregates by name; `flags`: also those that are bits of `_flag_columns`."""
        found = sorted(self._distinct.values(), key=lambda each: each[0])
        return [lookup.aggregate().as_(name) for name, lookup in found if flags or lookup.kind != "exists"]

    def _flag_columns(self) -> list[exp.Expr]:
        columns: dict[str, exp.Expr] = {}
        for described, (column, bit) in self._flags.items():
            hit = self._distinct[described][1].hit()
            case = exp.Case(ifs=[exp.If(this=hit, true=exp.Literal.number(bit))], default=exp.Literal.number(0))
            before = columns.get(column)
            columns[column] = case if before is None else exp.BitwiseOr(this=before, expression=case)
        return [exp.BitwiseOrAgg(this=bits).as_(column) for column, bits in columns.items()]

    # ------------------------------------------------------------ the model's events

    def some_events(self) -> exp.Select:
        """The statement that fills `SOME_EVENTS`: what of the model's events matters for the contacts in `CHANGED`."""
        events, relation = self.catalog.events, self.catalog.events.relation
        columns = {events.id, events.contact, events.name, events.time, events.loaded_at}
        columns |= {name for name in self.needs.properties if name in relation.columns}
        if events.data and any(name not in relation.columns for name in self.needs.properties):
            columns.add(events.data)
        rows = exp.select(*(
            exp.column(exp.to_identifier(name, quoted=True), table="m") for name in sorted(columns)
        )).from_(relation_table(relation, "m"))  # fmt: skip
        owner: exp.Expr = self.contact_key(relation, events.contact)
        if self.catalog.contact.merges is not None:
            rows = self._with_owners(rows, owner)
            owner = exp.Coalesce(this=exp.column("into_id", table="g"), expressions=[owner.copy()])
        # their names are looked at later: few events are left by then, and comparing texts is dear
        return rows.where(self._visible((), self.needs.lookback)).where(is_changed(owner))

    def _with_owners(self, rows: exp.Select, key: exp.Expr) -> exp.Select:
        same = exp.EQ(this=exp.column("from_id", table="g"), expression=key.copy())
        return rows.join(self._merges().subquery("g"), on=same, join_type="left")

    def _merges(self) -> exp.Select:
        """Who became part of whom, with ids as the models have them."""
        columns = [exp.column(name, table="g") for name in ("from_id", "into_id")]
        ids = [self.as_contact_key(each).as_(each.name) for each in columns]
        return exp.select(*ids).from_(exp.table_("contact_merges", db=self.catalog.state_schema, alias="g"))

    def _scanned(self, *, among: bool) -> exp.Table:
        return exp.table_(SOME_EVENTS, alias="m") if among else relation_table(self.catalog.events.relation, "m")

    def _named(self, *, among: bool) -> exp.Select:
        """The model's events that may matter, each with its name as a bit; comparing texts is dear.

        The place in a list is a function of the name alone, which a warehouse that keeps a column as few different
        values reckons once for each of them.
        """
        relation, reach = self.catalog.events.relation, self.needs.lookback
        rows = exp.select("m.*").from_(self._scanned(among=among))
        if len(self._bits) >= WIDTH:
            return rows.where(self._visible(self.needs.events, reach))
        name = frames.text(relation, self.catalog.events.name, "m")
        names = exp.Array(expressions=[exp.Literal.string(each) for each in self._bits])
        place = exp.cast(exp.Anonymous(this="array_position", expressions=[names, name]), "int")
        bit = exp.BitwiseLeftShift(this=exp.cast(exp.Literal.number(1), "bigint"), expression=exp.paren(place - 1))
        return rows.select(bit.as_(_NAME)).where(self._visible((), reach))

    def _visible(self, names: Collection[str], lookback: float | None) -> exp.Expr:
        events, relation = self.catalog.events, self.catalog.events.relation
        time = frames.timestamp(relation, events.time, "m")
        parts: list[exp.Expr] = [
            exp.LTE(this=frames.timestamp(relation, events.loaded_at, "m"), expression=tick_at()),
            exp.LTE(this=time, expression=tick_at()),
            *([names_match(names).transform(self._as_column)] if names else []),
            exp.Not(this=exp.Is(this=exp.column(exp.to_identifier(events.contact, quoted=True), table="m"),
                                expression=exp.Null())),
        ]  # fmt: skip
        if lookback is not None:
            parts.append(exp.GTE(this=time.copy(), expression=exp.Sub(this=tick_at(), expression=seconds(lookback))))
        return exp.and_(*parts)

    def _in_model(self, node: exp.Expr) -> exp.Expr:
        """As `_as_column`; comparisons with known names by their bits."""
        if not isinstance(node, exp.EQ | exp.In) or node.this != event("name") or len(self._bits) >= WIDTH:
            return self._as_column(node)
        asked = node.expressions if isinstance(node, exp.In) else [node.expression]
        if not asked or not all(isinstance(each, exp.Literal) and each.name in self._bits for each in asked):
            return self._as_column(node)
        bits, name = sum(self._bits[each] for each in {each.name for each in asked}), exp.column(_NAME, table="m")
        return exp.EQ(this=name, expression=exp.Literal.number(bits)) if len(asked) == 1 else _has(name, bits)

    def _as_column(self, node: exp.Expr) -> exp.Expr:
        """A column of `e` as what it is in the model's row."""
        if not isinstance(node, exp.Column) or node.table != "e":
            return node
        events, relation = self.catalog.events, self.catalog.events.relation
        match node.name:
            case "event_id":
                return frames.text(relation, events.id, "m")
            case "contact_id":
                return frames.text(relation, events.contact, "m")
            case "name":
                return frames.text(relation, events.name, "m")
            case "event_time":
                return frames.timestamp(relation, events.time, "m")
            case "loaded_at":
                return frames.timestamp(relation, events.loaded_at, "m")
            case name:
                prop = name.removeprefix("p_")
                return frames.model_property(self.catalog, prop, self.needs.properties.get(prop, "other"))

    # ------------------------------------------------------------ events that stand there twice

    @property
    def whole_ids(self) -> bool:
        """Whether the model's ids are whole numbers, so that `ascent` and `torn` can be asked."""
        return frames.id_kind(self.catalog.events.relation, self.catalog.events.id) == "integer"

    def ascent(self) -> exp.Select:
        """Of the first ids of the model: `n`, how many are `rising`, the least `low` and the greatest `high`."""
        rows = self._ids().limit(SAMPLE)
        id_, before = exp.column("id", table="m"), exp.column("before", table="m")
        rising = exp.Count(this=exp.Case(ifs=[exp.If(this=exp.GT(this=id_, expression=before),
                                                     true=exp.Literal.number(1))]))  # fmt: skip
        return exp.select(
            exp.Count(this=exp.Star()).as_("n"), rising.as_("rising"), exp.Min(this=id_.copy()).as_("low"),
            exp.Max(this=id_.copy()).as_("high"),
        ).from_(_with_before(rows).subquery("m"))  # fmt: skip

    def torn(self) -> exp.Select:
        """The statement that fills `TORN`; a block are the ids that are equal but for their last `$bits` bits.

        In whatever order the events are read, a block that is read in one stretch of ascending ids has none twice. So
        the ids of all other blocks need no counting, and the order costs nothing where they ascend by themselves.
        """
        id_, before = exp.column("id", table="m"), exp.column("before", table="m")
        block = _block(id_)
        begins = exp.or_(
            exp.Is(this=before, expression=exp.Null()), exp.LTE(this=id_.copy(), expression=before.copy()),
            exp.NEQ(this=_block(before), expression=block.copy()),
        )  # fmt: skip
        stretches = exp.Count(this=exp.Case(ifs=[exp.If(this=begins, true=exp.Literal.number(1))]))
        rows = exp.select(block.as_("block")).from_(_with_before(self._ids()).subquery("m")).group_by(block.copy())
        return rows.having(exp.GT(this=stretches, expression=exp.Literal.number(1)))

    def _ids(self) -> exp.Select:
        """The ids of the model's events as far back as some condition counts, whatever their names."""
        relation = self.catalog.events.relation
        place = frames.id_as_it_stands(relation, self.catalog.events.id, "m")
        counting = Needs({lookup.column: lookup for lookup in self._counting})
        return exp.select(place.as_("id")).from_(self._scanned(among=False)).where(
            self._visible((), counting.lookback)
        )  # fmt: skip

    def repeated(self, *, among: bool = False, torn: bool = False, model: bool = True, own: bool = True) -> exp.Select:
        """The statement that fills `REPEATED`: events that some condition counts and that stand there twice.

        Args:
            among: those of the table `SOME_EVENTS`.
            torn: only in the blocks of the table `TORN`.
            model: without, no event stands twice in the model.
            own: without, there are no events of Penstock's own.
        """
        relation, id_ = self.catalog.events.relation, self.catalog.events.id
        parts = [self._twice_in_model(among=among, torn=torn)] if model else []
        parts += self._twice_with_own() if own else []
        if not parts:
            none = exp.cast(exp.Literal.string(""), "text")
            return exp.select(none.as_("event_id"), frames.id_in_model(none, relation, id_).as_("id")).where(
                exp.false()
            )
        found: exp.Query = parts[0]
        for part in parts[1:]:
            found = exp.union(found, part)
        known = exp.column("event_id", table="q")
        return exp.select(known, frames.id_in_model(known, relation, id_).as_("id")).from_(found.subquery("q"))

    def _twice_in_model(self, *, among: bool, torn: bool) -> exp.Select:
        events, relation = self.catalog.events, self.catalog.events.relation
        place = frames.id_as_it_stands(relation, events.id, "m")
        rows = exp.select(place.as_(events.id, quoted=True)).from_(self._named(among=among).subquery("m"))
        rows = rows.where(self._counted_events())
        if torn:
            blocks = exp.select("t.block").from_(f"{TORN} AS t")
            rows = rows.where(exp.In(this=exp.paren(_block(place)), query=exp.Subquery(this=blocks)))
        twice = rows.group_by(place.copy()).having("COUNT(*) > 1")
        return exp.select(frames.text(relation, events.id, "m").as_("event_id")).from_(twice.subquery("m"))

    def _twice_with_own(self) -> list[exp.Select]:
        relation, id_ = self.catalog.events.relation, self.catalog.events.id
        own = exp.table_("events", db=self.catalog.state_schema, alias="o")
        named = names_match(self.counted).transform(
            lambda node: exp.column(node.name, table="o") if isinstance(node, exp.Column) else node
        )
        own_id = exp.column("event_id", table="o")
        own_twice = exp.select(own_id).from_(own).where(named).group_by(own_id.copy()).having("COUNT(*) > 1")
        in_model = exp.select(frames.id_as_it_stands(relation, id_, "m")).from_(relation_table(relation, "m"))
        in_both = exp.select(own_id.copy()).from_(own.copy()).where(named.copy()).where(
            exp.In(this=frames.id_in_model(own_id, relation, id_), query=exp.Subquery(this=in_model))
        )  # fmt: skip
        return [own_twice, in_both]

    def _counted_events(self) -> exp.Expr:
        """Those of the model's events that some condition counts: by name, as far back as it is counted."""
        reaches = {
            name: Needs({each.column: each for each in self._counting if name in each.names}).lookback
            for name in self.counted
        }
        named: dict[float | None, set[str]] = {}
        for name, reach in reaches.items():
            named.setdefault(reach, set()).add(name)
        furthest = None if None in named else max(reach for reach in named if reach is not None)
        time = frames.timestamp(self.catalog.events.relation, self.catalog.events.time, "m")
        parts: list[exp.Expr] = []
        for reach, names in sorted(named.items(), key=lambda item: sorted(item[1])):
            some = names_match(names).transform(self._in_model)
            if reach is not None and reach != furthest:
                edge = exp.Sub(this=tick_at(), expression=seconds(reach))
                some = exp.and_(some, exp.GTE(this=time.copy(), expression=edge))
            parts.append(some)
        return exp.and_(self._visible((), furthest), exp.or_(*parts))


def is_changed(key: exp.Expr) -> exp.Expr:
    """Whether a contact, by the id that is compared, stands in `CHANGED`."""
    return exp.In(this=key.copy(), query=exp.Subquery(this=exp.select("d.id").from_(f"{CHANGED} AS d")))


def _with_before(ids: exp.Select) -> exp.Select:
    """Each `id` with the one `before` it, in the order in which they are read."""
    lag = exp.Window(this=exp.Lag(this=exp.column("id", table="i")))
    return exp.select("i.id", lag.as_("before")).from_(ids.subquery("i"))


def _block(id_: exp.Expr) -> exp.Expr:
    return exp.BitwiseRightShift(this=id_.copy(), expression=exp.cast(exp.Placeholder(this="bits"), "int"))


def _has(bits: exp.Expr, some: int) -> exp.Expr:
    """Whether one of some bits is set."""
    both = exp.paren(exp.BitwiseAnd(this=bits.copy(), expression=exp.Literal.number(some)))
    return exp.NEQ(this=both, expression=exp.Literal.number(0))


def _together(lookup: Lookup, first: exp.Expr, second: exp.Expr) -> exp.Expr:
    """A lookup's column from what each of the passes found."""
    match lookup.kind:
        case "count" | "sum":
            return exp.Coalesce(this=exp.Add(this=first, expression=second), expressions=[first.copy(), second.copy()])
        case "first":
            return exp.Least(this=first, expressions=[second], ignore_nulls=True)
        case _:
            return exp.Greatest(this=first, expressions=[second], ignore_nulls=True)
