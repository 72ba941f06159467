"""W130: a step that the past of the warehouse leads nobody to; only a backtest can know."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from compiler.graph import flow
from compiler.linter.rule import Finding, Findings
from compiler.parser import Document


class NobodyCame(Findings):
    """no contact reached '{step}' in the backtest"""

    code = "W130"
    hint = "look at the conditions before it, or take a longer period"

    def check(self, document: Document, unreached: Collection[str]) -> Iterator[Finding]:
        """The steps that were not reached, without those inside of another one."""
        last: tuple[str | int, ...] = ()
        for node in flow(document.workflow).nodes:
            if node.id in unreached and (not last or node.path[: len(last)] != last):
                last = node.path
                yield self.finding(document, node.path, step=node.id)
