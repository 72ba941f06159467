"""Why: the conditions of a workflow, each taken apart at its ANDs, as queries that give the value of every part.

The parts are pieces of the very trees that the plan's statements hold, so that an explanation cannot differ from what a
tick decides. Who is asked about (the *subject*) is the contact, a candidate, or an enrollment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sqlglot import exp

from compiler import allowlist, frames
from compiler.allowlist import Trust
from compiler.catalog import Catalog
from compiler.condition import (
    Condition,
    EntryShape,
    Scope,
    compile_condition,
    compile_value,
    relation_table,
)
from compiler.entry import model_name, workflow_scope
from compiler.errors import ConditionError
from compiler.frames import Needs
from compiler.graph import flow
from compiler.kept import kept
from compiler.lookup import tick_at
from compiler.ownership import owner, with_owner
from compiler.plan import SCOPE
from compiler.planner import merged_policy
from compiler.workflow import (
    ActionStep,
    AudienceTrigger,
    BranchStep,
    EventTrigger,
    ModelTrigger,
    Policy,
    ScheduleTrigger,
    SwitchStep,
    WaitForStep,
    WaitStep,
    WaitUntilStep,
    WindowStep,
    Workflow,
)

Subject = Literal["contact", "event", "row", "enrollment"]
_RESTS = (WaitStep, WaitUntilStep, WindowStep, WaitForStep)
CONTACT_ID = "contact_id"
"""The parameter that names the contact."""


@dataclass(frozen=True)
class Part:
    """One conjunct: its text, its tree, and the columns and functions in it with theirs."""

    text: str
    tree: exp.Expr
    operands: tuple[tuple[str, exp.Expr], ...]


@dataclass(frozen=True)
class Question:
    """One condition of a workflow, and about whom it is.

    Attributes:
        place: its path in the file, such as `trigger.where`.
        subject: what its row is.
        text: the source.
        parts: its conjuncts; all must hold.
        conditions: compiled texts whose needs its row must carry.
    """

    place: str
    subject: Subject
    text: str
    parts: tuple[Part, ...]
    conditions: tuple[Condition, ...]


def questions(
    workflow: Workflow, catalog: Catalog, policy: Policy, trust: Trust = "sql", steps: Collection[str] = ()
) -> tuple[Question, ...]:
    """The trigger, consent, goals and exits of a workflow, and what some of its steps ask.

    Raises:
        ConditionError: one of them does not compile against the catalog.
    """
    return tuple(_question(place, subject, text, scope) for place, subject, text, scope
                 in (*_texts(workflow, catalog, policy, trust), *_asked(workflow, catalog, trust, steps)))  # fmt: skip


def _asked(
    workflow: Workflow, catalog: Catalog, trust: Trust, steps: Collection[str]
) -> Iterator[tuple[str, Subject, str, Scope]]:
    """The conditions of steps: `if` of a branch or an action, the cases of a switch."""
    scope = workflow_scope(workflow, catalog, trust)
    for node in flow(workflow).nodes:
        if node.id not in steps:
            continue
        match node.step:
            case BranchStep(if_=text) | ActionStep(if_=str(text)):
                yield f"{node.id}.if", "enrollment", text, scope
            case SwitchStep(switch=cases):
                for number, case in enumerate(cases, 1):
                    yield f"{node.id}.case{number}", "enrollment", case.if_, scope


def next_steps(workflow: Workflow, position: str) -> frozenset[str]:
    """The step at a position and those behind it that may be come to before the next wait."""
    graph = flow(workflow)
    start = graph.named(position)
    found: set[str] = set()
    queue = [start.index] if start is not None else []
    while queue:
        node = graph.nodes[queue.pop()]
        if node.id in found:
            continue
        found.add(node.id)
        if node.id == position or not isinstance(node.step, _RESTS):
            queue += [index for index in node.successors.values() if index is not None]
    return frozenset(found)


def _texts(
    workflow: Workflow, catalog: Catalog, policy: Policy, trust: Trust
) -> Iterator[tuple[str, Subject, str, Scope]]:
    scope = workflow_scope(workflow, catalog, trust)
    candidate = replace(scope, enrollment=False, goals=())
    match workflow.trigger:
        case EventTrigger(where=str(where)):
            yield "trigger.where", "event", where, candidate
        case AudienceTrigger(audience=text) | ScheduleTrigger(audience=str(text)):
            yield "trigger.audience", "contact", text, replace(candidate, entry=None)
        case ModelTrigger(where=str(where)):
            relation = catalog.relations[model_name(workflow.trigger)]
            shape = EntryShape({name: str(relation.type_of(name)) for name in relation.columns}, relation=relation)
            yield "trigger.where", "row", where, replace(candidate, entry=shape)
    require = merged_policy(policy, workflow.policy).require
    channels = (
        {"": require} if isinstance(require, str) else {f".{name}": text for name, text in (require or {}).items()}
    )
    for name, text in channels.items():
        yield f"policy.require{name}", "contact", text, replace(candidate, entry=None)
    for number, goal in enumerate(workflow.goals):
        yield f"goals.{goal.name or number}", "enrollment", goal.when, replace(scope, goals=())
    for number, text in enumerate(workflow.exit_when):
        yield f"exit_when.{number}", "enrollment", text, scope


def _question(place: str, subject: Subject, text: str, scope: Scope) -> Question:
    compiled = compile_condition(text, scope)
    conditions = [compiled]
    parts = []
    for source, tree in _conjuncts(allowlist.parse(text, scope.catalog.dialect), compiled.tree):
        operands = []
        for operand in dict.fromkeys(_operands(source, scope.catalog.dialect)):
            try:
                value = compile_value(operand, scope)
            except ConditionError:
                continue  # a name that has a meaning only where it stands
            conditions.append(value)
            operands.append((operand, value.tree))
        parts.append(Part(_written(source, scope.catalog.dialect), tree, tuple(operands)))
    return Question(place, subject, text, tuple(parts), tuple(conditions))


def _conjuncts(source: exp.Expr, tree: exp.Expr) -> Iterator[tuple[exp.Expr, exp.Expr]]:
    """The operands of the ANDs at the top of a condition, as written and as compiled."""
    if isinstance(source, exp.Paren) and isinstance(tree, exp.Paren):
        yield from _conjuncts(source.this, tree.this)
    elif isinstance(source, exp.And) and isinstance(tree, exp.And):
        yield from _conjuncts(source.this, tree.this)
        yield from _conjuncts(source.expression, tree.expression)
    else:
        yield source, tree


def _written(source: exp.Expr, dialect: str) -> str:
    return source.sql(dialect=dialect, normalize_functions=False)


def _operands(source: exp.Expr, dialect: str) -> Iterator[str]:
    """The columns and functions that a conjunct is about; those inside a sub-select or a function are not."""
    match source:
        case exp.Column() | exp.Anonymous():
            yield _written(source, dialect)
        case exp.Select() | exp.Union():
            return
        case _:
            for child in source.iter_expressions():
                yield from _operands(child, dialect)


# ---------------------------------------------------------------- queries


def asking(
    about: Iterable[Question], workflow: Workflow, catalog: Catalog, zone: str, *, subject: Subject
) -> exp.Select | None:
    """One row with the values of all questions about a subject; None when there is none about it.

    Columns: `v<question>_<part>` and `o<question>_<part>_<operand>`, numbered from 0 in the order of `about`. No row
    comes when the contact has no such event, row or enrollment. Parameters: `tick_at`, `address_key`, `contact_id`.
    """
    chosen = [(number, question) for number, question in enumerate(about) if question.subject == subject]
    if not chosen:
        return None
    needs = Needs().add(*(condition for _, question in chosen for condition in question.conditions))
    names = needs.events
    events = frames.event_rows(catalog, needs.properties, names=names, unique=True, of=_contact_id())
    trigger = subject in ("event", "enrollment") and isinstance(workflow.trigger, EventTrigger)
    built = frames.build(
        _base(subject, workflow, catalog, zone, needs), needs, row_id="row_id",
        events=exp.Subquery(this=events), trigger=trigger,
    )  # fmt: skip
    values = [
        value
        for number, question in chosen
        for place, part in enumerate(question.parts)
        for value in _values(f"{number}_{place}", part)
    ]
    return exp.select(*values).from_(built.subquery("f"))


def _values(name: str, part: Part) -> Iterator[exp.Expr]:
    yield part.tree.copy().as_(f"v{name}")
    for number, (_, tree) in enumerate(part.operands):
        yield tree.copy().as_(f"o{name}_{number}")


def _contact_id() -> exp.Expr:
    return exp.cast(exp.Placeholder(this=CONTACT_ID), "text")


def _same_contact(table: str) -> exp.Expr:
    return exp.EQ(this=exp.column("contact_id", table=table), expression=_contact_id())


def _contact(catalog: Catalog, zone: str, needs: Needs) -> exp.Subquery:
    return frames.contact_rows(catalog, needs.contact_columns, zone).where(is_contact(catalog)).subquery("c")


def is_contact(catalog: Catalog) -> exp.Expr:
    """Whether a row `m` of the contact model is the contact's."""
    contact = catalog.contact
    place = frames.id_as_it_stands(contact.relation, contact.id, "m")
    return exp.EQ(this=place, expression=frames.id_in_model(_contact_id(), contact.relation, contact.id))


