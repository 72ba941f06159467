"""Frames: the rows conditions are read from, with the contact's columns, event aggregates and state facts beside them.

Three relations feed a frame, as trees over the user's models and Penstock's own tables: `event_rows` (what may be seen
at T, one row per event id), `contact_rows` (with a valid time zone and what forbids a message) and the rows of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from compiler.catalog import Catalog, Relation
from compiler.condition import Condition, relation_table
from compiler.lookup import Fact, Lookup, event, frame, from_frame, names_match, tick_at
from compiler.ownership import of_merged, owner, with_owner, without_merged
from compiler.typed import sql_type

ARRIVALS = "tick_arrivals"
CONTACTS = "tick_contacts"
EVENTS = "tick_events"
ZONES = "iana_zones"
ADDRESS_KEY = "address_key"
_INTEGERS = frozenset({"smallint", "int", "integer", "bigint"})


@dataclass
class Needs:
    """What a set of conditions needs, joined together; grows with `add`."""

    lookups: dict[str, Lookup] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    contact_columns: set[str] = field(default_factory=set)
    properties: dict[str, str] = field(default_factory=dict)
    events: set[str] = field(default_factory=set)
    since_steps: set[str] = field(default_factory=set)
    arms: set[str] = field(default_factory=set)
    visits: set[str] = field(default_factory=set)

    def add(self, *conditions: Condition | None) -> Needs:
        """Take in the needs of conditions."""
        for condition in conditions:
            if condition is not None:
                self.lookups.update(condition.lookups)
                self.facts.update(condition.facts)
                self.contact_columns.update(condition.contact_columns)
                self.properties.update(condition.properties)
                self.events.update(condition.events)
                self.since_steps.update(condition.since_steps)
                self.arms.update(condition.arms)
                self.visits.update(condition.visits)
        return self

    @property
    def counts(self) -> bool:
        """Whether an event that stands twice in the model would be counted twice."""
        return any(lookup.kind in ("count", "sum", "times") for lookup in self.lookups.values())

    @property
    def lookback(self) -> float | None:
        """Seconds before T that events are read, besides those since the entry; None for all history."""
        reaches = [0.0 if lookup.since_entry else lookup.within for lookup in self.lookups.values()]
        found = [reach for reach in reaches if reach is not None]
        return max(found, default=0.0) if len(found) == len(reaches) else None


def utc(relation: Relation, column: str, table: str) -> exp.Expr:
    """A column of a relation; zoned timestamps as naive UTC."""
    tree: exp.Expr = exp.column(exp.to_identifier(column, quoted=True), table=table)
    return exp.AtTimeZone(this=tree, zone=exp.Literal.string("UTC")) if relation.zoned(column) else tree


def text(relation: Relation, column: str, table: str) -> exp.Expr:
    """A column of a relation as text."""
    tree = exp.column(exp.to_identifier(column, quoted=True), table=table)
    return tree if relation.type_of(column) == "text" else exp.cast(tree, "text")


def timestamp(relation: Relation, column: str, table: str) -> exp.Expr:
    """A time column of a relation as naive UTC timestamp."""
    tree = utc(relation, column, table)
    return tree if relation.type_of(column) == "timestamp" else exp.cast(tree, "timestamp")


def id_kind(relation: Relation, column: str) -> str:
    """How ids of a column are compared without a cast: as whole numbers, uuids or texts; else as what they are."""
    declared = relation.columns[column].strip().lower()
    if declared in _INTEGERS:
        return "integer"
    return declared if declared == "uuid" else "text"


def id_as_it_stands(relation: Relation, column: str, table: str) -> exp.Expr:
    """A column of ids as it is compared without a cast."""
    if id_kind(relation, column) == "text":
        return text(relation, column, table)
    return exp.column(exp.to_identifier(column, quoted=True), table=table)


def id_in_model(identity: exp.Expr, relation: Relation, column: str) -> exp.Expr:
    """An id that is text as the column has it; NULL when it cannot be one of its ids."""
    kind = id_kind(relation, column)
    if kind == "text":
        return identity.copy()
    tried = exp.TryCast(this=identity.copy(), to=sql_type(kind))
    same = exp.EQ(this=exp.cast(tried.copy(), "text"), expression=identity.copy())
    return exp.Case(ifs=[exp.If(this=same, true=tried)])


# ---------------------------------------------------------------- events


def event_rows(
    catalog: Catalog,
    properties: Mapping[str, str],
    *,
    names: Iterable[str] | None = None,
    entry: Iterable[str] | None = None,
    unique: bool = True,
    ahead: bool = False,
    of: exp.Expr | None = None,
) -> exp.Select:
    """Events visible at T from the model and from Penstock's own table.

    Columns: event_id, contact_id, name, event_time, loaded_at, source, seq, `p_<property>` …, and with `entry` the row
    as JSON.

    Args:
        catalog: the mapping.
        properties: property -> type to carry.
        names: only these event names, None for all.
        entry: names of events whose row is carried as JSON column `entry`; it is NULL of others, and dear to make.
        unique: keep one row per event id (the one loaded first).
        ahead: also events whose time is still to come.
        of: the contact, as text, whose events these are; looked for by the id as it stands in the model.
    """
    model, own = _model_events(catalog, properties, entry), _own_events(catalog, properties, entry)
    if of is not None:
        model = model.where(is_of(catalog, of))
        own = own.where(_is_of(catalog, exp.column("contact_id", table="o"), of, lambda id_: id_.copy()))
    rows = exp.union(model, own, distinct=False)
    outer = exp.select("e.*").from_(exp.Subquery(this=rows, alias=exp.TableAlias(this=exp.to_identifier("e"))))
    outer = outer.where(exp.LTE(this=event("loaded_at"), expression=tick_at()))
    if not ahead:
        outer = outer.where(exp.LTE(this=event("event_time"), expression=tick_at()))
    if names is not None:
        outer = outer.where(names_match(names))
    return first_of_each(outer) if unique else outer


def is_of(catalog: Catalog, of: exp.Expr) -> exp.Expr:
    """Whether a row `m` of the events model is about a contact, or one that became part of it."""
    relation, column = catalog.events.relation, catalog.events.contact
    place = id_as_it_stands(relation, column, "m")
    return _is_of(catalog, place, of, lambda id_: id_in_model(id_, relation, column))


def _is_of(catalog: Catalog, column: exp.Expr, of: exp.Expr, as_there: Callable[[exp.Expr], exp.Expr]) -> exp.Expr:
    """Whether a column has the id of a contact, or of one that became part of it."""
    own = exp.EQ(this=column.copy(), expression=as_there(of))
    if catalog.contact.merges is None:
        return own
    before = exp.column("from_id", table="p")
    merged = exp.select(as_there(before)).from_(exp.table_("contact_merges", db=catalog.state_schema, alias="p"))
    merged = merged.where(exp.EQ(this=exp.column("into_id", table="p"), expression=of.copy()))
    return exp.or_(own, exp.In(this=column.copy(), query=exp.Subquery(this=merged)))


def first_of_each(rows: exp.Select) -> exp.Select:
    """One row per event id: the one loaded first."""
    numbered = exp.Window(
        this=exp.RowNumber(), partition_by=[event("event_id")],
        order=exp.Order(expressions=[exp.Ordered(this=event("loaded_at")), exp.Ordered(this=event("source"))]),
    )  # fmt: skip
    return rows.qualify(exp.EQ(this=numbered, expression=exp.Literal.number(1)))


def _model_events(catalog: Catalog, properties: Mapping[str, str], entry: Iterable[str] | None) -> exp.Select:
    events, relation = catalog.events, catalog.events.relation
    contact = text(relation, events.contact, "m")
    columns = [
        text(relation, events.id, "m").as_("event_id"),
        owner(catalog, contact).as_("contact_id"),
        text(relation, events.name, "m").as_("name"),
        timestamp(relation, events.time, "m").as_("event_time"),
        timestamp(relation, events.loaded_at, "m").as_("loaded_at"),
        exp.Literal.string("model").as_("source"),
        exp.cast(exp.null(), "bigint").as_("seq"),
    ]
    columns += [
        model_property(catalog, name, kind).as_(f"p_{name}", quoted=True) for name, kind in sorted(properties.items())
    ]
    if entry is not None:
        named = [(name, utc(relation, name, "m")) for name in relation.columns if name != events.data]
        data = exp.column(exp.to_identifier(events.data, quoted=True), table="m") if events.data else None
        columns.append(_entry(text(relation, events.name, "m"), entry, _merged_json(named, data)))
    known = exp.Not(this=exp.Is(this=contact.copy(), expression=exp.Null()))
    return with_owner(exp.select(*columns).from_(relation_table(relation, "m")), catalog, contact).where(known)


def model_property(catalog: Catalog, name: str, kind: str) -> exp.Expr:
    """A property of an event of the model, over its row `m`: a column of its own, or a key of the JSON column."""
    events, relation = catalog.events, catalog.events.relation
    if name in relation.columns:
        value = utc(relation, name, "m")
        return exp.cast(value, "text") if kind == "other" else value
    if events.data:
        return _json_text(exp.column(exp.to_identifier(events.data, quoted=True), table="m"), name)
    return exp.cast(exp.null(), sql_type(kind))


def _own_events(catalog: Catalog, properties: Mapping[str, str], entry: Iterable[str] | None) -> exp.Select:
    events = catalog.events
    contact = exp.column("contact_id", table="o")
    columns: list[exp.Expr] = [
        (owner(catalog, contact) if name == "contact_id" else exp.column(name, table="o")).as_(name)
        for name in ("event_id", "contact_id", "name", "event_time", "loaded_at")
    ]
    columns += [exp.Literal.string("penstock").as_("source"), exp.column("seq", table="o").as_("seq")]
    for name, kind in sorted(properties.items()):
        if name == "action_id":
            value: exp.Expr = exp.column("action_id", table="o")
        else:
            value = _json_text(exp.column("data", table="o"), name)
            if kind not in ("other", "text"):
                value = exp.TryCast(this=value, to=sql_type(kind))
        columns.append(value.as_(f"p_{name}", quoted=True))
    if entry is not None:
        mapped = {events.id: "event_id", events.contact: "contact_id", events.name: "name", events.time: "event_time",
                  events.loaded_at: "loaded_at"}  # fmt: skip
        named = [(name, exp.column(source, table="o")) for name, source in mapped.items()]
        row = _merged_json(named, exp.column("data", table="o"))
        columns.append(_entry(exp.column("name", table="o"), entry, row))
    table = exp.table_("events", db=catalog.state_schema, alias="o")
    known = exp.Not(this=exp.Is(this=contact.copy(), expression=exp.Null()))
    return with_owner(exp.select(*columns).from_(table), catalog, contact).where(known)


def _entry(name: exp.Expr, names: Iterable[str], row: exp.Expr) -> exp.Expr:
    literals: list[exp.Expr] = [exp.Literal.string(each) for each in sorted(set(names))]
    if not literals:
        return exp.cast(exp.null(), "json").as_("entry")
    return exp.Case(ifs=[exp.If(this=exp.In(this=name, expressions=literals), true=row)]).as_("entry")


def _json_text(data: exp.Expr, name: str) -> exp.Expr:
    path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=name)])
    return exp.Paren(this=exp.JSONExtractScalar(this=data, expression=path))


def _merged_json(columns: Sequence[tuple[str, exp.Expr]], data: exp.Expr | None) -> exp.Expr:
    pairs: list[exp.Expr] = []
    for name, value in columns:
        pairs += [exp.Literal.string(name), value]
    built = exp.Anonymous(this="json_object", expressions=pairs)
    if data is None:
        return built
    other = exp.Coalesce(this=exp.cast(data, "json"), expressions=[exp.cast(exp.Literal.string("{}"), "json")])
    return exp.Anonymous(this="json_merge_patch", expressions=[built, other])


# ---------------------------------------------------------------- contacts


CHANNELS = ("email", "sms", "push")


def contact_rows(
    catalog: Catalog, columns: Iterable[str], default_zone: str | None, channels: Collection[str] = CHANNELS
) -> exp.Select:
    """Every contact with its valid time zone and what forbids a message on some channels.

    Without `default_zone` a missing or invalid zone is NULL: then each workflow puts its own default there.
    Columns: contact_id, `c_<column>` …, tz, the addresses m_email, m_phone, m_push, and per channel m_bounced,
    m_unsubscribed, m_groups, with `_sms` and `_push` behind them for the channels beside e-mail. The model's column of
    bounces is about the e-mail address, the others are about all channels.

    What forbids a message is the model's own columns OR-ed with `suppressions`, by contact and by address. Contacts
    that became part of others are left out; their opt-outs count for those.
    """
    contact, relation = catalog.contact, catalog.contact.relation
    selected: list[exp.Expr] = [text(relation, contact.id, "m").as_("contact_id")]
    selected += [utc(relation, name, "m").as_(f"c_{name}", quoted=True) for name in sorted(set(columns))]
    selected += [
        _zone(catalog, default_zone).as_("tz"),
        (text(relation, contact.email, "m") if contact.email else _null("text")).as_("m_email"),
        (text(relation, contact.phone, "m") if contact.phone else _null("text")).as_("m_phone"),
        (text(relation, contact.push_token, "m") if contact.push_token else _null("text")).as_("m_push"),
    ]
    for channel in channels:
        suffix, bounced = channel_suffix(channel), contact.bounced if channel == "email" else None
        selected += [
            _forbidden(catalog, channel, bounced, "bounced").as_(f"m_bounced{suffix}"),
            _forbidden(catalog, channel, contact.unsubscribed, "unsubscribed").as_(f"m_unsubscribed{suffix}"),
            _groups(catalog, channel).as_(f"m_groups{suffix}"),
        ]
    rows = exp.select(*selected).from_(relation_table(relation, "m"))
    if contact.timezone:
        zone = exp.column(exp.to_identifier(contact.timezone, quoted=True), table="m")
        rows = rows.join(exp.table_(ZONES, alias="z"), on=exp.EQ(this=exp.column("name", table="z"), expression=zone),
                         join_type="left")  # fmt: skip
    rows = without_merged(rows, catalog, text(relation, contact.id, "m"))
    return _with_suppressions(_with_opt_outs_of_merged(rows, catalog), catalog, channels)


def zone_digest(catalog: Catalog) -> exp.Select:
    """One text that changes when a contact's time zone does; for a contact model with a zone column."""
    contact, relation = catalog.contact, catalog.contact.relation
    zone = exp.column(exp.to_identifier(str(contact.timezone), quoted=True), table="m")
    # one text, not hash(id, zone): that is linear in its parts, so two contacts who swap zones would go unseen
    known = exp.Coalesce(this=zone, expressions=[exp.Literal.string("")])
    parts: exp.Expr = exp.DPipe(this=text(relation, contact.id, "m"), expression=exp.Literal.string("|"))
    pair = exp.Anonymous(this="hash", expressions=[exp.DPipe(this=parts, expression=known)])
    digest = exp.cast(exp.Anonymous(this="bit_xor", expressions=[pair]), "text")
    return exp.select(digest.as_("digest")).from_(relation_table(relation, "m"))


