"""W111: a key that has no effect where it stands."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.linter.rule import Finding, Fix, Rule
from compiler.parser import Document
from compiler.workflow import AudienceTrigger


class LeaveWithoutAudience(Rule):
    """`exit_on_leave` has no effect: only an audience trigger can be left"""

    code = "W111"
    hint = "remove it, or use `exit_when:`"

    def check(self, document: Document) -> Iterator[Finding]:
        """Workflows without an audience trigger that set exit_on_leave."""
        workflow = document.workflow
        if workflow.exit_on_leave and not isinstance(workflow.trigger, AudienceTrigger):
            path = ("exit_on_leave",)
            yield self.finding(document, path, fix=Fix(path, None, "remove exit_on_leave"))
