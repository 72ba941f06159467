"""`penstock logs`: one line per decision and delivery, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.engine.log import LogRow, log_rows
from flows.project import load_project
from studio.console import Console
from studio.options import Options
from studio.state import state_of

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_FAILED = ("failed", "dead", "unknown", "retry", "held", "set aside", "skipped(render_error", "rests")
_BAD = ("failed", "dead", "unknown", "set aside", "rests")


def run(
    options: Options, *, workflow: str | None, contact: str | None, step: str | None, failed: bool, limit: int
) -> int:
    """Show the newest rows of the log that fit.

    Returns:
        The exit code 0.
    """
    project = load_project(options.project_dir, options.target)
    with state_of(project) as warehouse:
        rows = log_rows(
            warehouse, project.state_schema, workflow=workflow, contact=contact, step=step,
            limit=None if failed else limit, destinations=True,
        )  # fmt: skip
    if failed:
        rows = [row for row in rows if _kind(row).startswith(_FAILED)][-limit:]
    Console(options).result([row.as_json() for row in rows], lambda out: _show(rows, out))
    return 0


def _kind(row: LogRow) -> str:
    """The outcome without the action before it: `email:welcome failed(550)` -> `failed(550)`."""
    first, _, rest = row.outcome.partition(" ")
    return rest if ":" in first and rest else row.outcome


def _show(rows: list[LogRow], out: RichConsole) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        out.print("nothing in the log that fits")
        return
    table = Table("TIME (UTC)", "WORKFLOW", "CONTACT", "STEP", "OUTCOME", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        style = "red" if _kind(row).startswith(_BAD) else ""
        moment = f"{row.executed_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(moment, row.workflow, Text(row.contact), row.step or "-", Text(row.outcome, style))
    out.print(table)