def _null(kind: str) -> exp.Expr:
    return exp.cast(exp.null(), kind)


def _zone(catalog: Catalog, default_zone: str | None) -> exp.Expr:
    default = _null("text") if default_zone is None else exp.Literal.string(default_zone)
    if not catalog.contact.timezone:
        return default
    return exp.Coalesce(this=exp.column("name", table="z"), expressions=[default])


def channel_suffix(channel: str) -> str:
    """What stands behind `m_bounced`, `m_unsubscribed`, `m_groups` for a channel."""
    return "" if channel == "email" else f"_{channel}"


def _address_column(catalog: Catalog, channel: str) -> str | None:
    contact = catalog.contact
    return {"email": contact.email, "sms": contact.phone, "push": contact.push_token}[channel]


def _suppressed_by(catalog: Catalog, channel: str) -> tuple[str, ...]:
    """Aliases of the suppressions of a channel; a channel without addresses needs none, but for e-mail."""
    suffix = channel_suffix(channel)
    return (f"sc{suffix}", f"sa{suffix}") if channel == "email" or _address_column(catalog, channel) else ()


def _forbidden(catalog: Catalog, channel: str, column: str | None, suppressed: str) -> exp.Expr:
    found: list[exp.Expr] = [
        exp.Coalesce(this=exp.column(suppressed, table=alias), expressions=[exp.false()])
        for alias in _suppressed_by(catalog, channel)
    ]
    if column:
        found.append(_said(column))
    if column and suppressed == "unsubscribed" and catalog.contact.merges is not None:
        found.append(exp.Coalesce(this=exp.column(suppressed, table=_MERGED), expressions=[exp.false()]))
    return exp.or_(*found) if found else exp.false()


