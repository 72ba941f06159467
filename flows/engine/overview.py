"""The state of a target in figures: what `penstock status` shows, read from the state tables by one query each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from flows.engine.arrivals import Watermarks
from flows.engine.holding import Held
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

_COUNTS = ("in_flight", "entered", "entered_24h", "ended", "done", "goals")
State = Literal["live", "held", "paused", "retired", "quarantined"]


@dataclass(frozen=True)
class WorkflowState:
    """One workflow.

    Attributes:
        version: the newest published one.
        in_flight: enrollments that have not ended.
        entered, entered_24h: enrollments ever, and by ticks of the last 24 hours.
        ended: enrollments that ended.
        done: of those, how many ended as written: completed, goal, an exit, left the audience.
        goals: of those, how many met a goal.
        sent, failed: outward actions with a final outcome: delivered, and not (failed, dead or unknown).
        last_entry: when the newest enrollment entered.
        because: why it is quarantined or paused, or what would happen if the size guard did not hold it; or empty.
        since: since when it is held or paused.
    """

    workflow: str
    state: State
    version: int
    in_flight: int
    entered: int
    entered_24h: int
    ended: int
    done: int
    goals: int
    sent: int
    failed: int
    last_entry: datetime | None
    because: str = ""
    since: datetime | None = None

    @property
    def done_share(self) -> float | None:
        """Share of the ended enrollments that ended as written."""
        return self.done / self.ended if self.ended else None

    @property
    def actions_ok(self) -> float | None:
        """Share of the finally decided outward actions that were delivered."""
        final = self.sent + self.failed
        return self.sent / final if final else None

    @property
    def goal_share(self) -> float | None:
        """Share of all enrollments that met a goal."""
        return self.goals / self.entered if self.entered else None


@dataclass(frozen=True)
class Overview:
    """A target.

    Attributes:
        now: the instant of the figures, naive UTC.
        tick, tick_at: the last tick, None before the first.
        holder: who has the lease, None when nobody does.
        open_actions: state -> number of actions in the outbox that are not final.
        failed_actions: state and code -> number of actions that failed for good.
    """

    now: datetime
    tick: int | None
    tick_at: datetime | None
    holder: str | None
    workflows: tuple[WorkflowState, ...]
    open_actions: Mapping[str, int]
    failed_actions: Mapping[str, int]


def overview(warehouse: Warehouse, schema: str, now: datetime) -> Overview:
    """Read the figures.

    Args:
        warehouse: an open connection; reading is enough.
        schema: of the state tables.
        now: the present, naive UTC.
    """
    state = StateTables(schema)

    def rows(text: str, **more: Any) -> list[dict[str, Any]]:
        given = {"now": now, "since": now - timedelta(hours=24), **more}
        return warehouse.rows(state.statement(warehouse, text), given)

    last = next(iter(rows(_TICK)), {"tick": None, "tick_at": None})
    lease = next(iter(rows(_LEASE)), {"holder": None})
    controls = [*rows(_RULED, action="pause"), *rows(_RULED, action="quarantine")]
    ruled = dict(_ruled(controls, guarded(warehouse, state)))
    entered = {row["workflow"]: row for row in rows(_ENROLLMENTS)}
    delivered = {row["workflow"]: row for row in rows(_DELIVERIES)}
    return Overview(
        now, last["tick"], last["tick_at"], lease["holder"],
        tuple(_workflow(row, entered, delivered, ruled) for row in rows(_VERSIONS)),
        {row["state"]: row["n"] for row in rows(_OPEN)}, {row["what"]: row["n"] for row in rows(_FAILED)},
    )  # fmt: skip


def guarded(warehouse: Warehouse, state: StateTables) -> Mapping[str, Held]:
    """What the size guard held at the last tick, by workflow."""
    rows = warehouse.rows(state.statement(warehouse, _WATERMARKS))
    return Watermarks.of(json.loads(rows[0]["watermarks"] or "null")).guarded if rows else {}


def _ruled(
    controls: Sequence[Mapping[str, Any]], guarded: Mapping[str, Held]
) -> Iterator[tuple[str, tuple[State, str, datetime | None]]]:
    """Workflow, or `all` -> what keeps it from going on, why, and since when; the strongest reason last."""
    for name, held in guarded.items():
        yield name, ("held", held.said, held.since)
    for row in controls:
        state: State = "paused" if row["action"] == "pause" else "quarantined"
        who = f"{row['who']}: " if row["who"] and state == "paused" else ""
        said = f"{who}{row['because'] or ''}".removesuffix(": ")
        yield row["scope"].removeprefix("workflow:"), (state, said, row["created_at"])


def _workflow(
    row: Mapping[str, Any], entered: Mapping[str, Any], delivered: Mapping[str, Any],
    ruled: Mapping[str, tuple[State, str, datetime | None]],
) -> WorkflowState:  # fmt: skip
    name = row["workflow"]
    counts = entered.get(name, {})
    actions = delivered.get(name, {})
    usual: State = "retired" if row["retired"] else "live"
    status, because, since = ruled.get(name, ruled.get("all", (usual, "", None)))
    numbers = {key: int(counts.get(key) or 0) for key in _COUNTS}
    return WorkflowState(
        name, status, row["version"], **numbers, sent=int(actions.get("sent") or 0),
        failed=int(actions.get("failed") or 0), last_entry=counts.get("last_entry"), because=because, since=since,
    )  # fmt: skip


_TICK = "SELECT tick, tick_at FROM ticks ORDER BY tick DESC LIMIT 1"
_WATERMARKS = "SELECT watermarks FROM ticks ORDER BY tick DESC LIMIT 1"
_LEASE = "SELECT holder FROM lease WHERE holder IS NOT NULL AND expires_at > $now"
_VERSIONS = """
    SELECT workflow, max(version) AS version, bool_and(retired_at IS NOT NULL) AS retired
    FROM workflow_versions GROUP BY workflow ORDER BY workflow
"""
_RULED = """
    SELECT c.scope, c.action, c.who, c.because, c.created_at FROM (
        SELECT scope, action, who, because, created_at, row_number() OVER (
            PARTITION BY scope ORDER BY created_at DESC, control_id DESC
        ) AS place
        FROM controls WHERE (scope = 'all' OR scope LIKE 'workflow:%') AND action IN ('resume', $action)
    ) AS c WHERE c.place = 1 AND c.action = $action
"""
_ENROLLMENTS = """
    SELECT e.workflow, count(*) AS entered, count(*) FILTER (WHERE e.exit IS NULL) AS in_flight,
        count(*) FILTER (WHERE t.tick_at > $since) AS entered_24h, count(e.exit) AS ended,
        count(*) FILTER (WHERE e.exit NOT IN ('error', 'expired', 'step_removed')) AS done,
        count(*) FILTER (WHERE e.exit = 'goal') AS goals, max(t.tick_at) AS last_entry
    FROM enrollments AS e LEFT JOIN ticks AS t ON t.tick = e.entered_tick GROUP BY e.workflow
"""
_DELIVERIES = """
    SELECT workflow, count(*) FILTER (WHERE state = 'sent') AS sent,
        count(*) FILTER (WHERE state IN ('failed', 'dead', 'unknown')) AS failed
    FROM deliveries GROUP BY workflow
"""
_OPEN = "SELECT state, count(*) AS n FROM outbox GROUP BY state ORDER BY state"
_FAILED = """
    SELECT concat_ws(' ', destination, code) AS what, count(*) AS n FROM outbox_closed WHERE state IN ('failed', 'dead')
    GROUP BY concat_ws(' ', destination, code) ORDER BY n DESC, what LIMIT 10
"""
