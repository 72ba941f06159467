"""How candidates of a workflow arise: its trigger, entry key and entry rules, compiled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sqlglot import exp

from compiler import frames
from compiler.allowlist import Trust
from compiler.audience import Audience, members
from compiler.catalog import Catalog
from compiler.condition import (
    Condition,
    EntryShape,
    Scope,
    compile_condition,
    compile_moment,
    compile_value,
    relation_table,
)
from compiler.errors import ConditionError, Problem, nearest
from compiler.frames import Needs
from compiler.graph import YamlPath, counted_steps, flow
from compiler.lookup import frame, tick_at
from compiler.messages import template_of
from compiler.ownership import owner, with_owner
from compiler.plan import ASKED, MODEL_ROWS, AudienceEntry, EntryRules, EventEntry, ModelEntry, ScheduleEntry
from compiler.workflow import (
    AudienceTrigger,
    Duration,
    EventTrigger,
    ModelTrigger,
    ScheduleTrigger,
    SplitStep,
    Workflow,
)


@dataclass
class Compiling:
    """Compiles the texts of a workflow where they stand in its file, and collects every problem."""

    problems: list[Problem] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def compile(self, path: YamlPath, text: str, scope: Scope, *, boolean: bool = True) -> Condition | None:
        """A condition, or with `boolean=False` any value; None after its problem was noted."""
        self.texts[".".join(map(str, path))] = text
        try:
            return (compile_condition if boolean else compile_value)(text, scope)
        except ConditionError as error:
            self.refused(path, error)
            return None

    def moment(self, path: YamlPath, text: str, scope: Scope) -> Condition | None:
        """An expression that gives a time; None after its problem was noted."""
        self.texts[".".join(map(str, path))] = text
        try:
            return compile_moment(text, scope)
        except ConditionError as error:
            self.refused(path, error)
            return None

    def refused(self, path: YamlPath, error: ConditionError) -> None:
        """Note that the text at a path is refused; the offset in it stands in the problem's `column`."""
        self.problems.append(
            Problem(error.code, error.message, column=error.offset, hint=error.hint, path=path, length=error.length)
        )

    def problem(self, code: str, message: str, path: YamlPath, hint: str = "") -> None:
        """Note a problem at a path."""
        self.problems.append(Problem(code, message, path=path, hint=hint))


def entry_shape(workflow: Workflow, catalog: Catalog) -> EntryShape:
    """What `entry.*` is in a workflow's steps and goals."""
    passed = dict.fromkeys(sorted(catalog.passed.get(workflow.workflow, ())), "other")
    trigger = workflow.trigger
    match trigger:
        case EventTrigger():
            events = catalog.events
            columns = {name: str(events.relation.type_of(name)) for name in events.relation.columns}
            for name in {p for event in trigger.names for p in events.properties.get(event, {})}:
                kind = catalog.property_type(trigger.names, name)
                columns.setdefault(name, str(kind or "other"))
            return EntryShape({**passed, **columns}, open=bool(events.data) or catalog.open_names)
        case ModelTrigger():
            relation = catalog.relations.get(model_name(trigger))
            if relation is None:
                return EntryShape(passed)
            return EntryShape({**passed, **{name: str(relation.type_of(name)) for name in relation.columns}})
        case ScheduleTrigger():
            return EntryShape({**passed, "scheduled_at": "timestamp"})
        case _:
            return EntryShape(passed)


def workflow_scope(workflow: Workflow, catalog: Catalog, trust: Trust) -> Scope:
    """What the conditions of a workflow's steps and exits may name."""
    named = {node.id: template_of(node.step, node.id) for node in flow(workflow).nodes}
    return Scope(
        catalog, entry=entry_shape(workflow, catalog), templates={step: name for step, name in named.items() if name},
        steps=frozenset(node.id for node in flow(workflow).nodes),
        enrollment=True, splits=frozenset(n.id for n in flow(workflow).nodes if isinstance(n.step, SplitStep)),
        repeated=frozenset(counted_steps(flow(workflow))),
        goals=tuple(goal.when for goal in workflow.goals), trust=trust, workflow=workflow.workflow,
    )  # fmt: skip


