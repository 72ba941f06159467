"""Audiences: who a condition over the contact holds for (language §3), one as a query, many as one scan of the events.

A `Group` evaluates its audiences together: one pass over the model's events computes every event aggregate of every
condition per contact, under the ids as they stand in the model; then each condition is read from the contact's row
beside them. Penstock's own events, and events that stand there twice, are few and are added up in a second, small pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from compiler import frames
from compiler.allowlist import Trust
from compiler.catalog import Catalog, Relation
from compiler.change import Moves, moves
from compiler.condition import Condition, Scope, compile_condition, relation_table
from compiler.frames import Needs
from compiler.functions import wall_clock
from compiler.lookup import Lookup, event, frame, names_match, seconds, tick_at
from compiler.ownership import without_merged
from compiler.typed import sql_type

WIDTH = 60
"""Audiences of one group: each is a bit of a whole number."""
REPEATED = "tick_repeated_ids"
"""Table of the events that stand there twice: `event_id`, and `id` as it stands in the model."""
CHANGED = "tick_changed"
"""Table of the contacts that may have changed: `contact_id`, and `id` as it is compared with the model's events."""
SOME_EVENTS = "tick_some_events"
"""Table of their events in the model."""
_PRIME = 9223372036854775783
_NAME = "penstock_name"
"""Column of a scan of the model: the event's name as a bit, found once per row and not once per aggregate."""
_INTEGERS = frozenset({"smallint", "int", "integer", "bigint"})


def audience(text: str, catalog: Catalog, zone: str, trust: Trust = "sql") -> exp.Select:
    """The `contact_id` of everybody for whom a condition holds at `$tick_at`.

    Args:
        text: a condition over the contact, as of an audience trigger.
        catalog: what it may name.
        zone: IANA name for contacts without a valid one.
        trust: allow-list level.

    Raises:
        ConditionError: as `compile_condition`.
    """
    return members(compile_condition(text, Scope(catalog, trust=trust)), catalog, zone)


def members(condition: Condition | None, catalog: Catalog, zone: str) -> exp.Select:
    """As `audience`, of a compiled condition; without one, everybody. `f` has each contact's time zone `tz`."""
    found = exp.select(frame("contact_id")).from_(_alone(condition, catalog, zone).subquery("f"))
    return found if condition is None else found.where(condition.tree.copy())


def _alone(
    condition: Condition | None, catalog: Catalog, zone: str, digest: exp.Expr | None = None, *, among: bool = False
) -> exp.Select:
    needs = Needs().add(condition)
    base = frames.contact_rows(catalog, needs.contact_columns, zone)
    if digest is not None:
        base = base.select(digest.as_("digest"))
    if among:
        contact = frames.text(catalog.contact.relation, catalog.contact.id, "m")
        some = exp.select("d.contact_id").from_(f"{CHANGED} AS d")
        base = base.where(exp.In(this=contact, query=exp.Subquery(this=some)))
    events = frames.event_rows(catalog, needs.properties, names=needs.events, unique=needs.counts)
    return frames.build(base, needs, row_id="contact_id", events=exp.Subquery(this=events), trigger=False)


@dataclass(frozen=True)
class Audience:
    """A compiled condition under a name; `zone` is the IANA name for contacts without a valid one."""

    name: str
    condition: Condition
    zone: str

    @cached_property
    def moves(self) -> Moves:
        """What can change who is in it."""
        return moves(self.condition)


def grouped(audiences: Iterable[Audience], catalog: Catalog) -> tuple[Group, ...]:
    """The audiences as few groups.

    One whose events are compared with the contact's columns is a group of its own; those of which it cannot be told
    who may have changed stand together.
    """
    shared: dict[bool, list[Audience]] = {True: [], False: []}
    alone: list[Audience] = []
    for each in audiences:
        (alone if _joined(each.condition) else shared[not each.moves.untold]).append(each)
    parts = [tuple(some[start : start + WIDTH]) for some in shared.values() for start in range(0, len(some), WIDTH)]
    return tuple(Group(part, catalog) for part in [*parts, *((each,) for each in alone)])


def _joined(condition: Condition) -> bool:
    trees = [tree for lookup in condition.lookups.values() for tree in (lookup.predicate, lookup.value) if tree]
    return any(column.table == "f" for tree in trees for column in tree.find_all(exp.Column))


