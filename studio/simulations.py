"""Simulation files for people: finding them, comparing logs row by row, writing `expect` anew."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compiler.errors import DefinitionError, PenstockError, SimulationError
from flows.engine.simulation import Draft, read_drafts
from flows.engine.simulator import Outcome, run_case

FOLDER = "workflow_tests"


def simulation_files(paths: Sequence[Path], project_dir: Path | None) -> list[Path]:
    """The files to run: those named (folders are searched), else all of the project's `workflow_tests`.

    Raises:
        SimulationError: a path does not exist, or nothing was found.
    """
    if not paths:
        from flows.project import find_project

        paths = [find_project(project_dir) / FOLDER]
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SimulationError(f"no such file or folder: {path}")
        found += sorted(path.rglob("*.y*ml")) if path.is_dir() else [path]
    if not found:
        raise SimulationError(f"no simulation files in {', '.join(map(str, paths))}")
    return found


@dataclass(frozen=True)
class Broken:
    """A case that could not run: it is no case, or a workflow of it is wrong or uses what is not executed yet."""

    draft: Draft
    error: PenstockError


def run_file(path: Path, select: Sequence[str] = ()) -> Iterator[Outcome | Broken]:
    """Run the cases of a file, or those whose id is selected, one after another.

    Raises:
        SimulationError: the file is no YAML, or holds no case.
    """
    for draft in read_drafts(path, path.read_text("utf-8")):
        if select and draft.id not in select:
            continue
        try:
            yield run_case(draft.read())
        except (SimulationError, DefinitionError) as error:
            yield Broken(draft, error)


def as_data(path: Path, outcomes: Sequence[Outcome | Broken]) -> dict[str, Any]:
    """The machine output for one file (simulation format); a broken case has an `error` beside it."""
    return {"file": str(path), "cases": [_case_data(outcome) for outcome in outcomes]}


def _case_data(outcome: Outcome | Broken) -> dict[str, Any]:
    match outcome:
        case Broken():
            return {
                "id": outcome.draft.id, "log": [], "expected": list(outcome.draft.expect), "passed": False,
                "error": {"code": outcome.error.code, "message": outcome.error.message},
            }  # fmt: skip
        case _:
            return {
                "id": outcome.case.id, "log": list(outcome.log), "expected": list(outcome.case.expect or ()),
                "passed": outcome.passed,
            }  # fmt: skip


def difference(outcome: Outcome) -> Iterator[str]:
    """The log against what was expected: `- ` expected and missing, `+ ` not expected, two spaces where they agree."""
    expected = [_plain(row) for row in outcome.case.expect or ()]
    # Rows of different contacts in one tick have no order, so the expected ones are shown in the order of the log;
    # those of one contact have one, so they stay in theirs.
    order = {_whose(row): place for place, row in reversed(list(enumerate(outcome.log)))}

    def place(row: str) -> tuple[str, int]:
        return row.split(" | ")[0], order.get(_whose(row), len(outcome.log))

    for line in difflib.ndiff(sorted(expected, key=place), list(outcome.log)):
        if not line.startswith("?"):
            yield line


def _whose(row: str) -> tuple[str, ...]:
    parts = row.split(" | ")
    return parts[0], *parts[2:3]


def _plain(row: str) -> str:
    return " | ".join(part.strip() for part in row.split("|"))


def update(path: Path, outcomes: Sequence[Outcome]) -> bool:
    """Rewrite `expect` of the cases that differ; gives whether the file changed. Comments and order are kept."""
    differing = [outcome for outcome in outcomes if not outcome.passed or outcome.case.expect is None]
    changed = {outcome.case.id: outcome.log for outcome in differing}
    if not changed:
        return False
    yaml = YAML()
    yaml.width = 10_000
    yaml.preserve_quotes = True
    yaml.version = "1.2"
    document = yaml.load(path.read_text("utf-8"))
    cases = document if isinstance(document, list) else [document]
    for number, case in enumerate(cases, 1):
        log = changed.get(case.get("id") or f"case {number}")
        if log is not None:
            case["expect"] = list(log)
    yaml.version = None
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)
    return True
