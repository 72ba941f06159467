"""W110: a branch whose answer changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.graph import flow
from compiler.linter.rule import Finding, Rule
from compiler.parser import Document
from compiler.workflow import BranchStep


class SameArms(Rule):
    """the branch '{step}' does the same in both arms, so its condition changes nothing"""

    code = "W110"
    hint = "remove the branch, or fill one arm"

    def check(self, document: Document) -> Iterator[Finding]:
        """Branches with equal arms; ids make arms different."""
        for node in flow(document.workflow).nodes:
            match node.step:
                case BranchStep() as branch if branch.then == branch.else_:
                    yield self.finding(document, node.path, step=node.id)
                case _:
                    pass