def _said(column: str) -> exp.Expr:
    value = exp.column(exp.to_identifier(column, quoted=True), table="m")
    return exp.Coalesce(this=exp.cast(value, "boolean"), expressions=[exp.false()])


def _groups(catalog: Catalog, channel: str) -> exp.Expr:
    column = catalog.contact.unsubscribed_groups
    empty = exp.cast(exp.Array(expressions=[]), "text[]")
    pieces: list[exp.Expr] = [
        exp.Coalesce(this=exp.column("groups", table=alias), expressions=[empty.copy()])
        for alias in _suppressed_by(catalog, channel)
    ]
    if column:
        value = exp.cast(exp.column(exp.to_identifier(column, quoted=True), table="m"), "text[]")
        pieces.append(exp.Coalesce(this=value, expressions=[empty.copy()]))
    if column and catalog.contact.merges is not None:
        pieces.append(exp.Coalesce(this=exp.column("groups", table=_MERGED_GROUPS), expressions=[empty.copy()]))
    joined = pieces[0] if pieces else empty
    for piece in pieces[1:]:
        joined = exp.ArrayConcat(this=joined, expressions=[piece])
    return joined


_MERGED, _MERGED_GROUPS = "um", "gm"


def _with_opt_outs_of_merged(rows: exp.Select, catalog: Catalog) -> exp.Select:
    """What the model says of contacts that became part of others, beside those."""
    contact, relation = catalog.contact, catalog.contact.relation
    if contact.merges is None:
        return rows
    identity = text(relation, contact.id, "m")
    found: dict[str, exp.Select] = {}
    if contact.unsubscribed:
        said = exp.LogicalOr(this=_said(contact.unsubscribed)).as_("unsubscribed")
        each = of_merged(exp.select(said).from_(relation_table(relation, "m")), catalog, identity)
        found[_MERGED] = each.group_by("g.into_id")
    if contact.unsubscribed_groups:
        listed = exp.cast(exp.column(exp.to_identifier(contact.unsubscribed_groups, quoted=True), table="m"), "text[]")
        one = exp.select(exp.Explode(this=listed).as_("name")).from_(relation_table(relation, "m"))
        all_of_them = exp.ArrayAgg(this=exp.column("name", table="l")).as_("groups")
        each = of_merged(one, catalog, identity)
        found[_MERGED_GROUPS] = exp.select("l.who", all_of_them).from_(each.subquery("l")).group_by("l.who")
    for alias, query in found.items():
        same = exp.EQ(this=exp.column("who", table=alias), expression=identity.copy())
        rows = rows.join(query.subquery(alias), on=same, join_type="left")
    return rows


