"""Checks a whole project offline: penstock.yaml, workflows, templates, their references; opens nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from compiler.catalog import Catalog
from compiler.check import Checked, Trust, check_templates, check_workflow
from compiler.condition import Scope, compile_condition
from compiler.errors import ConditionError, DefinitionError, Problem
from compiler.linter.across import Surroundings, lint_across
from destinations import REGISTRY, ConfigurationError
from flows.engine.clock import SystemClock
from flows.project import Project, find_project, load_project
from studio.schemas import write_schemas
from studio.selection import selected


@dataclass(frozen=True)
class Report:
    """What was found, and how much was looked at."""

    problems: tuple[Problem, ...]
    workflows: int
    steps: int
    conditions: int
    folder: Path

    @property
    def errors(self) -> int:
        """How many problems keep a workflow from being published."""
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        """How many lints there are."""
        return len(self.problems) - self.errors


def validate(
    project_dir: Path | None, target: str | None, *, trust: Trust = "sql", select: Collection[str] = ()
) -> Report:
    """Check a project on disk, broken penstock.yaml included.

    Raises:
        ProjectError: no project, or its files cannot be read; `select` names no workflow.
    """
    try:
        project = load_project(project_dir, target)
    except DefinitionError as error:
        return Report(error.problems, 0, 0, 0, find_project(project_dir))
    return check_project(project, trust, select)


def check_project(project: Project, trust: Trust = "sql", select: Collection[str] = ()) -> Report:
    """Check the definition files of a project against its catalog, and refresh the schemas for editors.

    Args:
        project: the project, read for a target.
        trust: allow-list level of conditions in files.
        select: workflows to look at; all of them and all templates when empty.

    Raises:
        ProjectError: E507 the columns of a mapped model are unknown; E508 `select` names no workflow.
    """
    chosen = selected([PurePosixPath(file).stem for file in project.workflow_files], select)
    definitions = project.definitions
    found = [problem for problem in definitions.problems if not select or PurePosixPath(problem.file).stem in chosen]
    found += _destination_problems(project)
    checked: list[Checked] = []
    try:
        catalog = project.catalog()
    except DefinitionError as error:
        found += error.problems
    else:
        write_schemas(project.folder, catalog)
        policy = project.settings.effective_policy
        if not select:
            found += _audience_problems(project, catalog, trust)
        documents = {name: document for name, document in definitions.workflows.items() if name in chosen}
        checked = [check_workflow(document, catalog, policy, trust) for document in documents.values()]
        found += [problem for outcome in checked for problem in outcome.problems]
        around = Surroundings(definitions.workflows, policy, catalog)
        sound = [d for d, outcome in zip(documents.values(), checked, strict=True) if not outcome.errors]
        found += [finding.problem for document in sound for finding in lint_across(document, around)]
        if not select:
            found += check_templates(definitions.templates.values(), catalog)
    return Report(
        tuple(_ordered(found)), len(chosen), sum(outcome.steps for outcome in checked),
        sum(outcome.conditions for outcome in checked), project.folder,
    )  # fmt: skip


def _ordered(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line, problem.column))


def _audience_problems(project: Project, catalog: Catalog, trust: Trust) -> Iterator[Problem]:
    """Named audiences that no condition may refer to, because they are refused themselves."""
    for name, text in project.settings.audiences.items():
        try:
            compile_condition(text, Scope(catalog, trust=trust))
        except ConditionError as error:
            yield project.file.condition_problem(("audiences", name), error)


def _destination_problems(project: Project) -> Iterator[Problem]:
    """What the destinations themselves say about their configuration; no secret is read, nothing is opened."""
    for name, config in project.settings.destinations.items():
        kind = REGISTRY.get(str(config.get("type")))
        if kind is None:
            continue  # the catalog reports an unknown type at its place
        try:
            kind.from_config(name, config, _no_secret, SystemClock().now)
        except ConfigurationError as error:
            yield project.file.problem(error.code, error.message, ("destinations", name), error.hint)


def _no_secret(name: str) -> str:
    raise KeyError(name)
