"""Runs dbt in this process, in its turn where the warehouse has one, and remembers what columns are there then."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from compiler.errors import ProjectError
from compiler.yaml import read_yaml
from flows.dbt_files import find_profiles
from flows.project import Project
from flows.relations import take_snapshot, write_snapshot
from flows.warehouse.lock import DEFAULT_WAIT

OFFLINE = frozenset({"clean", "deps", "init", "list", "ls", "parse"})
"""Commands of dbt that do not open the warehouse; `docs serve` does not either."""
_LOG = "file_log"
_NO_TELEMETRY = "--no-send-anonymous-usage-stats"


@dataclass(frozen=True)
class DbtOutcome:
    """How dbt ended: exit code (0 done, 1 a node failed, 2 it could not run), and why when it could not run."""

    exit_code: int
    message: str = ""


def run_dbt(
    project: Project, arguments: Sequence[str], *, profiles_dir: Path | None = None, wait: timedelta = DEFAULT_WAIT,
    listeners: Sequence[Callable[[Any], None]] = (),
) -> DbtOutcome:  # fmt: skip
    """Run one dbt command for the project's target; dbt itself prints its progress.

    The target, the folders and the variable `penstock_schema` are given to dbt unless `arguments` name them; every
    connection is closed before the lock is let go.

    Args:
        project: the project and its target.
        arguments: the command line after `dbt`, for example `["build", "--select", "marts"]`.
        profiles_dir: folder of profiles.yml when it is not where dbt looks.
        wait: how long to wait for somebody else who holds the warehouse.
        listeners: called with each of dbt's events.

    Raises:
        WarehouseLocked: somebody else still holds it; the message names the process.
        ProjectError: `--vars` is no YAML map.
    """
    line = _command_line(project, arguments, find_profiles(project.folder, profiles_dir).parent)
    if _offline(arguments):
        return _invoke(project, line, listeners)
    location = project.warehouse.location
    with location.building(wait) as look:
        outcome = _invoke(project, line, listeners)
        if not location.missing():
            with look() as warehouse:
                write_snapshot(project.local / "catalog.json", take_snapshot(warehouse, project.state_schema))
    return outcome


def _command_line(project: Project, arguments: Sequence[str], profiles: Path) -> list[str]:
    words = list(arguments)
    if not any(not word.startswith("-") for word in words):
        return words  # `dbt --version`, `dbt --help`
    if "--help" in words or "-h" in words:
        return words
    words, given = _without_vars(words)
    variables = {**project.dbt_variables, **given}
    line = [*words, "--project-dir", str(project.folder), "--vars", _yaml(variables)]
    if not _names(words, "--profiles-dir"):
        line += ["--profiles-dir", str(profiles.resolve())]
    if not _names(words, "--target", "-t"):
        line += ["--target", project.target]
    return [_NO_TELEMETRY, *line]


def _names(words: Sequence[str], *options: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words for option in options)


def _without_vars(words: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """The command line without `--vars`, and what they said: dbt knows one such option, and ours is one too."""
    kept: list[str] = []
    given: dict[str, object] = {}
    rest = iter(words)
    for word in rest:
        if word == "--vars":
            given |= _variables(next(rest, ""))
        elif word.startswith("--vars="):
            given |= _variables(word.removeprefix("--vars="))
        else:
            kept.append(word)
    return kept, given


def _variables(text: str) -> dict[str, object]:
    tree, problems = read_yaml(text, "--vars")
    if problems or not isinstance(tree.data, dict):
        raise ProjectError(f"--vars takes a YAML map, this is '{text}'", code="E509", hint="--vars '{name: value}'")
    found: dict[str, object] = tree.plain
    return found


def _yaml(variables: dict[str, object]) -> str:
    import json

    return json.dumps(variables)  # JSON is YAML


def _offline(arguments: Sequence[str]) -> bool:
    words = [word for word in arguments if not word.startswith("-")]
    if not words or words[0] in OFFLINE or "--help" in arguments or "-h" in arguments:
        return True
    return words[:2] == ["docs", "serve"]


def _invoke(project: Project, line: list[str], listeners: Sequence[Callable[[Any], None]]) -> DbtOutcome:
    from dbt.cli.main import dbtRunner

    with contextlib.chdir(project.folder):  # a relative path in profiles.yml counts from the project's folder
        try:
            result = dbtRunner(callbacks=list(listeners)).invoke(line)
        finally:
            _close_connections(project)
            _close_log()
    if result.success:
        return DbtOutcome(0)
    if isinstance(result.exception, KeyboardInterrupt | SystemExit):
        raise result.exception
    return DbtOutcome(1) if result.exception is None else DbtOutcome(2, str(result.exception).strip())


def _close_connections(project: Project) -> None:
    """dbt-duckdb keeps its connection, and with it the file; other adapters close theirs."""
    if project.warehouse.type == "duckdb":
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        close: Callable[[], None] = DuckDBConnectionManager.close_all_connections
        close()


def _close_log() -> None:
    """Close dbt's log file, which it forgets; a process that runs dbt every hour would collect the handles."""
    log = logging.getLogger(_LOG)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
