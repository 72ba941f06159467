"""Instants on the command line, and the instant that stands for now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from compiler.errors import ProjectError
from flows.engine.clock import SystemClock, naive_utc
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.project import Project
from flows.warehouse.base import Warehouse


def instant(text: str, option: str) -> datetime:
    """An instant in ISO 8601, such as `2026-03-02T09:00Z`; UTC unless it says another offset.

    Raises:
        ProjectError: E515, it is none.
    """
    try:
        return naive_utc(datetime.fromisoformat(text.strip()))
    except ValueError:
        raise ProjectError(
            f"{option} {text}: this is no time", code="E515", hint="write it as 2026-03-02T09:00Z"
        ) from None


def present(warehouse: Warehouse, schema: str) -> datetime:
    """The time of a tick that came now: the clock's, but never before the last tick."""
    state = StateTables(schema)
    last = warehouse.rows(state.statement(warehouse, "SELECT max(tick_at) AS tick_at FROM ticks"))[0]["tick_at"]
    now = SystemClock().now()
    return max(last, now) if isinstance(last, datetime) else now


def present_of(project: Project) -> Callable[[Warehouse], datetime]:
    """What stands for now in a project's warehouse: as `present`, or the clock where there is no state yet."""

    def now(warehouse: Warehouse) -> datetime:
        stated = read_meta(warehouse, project.state_schema) is not None
        return present(warehouse, project.state_schema) if stated else SystemClock().now()

    return now
