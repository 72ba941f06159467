"""W101: a branch asks about a message that has only just been decided."""

from __future__ import annotations

import re
from collections.abc import Iterator

from compiler.graph import Flow, FlowNode, flow
from compiler.linter.rule import Finding, Rule
from compiler.parser import Document
from compiler.workflow import BranchStep, MessageStep, SwitchStep, WaitForStep, WaitStep, WaitUntilStep, WindowStep
from compiler.yaml import YamlPath

_ENGAGEMENT = re.compile(r"\b(opened|clicked|replied|bounced|delivered)\s*\(\s*'([A-Za-z0-9_-]+)'\s*\)", re.IGNORECASE)


class AskedTooEarly(Rule):
    """{function}('{step}') is checked at once and cannot be true yet; use `wait_for:`"""

    code = "W101"
    hint = "write `wait_for: {function}('{step}')` with `within: 2d`"

    def check(self, document: Document) -> Iterator[Finding]:
        """Branches that every path reaches from the message without waiting in between."""
        graph = flow(document.workflow)
        for node in graph.nodes:
            for path, text in _questions(node):
                for match in _ENGAGEMENT.finditer(text):
                    sent = graph.named(match[2])
                    if sent is not None and isinstance(sent.step, MessageStep) and _at_once(graph, sent, node):
                        yield self.finding(document, path, function=match[1].lower(), step=match[2])


def _questions(node: FlowNode) -> list[tuple[YamlPath, str]]:
    match node.step:
        case BranchStep() as branch:
            return [((*node.path, "if"), branch.if_)]
        case SwitchStep() as switch:
            return [((*node.path, "switch", number, "if"), arm.if_) for number, arm in enumerate(switch.switch)]
        case _:
            return []


def _at_once(graph: Flow, sent: FlowNode, asked: FlowNode) -> bool:
    """Whether no step on any path from the message to the question takes time."""
    before = graph.before(asked.index)
    if sent.index not in before:
        return False
    between = before & graph.after(sent.index)
    waits = (WaitStep, WaitUntilStep, WindowStep, WaitForStep)
    return not any(isinstance(graph.nodes[index].step, waits) for index in between)
