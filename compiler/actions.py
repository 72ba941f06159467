"""Actions of a plan: where each goes, what it carries, and what the tick decides about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from sqlglot import exp

from compiler.advance import StepParts
from compiler.catalog import Catalog, DestinationInfo, Role
from compiler.columns import arm_column, visit_column
from compiler.content import snippet_reads
from compiler.errors import DefinitionError, Problem, nearest
from compiler.graph import FlowNode, YamlPath
from compiler.lookup import frame, seconds
from compiler.messages import INTERNAL, address, channels_of, chosen, first_of, skips, template_of
from compiler.plan import Action, Kind
from compiler.workflow import (
    ActionStep,
    CampaignStep,
    CrmStep,
    EmitStep,
    EnrollStep,
    MessageStep,
    NotifyStep,
    ScoreStep,
    SetStep,
    TagStep,
    TaskStep,
    UnenrollStep,
    UntagStep,
    WebhookStep,
)

ROLES: dict[str, Role] = {
    "email": "email",
    "sms": "sms",
    "push": "push",
    "notify": "notify",
    "task": "task",
    "crm": "crm",
    "webhook": "webhook",
}
SIMULATED = "simulated"
"""The destination of every action in a simulation, whose case names no destinations."""


@dataclass(frozen=True)
class Texts:
    """What an action's texts read: contact columns, whether the entry; `group`: the message's subscription group."""

    contact: frozenset[str] = frozenset()
    entry: bool = False
    group: str | None = None


def what(step: ActionStep, step_id: str) -> str:
    """The word after the kind in the log: template, tag, field, target, title, object or webhook."""
    match step:
        case MessageStep():
            return template_of(step, step_id) or ""
        case TagStep():
            return step.tag
        case UntagStep():
            return step.untag
        case SetStep():
            return ",".join(step.set)
        case ScoreStep():
            return ",".join(step.score)
        case CampaignStep():
            return step.campaign.name
        case EmitStep():
            return step.emit
        case EnrollStep():
            return step.enroll
        case UnenrollStep():
            return step.unenroll
        case TaskStep():
            return step.task.title
        case NotifyStep():
            return step.notify
        case CrmStep():
            return step.crm.object
        case WebhookStep():
            return step.webhook
        case _:
            return ""


def message_texts(step: ActionStep, step_id: str, catalog: Catalog) -> Texts:
    """Names that the step's template and texts read."""
    contact: set[str] = set()
    entry = False
    group = step.group if isinstance(step, MessageStep) else None
    named = template_of(step, step_id)
    if named is not None:
        template = catalog.templates.get(named)
        if template is not None:
            contact |= template.contact
            entry = bool(template.entry)
            group = group or template.group
    for text in _snippets(step):
        try:
            reads = snippet_reads(text)
        except DefinitionError:
            continue  # reported by Routing.check with its place
        contact |= {read.name for read in reads if read.root == "contact"}
        entry = entry or any(read.root == "entry" for read in reads)
    known = {*catalog.contact.relation.columns}
    return Texts(frozenset(contact & known), entry, group)


def _snippets(step: ActionStep) -> list[str]:
    match step:
        case TaskStep():
            return [text for text in (step.task.title, step.task.body, step.task.owner) if text]
        case NotifyStep():
            return [step.text] if step.text else []
        case MessageStep():
            return [step.subject] if step.subject else []
        case _:
            return []


