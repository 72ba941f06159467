"""Replay of a target's past ticks: on a copy, against what was published then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from compiler.errors import ProjectError
from flows.engine.deployment import Deployment
from flows.engine.history import Span, copy_history
from flows.engine.past_state import PastState, copy_state, past_tick
from flows.engine.replay import ReplayedTick, replay_tick
from flows.engine.scratch import Scratch
from flows.journal.tables import StateTables
from flows.project import Project
from flows.publication import load_published
from flows.runner import deployment_of
from flows.warehouse.base import Warehouse


def replay(
    project: Project, tick: int | None, *, since: int | timedelta | None = None, contact: str | None = None,
    wait: timedelta, progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[ReplayedTick]:  # fmt: skip
    """Work ticks of a target out again; its warehouse is only read.

    Args:
        project: the target.
        tick: its number, the last one when None.
        since: the first of several ticks: its number, or how long before.
        contact: only this contact's decisions.
        wait: how long to wait for the warehouse.
        progress: told of every tick.

    Raises:
        ProjectError: E521, there is no such tick; E626, nothing was published.
    """
    schema = project.state_schema
    with project.open_warehouse(read_only=True, wait=wait) as live:
        numbers = _numbers(live, schema, tick, since)
        published = load_published(live, schema)
        catalog = published.catalog(live)
        end = live.rows(StateTables(schema).statement(live, _TIME), {"tick": numbers[-1]})[0]["tick_at"]
        span = Span("", project.workspace, end)
        history = copy_history(live, catalog, (), published.places, span, state=False)
        past = copy_state(Scratch(live, history.warehouse), schema, project.workspace, end, catalog.points)
    found = []
    with history:
        for done, number in enumerate(numbers, 1):
            at = past_tick(past, number)
            if at is not None:
                deploy = partial(_deployed, past, project.workspace)
                found.append(replay_tick(history, past, at, deploy, contact))
            progress(done, len(numbers))
    return found


def _numbers(live: Warehouse, schema: str, tick: int | None, since: int | timedelta | None) -> list[int]:
    """The ticks that are wanted, in order."""
    state = StateTables(schema)
    if not live.relation_exists(state.place("ticks")):
        raise ProjectError(f"schema {schema} has no state yet", code="E521", hint="penstock apply")
    last = live.rows(state.statement(live, _LAST), {"tick": tick})
    if not last or tick is not None and last[0]["tick"] != tick:
        known = f"the last one is {last[0]['tick']}" if last else "there was none yet"
        raise ProjectError(f"there is no tick {tick or ''}".strip() + f"; {known}", code="E521", hint="penstock status")
    first = last[0]["tick"]
    match since:
        case int():
            first = since
        case timedelta():
            begin = {"begin": last[0]["tick_at"] - since}
            first = live.rows(state.statement(live, _FIRST), begin)[0]["tick"] or first
        case None:
            pass
    if not 1 <= first <= last[0]["tick"]:
        raise ProjectError(
            f"--since {first}: that is no tick before {last[0]['tick']}", code="E521", hint="--since 24h"
        )
    return list(range(first, last[0]["tick"] + 1))


def _deployed(past: PastState, workspace: str) -> Deployment:
    """What was published at the time that the tables are of."""
    published = load_published(past.memory, past.state.schema)
    return deployment_of(published, published.catalog(past.memory), workspace)


_LAST = """
    SELECT t.tick, t.tick_at FROM ticks AS t WHERE t.tick <= coalesce($tick, t.tick) ORDER BY t.tick DESC LIMIT 1
"""
_TIME = "SELECT t.tick_at FROM ticks AS t WHERE t.tick = $tick"
_FIRST = "SELECT min(t.tick) AS tick FROM ticks AS t WHERE t.tick_at >= $begin"
