"""Simulation files for people: finding them, comparing logs row by row, writing `expect` anew."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compiler.errors import SimulationError
from flows.engine.simulation import read_cases
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


def run_file(path: Path, select: Sequence[str] = ()) -> list[Outcome]:
    """Run the cases of a file, or those whose id is selected.

    Raises:
        SimulationError: the file is broken.
        DefinitionError: a workflow in it is wrong.
    """
    cases = read_cases(path, path.read_text("utf-8"))
    return [run_case(case) for case in cases if not select or case.id in select]


def as_data(path: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The machine output for one file (simulation format)."""
    return {
        "file": str(path),
        "cases": [
            {"id": outcome.case.id, "log": list(outcome.log), "expected": list(outcome.case.expect or ()),
             "passed": outcome.passed}
            for outcome in outcomes
        ],
    }  # fmt: skip


def difference(outcome: Outcome) -> Iterator[str]:
    """The log against what was expected: `- ` expected and missing, `+ ` not expected, two spaces where they agree."""
    expected = [_plain(row) for row in outcome.case.expect or ()]
    # rows of different contacts in one tick have no order, so the expected rows are shown in the order of the log
    order = {row: place for place, row in reversed(list(enumerate(outcome.log)))}
    times = [row.split(" | ")[0] for row in outcome.log]

    def place(row: str) -> tuple[str, int]:
        return row.split(" | ")[0], order.get(row, len(times))

    for line in difflib.ndiff(sorted(expected, key=place), list(outcome.log)):
        if not line.startswith("?"):
            yield line


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
