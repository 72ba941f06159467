"""`penstock logs`: one line per decision and delivery, oldest first; with `--follow` also those that come."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from compiler.errors import WarehouseLocked
from flows.engine.log import LogRow, log_rows
from flows.project import Project, load_project
from studio.console import Console
from studio.options import Options
from studio.state import state_of
from studio.stopping import Stop

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_FAILED = ("failed", "dead", "unknown", "retry", "held", "set aside", "skipped(render_error", "rests")
_BAD = ("failed", "dead", "unknown", "set aside", "rests")
_PAUSE = timedelta(seconds=1)
"""Between two looks of `--follow`; a look holds the warehouse for some milliseconds."""


@dataclass(frozen=True)
class Filter:
    """Which rows are shown."""

    workflow: str | None = None
    contact: str | None = None
    step: str | None = None
    failed: bool = False


def run(options: Options, chosen: Filter, *, limit: int, follow: bool = False) -> int:
    """Show the newest rows of the log that fit; with `follow` go on with those that come, until interrupted.

    Returns:
        The exit code 0.
    """
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    if follow:
        with Stop() as stop:
            _follow(project, chosen, limit, console, stop)
        return 0
    rows = _rows(project, chosen, limit=limit)
    console.result([row.as_json() for row in rows], lambda out: _show(rows, out))
    return 0


def _rows(
    project: Project, chosen: Filter, *, limit: int | None = None, since: datetime | None = None
) -> list[LogRow]:  # fmt: skip
    with state_of(project) as warehouse:
        rows = log_rows(
            warehouse, project.state_schema, workflow=chosen.workflow, contact=chosen.contact, step=chosen.step,
            since=since, limit=None if chosen.failed else limit, destinations=True,
        )  # fmt: skip
    if chosen.failed:
        rows = [row for row in rows if _kind(row).startswith(_FAILED)]
    return rows if limit is None else rows[-limit:]


def _follow(project: Project, chosen: Filter, limit: int, console: Console, stop: Stop) -> None:
    """Print the newest rows, then those that come; who writes meanwhile is waited for."""
    before = _rows(project, chosen, limit=limit)
    newest = max((row.executed_at for row in before), default=None)
    # Of the newest moment there may be more rows than are asked for: those are known too.
    found = _rows(project, chosen, since=newest)
    _print([*(row for row in before if row.executed_at != newest), *found][-limit:], console)
    while True:
        newest = max((row.executed_at for row in found), default=newest)
        known = Counter(row for row in found if row.executed_at == newest)
        if stop.wait(_PAUSE):
            return
        with suppress(WarehouseLocked):
            found = _rows(project, chosen, since=newest)
            _print(_without(found, known), console)


def _without(rows: Sequence[LogRow], known: Counter[LogRow]) -> list[LogRow]:
    left, new = known.copy(), []
    for row in rows:
        if left[row]:
            left[row] -= 1
        else:
            new.append(row)
    return new


def _print(rows: Sequence[LogRow], console: Console) -> None:
    """One line a row, at once: text, or JSON."""
    for row in rows:
        if console.options.json:
            sys.stdout.write(json.dumps(row.as_json(), ensure_ascii=False) + "\n")
        else:
            style = "red" if _kind(row).startswith(_BAD) else None
            console.out.print("  ".join(_cells(row)), style=style, markup=False)
    sys.stdout.flush()


def _kind(row: LogRow) -> str:
    """The outcome without the action before it: `email:welcome failed(550)` -> `failed(550)`."""
    first, _, rest = row.outcome.partition(" ")
    return rest if ":" in first and rest else row.outcome


def _cells(row: LogRow) -> tuple[str, ...]:
    return f"{row.executed_at:%Y-%m-%d %H:%M:%S}", row.workflow, row.contact, row.step or "-", row.outcome


def _show(rows: list[LogRow], out: RichConsole) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        out.print("nothing in the log that fits")
        return
    table = Table("TIME (UTC)", "WORKFLOW", "CONTACT", "STEP", "OUTCOME", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        *cells, outcome = _cells(row)
        table.add_row(*map(Text, cells), Text(outcome, "red" if _kind(row).startswith(_BAD) else ""))
    out.print(table)