@dataclass(frozen=True)
class Group:
    """Audiences that one statement evaluates: `contact_id` and `mask`, whose bit i says whether audience i holds."""

    audiences: tuple[Audience, ...]
    catalog: Catalog

    @cached_property
    def needs(self) -> Needs:
        """What the conditions read, together."""
        return Needs().add(*(each.condition for each in self.audiences))

    @cached_property
    def _distinct(self) -> list[tuple[str, Lookup]]:
        """The lookups, one of those that compute the same."""
        found = {lookup.described: (name, lookup) for name, lookup in sorted(self.needs.lookups.items())}
        return list(found.values())

    @cached_property
    def _bits(self) -> dict[str, int]:
        """A bit for each name of an event."""
        return {name: 1 << place for place, name in enumerate(sorted(self.needs.events))}

    @property
    def counted(self) -> frozenset[str]:
        """Names of the events of which one that stands there twice would be counted twice."""
        return frozenset(name for lookup in _counting(self.needs) for name in lookup.names)

    @cached_property
    def told(self) -> bool:
        """Whether it can be told who may have changed since the tick before."""
        return not any(each.moves.untold for each in self.audiences)

    def masks(self, *, own: bool, among: bool = False) -> exp.Select:
        """The statement: `contact_id`, `mask` and `digest`, which changes when the contact's columns read here do.

        Args:
            own: also read Penstock's own events, the table `REPEATED` and whose the events of merged contacts are;
                without, there is nothing in any of them.
            among: only contacts of the table `CHANGED`.
        """
        if len(self.audiences) == 1 and _joined(self.audiences[0].condition):
            only = self.audiences[0]
            rows = _alone(only.condition, self.catalog, only.zone, self.digest(), among=among)
            return self._masked(rows, lambda audience: audience.condition)
        return self._masked(self._frame(own=own, among=among), self._on_walls)

    def _masked(self, rows: exp.Select, read: Callable[[Audience], Condition | exp.Expr]) -> exp.Select:
        bits: exp.Expr | None = None
        for place, each in enumerate(self.audiences):
            found = read(each)
            tree = found.tree if isinstance(found, Condition) else found
            bit = exp.Case(ifs=[exp.If(this=tree.copy(), true=exp.Literal.number(1 << place))],
                           default=exp.Literal.number(0))  # fmt: skip
            bits = bit if bits is None else exp.Add(this=bits, expression=bit)
        mask = exp.cast(bits if bits is not None else exp.Literal.number(0), "bigint")
        return exp.select(frame("contact_id"), mask.as_("mask"), frame("digest")).from_(rows.subquery("f"))

    # ------------------------------------------------------------ contacts

    def digest(self) -> exp.Expr:
        """A number over a row `m` of the contact model: of its id, and the columns that the conditions read."""
        contact = self.catalog.contact
        read = {*self.needs.contact_columns, *([contact.timezone] if self._zones and contact.timezone else [])}
        columns: list[exp.Expr] = [
            exp.column(exp.to_identifier(name, quoted=True), table="m") for name in [contact.id, *sorted(read)]
        ]
        # the hash has 64 bits without sign, and the column has a sign
        hashed = exp.Anonymous(this="hash", expressions=columns)
        return exp.cast(exp.Mod(this=hashed, expression=exp.Literal.number(_PRIME)), "bigint")

    @cached_property
    def _zones(self) -> list[str]:
        return sorted({each.zone for each in self.audiences if each.condition.zone})

    def _frame(self, *, own: bool, among: bool) -> exp.Select:
        needs = self.needs
        lookups = sorted(needs.lookups.items())
        sources = ["a", "b"] if own else ["a"]
        same = {lookup.described: name for name, lookup in self._distinct}
        columns = [_together(lookup, [exp.column(same[lookup.described], table=source) for source in sources]).as_(name)
                   for name, lookup in lookups]  # fmt: skip
        columns += [fact.tree.copy().as_(fact.column, quoted=True) for fact in needs.facts.values()]
        rows = exp.select("f.*", *columns).from_("base AS f").with_("base", as_=self._contacts(among=among))
        if not lookups:
            return rows
        looked = self._looked(own=own, among=among)
        rows = rows.join("looked AS a", on="a.id = f.id", join_type="left").with_("looked", as_=looked)
        if own:
            rows = rows.join("beside AS b", on="b.contact_id = f.contact_id", join_type="left")
            rows = rows.with_("beside", as_=self._beside(among=among))
        return rows

    def _contacts(self, *, among: bool) -> exp.Select:
        contact, relation = self.catalog.contact, self.catalog.contact.relation
        key = self._contact_key(relation, contact.id)
        columns: list[exp.Expr] = [
            frames.text(relation, contact.id, "m").as_("contact_id"), key.as_("id"), self.digest().as_("digest"),
        ]  # fmt: skip
        columns += [
            frames.utc(relation, name, "m").as_(f"c_{name}", quoted=True) for name in sorted(self.needs.contact_columns)
        ]
        zoned = bool(self._zones) and contact.timezone is not None
        for zone in self._zones:
            default = wall_clock(tick_at(), exp.Literal.string(zone))
            wall = exp.Coalesce(this=exp.column("wall", table="z"), expressions=[default]) if zoned else default
            columns.append(wall.as_(_wall(zone), quoted=True))
        rows = exp.select(*columns).from_(relation_table(relation, "m"))
        rows = without_merged(rows, self.catalog, frames.text(relation, contact.id, "m"))
        if among:
            rows = rows.where(_changed(key))
        if zoned:  # some hundred zones are read on the wall clock once each, not once per contact
            walls = exp.select("name", wall_clock(tick_at(), exp.column("name")).as_("wall")).from_(frames.ZONES)
            name = exp.column(exp.to_identifier(str(contact.timezone), quoted=True), table="m")
            rows = rows.join(walls.subquery("z"), on=exp.EQ(this=exp.column("name", table="z"), expression=name),
                             join_type="left")  # fmt: skip
        return rows

    def _on_walls(self, each: Audience) -> exp.Expr:
        if not each.condition.zone:
            return each.condition.tree
        asked = wall_clock(tick_at(), frame("tz"))
        return each.condition.tree.transform(
            lambda node: (
                exp.column(_wall(each.zone), table="f", quoted=True)
                if isinstance(node, exp.AtTimeZone) and node == asked
                else node
            )
        )

    @cached_property
    def _plain_keys(self) -> bool:
        """Whether contacts and their events are joined by the ids as they stand there, not as text."""
        contact, events = self.catalog.contact, self.catalog.events
        return _kind(contact.relation, contact.id) == _kind(events.relation, events.contact)

    def _contact_key(self, relation: Relation, column: str) -> exp.Expr:
        return _as_it_stands(relation, column, "m") if self._plain_keys else frames.text(relation, column, "m")

    # ------------------------------------------------------------ events

    def _looked(self, *, own: bool, among: bool) -> exp.Select:
        """Per contact the aggregates over the model's events. Properties are read where they are asked for, in CASE."""
        events, relation = self.catalog.events, self.catalog.events.relation
        aggregates = [lookup.aggregate().transform(self._in_model).as_(name) for name, lookup in self._distinct]
        key = owner = self._contact_key(relation, events.contact)
        merges = own and self.catalog.contact.merges is not None
        if merges:
            owner = exp.Coalesce(this=exp.column("into_id", table="g"), expressions=[key.copy()])
        rows = exp.select(owner.as_("id"), *aggregates).from_(self._named(among=among).subquery("m"))
        if merges:
            rows = self._with_owners(rows, key)
        rows = rows.group_by(owner.copy())
        if len(self._bits) < WIDTH:
            known = exp.Is(this=exp.column(_NAME, table="m"), expression=exp.Null())
            rows = rows.where(exp.Not(this=known))
        if own:
            again = exp.select("1").from_(f"{REPEATED} AS r").where(
                exp.EQ(this=exp.column("id", table="r"), expression=_as_it_stands(relation, events.id, "m"))
            )  # fmt: skip
            rows = rows.where(exp.Not(this=exp.Exists(this=again)))
        return rows

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
        owner: exp.Expr = self._contact_key(relation, events.contact)
        if self.catalog.contact.merges is not None:
            rows = self._with_owners(rows, owner)
            owner = exp.Coalesce(this=exp.column("into_id", table="g"), expressions=[owner.copy()])
        # their names are looked at later: few events are left by then, and comparing texts is dear
        return rows.where(self._visible((), self.needs.lookback)).where(_changed(owner))

    def _with_owners(self, rows: exp.Select, key: exp.Expr) -> exp.Select:
        same = exp.EQ(this=exp.column("from_id", table="g"), expression=key.copy())
        return rows.join(self._merges().subquery("g"), on=same, join_type="left")

    def _scanned(self, *, among: bool) -> exp.Table:
        return exp.table_(SOME_EVENTS, alias="m") if among else relation_table(self.catalog.events.relation, "m")

    def _named(self, *, among: bool) -> exp.Select:
        """The model's events that may matter, each with its name as a bit; comparing texts is dear."""
        relation, reach = self.catalog.events.relation, self.needs.lookback
        rows = exp.select("m.*").from_(self._scanned(among=among))
        if len(self._bits) >= WIDTH:
            return rows.where(self._visible(self.needs.events, reach))
        name = frames.text(relation, self.catalog.events.name, "m")
        bits = [exp.If(this=exp.Literal.string(each), true=exp.Literal.number(bit))
                for each, bit in self._bits.items()]  # fmt: skip
        return rows.select(exp.Case(this=name, ifs=bits).as_(_NAME)).where(self._visible((), reach))

    def _merges(self) -> exp.Select:
        """Who became part of whom, with ids as the models have them."""
        contact = self.catalog.contact
        columns = [exp.column(name, table="g") for name in ("from_id", "into_id")]
        ids: list[exp.Expr] = [
            _as_model_id(each, contact.relation, contact.id).as_(each.name) if self._plain_keys else each
            for each in columns
        ]
        return exp.select(*ids).from_(exp.table_("contact_merges", db=self.catalog.state_schema, alias="g"))

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
        if len(asked) == 1:
            return exp.EQ(this=name, expression=exp.Literal.number(bits))
        some = exp.paren(exp.BitwiseAnd(this=name, expression=exp.Literal.number(bits)))
        return exp.NEQ(this=some, expression=exp.Literal.number(0))

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

    def _beside(self, *, among: bool) -> exp.Select:
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
        aggregates = [lookup.aggregate().as_(name) for name, lookup in self._distinct]
        return exp.select(event("contact_id"), *aggregates).from_(both.subquery("e")).group_by(event("contact_id"))

    def repeated(self, *, among: bool = False) -> exp.Select:
        """The statement that fills `REPEATED`: events that some condition counts and that stand there twice.

        `among`: those of the table `SOME_EVENTS`.
        """
        events, relation = self.catalog.events, self.catalog.events.relation
        place = _as_it_stands(relation, events.id, "m")
        counted = self._counted_events()
        twice = exp.select(frames.text(relation, events.id, "m").as_("event_id")).from_(
            exp.select(place.as_(events.id, quoted=True)).from_(self._scanned(among=among))
            .where(counted).group_by(place.copy()).having("COUNT(*) > 1").subquery("m")
        )  # fmt: skip
        own = exp.table_("events", db=self.catalog.state_schema, alias="o")
        named = names_match(self.counted).transform(
            lambda node: exp.column(node.name, table="o") if isinstance(node, exp.Column) else node
        )
        own_id = exp.column("event_id", table="o")
        own_twice = exp.select(own_id).from_(own).where(named).group_by(own_id.copy()).having("COUNT(*) > 1")
        in_model = exp.select(place.copy()).from_(relation_table(relation, "m"))
        in_both = exp.select(own_id.copy()).from_(own.copy()).where(named.copy()).where(
            exp.In(this=_as_model_id(own_id, relation, events.id), query=exp.Subquery(this=in_model))
        )  # fmt: skip
        found = exp.union(exp.union(twice, own_twice), in_both)
        known = exp.column("event_id", table="q")
        return exp.select(known, _as_model_id(known, relation, events.id).as_("id")).from_(found.subquery("q"))

    def nothing_repeated(self) -> exp.Select:
        """As `repeated`, where there is nothing to be found."""
        none = exp.cast(exp.Literal.string(""), "text")
        known = _as_model_id(none, self.catalog.events.relation, self.catalog.events.id)
        return exp.select(none.copy().as_("event_id"), known.as_("id")).where(exp.false())

    # ------------------------------------------------------------ who may have changed

    def changed(self) -> exp.Select:
        """Contacts whose membership may be another than at `$previous_at`, the tick before: `contact_id` and `id`.

        They are compared with what stands in `audience_masks` under `$statement`; who is there and no contact any more
        is among them.
        """
        found: list[exp.Select] = [self._other_rows(), *self._moved_clocks()]
        if self.needs.events:
            arrived = exp.select("a.contact_id").from_(f"{frames.ARRIVALS} AS a")
            found.append(arrived.where(names_match(self.needs.events).transform(_of_arrivals)))
        found += self._aged_events()
        if any(each.moves.kept for each in self.audiences):
            journal = exp.table_("journal", db=self.catalog.state_schema, alias="j")
            before = exp.Sub(this=exp.Placeholder(this="tick"), expression=exp.Literal.number(1))
            since = exp.GTE(this=exp.column("tick", table="j"), expression=before)
            found.append(exp.select(exp.column("contact_id", table="j")).from_(journal).where(since))
        united: exp.Query = found[0]
        for each in found[1:]:
            united = exp.union(united, each, distinct=False)
        contact, known = self.catalog.contact, exp.column("contact_id", table="q")
        key = _as_model_id(known, contact.relation, contact.id) if self._plain_keys else known.copy()
        rows = exp.select(known, key.as_("id")).distinct().from_(united.subquery("q"))
        return rows.where(exp.Not(this=exp.Is(this=known.copy(), expression=exp.Null())))

    def _other_rows(self) -> exp.Select:
        """New contacts, those with another row, and those that are gone."""
        contact, relation = self.catalog.contact, self.catalog.contact.relation
        name = frames.text(relation, contact.id, "m")
        now = exp.select(name.as_("contact_id"), self.digest().as_("digest")).from_(relation_table(relation, "m"))
        now = without_merged(now, self.catalog, name)
        masks = exp.table_("audience_masks", db=self.catalog.state_schema, alias="k")
        before = exp.select("k.contact_id", "k.digest").from_(masks).where(
            exp.EQ(this=exp.column("statement", table="k"), expression=exp.Placeholder(this="statement"))
        )  # fmt: skip
        who = exp.Coalesce(this=exp.column("contact_id", table="n"), expressions=[exp.column("contact_id", table="o")])
        joined = exp.select(who.as_("contact_id")).from_(now.subquery("n")).join(
            before.subquery("o"), on="o.digest = n.digest", join_type="full"
        )  # fmt: skip
        return joined.where("o.digest IS NULL OR n.digest IS NULL")

    def _aged_events(self) -> list[exp.Select]:
        """Contacts with an event that reached, since the tick before, an age at which some condition moves."""
        names: dict[float, set[str]] = {}
        for edge in (edge for each in self.audiences for edge in each.moves.edges):
            names.setdefault(edge.seconds, set()).update(edge.names)
        found: list[exp.Select] = []
        for age, some in sorted(names.items()):
            # a second more on both sides: ages are fractions, and who is looked at in vain loses nothing
            sides = [exp.Sub(this=moment, expression=seconds(age + margin))
                     for moment, margin in ((_previous_at(), 1), (tick_at(), -1))]  # fmt: skip
            rows = frames.event_rows(self.catalog, {}, names=some, unique=False)
            between = exp.Between(this=event("event_time"), low=sides[0], high=sides[1])
            found.append(exp.select("q.contact_id").from_(rows.where(between).subquery("q")))
        return found

    def _moved_clocks(self) -> list[exp.Select]:
        """Contacts in zones where some part of a condition about the wall clock reads otherwise than before."""
        contact, relation = self.catalog.contact, self.catalog.contact.relation
        found: list[exp.Select] = []
        for zone in self._zones:
            parts = [part for each in self.audiences if each.zone == zone for part in each.moves.clocks]
            zones = exp.select("i.name").from_(f"{frames.ZONES} AS i")
            moved = [
                exp.NullSafeNEQ(
                    this=exp.paren(_clock(part, tick_at())), expression=exp.paren(_clock(part, _previous_at()))
                )
                for part in parts
            ]
            if not moved:
                continue
            default = exp.Literal.string(zone)
            own: exp.Expr = default
            rows = exp.select(frames.text(relation, contact.id, "m").as_("contact_id")).from_(
                relation_table(relation, "m")
            )
            if contact.timezone is not None:
                name = exp.column(exp.to_identifier(contact.timezone, quoted=True), table="m")
                valid = exp.EQ(this=exp.column("name", table="z"), expression=name)
                rows = rows.join(exp.table_(frames.ZONES, alias="z"), on=valid, join_type="left")
                own = exp.Coalesce(this=exp.column("name", table="z"), expressions=[default])
            found.append(rows.where(exp.In(this=own, query=exp.Subquery(this=zones.where(exp.or_(*moved))))))
        return found

    def _counted_events(self) -> exp.Expr:
        """Those of the model's events that some condition counts: by name, as far back as it is counted."""
        counting = _counting(self.needs)
        reaches = {
            name: Needs({each.column: each for each in counting if name in each.names}).lookback
            for name in self.counted
        }
        named: dict[float | None, set[str]] = {}
        for name, reach in reaches.items():
            named.setdefault(reach, set()).add(name)
        furthest = None if None in named else max(reach for reach in named if reach is not None)
        time = frames.timestamp(self.catalog.events.relation, self.catalog.events.time, "m")
        parts: list[exp.Expr] = []
        for reach, names in sorted(named.items(), key=lambda item: sorted(item[1])):
            some = names_match(names).transform(self._as_column)
            if reach is not None and reach != furthest:
                edge = exp.Sub(this=tick_at(), expression=seconds(reach))
                some = exp.and_(some, exp.GTE(this=time.copy(), expression=edge))
            parts.append(some)
        return exp.and_(self._visible((), furthest), exp.or_(*parts))


