"""The exposures file of a project: what each workflow reads, so that `dbt docs` ends at the people written to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from compiler.exposure import Drift, drift, exposure, render_exposures
from compiler.plan import Plan
from compiler.workflow import Workflow
from flows.mapping import references
from flows.project import Project

NAME = "penstock_exposures.yml"
_SCORE = re.compile(r"\bscore\s*\(\s*'([^']+)'", re.IGNORECASE)
_AUDIENCE = re.compile(r"\bin_audience\s*\(\s*'([^']+)'", re.IGNORECASE)


def exposures_file(project: Project) -> Path:
    """Where the file stands: in the first folder of models."""
    return project.folder / project.dbt.model_paths[0] / NAME


def exposures(project: Project, plans: Iterable[tuple[Workflow, Plan]]) -> list[dict[str, Any]]:
    """The exposure of each workflow."""
    return [exposure(workflow, sorted(_read(project, plan))) for workflow, plan in plans]


def exposures_drift(project: Project, wanted: Iterable[dict[str, Any]]) -> Drift:
    """How the file on disk differs from what it should hold.

    Raises:
        DefinitionError: the file is no file of exposures.
    """
    file = exposures_file(project)
    text = file.read_text(encoding="utf-8") if file.is_file() else None
    return drift(text, wanted, file.relative_to(project.folder).as_posix())


def write_exposures(project: Project, wanted: Iterable[dict[str, Any]]) -> Path:
    """Write the file."""
    file = exposures_file(project)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render_exposures(wanted), encoding="utf-8")
    return file


def _read(project: Project, plan: Plan) -> Iterator[str]:
    """The models of a plan as dbt writes them: mapped ones, and those that its conditions and scores name."""
    settings = project.settings
    names = set(references(settings.contact.model))
    if plan.events or plan.trigger_events:
        names.update(references(settings.events.model))
    for text in _texts(project, plan):
        names.update(references(text))
        for score in _SCORE.findall(text):
            if score in settings.scores and settings.scores[score].model is not None:
                names.update(references(str(settings.scores[score].model)))
    for name in names:
        source, dot, table = name.partition(".")
        yield f"source('{source}', '{table}')" if dot else f"ref('{name}')"


def _texts(project: Project, plan: Plan) -> Iterator[str]:
    """The conditions of a plan, and those of the audiences that they name."""
    waiting, seen = list(plan.conditions.values()), set[str]()
    while waiting:
        text = waiting.pop()
        yield text
        for audience in _AUDIENCE.findall(text):
            if audience in project.settings.audiences and audience not in seen:
                seen.add(audience)
                waiting.append(project.settings.audiences[audience])