class Routing:
    """Finds the destination of each outward action (architecture §7) and reports references that lead nowhere."""

    def __init__(self, catalog: Catalog, problems: list[Problem]) -> None:
        self._catalog = catalog
        self._problems = problems

    def resolve(self, node: FlowNode, channel: str | None = None) -> str | None:
        """The name of the destination, None for internal steps or after a problem was reported.

        `channel`: of a message that may go out on several.
        """
        step = node.step
        role = ROLES.get(channel or node.kind)
        if role is None or not isinstance(step, ActionStep):
            return None
        if self._catalog.open_names and not self._catalog.destinations:
            return SIMULATED
        self._check(node, step)
        wanted, key = step.to, "to"
        if isinstance(step, NotifyStep) and "." in step.notify:
            wanted, key = step.notify.split(".", 1)[0], "notify"
        if isinstance(step, WebhookStep) and wanted is None:
            wanted, key = step.webhook, "webhook"
        fitting = {d.name: d for d in self._catalog.destinations.values() if role in d.roles}
        if wanted is not None and wanted not in fitting:
            self._add(
                "E405", f"no destination '{wanted}' that takes {role}", (*node.path, key), nearest(wanted, fitting)
            )
            return None
        found = wanted if wanted is not None else self._default(node, role, list(fitting.values()))
        if found is not None and isinstance(step, CrmStep):
            self._check_object(node, step.crm.object, fitting[found])
        return found

    def _check_object(self, node: FlowNode, name: str, destination: DestinationInfo) -> None:
        if destination.objects is not None and name not in destination.objects:
            self._add("E407", f"{destination.name} takes no CRM object '{name}'", (*node.path, "crm", "object"),
                      f"what it takes: {', '.join(sorted(destination.objects))}")  # fmt: skip

    def _default(self, node: FlowNode, role: Role, fitting: list[DestinationInfo]) -> str | None:
        marked = [destination for destination in fitting if destination.default] or fitting
        if len(marked) == 1:
            return marked[0].name
        path = (*node.path, node.kind)
        if not fitting:
            self._add("E405", f"no destination takes {role}", path, "add one to penstock.yaml under destinations")
        else:
            names = ", ".join(sorted(destination.name for destination in fitting))
            self._add("E406", f"several destinations take {role}: {names}", path,
                      "say `to:` on the step, or mark one with `default: true` in penstock.yaml")  # fmt: skip
        return None

    def _check(self, node: FlowNode, step: ActionStep) -> None:
        for text in _snippets(step):
            try:
                reads = snippet_reads(text)
            except DefinitionError as error:
                self._add("E401", error.problems[0].message, (*node.path, node.kind), error.problems[0].hint)
                continue
            known = self._catalog.contact.relation.columns
            for read in reads:
                if read.root == "contact" and read.name not in known and not self._catalog.open_names:
                    self._add(
                        "E402",
                        f"'contact.{read.name}' is undefined",
                        (*node.path, node.kind),
                        nearest(read.name, known),
                    )
        named = template_of(step, node.id)
        if isinstance(step, MessageStep) and named is not None and not self._catalog.open_names:
            self._check_template(node, step, named)

    def _check_template(self, node: FlowNode, step: MessageStep, name: str) -> None:
        template = self._catalog.templates.get(name)
        if template is None:
            self._add("E404", f"no template '{name}'", (*node.path, node.kind), nearest(name, self._catalog.templates))
            return
        for read in sorted(template.steps):
            self._add("E900", f"template '{name}' reads steps.{read}, which this version does not provide",
                      (*node.path, node.kind), "pass it: `with: {sent: steps.hello.sent_at}`")  # fmt: skip
        owned = set(self._catalog.contact.fields) - set(self._catalog.contact.relation.columns)
        for read in sorted(template.contact & owned):
            self._add("E900", f"template '{name}' reads contact.{read}, a field that Penstock owns",
                      (*node.path, node.kind), f"pass it: `with: {{{read}: contact.{read}}}`")  # fmt: skip
        for given in step.with_:
            if given not in template.variables:
                self._add("E403", f"template '{name}' declares no variable '{given}'", (*node.path, "with", given),
                          nearest(given, template.variables))  # fmt: skip
        for missing in sorted(template.required - set(step.with_)):
            self._add("E403", f"template '{name}' needs the variable '{missing}'", (*node.path, node.kind),
                      f"add `with: {{{missing}: …}}` to the step")  # fmt: skip

    def _add(self, code: str, message: str, path: YamlPath, hint: str = "") -> None:
        self._problems.append(Problem(code, message, path=path, hint=hint))


def action_rows(node: FlowNode, parts: StepParts, stage: str, routing: Routing, *, texts: Texts) -> list[Action]:
    """The actions of a step: one, or for a message one for each channel that it may go out on."""
    step = node.step
    if not isinstance(step, MessageStep):
        return [_action_row(node, parts, stage, routing, texts=texts)]
    return [
        _action_row(node, parts, stage, routing, texts=texts, channel=channel,
                    only=chosen(step, channel, parts.require, parts.group))
        for channel in channels_of(step)
    ]  # fmt: skip


def _action_row(
    node: FlowNode, parts: StepParts, stage: str, routing: Routing, texts: Texts, channel: str | None = None,
    only: exp.Expr | None = None,
) -> Action:  # fmt: skip
    """The action of a step; its rows are those of the stage in which the step was reached."""
    step = node.step
    if not isinstance(step, ActionStep):
        raise TypeError(f"{node.kind} is no action")
    reached = exp.column(f"a{node.index}", table="f")
    columns = [
        frame("log_at"), frame("enrollment_id"), frame("contact_id"), frame("key"),
        exp.Literal.string(node.id).as_("step"), exp.Literal.string(channel or node.kind).as_("kind"),
        exp.Literal.string(what(step, node.id)).as_("what"), reached.copy().as_("due"),
        _outcome(node, step, parts).as_("outcome"),
        _payload(node, step, parts, texts, channel).as_("payload"),
        _expires_at(step, reached).as_("expires_at"), _visit(node, parts).as_("visit"),
    ]  # fmt: skip
    arrived: exp.Expr = exp.Not(this=exp.Is(this=reached.copy(), expression=exp.Null()))
    if only is not None:
        arrived = exp.and_(arrived, exp.paren(only))
    kind = cast(Kind, channel or node.kind)
    return Action(
        index=node.index, step=node.id, kind=kind, word=node.kind, what=what(step, node.id),
        destination=routing.resolve(node, channel), template=template_of(step, node.id),
        transactional=isinstance(step, MessageStep) and step.transactional,
        rows=exp.select(*columns).from_(f"{stage} AS f").where(arrived), path=node.path,
        repeated=parts.repeated,
    )  # fmt: skip