def _base(subject: Subject, workflow: Workflow, catalog: Catalog, zone: str, needs: Needs) -> exp.Select:
    contact = _contact(catalog, zone, needs)
    carried = [*(exp.column(f"c_{name}", table="c", quoted=True) for name in sorted(needs.contact_columns)),
               exp.column("tz", table="c")]  # fmt: skip
    match subject:
        case "contact":
            return exp.select("c.contact_id", exp.column("contact_id", table="c").as_("row_id"), *carried).from_(
                contact
            )
        case "enrollment":
            rows = exp.select("s.*", exp.column("enrollment_id", table="s").as_("row_id"), *carried,
                              *kept(needs.since_steps, needs.arms, needs.visits)).from_(f"{SCOPE} AS s")  # fmt: skip
            return rows.join(contact, on="c.contact_id = s.contact_id", join_type="left")
        case "event":
            newest = newest_event(workflow, catalog)
            rows = exp.select(
                "a.contact_id", "a.entry", exp.column("event_id", table="a").as_("entry_ref"),
                exp.column("event_time", table="a").as_("entry_at"), exp.column("event_id", table="a").as_("row_id"),
                *carried,
            ).from_(newest.subquery("a"))  # fmt: skip
            return rows.join(contact, on="c.contact_id = a.contact_id")
        case "row":
            rows = exp.select("r.*", exp.column("contact_id", table="r").as_("row_id"), *carried)
            return rows.from_(newest_row(workflow, catalog).subquery("r")).join(
                contact, on="c.contact_id = r.contact_id"
            )


