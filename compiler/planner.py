"""Workflow + catalog -> Plan, or every problem at its place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sqlglot import exp

from compiler import frames
from compiler.actions import Routing, Texts, action_rows, message_texts, split_row
from compiler.advance import Layers, StepParts, Timing, columns_read
from compiler.allowlist import Trust
from compiler.catalog import Catalog
from compiler.change import fades
from compiler.columns import (
    campaign_column,
    enrolled_columns,
    points_column,
    status_column,
    tag_column,
)
from compiler.condition import Condition, Scope, compile_wait_for
from compiler.entry import Compiling, EntryPlanner, contact_columns, duration_seconds, workflow_scope
from compiler.errors import ConditionError, DefinitionError, Problem, nearest
from compiler.frames import Needs
from compiler.graph import Flow, FlowNode, YamlPath, counted_steps, flow
from compiler.kept import kept
from compiler.lookup import TICK_AT, frame, from_frame, seconds
from compiler.messages import (
    HELD,
    SENT_BEFORE,
    capped,
    capped_channels,
    channels_of,
    held_out,
    over_cap,
    quiet,
    sent_before,
)
from compiler.moves import jumps_back, moves
from compiler.plan import SCOPE, SCOPE_COLUMNS, Action, Plan, Stage
from compiler.workflow import (
    ActionStep,
    AudienceTrigger,
    BranchStep,
    CampaignStep,
    ChooseStep,
    CrmStep,
    Duration,
    EmitStep,
    EnrollStep,
    EventTrigger,
    MessageStep,
    Moment,
    Policy,
    ScoreStep,
    SetStep,
    SplitStep,
    SwitchStep,
    TagStep,
    UnenrollStep,
    UntagStep,
    WaitForStep,
    WaitStep,
    WaitUntilStep,
    WebhookStep,
    WindowStep,
    Workflow,
)

DEFAULT_GRACE = Duration("1h")
MESSAGE_COLUMNS = ("m_email", "m_phone", "m_push", *(
    f"m_{name}{frames.channel_suffix(channel)}"
    for channel in frames.CHANNELS for name in ("bounced", "unsubscribed", "groups")
))  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What of the project a plan depends on besides the catalog."""

    policy: Policy = Policy()
    trust: Trust = "sql"


def merged_policy(project: Policy, workflow: Policy) -> Policy:
    """The workflow's policy over the project's, key by key; a written null turns the project's rule off."""
    return project.model_copy(update={name: getattr(workflow, name) for name in workflow.model_fields_set})


def plan(workflow: Workflow, catalog: Catalog, settings: Settings | None = None, *, version: int = 0) -> Plan:
    """Compile a workflow.

    Raises:
        DefinitionError: with all problems; each has the YAML `path`, and for conditions the offset in `column`.
    """
    planner = _Planner(workflow, catalog, settings or Settings(), version)
    built = planner.plan()
    if planner.problems:
        raise DefinitionError(planner.problems)
    return built


def problems(workflow: Workflow, catalog: Catalog, settings: Settings | None = None) -> list[Problem]:
    """What `plan` would refuse, without assembling the plan: several times as fast."""
    planner = _Planner(workflow, catalog, settings or Settings(), 0)
    planner.check()
    return planner.problems


@dataclass
class _Compiled:
    """The conditions of a workflow's exits and steps, compiled once."""

    goals: list[Condition] = field(default_factory=list)
    exits: list[Condition] = field(default_factory=list)
    require: dict[str, Condition] = field(default_factory=dict)
    parts: dict[str, StepParts] = field(default_factory=dict)
    waiting: list[Condition] = field(default_factory=list)