def address_hash(address: exp.Expr) -> exp.Expr:
    """The keyed hash of a normalised address: md5 of `<key>:<lower-case trimmed address>`; the key is a parameter."""
    normal = exp.Lower(this=exp.Trim(this=address.copy()))
    key = exp.cast(exp.Placeholder(this=ADDRESS_KEY), "text")
    keyed = exp.DPipe(this=exp.DPipe(this=key, expression=exp.Literal.string(":")), expression=normal)
    return exp.MD5(this=keyed)


def _with_suppressions(rows: exp.Select, catalog: Catalog, channels: Collection[str]) -> exp.Select:
    relation, contact = catalog.contact.relation, catalog.contact
    for channel in channels:
        if not _suppressed_by(catalog, channel):
            continue
        column = _address_column(catalog, channel)
        hashed = address_hash(text(relation, column, "m")) if column else _null("text")
        known = {"contact_id": text(relation, contact.id, "m"), "address_hash": hashed}
        for alias, (who, value) in zip(_suppressed_by(catalog, channel), known.items(), strict=True):
            active = _active_suppressions(catalog, who, channel)
            rows = rows.join(
                exp.Subquery(this=active, alias=exp.TableAlias(this=exp.to_identifier(alias))), join_type="left",
                on=exp.EQ(this=exp.column("who", table=alias), expression=value),
            )  # fmt: skip
    return rows


