"""Audiences: who a condition over the contact holds for (language §3), one as a query, many as one scan of the events.

A `Group` evaluates its audiences together: one pass over the model's events computes every event aggregate of every
condition per contact, under the ids as they stand in the model; then each condition is read from the contact's row
beside them. Penstock's own events, and events that stand there twice, are few and are added up in a second, small pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from compiler import frames
from compiler.allowlist import Trust
from compiler.catalog import Catalog
from compiler.change import Moves, moves
from compiler.condition import Condition, Scope, compile_condition, relation_table
from compiler.event_scan import CHANGED, WIDTH, EventScan, is_changed
from compiler.frames import Needs
from compiler.functions import wall_clock
from compiler.lookup import event, frame, names_match, seconds, tick_at
from compiler.ownership import without_merged

_PRIME = 9223372036854775783


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
    def scan(self) -> EventScan:
        """How their events are read."""
        return EventScan(self.catalog, self.needs)

    @cached_property
    def joined(self) -> bool:
        """Whether it is one audience whose events are compared with the contact's columns, and read on their own."""
        return len(self.audiences) == 1 and _joined(self.audiences[0].condition)

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
        if self.joined:
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
        needs, beside = self.needs, "b" if own else None
        columns = [self.scan.found(lookup, looked="a", beside=beside).as_(name)
                   for name, lookup in sorted(needs.lookups.items())]  # fmt: skip
        columns += [fact.tree.copy().as_(fact.column, quoted=True) for fact in needs.facts.values()]
        rows = exp.select("f.*", *columns).from_("base AS f").with_("base", as_=self._contacts(among=among))
        if not needs.lookups:
            return rows
        looked = self.scan.looked(own=own, among=among)
        rows = rows.join("looked AS a", on="a.id = f.id", join_type="left").with_("looked", as_=looked)
        if own:
            rows = rows.join("beside AS b", on="b.contact_id = f.contact_id", join_type="left")
            rows = rows.with_("beside", as_=self.scan.beside(among=among))
        return rows

    def _contacts(self, *, among: bool) -> exp.Select:
        contact, relation = self.catalog.contact, self.catalog.contact.relation
        key = self.scan.contact_key(relation, contact.id)
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
            rows = rows.where(is_changed(key))
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
        known = exp.column("contact_id", table="q")
        rows = exp.select(known, self.scan.as_contact_key(known).as_("id")).distinct().from_(united.subquery("q"))
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


def _wall(zone: str) -> str:
    return f"wall_{zone}"