def model_name(trigger: ModelTrigger) -> str:
    """The name in `ref('name')` or `source('a', 'b')` (as `a.b`)."""
    name = trigger.from_.strip()
    for prefix in ("ref(", "source("):
        if name.startswith(prefix) and name.endswith(")"):
            return ".".join(part.strip().strip("'\"") for part in name[len(prefix) : -1].split(","))
    return name


class EntryPlanner:
    """Plans the entry of one workflow."""

    def __init__(self, workflow: Workflow, catalog: Catalog, compiling: Compiling, scope: Scope, tz: exp.Expr) -> None:
        """`tz`: the time zone of a contact `c`, with the project's default; `zone` is that default's name."""
        self.workflow = workflow
        self.catalog = catalog
        self.compiling = compiling
        self.scope = scope
        self.tz = tz
        self.where: Condition | None = None
        self.key: Condition | None = None
        self.row_key: Condition | None = None
        self.contact: Condition | None = None
        self.moment: Condition | None = None
        self.audience: Condition | None = None
        self._compile_entry()

    @property
    def conditions(self) -> list[Condition]:
        """What is read of candidates, beside an audience."""
        return [condition for condition in (self.where, self.key, self.row_key) if condition is not None]

    def _compile_entry(self) -> None:
        trigger = self.workflow.trigger
        candidate = replace(self.scope, enrollment=False, goals=())
        match trigger:
            case EventTrigger():
                if trigger.where is not None:
                    self.where = self.compiling.compile(("trigger", "where"), trigger.where, candidate)
            case AudienceTrigger():
                self.audience = self.compiling.compile(
                    ("trigger", "audience"), trigger.audience, replace(candidate, entry=None)
                )
            case ModelTrigger():
                self._compile_model_entry(trigger, candidate)
            case ScheduleTrigger():
                if trigger.audience is not None:
                    self.audience = self.compiling.compile(
                        ("trigger", "audience"), trigger.audience, replace(candidate, entry=None)
                    )
        if self.workflow.entry.key is not None and not isinstance(trigger, ModelTrigger):
            self.key = self._key(("entry", "key"), self.workflow.entry.key, candidate)

    def _compile_model_entry(self, trigger: ModelTrigger, candidate: Scope) -> None:
        name = model_name(trigger)
        relation = self.catalog.relations.get(name)
        if relation is None:
            self.compiling.problem(
                "E205", f"no model '{name}'", ("trigger", "from"), nearest(name, self.catalog.relations)
            )
            return
        shape = EntryShape({c: str(relation.type_of(c)) for c in relation.columns}, relation=relation)
        scope = replace(candidate, entry=shape)
        self.contact = self._row_value(("trigger", "contact"), trigger.contact, scope)
        self.moment = self._row_value(("trigger", "at"), trigger.at, scope)
        self.row_key = self._key(("trigger", "key"), trigger.key, scope)
        if self.workflow.entry.key is not None:
            self.key = self._key(("entry", "key"), self.workflow.entry.key, scope)
        if trigger.where is not None:
            self.where = self.compiling.compile(("trigger", "where"), trigger.where, scope)

    def _row_value(self, path: YamlPath, text: str, scope: Scope) -> Condition | None:
        value = self.compiling.compile(path, text, scope, boolean=False)
        if value is not None and (value.lookups or value.facts or value.contact_columns or value.subquery):
            self.compiling.problem("E207", f"{path[-1]}: only columns of the model can stand here", path)
            return None
        return value

    def _key(self, path: YamlPath, text: str, scope: Scope) -> Condition | None:
        value = self._row_value(path, text, scope)
        if value is not None and value.type not in ("text", "integer", "uuid", "dynamic", "any"):
            self.compiling.problem("E206", f"an entry key is text, integer or uuid; this is {value.type}", path)
        return value

    def entry(self, zone: str) -> EventEntry | AudienceEntry | ScheduleEntry | ModelEntry:
        """The plan of the entry; `zone` is the default time zone."""
        trigger = self.workflow.trigger
        match trigger:
            case EventTrigger():
                base = (
                    exp.select(*_aliased("a", ("contact_id", "entry")),
                               exp.column("event_id", table="a").as_("entry_ref"),
                               exp.column("event_time", table="a").as_("entry_at"),
                               *contact_columns(self.tz, self.where))
                    .from_(f"{frames.ARRIVALS} AS a").join(f"{frames.CONTACTS} AS c", on="c.contact_id = a.contact_id")
                    .where(_one_of("a", trigger.names))
                    .where(exp.or_(exp.Not(this=exp.column("fresh", table="a")), exp.Placeholder(this="fresh")))
                    .where(self._for_all_or_me())
                )  # fmt: skip
                return EventEntry(trigger.names, self._candidates(base, "entry_ref"))
            case ModelTrigger():
                return self._model_entry(trigger)
            case ScheduleTrigger():
                return self._schedule_entry(trigger, zone)
            case _:
                return self._audience_entry(zone)

    def _for_all_or_me(self) -> exp.Expr:
        """Whether an arrival is one that all workflows see, or that this one missed while it was set aside."""
        missed_by = exp.column("missed_by", table="a")
        mine = exp.EQ(this=missed_by, expression=exp.Literal.string(self.workflow.workflow))
        return exp.or_(exp.Is(this=missed_by.copy(), expression=exp.Null()), mine)

    def _candidates(self, base: exp.Select, row_id: str) -> exp.Select:
        needs = Needs().add(self.where, self.key)
        built = frames.build(base, needs, row_id=row_id, events=exp.to_table(frames.EVENTS), trigger=True)
        in_model = isinstance(self.workflow.trigger, ModelTrigger)
        key: exp.Expr = exp.cast(exp.null(), "text")
        if in_model:
            key = frame("key")
        elif self.key is not None:
            key = exp.cast(self.key.tree.copy(), "text")
        query = exp.select(
            frame("contact_id"), key.as_("key"), exp.cast(frame("entry_ref"), "text").as_("entry_ref"),
            frame("entry_at").as_("candidate_at"), frame("entry"),
        ).from_(built.subquery("f"))  # fmt: skip
        return query.where(self.where.tree.copy()) if self.where is not None else query

    def asked(self) -> exp.Select:
        """The candidates that other workflows' `enroll` steps made, with the key this workflow gives them."""
        base = (
            exp.select("k.contact_id", "k.entry_ref", exp.column("candidate_at", table="k").as_("entry_at"), "k.entry")
            .from_(exp.table_("candidates", db=self.catalog.state_schema, alias="k"))
            .where(exp.and_(
                exp.EQ(this=exp.column("workflow", table="k"), expression=exp.Literal.string(self.workflow.workflow)),
                exp.EQ(this=exp.column("verdict", table="k"), expression=exp.Literal.string(ASKED)),
            ))
        )  # fmt: skip
        key: exp.Expr = exp.null()
        if self.key is not None:
            key = self.key.tree.transform(_from_json)
        return exp.select(
            frame("contact_id"), exp.cast(key, "text").as_("key"), frame("entry_ref"),
            frame("entry_at").as_("candidate_at"), frame("entry"),
        ).from_(base.subquery("f"))  # fmt: skip

    def _model_entry(self, trigger: ModelTrigger) -> ModelEntry:
        name = model_name(trigger)
        relation = self.catalog.relations.get(name)
        if relation is None or self.row_key is None or self.contact is None or self.moment is None:
            return ModelEntry(name, exp.select("1"), exp.select("1"))
        columns = [frames.utc(relation, column, "m").as_(f"r_{column}", quoted=True) for column in relation.columns]
        base = exp.select(*columns).from_(relation_table(relation, "m"))
        contact = exp.cast(self.contact.tree.copy(), "text")
        keyed = exp.select(
            "f.*", owner(self.catalog, contact).as_("contact_id"),
            exp.cast(self.row_key.tree.copy(), "text").as_("entry_ref"),
            exp.cast(self.key.tree.copy() if self.key else exp.null(), "text").as_("key"),
            exp.cast(self.moment.tree.copy(), "timestamp").as_("entry_at"),
        ).from_(base.subquery("f"))  # fmt: skip
        keyed = with_owner(keyed, self.catalog, contact)
        where = self.where
        if where is not None and not (where.lookups or where.facts or where.contact_columns or where.subquery):
            keyed = keyed.where(where.tree.copy())
        known = (
            exp.select("1").from_(exp.table_("candidates", db=self.catalog.state_schema, alias="k"))
            .where(exp.and_(
                exp.EQ(this=exp.column("workflow", table="k"), expression=exp.Literal.string(self.workflow.workflow)),
                exp.EQ(this=exp.column("entry_ref", table="k"), expression=exp.column("entry_ref", table="r")),
            ))
        )  # fmt: skip
        pairs: list[exp.Expr] = []
        for column in relation.columns:
            pairs += [exp.Literal.string(column), exp.column(f"r_{column}", table="r", quoted=True)]
        rows = (
            exp.select("r.*", exp.Anonymous(this="json_object", expressions=pairs).as_("entry"))
            .from_(keyed.subquery("r"))
            .where(exp.and_(
                exp.LTE(this=exp.column("entry_at", table="r"), expression=tick_at()),
                exp.GTE(this=exp.column("entry_at", table="r"), expression=exp.Placeholder(this="earliest")),
                exp.Not(this=exp.Is(this=exp.column("entry_ref", table="r"), expression=exp.Null())),
                exp.Not(this=exp.Exists(this=known)),
            ))
        )  # fmt: skip
        base_rows = (
            exp.select("r.*", *contact_columns(self.tz, where)).from_(f"{MODEL_ROWS} AS r")
            .join(f"{frames.CONTACTS} AS c", on="c.contact_id = r.contact_id")
        )  # fmt: skip
        return ModelEntry(name, rows, self._candidates(base_rows, "entry_ref"))

    def _audience_entry(self, zone: str) -> AudienceEntry:
        condition = self.audience
        if condition is None:
            return AudienceEntry(exp.select("1"), self.workflow.exit_on_leave)
        audience = Audience(self.workflow.workflow, condition, zone)
        return AudienceEntry(members(condition, self.catalog, zone), self.workflow.exit_on_leave, audience)

    def _schedule_entry(self, trigger: ScheduleTrigger, zone: str) -> ScheduleEntry:
        fixed = None if trigger.timezone == "contact" else trigger.timezone or zone
        own = frame("tz") if fixed is None else exp.Literal.string(fixed)
        return ScheduleEntry(
            trigger.schedule, fixed, members(self.audience, self.catalog, zone).select(own.as_("zone"))
        )

    def rules(self) -> EntryRules:
        """Who is refused."""
        entry = self.workflow.entry
        ramp = entry.ramp
        backfill = entry.backfill
        seconds_back = None if backfill is True else 0.0 if backfill is False else backfill.elapsed.total_seconds()
        return EntryRules(
            entry.reentry, duration_seconds(entry.min_gap), seconds_back, duration_seconds(entry.max_age),
            entry.cap.amount, entry.cap.per.elapsed.total_seconds(), ramp.amount if ramp else None,
            ramp.per.elapsed.total_seconds() if ramp else 0.0, entry.on_resume == "admit",
        )  # fmt: skip


