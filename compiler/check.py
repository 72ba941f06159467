"""A workflow file and its catalog -> everything that is wrong with it, each problem at its very words.

The checks of parser, graph, planner and linter in one place, for whoever must say whether a workflow can be published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from compiler.allowlist import Trust
from compiler.catalog import Catalog
from compiler.content import Template, undefined_columns
from compiler.errors import Problem
from compiler.graph import Flow, check, flow
from compiler.linter import lint
from compiler.parser import Document, unsupported
from compiler.planner import Settings, problems
from compiler.workflow import BaseStep, Policy, SwitchStep, Workflow
from compiler.yaml import YamlPath

__all__ = ["Checked", "Trust", "check_templates", "check_workflow", "condition_texts", "step_references"]

_UNPLANNABLE = frozenset({"E301", "E302"})
_STRING = r"'((?:[^']|'')*)'"
_REFERENCES = (
    re.compile(rf"\b(?:opened|clicked|replied|bounced|delivered)\s*\(\s*{_STRING}", re.IGNORECASE),
    re.compile(rf"\bsince\s*=>\s*{_STRING}", re.IGNORECASE),
    re.compile(r"\bsteps\.([A-Za-z_][\w-]*)\.", re.IGNORECASE),
)
_RELATIVE = frozenset({"entry", "step"})


@dataclass(frozen=True)
class Checked:
    """The outcome for one workflow: problems in the order of their places, and how much was looked at."""

    problems: tuple[Problem, ...]
    steps: int
    conditions: int

    @property
    def errors(self) -> int:
        """How many problems keep the workflow from being published."""
        return sum(problem.severity == "error" for problem in self.problems)


def check_workflow(document: Document, catalog: Catalog, policy: Policy, trust: Trust = "sql") -> Checked:
    """Look at one parsed workflow: shape, conditions, destinations, templates' variables, lints.

    Args:
        document: the workflow and its places.
        catalog: every name it may use.
        policy: the project's policy, under the workflow's own.
        trust: the allow-list level of its conditions.
    """
    graph = flow(document.workflow)
    texts = list(condition_texts(document.workflow, graph))
    known = {node.id for node in graph.nodes}
    # A step that does not exist is reported by the condition itself, at its very words.
    references = [(path, step) for path, text in texts for step in step_references(text) if step in known]
    shape = check(document.workflow, references)
    later = unsupported(document)
    found = [*(document.located(problem) for problem in shape), *later]
    if not later and not any(problem.code in _UNPLANNABLE for problem in shape):
        refused = problems(document.workflow, catalog, Settings(policy, trust))
        found += [_placed(document, problem) for problem in refused]
    if not found:
        found += [finding.problem for finding in lint(document)]
    ordered = sorted(dict.fromkeys(found), key=lambda problem: (problem.file, problem.line, problem.column))
    return Checked(tuple(ordered), len(graph.nodes), len(texts))


def check_templates(templates: Iterable[Template], catalog: Catalog) -> list[Problem]:
    """The contact columns that templates read and the contact model does not have (E402)."""
    columns = {*catalog.contact.relation.columns, *catalog.contact.fields}
    return [problem for template in templates for problem in undefined_columns(template, "contact", columns)]


def condition_texts(workflow: Workflow, graph: Flow) -> Iterator[tuple[YamlPath, str]]:
    """Every SQL text of a workflow with its path: trigger, key, goals, exits, branches, guards and waits."""
    trigger = workflow.trigger.model_dump(by_alias=True)
    yield from ((("trigger", key), trigger[key]) for key in ("where", "audience") if trigger.get(key))
    if workflow.entry.key is not None:
        yield ("entry", "key"), workflow.entry.key
    yield from ((("goals", number, "when"), goal.when) for number, goal in enumerate(workflow.goals))
    yield from ((("exit_when", number), text) for number, text in enumerate(workflow.exit_when))
    for node in graph.nodes:
        yield from ((node.path + path, text) for path, text in _step_texts(node.step))


def _step_texts(step: BaseStep) -> Iterator[tuple[YamlPath, str]]:
    for key, name in (("if", "if_"), ("wait_for", "wait_for"), ("wait_until", "wait_until")):
        text = getattr(step, name, None)
        if isinstance(text, str):
            yield (key,), text
    if isinstance(step, SwitchStep):
        yield from ((("switch", number, "if"), arm.if_) for number, arm in enumerate(step.switch))


def step_references(text: str) -> list[str]:
    """The steps that a condition names: `opened('x')`, `since => 'x'`, `steps.x.…`."""
    return [
        match[1].replace("''", "'")
        for pattern in _REFERENCES
        for match in pattern.finditer(text)
        if match[1] not in _RELATIVE
    ]


def _placed(document: Document, problem: Problem) -> Problem:
    """A problem of the planner at its place: in a condition `column` is the offset of the very word."""
    if problem.code.startswith("E2"):
        return problem.at(*document.source.spot(problem.path, problem.column))
    return document.located(problem)