def _changed(key: exp.Expr) -> exp.Expr:
    return exp.In(this=key.copy(), query=exp.Subquery(this=exp.select("d.id").from_(f"{CHANGED} AS d")))


def _of_arrivals(node: exp.Expr) -> exp.Expr:
    return exp.column(node.name, table="a") if isinstance(node, exp.Column) else node


def _previous_at() -> exp.Expr:
    return exp.cast(exp.Placeholder(this="previous_at"), "timestamp")


def _clock(part: exp.Expr, moment: exp.Expr) -> exp.Expr:
    """A part of a condition that only the wall clock decides, in the zone `i.name` at a moment."""

    def read(node: exp.Expr) -> exp.Expr:
        if node == tick_at():
            return moment.copy()
        return exp.column("name", table="i") if isinstance(node, exp.Column) else node

    return part.transform(read)


def _counting(needs: Needs) -> list[Lookup]:
    return [lookup for lookup in needs.lookups.values() if lookup.kind in ("count", "sum", "times")]


def _wall(zone: str) -> str:
    return f"wall_{zone}"


def _together(lookup: Lookup, parts: Sequence[exp.Column]) -> exp.Expr:
    """A lookup's column from what each of the passes found."""
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    match lookup.kind:
        case "count" | "sum":
            return exp.Coalesce(this=exp.Add(this=first, expression=second), expressions=[first.copy(), second.copy()])
        case "first":
            return exp.Least(this=first, expressions=[second], ignore_nulls=True)
        case _:
            return exp.Greatest(this=first, expressions=[second], ignore_nulls=True)


def _kind(relation: Relation, column: str) -> str:
    """How ids of a column are compared without a cast: as whole numbers, uuids or texts; else as what they are."""
    declared = relation.columns[column].strip().lower()
    if declared in _INTEGERS:
        return "integer"
    return declared if declared == "uuid" else "text"


def _as_it_stands(relation: Relation, column: str, table: str) -> exp.Expr:
    if _kind(relation, column) == "text":
        return frames.text(relation, column, table)
    return exp.column(exp.to_identifier(column, quoted=True), table=table)


def _as_model_id(text: exp.Expr, relation: Relation, column: str) -> exp.Expr:
    """An id that is text as the model's column has it; NULL when it cannot be one of its ids."""
    kind = _kind(relation, column)
    if kind == "text":
        return text.copy()
    tried = exp.TryCast(this=text.copy(), to=sql_type(kind))
    same = exp.EQ(this=exp.cast(tried.copy(), "text"), expression=text.copy())
    return exp.Case(ifs=[exp.If(this=same, true=tried)])
