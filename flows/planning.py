"""What an `apply` would change: the files against what a target runs, and the contacts in flight it concerns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compiler.diff import Difference, difference
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.publication import Change, Published, load_published, rehearse
from flows.runner import Runner
from flows.warehouse.base import Warehouse


@dataclass(frozen=True)
class WorkflowChange:
    """One workflow that would change.

    Attributes:
        change: what `apply` would write.
        before: the version that admits now, None for a new or retired one.
        difference: from that version to the file; None when there is nothing to compare.
        in_flight: step -> contacts that stand there in versions before; they are active.
    """

    change: Change
    before: int | None
    difference: Difference | None
    in_flight: Mapping[str, int] = field(default_factory=dict)

    @property
    def at_removed(self) -> int:
        """How many of them stand at a step that the new version does not have."""
        gone = self.difference.removed if self.difference is not None else frozenset()
        return sum(count for step, count in self.in_flight.items() if step in gone)


@dataclass(frozen=True)
class Planned:
    """All that an `apply` would change; `unchanged` counts the other workflows."""

    workflows: tuple[WorkflowChange, ...]
    others: tuple[Change, ...]
    unchanged: int

    @property
    def any(self) -> bool:
        """Whether anything would change."""
        return bool(self.workflows or self.others)


def planned(runner: Runner) -> Planned:
    """Compare the files of a project with what its target runs; nothing is written.

    Raises:
        DefinitionError: a definition is wrong and could not be published.
    """
    project = runner.project
    with runner.open() as warehouse:
        runner.check(warehouse)
        if read_meta(warehouse, project.state_schema) is None:
            names = sorted(project.definitions.workflows)
            new = tuple(WorkflowChange(Change("workflow", name, 1, "published"), None, None) for name in names)
            templates = tuple(Change("template", name, None, "published") for name in project.definitions.templates)
            return Planned(new, (Change("config", "penstock.yaml", 1, "published"), *templates), 0)
        published = load_published(warehouse, project.state_schema)
        changes = rehearse(warehouse, project.state_schema, project, runner.clock)
        standing = _standing(warehouse, project.state_schema)
    workflows = tuple(
        _changed(change, runner, published, standing.get(change.name, {}))
        for change in changes if change.kind == "workflow"
    )  # fmt: skip
    touched = {change.change.name for change in workflows}
    others = tuple(change for change in changes if change.kind != "workflow")
    return Planned(workflows, others, len(project.definitions.workflows.keys() - touched))


def _changed(change: Change, runner: Runner, published: Published, in_flight: Mapping[str, int]) -> WorkflowChange:
    running = next((v for v in published.versions if v.workflow == change.name and v.current), None)
    document = runner.project.definitions.workflows.get(change.name)
    if running is None or document is None:
        return WorkflowChange(change, None, None, in_flight)
    return WorkflowChange(change, running.version, difference(running.definition, document.workflow), in_flight)


def _standing(warehouse: Warehouse, schema: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in warehouse.rows(StateTables(schema).statement(warehouse, _STANDING)):
        found.setdefault(row["workflow"], {})[row["position"]] = row["contacts"]
    return found


_STANDING = """
    SELECT workflow, position, count(*) AS contacts FROM enrollments WHERE exit IS NULL
    GROUP BY workflow, position ORDER BY workflow, position
"""
