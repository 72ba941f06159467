"""`penstock status`: the workflows of a target, its last tick and what waits in the outbox."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from flows.collector.ingest import Backlog, Ingest
from flows.engine.clock import SystemClock
from flows.engine.overview import Overview, WorkflowState, overview
from flows.project import Project, load_project
from studio.console import Console
from studio.options import Options
from studio.state import state_of

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

NONE = "–"
_COLORS = {"live": "green", "held": "yellow", "paused": "yellow", "retired": "dim", "quarantined": "red"}
_NEXT = {"held": "penstock approve", "paused": "penstock resume", "quarantined": "penstock resume"}
_COLUMNS = ("IN FLIGHT", "ENTERED 24H", "DONE", "ACTIONS OK", "GOAL", "LAST ENTRY")


def run(options: Options) -> int:
    """Show the state of the target.

    Returns:
        The exit code 0.
    """
    project = load_project(options.project_dir, options.target)
    accounts = {name: str(given.get("account", name)) for name, given in project.settings.destinations.items()}
    with state_of(project) as warehouse:
        now = SystemClock().now()
        seen = overview(warehouse, project.state_schema, now, accounts)
        collected = Ingest(project.buffer, project.state_schema).backlog(warehouse, now)
    data = {**_data(project, seen), "collector": asdict(collected)}
    Console(options).result(data, lambda out: _show(project, seen, collected, out))
    return 0


def _data(project: Project, seen: Overview) -> dict[str, object]:
    shares = ("done_share", "actions_ok", "goal_share")
    return {
        "target": project.target, "deliver": project.deliver, "schema": project.state_schema, "now": seen.now,
        "last_tick": {"tick": seen.tick, "tick_at": seen.tick_at}, "lease": seen.holder,
        "workflows": [asdict(item) | {name: getattr(item, name) for name in shares} for item in seen.workflows],
        "outbox": dict(seen.open_actions), "failed": dict(seen.failed_actions),
        "destinations": [asdict(item) for item in seen.destinations], "paused_channels": dict(seen.paused_channels),
    }  # fmt: skip


def _show(project: Project, seen: Overview, collected: Backlog, out: RichConsole) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("WORKFLOW", "STATE", "VER", box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for item in seen.workflows:
        state = Text(item.state, _COLORS[item.state])
        table.add_row(item.workflow, state, f"v{item.version}", *_figures(item, seen.now))
    out.print(table)
    for item in seen.workflows:
        if item.state in _NEXT:
            since = f" since {ago(item.since, seen.now)}" if item.since is not None else ""
            because = f": {item.because}" if item.because else ""
            out.print(f"{item.workflow} is {item.state}{since}{because} → {_NEXT[item.state]} {item.workflow}",
                      markup=False)  # fmt: skip
    out.print(_tick_line(project, seen), markup=False)
    waiting = ", ".join(f"{state} {number:,}" for state, number in seen.open_actions.items())
    out.print(f"outbox     {waiting or 'empty'}", markup=False)
    _show_destinations(seen, out)
    if collected.waiting_files:
        out.print(f"collector  {collected.waiting_bytes:,} bytes wait in {collected.waiting_files} files "
                  "→ penstock run, or penstock ingest", markup=False)  # fmt: skip
    if collected.refused_24h:
        out.print(f"collector  {collected.refused_24h:,} events refused in 24 h, in events_rejected", markup=False)
    if seen.failed_actions:
        failed = ", ".join(f"{what} ×{number:,}" for what, number in seen.failed_actions.items())
        out.print(f"failed     {failed} → penstock logs --failed", markup=False)


def _show_destinations(seen: Overview, out: RichConsole) -> None:
    """Those to which something is to be said: figures for all that are not idle, reasons for all that rest."""
    from rich.table import Table

    busy = [item for item in seen.destinations if item.rests or item.waiting or item.retrying or item.unknown]
    if busy:
        table = Table("DESTINATION", box=None, pad_edge=False, header_style="bold")
        for name in ("WAITING", "AGAIN", "UNKNOWN", "SENT 24H", "FAILED 24H"):
            table.add_column(name, justify="right")
        for item in busy:
            figures = (item.waiting, item.retrying, item.unknown, item.sent_24h, item.failed_24h)
            table.add_row(item.destination, *(f"{figure:,}" for figure in figures))
        out.print(table)
    for item in busy:
        if item.rests:
            out.print(f"{item.destination} rests: {item.rests} → penstock resume destination:{item.destination}",
                      markup=False)  # fmt: skip
        if item.unknown:
            out.print(
                f"{item.destination} holds {item.unknown:,} of which nobody knows whether they were performed "
                f"→ penstock retry --unknown --destination {item.destination}", markup=False,
            )  # fmt: skip
    for channel, why in seen.paused_channels.items():
        said = f": {why}" if why else ""
        out.print(f"channel {channel} is paused{said} → penstock resume channel:{channel}", markup=False)


def _tick_line(project: Project, seen: Overview) -> str:
    held = f" · lease held by {seen.holder}" if seen.holder else ""
    where = f"target {project.target}, deliver: {project.deliver}"
    if seen.tick is None or seen.tick_at is None:
        return f"no tick yet · {where}{held} → penstock run"
    return f"last tick  {seen.tick:,}, {ago(seen.tick_at, seen.now)} · {where}{held}"


def _figures(item: WorkflowState, now: datetime) -> list[str]:
    return [
        f"{item.in_flight:,}", f"{item.entered_24h:,}", _percent(item.done_share), _percent(item.actions_ok, 2),
        _percent(item.goal_share), ago(item.last_entry, now) if item.last_entry else NONE,
    ]  # fmt: skip


def _percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{share * 100:.{digits}f} %"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago a moment is: `4s ago`, `12m ago`, `3h ago`, `2d ago`."""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"