class _Planner:
    def __init__(self, workflow: Workflow, catalog: Catalog, settings: Settings, version: int) -> None:
        self.workflow = workflow
        self.catalog = catalog
        self.policy = merged_policy(settings.policy, workflow.policy)
        self.version = version
        self.compiling = Compiling()
        self.graph: Flow = flow(workflow)
        self.routing = Routing(catalog, self.compiling.problems)
        self.scope = workflow_scope(workflow, catalog, settings.trust)
        self.compiled = _Compiled()
        self.entry = EntryPlanner(workflow, catalog, self.compiling, self.scope, self._tz())

    @property
    def problems(self) -> list[Problem]:
        """What was refused so far."""
        return self.compiling.problems

    def _compile(self, path: YamlPath, text: str, scope: Scope | None = None) -> Condition | None:
        return _timed(self.compiling.compile(path, text, scope or self.scope))

    def check(self) -> None:
        """Compile every condition and find every destination and template; problems are collected."""
        self._compile_exits()
        for node in self.graph.nodes:
            self._parts(node)
            channels = channels_of(node.step) if isinstance(node.step, ActionStep) else ()
            for channel in channels or (None,):
                self.routing.resolve(node, channel)
        self._compile_require()

    def plan(self) -> Plan:
        compiled = self.compiled
        self._compile_exits()
        for node in self.graph.nodes:
            compiled.parts[node.id] = self._parts(node)
        frame_needs = self._frame_needs()
        self._add_checks()
        needs = Needs().add(*self._everything())
        needs.contact_columns.update(*(texts.contact for texts in self._texts().values()))
        layers = Layers(
            self.graph, compiled.parts, self._timing(), self._tracked(), self._mutable(frame_needs),
            [condition.tree for _, condition in self._leaving()], self.workflow.workflow,
        )  # fmt: skip
        entry = self.entry.entry(self.policy.default_timezone or "UTC")
        exits = self._exits()
        moved = moves(self.graph, layers, [reason for reason, _ in self._leaving()],
                      tracked=self._tracked(), splits=self.scope.splits)  # fmt: skip
        stages, read = self._stages(layers, moved)
        return Plan(
            workflow=self.workflow.workflow, version=self.version, first_step=self.graph.nodes[0].id,
            priority=self.policy.priority or 0, entry=entry, rules=self.entry.rules(), exits=exits,
            frame=self._frame(frame_needs, needs, read), stages=stages, moves=moved,
            refusing=self._refusing(), wakes=frozenset(self._wakes()), watches_state=self._watches_state(),
            contact_columns=frozenset(needs.contact_columns), properties=dict(needs.properties),
            events=frozenset(needs.events), lookback=self._lookback(), waits_by_zone=self._waits_by_zone(),
            jumps_back=jumps_back(self.graph), ordered=(ordered := self._ordered(frame_needs)),
            dues=layers.dues() if ordered else {}, asked=self.entry.asked(), reads_entry=self._reads_entry(needs),
            conditions=dict(self.compiling.texts), steps=len(self.graph.nodes),
            step_ids=tuple(node.id for node in self.graph.nodes),
            audience_events=self.entry.audience.events if self.entry.audience is not None else frozenset(),
            counted=frozenset(counted_steps(self.graph)), since_steps=self._tracked(), grace=self._timing().grace,
        )  # fmt: skip

    # ------------------------------------------------------------ exits

    def _compile_exits(self) -> None:
        for number, goal in enumerate(self.workflow.goals):
            condition = self._compile(("goals", number, "when"), goal.when, replace(self.scope, goals=()))
            if condition is not None:
                self.compiled.goals.append(condition)
            if goal.value is not None:
                self.compiling.texts[f"goals.{number}.value"] = goal.value
        for number, text in enumerate(self.workflow.exit_when):
            condition = self._compile(("exit_when", number), text)
            if condition is not None:
                self.compiled.exits.append(condition)

    def _exits(self) -> exp.Select | None:
        compiled, duration = self.compiled, self.policy.max_duration
        cases = [exp.If(this=goal.tree.copy(), true=exp.Literal.string("goal")) for goal in compiled.goals]
        cases += [exp.If(this=test.tree.copy(), true=exp.Literal.string("exit_when")) for test in compiled.exits]
        if self.workflow.exit_on_leave and isinstance(self.workflow.trigger, AudienceTrigger):
            cases.append(exp.If(this=self._has_left(), true=exp.Literal.string("left_audience")))
        if duration is not None:
            end = exp.Add(this=frame("entry_at"), expression=seconds(duration.elapsed.total_seconds()))
            cases.append(exp.If(this=exp.LT(this=end, expression=frame(TICK_AT)), true=exp.Literal.string("expired")))
        if not cases:
            return None
        conditions = [*compiled.goals, *compiled.exits]
        needs = Needs().add(*conditions)
        base = exp.select(
            "s.*", *contact_columns(self._tz(), *conditions), *kept(needs.since_steps, needs.arms, needs.visits)
        ).from_(f"{SCOPE} AS s")
        base = base.join(f"{frames.CONTACTS} AS c", on="c.contact_id = s.contact_id", join_type="left")
        built = frames.build(base, needs, row_id="enrollment_id", events=exp.to_table(frames.EVENTS),
                             trigger=self._by_event(), timed=True)  # fmt: skip
        inner = exp.select(frame("enrollment_id"), frame("contact_id"), frame("key"), exp.Case(ifs=cases).as_("reason"))
        query = exp.select("x.*").from_(inner.from_(built.subquery("f")).subquery("x"))
        return query.where(exp.Not(this=exp.Is(this=exp.column("reason", table="x"), expression=exp.Null())))

    def _has_left(self) -> exp.Expr:
        members = exp.table_("audience_members", db=self.catalog.state_schema, alias="v")
        inside = exp.select("1").from_(members).where(exp.and_(
            exp.EQ(this=exp.column("name", table="v"), expression=exp.Literal.string(self.workflow.workflow)),
            exp.EQ(this=exp.column("contact_id", table="v"), expression=frame("contact_id")),
            exp.column("member", table="v"),
        ))  # fmt: skip
        return exp.Not(this=exp.Exists(this=inside))

    def _leaving(self) -> list[tuple[str, Condition]]:
        """Goals and exits that what a step writes in the same tick can make true, with their reasons."""
        found = [("goal", goal) for goal in self.compiled.goals]
        found += [("exit_when", condition) for condition in self.compiled.exits]
        return [(reason, condition) for reason, condition in found if condition.written]

    def _watches_state(self) -> bool:
        conditions = [*self.compiled.goals, *self.compiled.exits]
        by_itself = any(
            condition.state or (condition.clock and not fades(condition)) for condition in conditions
        )  # fmt: skip
        leaves = self.workflow.exit_on_leave and isinstance(self.workflow.trigger, AudienceTrigger)
        return by_itself or leaves or self.policy.max_duration is not None

    # ------------------------------------------------------------ steps

    def _parts(self, node: FlowNode) -> StepParts:
        step, path = node.step, node.path
        match step:
            case ChooseStep():
                self._check_arms(node, step)
                return StepParts()
            case BranchStep():
                return StepParts(test=self._compile((*path, "if"), step.if_))
            case SwitchStep():
                cases = {f"case{number + 1}": self._compile((*path, "switch", number, "if"), arm.if_)
                         for number, arm in enumerate(step.switch)}  # fmt: skip
                return StepParts(cases={name: case for name, case in cases.items() if case is not None})
            case WaitUntilStep(wait_until=str() as moment):
                return StepParts(test=_timed(self.compiling.moment((*path, "wait_until"), moment, self.scope)))
            case WaitForStep():
                return StepParts(waits=self._wait_for(node, step))
            case ActionStep():
                test = self._compile((*path, "if"), step.if_) if step.if_ is not None else None
                values = {
                    key: condition
                    for key, where, text in self._value_texts(step)
                    if (condition := self._literal_or_value((*path, *where), text)) is not None
                }
                self._check_written(node, step, values)
                return StepParts(test=test, values=values, repeated=node.id in self.scope.repeated)
            case SplitStep():
                return StepParts(repeated=node.id in self.scope.repeated)
            case _:
                return StepParts()

    def _wait_for(self, node: FlowNode, step: WaitForStep) -> tuple[exp.Expr, ...]:
        path = (*node.path, "wait_for")
        self.compiling.texts[".".join(map(str, path))] = step.wait_for
        try:
            condition, columns = compile_wait_for(step.wait_for, self.scope)
        except ConditionError as error:
            self.compiling.refused(path, error)
            return ()
        self.compiled.waiting.append(condition)
        return columns

    def _value_texts(self, step: ActionStep) -> Iterator[tuple[str, YamlPath, object]]:
        match step:
            case SetStep():
                yield from ((name, ("set", name), value) for name, value in step.set.items())
            case ScoreStep():
                yield from ((name, ("score", name), value) for name, value in step.score.items())
            case CrmStep():
                yield from ((name, ("crm", "set", name), value) for name, value in step.crm.set.items())
            case WebhookStep():
                yield from _leaves(step.body, ("body",))
            case MessageStep() | EmitStep() | EnrollStep():
                yield from ((name, ("with", name), value) for name, value in step.with_.items())
            case _:
                return

    def _literal_or_value(self, path: YamlPath, value: object) -> Condition | None:
        if isinstance(value, str):
            return _timed(self.compiling.compile(path, value, self.scope, boolean=False))
        tree: exp.Expr = exp.convert(value)
        kind = {bool: "boolean", int: "integer", float: "number", type(None): "null"}.get(type(value), "any")
        return Condition(text=str(value), tree=tree, type=kind)

    def _check_written(self, node: FlowNode, step: ActionStep, values: Mapping[str, Condition]) -> None:
        match step:
            case SetStep():
                for name in set(step.set) - set(self.catalog.contact.fields):
                    self.compiling.problem(
                        "E210", f"'{name}' is no field that Penstock owns", (*node.path, "set", name),
                        f"declare it in penstock.yaml: contact: {{fields: {{{name}: text}}}}",
                    )  # fmt: skip
            case ScoreStep():
                self._check_points(node, step, values)
            case EnrollStep():
                self._check_workflow(node, step.enroll)
            case UnenrollStep():
                self._check_workflow(node, step.unenroll)
            case _:
                pass

    def _check_arms(self, node: FlowNode, step: ChooseStep) -> None:
        for name in step.choose.from_:
            if name not in step.arms:
                self.compiling.problem("E208", f"choose: no arm '{name}'", (*node.path, "choose", "from"),
                                       nearest(name, step.arms))  # fmt: skip

    def _check_workflow(self, node: FlowNode, name: str) -> None:
        known = self.catalog.workflows
        if name not in known:
            self.compiling.problem("E205", f"no workflow '{name}'", (*node.path, node.kind), nearest(name, known))

    def _check_points(self, node: FlowNode, step: ScoreStep, values: Mapping[str, Condition]) -> None:
        for name in step.score:
            path = (*node.path, "score", name)
            if name not in self.catalog.points:
                self.compiling.problem(
                    "E210", f"'{name}' is no score that workflows add points to", path,
                    f"declare it in penstock.yaml: scores: {{{name}: {{points: 0}}}}",
                )  # fmt: skip
            value = values.get(name)
            if value is not None and value.type not in ("integer", "number", "dynamic", "any", "null"):
                self.compiling.problem("E206", f"points are a number; this is {value.type}", path)

    def _texts(self) -> dict[str, Texts]:
        return {
            node.id: message_texts(node.step, node.id, self.catalog)
            for node in self.graph.nodes
            if isinstance(node.step, ActionStep)
        }

    # ------------------------------------------------------------ frame, stages, moves

    def _by_event(self) -> bool:
        return isinstance(self.workflow.trigger, EventTrigger)

    def _ordered(self, frame_needs: Needs) -> bool:
        return bool(frame_needs.facts) or any(node.kind == "unenroll" for node in self.graph.nodes)

    def _timing(self) -> Timing:
        zone: exp.Expr | None = frame("tz")
        default = self.policy.default_timezone or "UTC"
        if self.catalog.contact.timezone is None:
            zone = None if default == "UTC" else exp.Literal.string(default)
        grace = (self.policy.grace or DEFAULT_GRACE).elapsed.total_seconds()
        return Timing(zone, grace, duration_seconds(self.policy.allowed_lateness) or 0.0)

    def _reads_entry(self, needs: Needs) -> bool:
        inside = [*self.compiled.goals, *self.compiled.exits, *self._step_conditions(), *self.compiled.require.values()]
        trees = [condition.tree for condition in inside]
        trees += [tree for lookup in needs.lookups.values() for tree in (lookup.predicate, lookup.value) if tree]
        trees += [fact.tree for fact in needs.facts.values()]
        return "entry" in columns_read(trees) or any(texts.entry for texts in self._texts().values())

    def _waits_by_zone(self) -> bool:
        if self.catalog.contact.timezone is None:
            return False
        steps = [node.step for node in self.graph.nodes]
        moments = [step.wait_until for step in steps if isinstance(step, WaitUntilStep)]
        if any(isinstance(moment, Moment) for moment in moments) or any(isinstance(s, WindowStep) for s in steps):
            return True
        spans = [step.wait for step in steps if isinstance(step, WaitStep)]
        spans += [step.within for step in steps if isinstance(step, WaitForStep) and step.within is not None]
        return any(span.calendar_days is not None for span in spans)

    def _step_conditions(self) -> list[Condition]:
        found = [condition for condition in self.compiled.waiting]
        for parts in self.compiled.parts.values():
            found += [
                condition
                for condition in (parts.test, *parts.cases.values(), *parts.values.values())
                if condition is not None
            ]
        return found

    def _everything(self) -> list[Condition]:
        compiled = self.compiled
        single = [*self.entry.conditions, *compiled.goals, *compiled.exits, *compiled.require.values()]
        return [*single, *self._step_conditions()]

    def _lookback(self) -> float | None:
        return Needs().add(*(found for found in self._everything() if found is not self.entry.audience)).lookback

    def _frame_needs(self) -> Needs:
        self._compile_require()
        leaving = [condition for _, condition in self._leaving()]
        needs = Needs().add(*self._step_conditions(), *self.compiled.require.values(), *leaving)
        cap = self.policy.cap
        if cap is not None and any(self._counts(node.step) for node in self.graph.nodes):
            needs.facts[SENT_BEFORE] = sent_before(cap, self.catalog.state_schema)
        return needs

    def _counts(self, step: object) -> bool:
        return isinstance(step, ActionStep) and bool(capped_channels(step, self.policy))

    def _compile_require(self) -> None:
        require = self.policy.require
        used = {c for node in self.graph.nodes if isinstance(node.step, ActionStep) for c in channels_of(node.step)}
        scope = replace(self.scope, entry=None, enrollment=False, goals=())
        if isinstance(require, str):
            condition = self.compiling.compile(("policy", "require"), require, scope) if used else None
            self.compiled.require = dict.fromkeys(sorted(used), condition) if condition is not None else {}
            return
        for channel, text in (require or {}).items():
            if channel in used:
                condition = self.compiling.compile(("policy", "require", channel), text, scope)
                if condition is not None:
                    self.compiled.require[channel] = condition

    def _add_checks(self) -> None:
        """Give each message step what it is checked against: consent, subscription group, what holds it back."""
        require = {channel: from_frame(condition.tree) for channel, condition in self.compiled.require.items()}
        texts, zone = self._texts(), self._timing().zone
        for node in self.graph.nodes:
            if isinstance(node.step, MessageStep):
                silent = quiet(node.step, self.policy, zone)
                holding = [] if silent is None else [(silent, HELD)]
                counted = capped(node.step, self.policy, require, texts[node.id].group)
                if self.policy.cap is not None and counted is not None:
                    test, word = over_cap(self.policy.cap)
                    holding.append((exp.and_(counted, test), word))
                out = held_out(node.step, self.policy)
                # Last, in the place of the delivery: so all else happens to these contacts as to the others.
                if out is not None:
                    holding.append((out, "skipped(holdout)"))
                self.compiled.parts[node.id] = replace(
                    self.compiled.parts[node.id], require=require,
                    group=texts[node.id].group, holding=tuple(holding), counted=counted,
                )  # fmt: skip

    def _refusing(self) -> exp.Select | None:
        selects = [self._refusing_on(channel, condition) for channel, condition in self.compiled.require.items()]
        if not selects:
            return None
        united = exp.union(*selects, distinct=False) if len(selects) > 1 else selects[0]
        alias = exp.TableAlias(this=exp.to_identifier("r"))
        return exp.select("r.*").from_(exp.Subquery(this=united, alias=alias)) if len(selects) > 1 else selects[0]

    def _refusing_on(self, channel: str, condition: Condition) -> exp.Select:
        columns = [exp.column(f"c_{name}", table="c", quoted=True) for name in sorted(condition.contact_columns)]
        base = exp.select("c.contact_id", *columns, self._tz().as_("tz")).from_(f"{frames.CONTACTS} AS c")
        built = frames.build(base, Needs().add(condition), row_id="contact_id", events=exp.to_table(frames.EVENTS),
                             trigger=False)  # fmt: skip
        given = exp.Coalesce(this=condition.tree.copy(), expressions=[exp.false()])
        selected = exp.select(frame("contact_id"), exp.Literal.string(channel).as_("channel"))
        return selected.from_(built.subquery("f")).where(exp.Not(this=given))

    def _tracked(self) -> frozenset[str]:
        named = {step for condition in [*self._everything()] for step in condition.since_steps}
        for node in self.graph.nodes:
            if isinstance(node.step, WaitForStep) and node.step.since not in (None, "entry", "step"):
                named.add(str(node.step.since))
        return frozenset(named & {node.id for node in self.graph.nodes})

    def _mutable(self, needs: Needs) -> list[str]:
        written = set()
        for node in self.graph.nodes:
            if isinstance(node.step, ActionStep):
                written.add(status_column(node.id))
            match node.step:
                case TagStep():
                    written.add(tag_column(node.step.tag))
                case UntagStep():
                    written.add(tag_column(node.step.untag))
                case SetStep():
                    written.update(f"x_{name}" for name in node.step.set)
                case ScoreStep():
                    written.update(points_column(name) for name in node.step.score)
                case CampaignStep():
                    written.add(campaign_column(node.step.campaign.name))
                case UnenrollStep():
                    written.update(enrolled_columns(node.step.unenroll))
                case _:
                    pass
        return sorted(written & set(needs.facts))

    def _tz(self) -> exp.Expr:
        default = exp.Literal.string(self.policy.default_timezone or "UTC")
        return exp.Coalesce(this=exp.column("tz", table="c"), expressions=[default])

    def _frame(self, needs: Needs, everything: Needs, read: Collection[str]) -> exp.Select:
        """The frame with the columns that its own lookups and facts, or the stages (`read`), make something of."""
        trees = [lookup.aggregate() for lookup in needs.lookups.values()]
        trees += [fact.tree for fact in needs.facts.values()]
        read = {*read, *columns_read(trees), "enrollment_id", "contact_id", "entry_ref"}
        places = exp.values([(node.id, node.index) for node in self.graph.nodes], alias="g", columns=["step", "p0"])
        contact = [*(f"c_{name}" for name in sorted(everything.contact_columns)), *MESSAGE_COLUMNS]
        columns = [exp.column(name, table="s") for name in SCOPE_COLUMNS if name in read]
        columns += [exp.column(name, table="c", quoted=True) for name in contact if name in read]
        base = exp.select(
            *columns, self._tz().as_("tz"), exp.column("p0", table="g"),
            *kept(self._tracked(), self.scope.splits, counted_steps(self.graph)),
        ).from_(f"{SCOPE} AS s")  # fmt: skip
        base = base.join(f"{frames.CONTACTS} AS c", on="c.contact_id = s.contact_id", join_type="left")
        base = base.join(places, on="g.step = s.position", join_type="left")
        return frames.build(base, needs, row_id="enrollment_id", events=exp.to_table(frames.EVENTS),
                            trigger=self._by_event(), timed=True)  # fmt: skip

    def _stages(self, layers: Layers, moved: exp.Select) -> tuple[tuple[Stage, ...], frozenset[str]]:
        """The stages, and what the first one reads of the frame."""
        texts = self._texts()
        actions: dict[str, list[Action]] = {}
        for node in self.graph.nodes:
            stage = layers.stage_of(node)
            if isinstance(node.step, SplitStep):
                actions.setdefault(stage, []).append(split_row(node, self.compiled.parts[node.id], stage))
            if isinstance(node.step, ActionStep):
                rows = action_rows(node, self.compiled.parts[node.id], stage, self.routing, texts=texts[node.id])
                actions.setdefault(stage, []).extend(rows)
        readers: dict[str, list[exp.Expr]] = {name: [action.rows for action in made] for name, made in actions.items()}
        readers.setdefault(layers.last_stage, []).append(moved)
        layered = layers.stages(readers)
        stages = (Stage(stage.name, stage.query, tuple(actions.get(stage.name, ()))) for stage in layered)
        return tuple(stages), layered[0].reads

    def _wakes(self) -> set[str]:
        found: set[str] = set()
        for condition in [*self.compiled.waiting, *self.compiled.goals, *self.compiled.exits]:
            found |= condition.events
        return found


def _timed(condition: Condition | None) -> Condition | None:
    """A condition about enrollments in the scope, which have the tick's time."""
    return replace(condition, tree=from_frame(condition.tree)) if condition is not None else None


def _leaves(value: object, path: YamlPath) -> Iterator[tuple[str, YamlPath, object]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(inner, (*path, key))
        case list() | tuple():
            for number, inner in enumerate(value):
                yield from _leaves(inner, (*path, number))
        case _:
            yield ".".join(map(str, path[1:])), path, value