def contact_events(catalog: Catalog) -> exp.Select:
    """The contact's rows of the events model, all columns."""
    return exp.select("m.*").from_(relation_table(catalog.events.relation, "m")).where(
        frames.is_of(catalog, _contact_id())
    )  # fmt: skip


def newest_event(workflow: Workflow, catalog: Catalog) -> exp.Select:
    """The contact's newest visible event that triggers the workflow: event_id, name, event_time, entry …"""
    names = workflow.trigger.names if isinstance(workflow.trigger, EventTrigger) else ()
    rows = frames.event_rows(catalog, {}, names=names, entry=names, of=_contact_id())
    return exp.select("n.*").from_(rows.subquery("n")).order_by("n.event_time DESC", "n.event_id DESC").limit(1)


def newest_row(workflow: Workflow, catalog: Catalog) -> exp.Select:
    """The contact's newest row of a model trigger: its columns as `r_<name>`, contact_id, entry_ref, entry_at."""
    trigger = workflow.trigger
    if not isinstance(trigger, ModelTrigger):
        raise TypeError(f"{workflow.workflow} is not triggered by rows of a model")
    relation = catalog.relations[model_name(trigger)]
    shape = EntryShape({name: str(relation.type_of(name)) for name in relation.columns}, relation=relation)
    scope = Scope(catalog, entry=shape)
    columns = [frames.utc(relation, name, "m").as_(f"r_{name}", quoted=True) for name in relation.columns]
    base = exp.select(*columns).from_(relation_table(relation, "m"))
    contact = exp.cast(compile_value(trigger.contact, scope).tree, "text")
    keyed = exp.select(
        "f.*", owner(catalog, contact).as_("contact_id"),
        exp.cast(compile_value(trigger.key, scope).tree, "text").as_("entry_ref"),
        exp.cast(compile_value(trigger.at, scope).tree, "timestamp").as_("entry_at"),
    ).from_(base.subquery("f"))  # fmt: skip
    rows = exp.select("n.*").from_(with_owner(keyed, catalog, contact).subquery("n")).where(_same_contact("n"))
    rows = rows.where(exp.LTE(this=exp.column("entry_at", table="n"), expression=tick_at()))
    return rows.order_by("n.entry_at DESC", "n.entry_ref DESC").limit(1)
