"""Lints over several workflows, and over a workflow beside the project's policy and contact model."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compiler.catalog import Catalog
from compiler.graph import FlowNode, flow
from compiler.linter.rule import Finding, Findings
from compiler.parser import Document
from compiler.workflow import (
    AudienceTrigger,
    EmitStep,
    EnrollStep,
    EventTrigger,
    MessageStep,
    Policy,
    WaitForStep,
    WaitStep,
    WaitUntilStep,
    WindowStep,
)

_WAITS = (WaitStep, WaitUntilStep, WindowStep, WaitForStep)


@dataclass(frozen=True)
class Surroundings:
    """What a workflow is linted beside: the project's workflows by name, its policy, its catalog."""

    documents: Mapping[str, Document]
    policy: Policy
    catalog: Catalog


class RuleAcross(Findings):
    """A rule that looks beyond one workflow."""

    @abstractmethod
    def check(self, document: Document, around: Surroundings) -> Iterator[Finding]:
        """The findings in one workflow of the project."""


class TriggerEachOther(RuleAcross):
    """this step starts '{other}', which starts '{workflow}' again; only the entry cap ends such a circle"""

    code = "W120"
    hint = "let one of the two not start the other, or lower `entry: {{cap: …}}`"

    def check(self, document: Document, around: Surroundings) -> Iterator[Finding]:
        """Steps that start a workflow from which a chain of such steps leads back."""
        name = document.workflow.workflow
        for node, other in _starts(document, around.documents):
            if name in _started_by(other, around.documents):
                yield self.finding(document, node.path, workflow=name, other=other)


_SHOWN = 3


class OverlappingSends(RuleAcross):
    """{others} sends {channel} on the same event before any wait, so contacts get both at once"""

    code = "W121"
    hint = "give one of them a wait, or set a frequency `cap` in the policy of penstock.yaml"

    def check(self, document: Document, around: Surroundings) -> Iterator[Finding]:
        """First messages of two workflows with a common event, unless a frequency cap holds one of them back."""
        if around.policy.cap is not None or document.workflow.policy.cap is not None:
            return
        mine, events = _first_messages(document), _events(document)
        others: dict[int, list[str]] = {}
        for name, other in sorted(around.documents.items()) if mine and events else ():
            if name <= document.workflow.workflow or not events & _events(other):
                continue
            theirs = {node.kind for node in _first_messages(other)}
            same = next((place for place, node in enumerate(mine) if node.kind in theirs), None)
            if same is not None:
                others.setdefault(same, []).append(name)
        for place, names in others.items():  # one finding for all of them: fifty workflows are a thousand pairs
            yield self.finding(document, mine[place].path, others=_listed(names), channel=mine[place].kind)


class NoConsentAsked(RuleAcross):
    """nothing asks for `contact.{column}` before this {channel}, though the contact model has that column"""

    code = "W122"
    hint = "set `policy: {{require: {{{channel}: {column}}}}}`, or ask for it in the audience"

    def check(self, document: Document, around: Surroundings) -> Iterator[Finding]:
        """Messages of audience workflows without a condition over the consent column of their channel."""
        workflow = document.workflow
        if not isinstance(workflow.trigger, AudienceTrigger):
            return
        require = workflow.policy.require if "require" in workflow.policy.model_fields_set else around.policy.require
        for node in flow(workflow).nodes:
            step, column = node.step, f"{node.kind}_consent"
            if not isinstance(step, MessageStep) or step.transactional:
                continue
            if column not in around.catalog.contact.relation.columns:
                continue
            asked = [require] if isinstance(require, str) else list((require or {}).values())
            given = isinstance(require, str) or node.kind in (require or {})
            texts = [workflow.trigger.audience, step.if_ or "", *asked]
            if not given and not any(re.search(rf"\b{column}\b", text) for text in texts):
                yield self.finding(document, node.path, channel=node.kind, column=column)


RULES_ACROSS: tuple[RuleAcross, ...] = (TriggerEachOther(), OverlappingSends(), NoConsentAsked())


def lint_across(document: Document, around: Surroundings, rules: Sequence[RuleAcross] = RULES_ACROSS) -> list[Finding]:
    """All findings of the rules in one workflow beside the others, in the order of their places."""
    found = [finding for rule in rules for finding in rule.check(document, around)]
    return sorted(found, key=lambda finding: (finding.problem.line, finding.problem.column, finding.problem.code))


def _listed(names: Sequence[str]) -> str:
    """The first of the names, and how many there are beside them; one that each of them does something follows."""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    if len(names) == 1:
        return shown
    return f"each of {shown}" if len(names) <= _SHOWN else f"each of {shown} and {len(names) - _SHOWN} more"


def _events(document: Document) -> set[str]:
    trigger = document.workflow.trigger
    return set(trigger.names) if isinstance(trigger, EventTrigger) else set()


def _starts(document: Document, documents: Mapping[str, Document]) -> Iterator[tuple[FlowNode, str]]:
    """The steps of a workflow that start another one (or itself), with that one's name."""
    for node in flow(document.workflow).nodes:
        match node.step:
            case EnrollStep() as step if step.enroll in documents:
                yield node, step.enroll
            case EmitStep() as step:
                yield from ((node, name) for name, other in documents.items() if step.emit in _events(other))
            case _:
                pass


def _started_by(name: str, documents: Mapping[str, Document]) -> set[str]:
    """Every workflow that a chain of starts from this one reaches, itself included."""
    reached, queue = {name}, [name]
    while queue:
        for _, other in _starts(documents[queue.pop()], documents):
            if other not in reached:
                reached.add(other)
                queue.append(other)
    return reached


def _first_messages(document: Document) -> list[FlowNode]:
    """The messages that a contact can get in the tick of its entry."""
    graph = flow(document.workflow)
    found = []
    for node in graph.nodes:
        message = isinstance(node.step, MessageStep) and not node.step.transactional
        if message and not any(isinstance(graph.nodes[index].step, _WAITS) for index in graph.before(node.index)):
            found.append(node)
    return found
