"""What an `apply` would change: the files against what a target runs, and the contacts in flight it concerns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from compiler.diff import Difference, Moves, difference, moves
from compiler.errors import Problem
from compiler.linter.lost_place import LostPlace
from compiler.parser import Document
from flows.forecasting import Forecast, forecast
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.publication import Change, InFlight, Published, load_published, rehearse
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
        moves: where those go if they migrate; None for a retired workflow.
        warnings: places that they would lose by migrating.
    """

    change: Change
    before: int | None
    difference: Difference | None
    in_flight: Mapping[str, int] = field(default_factory=dict)
    moves: Moves | None = None
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Planned:
    """All that an `apply` would change; `unchanged` counts the other workflows; `forecast` where one was wanted."""

    workflows: tuple[WorkflowChange, ...]
    others: tuple[Change, ...]
    unchanged: int
    forecast: Forecast | None = None

    @property
    def any(self) -> bool:
        """Whether anything would change."""
        return bool(self.workflows or self.others)


def planned(runner: Runner, *, ahead: bool = False, in_flight: InFlight = "pin") -> Planned:
    """Compare the files of a project with what its target runs; nothing is written.

    Args:
        runner: of the target.
        ahead: also what would happen in the 24 hours after an `apply`.
        in_flight: what the forecast supposes of contacts in flight.

    Raises:
        DefinitionError: a definition is wrong and could not be published.
    """
    project = runner.project
    with runner.open() as warehouse:
        catalog = runner.check(warehouse)
        ahead_of = forecast(warehouse, project, catalog, runner.clock, in_flight) if ahead else None
        if read_meta(warehouse, project.state_schema) is None:
            names = sorted(project.definitions.workflows)
            new = tuple(
                WorkflowChange(Change("workflow", name, 1, "published", new=True), None, None) for name in names
            )
            templates = tuple(
                Change("template", name, None, "published", new=True) for name in project.definitions.templates
            )
            return Planned(new, (Change("config", "penstock.yaml", 1, "published", new=True), *templates), 0, ahead_of)
        published = load_published(warehouse, project.state_schema)
        changes = rehearse(warehouse, project.state_schema, project, runner.clock)
        workflows = compared(warehouse, published, changes, project.definitions.workflows)
    touched = {change.change.name for change in workflows}
    others = tuple(change for change in changes if change.kind != "workflow")
    return Planned(workflows, others, len(project.definitions.workflows.keys() - touched), ahead_of)


def concerned(runner: Runner, changes: Iterable[Change]) -> tuple[WorkflowChange, ...]:
    """The contacts in flight that an `apply`, which just wrote the changes, concerns."""
    with runner.open() as warehouse:
        published = load_published(warehouse, runner.project.state_schema)
        return compared(warehouse, published, changes, runner.project.definitions.workflows)


def compared(
    warehouse: Warehouse, published: Published, changes: Iterable[Change], documents: Mapping[str, Document]
) -> tuple[WorkflowChange, ...]:
    """The changed workflows beside what was `published` before, and the contacts in flight they concern."""
    standing = _standing(warehouse, published.schema)
    return tuple(
        _changed(change, published, documents.get(change.name), standing)
        for change in changes if change.kind == "workflow"
    )  # fmt: skip


def _changed(
    change: Change,
    published: Published,
    document: Document | None,
    standing: Mapping[tuple[str, int], Mapping[str, int]],
) -> WorkflowChange:
    versions = [version for version in published.versions if version.workflow == change.name]
    running = next((version for version in versions if version.current), None)
    in_flight: Counter[str] = Counter()
    going, warnings = Moves(), []
    for version in versions:
        there = standing.get((change.name, version.version), {})
        in_flight.update(there)
        if document is not None and there:
            going += moves(version.definition, document.workflow, there)
            warnings += [found.problem for found in LostPlace().check(document, version.definition, there)]
    counts = dict(sorted(in_flight.items()))
    if document is None:
        return WorkflowChange(change, None, None, counts)
    changed = difference(running.definition, document.workflow) if running is not None else None
    before = running.version if running is not None else None
    return WorkflowChange(change, before, changed, counts, going, tuple(dict.fromkeys(warnings)))


def _standing(warehouse: Warehouse, schema: str) -> dict[tuple[str, int], dict[str, int]]:
    found: dict[tuple[str, int], dict[str, int]] = {}
    for row in warehouse.rows(StateTables(schema).statement(warehouse, _STANDING)):
        found.setdefault((row["workflow"], row["version"]), {})[row["position"]] = row["contacts"]
    return found


_STANDING = """
    SELECT workflow, version, position, count(*) AS contacts FROM enrollments WHERE exit IS NULL
    GROUP BY workflow, version, position ORDER BY workflow, version, position
"""
