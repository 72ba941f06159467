"""`penstock dbt`: dbt in-process, with the right target and variables, while nobody else holds the warehouse."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.build import run_dbt
from flows.project import load_project
from studio.options import Options

_TARGET = ("--target", "-t")


def run(options: Options, arguments: Sequence[str]) -> int:
    """Run dbt and pass its exit code on; everything it prints is its own.

    `--target`, `--project-dir` and `--profiles-dir` among dbt's arguments are heard by Penstock too.
    """
    words, target = _taken(list(arguments), *_TARGET)
    words, folder = _taken(words, "--project-dir")
    _, profiles = _taken(words, "--profiles-dir")
    options = replace(
        options, target=target or options.target, project_dir=Path(folder) if folder else options.project_dir
    )
    profiles_dir = Path(profiles) if profiles else None
    project = load_project(options.project_dir, options.target, profiles_dir=profiles_dir)
    outcome = run_dbt(project, words or ["--help"], profiles_dir=profiles_dir)
    if outcome.message:
        print(outcome.message, file=sys.stderr)
    return outcome.exit_code


def _taken(words: Sequence[str], *names: str) -> tuple[list[str], str | None]:
    """A command line without an option, and the option's value."""
    kept: list[str] = []
    value = None
    rest = iter(words)
    for word in rest:
        name, sign, text = word.partition("=")
        if name in names and sign:
            value = text
        elif word in names:
            value = next(rest, None)
        else:
            kept.append(word)
    return kept, value