def split_row(node: FlowNode, parts: StepParts, stage: str) -> Action:
    """The arms that enrollments took at a split, as rows of the log."""
    reached = exp.column(f"a{node.index}", table="f")
    columns = [
        frame("log_at"), frame("enrollment_id"), frame("contact_id"), frame("key"),
        exp.Literal.string(node.id).as_("step"), exp.Literal.string("split").as_("kind"),
        exp.column(arm_column(node.id), table="f", quoted=True).as_("what"), reached.copy().as_("due"),
        exp.Literal.string("ok").as_("outcome"), exp.cast(exp.null(), "json").as_("payload"),
        exp.cast(exp.null(), "timestamp").as_("expires_at"), _visit(node, parts).as_("visit"),
    ]  # fmt: skip
    arrived = exp.Not(this=exp.Is(this=reached.copy(), expression=exp.Null()))
    return Action(
        index=node.index, step=node.id, kind="split", word="split", what="", destination=None, template=None,
        transactional=False, rows=exp.select(*columns).from_(f"{stage} AS f").where(arrived), path=node.path,
        repeated=parts.repeated,
    )  # fmt: skip


def _visit(node: FlowNode, parts: StepParts) -> exp.Expr:
    """Which visit of the step this is."""
    return exp.column(visit_column(node.id), table="f", quoted=True) if parts.repeated else exp.Literal.number(1)


def _outcome(node: FlowNode, step: ActionStep, parts: StepParts) -> exp.Expr:
    if parts.holding:
        return frame(f"o{node.index}")
    test = exp.column(f"k{node.index}", table="f") if parts.test is not None else None
    reached = exp.column(f"a{node.index}", table="f")
    reasons = skips(step, reached, test=test, require=parts.require, group=parts.group)
    return first_of(reasons, "ok" if node.kind in INTERNAL else "decided")


def _expires_at(step: ActionStep, reached: exp.Expr) -> exp.Expr:
    if step.expires_after is None:
        return exp.cast(exp.null(), "timestamp")
    return exp.Add(this=reached.copy(), expression=seconds(step.expires_after.elapsed.total_seconds()))


def _payload(node: FlowNode, step: ActionStep, parts: StepParts, texts: Texts, channel: str | None = None) -> exp.Expr:
    if isinstance(step, TagStep | UntagStep | UnenrollStep):
        return exp.cast(exp.null(), "json")
    values = [(key, exp.column(f"v{node.index}_{i}", table="f")) for i, key in enumerate(parts.values)]
    match step:
        case SetStep():
            return _object((key, exp.cast(value, "text")) for key, value in values)
        case ScoreStep():
            return _object((key, exp.cast(value, "double")) for key, value in values)
        case EmitStep() | EnrollStep():
            return _object(values)
        case CampaignStep():
            return _object([("member", exp.convert(step.campaign.add is not None))])
        case _:
            pass
    members: list[tuple[str, exp.Expr]] = [
        ("contact", _object((name, frame(f"c_{name}")) for name in sorted(texts.contact))),
        ("address", address(channel or "email")),
        ("on_error", exp.Literal.string(step.on_error)),
    ]
    if texts.entry:
        moment = _object([("at", frame("entry_at"))])
        members.append(("entry", exp.Anonymous(this="json_merge_patch", expressions=[frame("entry"), moment])))
    if values:
        members.append(("with" if isinstance(step, MessageStep) else "values", _object(values)))
    static = _static(step)
    if channel is not None and channel != node.kind:
        static["key"] = node.kind
    if texts.group is not None:
        static["group"] = texts.group
    if static:
        members.append(("step", _object((key, _literal(value)) for key, value in static.items())))
    return _object(members)


def _static(step: ActionStep) -> dict[str, Any]:
    match step:
        case TaskStep():
            task = step.task
            return {"title": task.title, "owner": task.owner, "body": task.body, "due": task.due}
        case NotifyStep():
            return {"target": step.notify.split(".", 1)[-1], "text": step.text}
        case CrmStep():
            return {"object": step.crm.object}
        case MessageStep() if step.subject is not None:
            return {"subject": step.subject}
        case _:
            return {}


def _literal(value: object) -> exp.Expr:
    return exp.null() if value is None else exp.Literal.string(str(value))


def _object(members: Iterable[tuple[str, exp.Expr]]) -> exp.Expr:
    pairs: list[exp.Expr] = []
    for name, value in members:
        pairs += [exp.Literal.string(name), value]
    return exp.Anonymous(this="json_object", expressions=pairs)