def _active_suppressions(catalog: Catalog, who: str, channel: str) -> exp.Select:
    """Per contact or address on a channel: bounced, unsubscribed, groups; the last row per scope decides.

    An opt-out of a contact that became part of another one is the other's; a bounce was about the address it had.
    """
    column: exp.Expr = exp.column(who, table="s")
    is_bounce = exp.In(this=exp.column("reason", table="s"),
                       expressions=[exp.Literal.string("bounced"), exp.Literal.string("hard_bounce")])  # fmt: skip
    merges = who == "contact_id" and catalog.contact.merges is not None
    if merges:
        column = exp.Case(ifs=[exp.If(this=is_bounce.copy(), true=column)], default=owner(catalog, column.copy()))
    newest = exp.Window(
        this=exp.RowNumber(),
        partition_by=[column.copy(), exp.column("channel", table="s"), exp.column("scope", table="s"), is_bounce],
        order=exp.Order(expressions=[
            exp.Ordered(this=exp.column("created_at", table="s"), desc=True),
            exp.Ordered(this=exp.column("suppression_id", table="s"), desc=True),
        ]),
    )  # fmt: skip
    named = exp.column("channel", table="s")
    meant = exp.or_(
        exp.Is(this=named.copy(), expression=exp.Null()), exp.EQ(this=named, expression=exp.Literal.string(channel))
    )
    latest = (
        exp.select(column.copy().as_("who"), "s.scope", "s.action", is_bounce.copy().as_("is_bounce"))
        .from_(exp.table_("suppressions", db=catalog.state_schema, alias="s"))
        .where(exp.and_(
            exp.Not(this=exp.Is(this=column.copy(), expression=exp.Null())),
            exp.LTE(this=exp.column("created_at", table="s"), expression=tick_at()),
            meant,
        ))
        .qualify(exp.EQ(this=newest, expression=exp.Literal.number(1)))
    )  # fmt: skip
    if merges:
        latest = with_owner(latest, catalog, exp.column("contact_id", table="s"))
    everything = exp.EQ(this=exp.column("scope", table="t"), expression=exp.Literal.string("all"))
    bounce = exp.column("is_bounce", table="t")
    groups = exp.Filter(this=exp.ArrayAgg(this=exp.column("scope", table="t")),
                        expression=exp.Where(this=exp.Not(this=everything.copy())))  # fmt: skip
    return (
        exp.select(
            "t.who", exp.LogicalOr(this=bounce).as_("bounced"),
            exp.LogicalOr(this=exp.and_(everything, exp.Not(this=bounce.copy()))).as_("unsubscribed"),
            groups.as_("groups"),
        )
        .from_(exp.Subquery(this=latest, alias=exp.TableAlias(this=exp.to_identifier("t"))))
        .where(exp.EQ(this=exp.column("action", table="t"), expression=exp.Literal.string("add")))
        .group_by("t.who")
    )  # fmt: skip