def _from_json(node: exp.Expr) -> exp.Expr:
    """A column `r_<name>` of a model's row as it stands in the JSON of `entry`."""
    if isinstance(node, exp.Column) and node.table == "f" and node.name.startswith("r_"):
        path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=node.name.removeprefix("r_"))])
        return exp.Paren(this=exp.JSONExtractScalar(this=frame("entry"), expression=path))
    return node


def contact_columns(tz: exp.Expr, *conditions: Condition | None) -> list[exp.Expr]:
    """The contact columns `c_<name>` that conditions read, from `c`, and the time zone `tz`."""
    columns = sorted({c for condition in conditions if condition is not None for c in condition.contact_columns})
    found: list[exp.Expr] = [exp.column(f"c_{name}", table="c", quoted=True) for name in columns]
    return [*found, tz.copy().as_("tz")]


def _aliased(table: str, names: tuple[str, ...]) -> list[exp.Expr]:
    return [exp.column(name, table=table) for name in names]


def _one_of(table: str, names: tuple[str, ...]) -> exp.Expr:
    return exp.In(this=exp.column("name", table=table), expressions=[exp.Literal.string(name) for name in names])


def duration_seconds(duration: Duration | None) -> float | None:
    """The length of a duration with d as 24 h, None for None."""
    return duration.elapsed.total_seconds() if duration is not None else None
