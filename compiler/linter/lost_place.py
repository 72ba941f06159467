"""W123: contacts in flight stand at a step whose id comes from its position, and an edit moved the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler.diff import said
from compiler.graph import flow
from compiler.linter.rule import Finding, Findings, Fix
from compiler.parser import Document
from compiler.workflow import Workflow


class LostPlace(Findings):
    """{contacts} at '{old}', an id that comes from the step's position; the edit makes this step '{new}'"""

    code = "W123"
    hint = "give the step `id: {old}`, and they keep their place when they migrate"

    def check(self, document: Document, before: Workflow, standing: Mapping[str, int]) -> Iterator[Finding]:
        """Steps of the version before (`standing`: contacts at each) that stand under another id now.

        `redirect` says where they go, so nothing is said about those that it names and that are gone.
        """
        workflow = document.workflow
        old = {node.id: node.step for node in flow(before).nodes}
        new = {node.id: node for node in flow(workflow).nodes}
        for step_id, contacts in standing.items():
            step = old.get(step_id)
            if step is None or step.id is not None or not contacts:
                continue
            same = new.get(step_id)
            if (same is not None and said(same.step) == said(step)) or (same is None and step_id in workflow.redirect):
                continue
            moved = next((n for n in new.values() if n.id not in old and said(n.step) == said(step)), None)
            moved = moved or next((n for n in new.values() if n.step.id is None and said(n.step) == said(step)), None)
            if moved is not None:
                stand = "1 contact stands" if contacts == 1 else f"{contacts:,} contacts stand"
                path = moved.path
                fix = Fix((*path, "id"), step_id, f"id: {step_id}") if moved.step.id is None else None
                yield self.finding(document, path, fix=fix, contacts=stand, old=step_id, new=moved.id)