# ---------------------------------------------------------------- frames


def build(
    base: exp.Select, needs: Needs, *, row_id: str, events: exp.Expr, trigger: bool, timed: bool = False
) -> exp.Select:
    """A frame: the base rows with facts and event aggregates beside them.

    Args:
        base: rows with at least `row_id` and contact_id; with `entry_ref` when `trigger`.
        needs: what the conditions read.
        row_id: the column that identifies a base row.
        events: relation of events to aggregate (alias `e` is added).
        trigger: leave the event that caused the entry out (it never matches).
        timed: the base rows have the tick's time as `tick_at`.
    """
    read = from_frame if timed else exp.maybe_copy
    facts = [read(fact.tree).as_(fact.column, quoted=True) for fact in needs.facts.values()]
    rows = exp.select("f.*", *facts).from_("base AS f") if facts else exp.select("f.*").from_("base AS f")
    if not needs.lookups:
        return rows.with_("base", as_=base)
    aggregates = [read(lookup.aggregate()).as_(name) for name, lookup in sorted(needs.lookups.items())]
    match: exp.Expr = exp.EQ(this=event("contact_id"), expression=frame("contact_id"))
    match = exp.and_(match, names_match(needs.events))
    if trigger:
        match = exp.and_(match, exp.NullSafeNEQ(this=event("event_id"), expression=frame("entry_ref")))
    looked = (
        exp.select(frame(row_id).as_("row_id"), *aggregates)
        .from_("base AS f")
        .join(exp.alias_(events.copy(), "e", table=True), on=match)
        .group_by(frame(row_id))
    )
    columns = [exp.column(name, table="k") for name in sorted(needs.lookups)]
    rows = rows.select(*columns).join(
        "looked AS k", on=exp.EQ(this=exp.column("row_id", table="k"), expression=frame(row_id)), join_type="left"
    )
    return rows.with_("base", as_=base).with_("looked", as_=looked)
