"""The state of a target in figures: what `penstock status` shows, read from the state tables by one query each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

_COUNTS = ("in_flight", "entered", "entered_24h", "ended", "done", "goals")
State = Literal["live", "retired", "quarantined"]


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
        because: why it is quarantined, or empty.
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

    def rows(text: str) -> list[dict[str, Any]]:
        given = {"now": now, "since": now - timedelta(hours=24)}
        return warehouse.rows(state.statement(warehouse, text), given)

    last = next(iter(rows(_TICK)), {"tick": None, "tick_at": None})
    lease = next(iter(rows(_LEASE)), {"holder": None})
    quarantined = {row["scope"].removeprefix("workflow:"): row["because"] or "" for row in rows(_QUARANTINED)}
    entered = {row["workflow"]: row for row in rows(_ENROLLMENTS)}
    delivered = {row["workflow"]: row for row in rows(_DELIVERIES)}
    return Overview(
        now, last["tick"], last["tick_at"], lease["holder"],
        tuple(_workflow(row, entered, delivered, quarantined) for row in rows(_VERSIONS)),
        {row["state"]: row["n"] for row in rows(_OPEN)}, {row["what"]: row["n"] for row in rows(_FAILED)},
    )  # fmt: skip


def _workflow(
    row: Mapping[str, Any], entered: Mapping[str, Any], delivered: Mapping[str, Any], quarantined: Mapping[str, str]
) -> WorkflowState:
    name = row["workflow"]
    counts = entered.get(name, {})
    actions = delivered.get(name, {})
    status: State = "quarantined" if name in quarantined else "retired" if row["retired"] else "live"
    numbers = {key: int(counts.get(key) or 0) for key in _COUNTS}
    return WorkflowState(
        name, status, row["version"], **numbers, sent=int(actions.get("sent") or 0),
        failed=int(actions.get("failed") or 0), last_entry=counts.get("last_entry"), because=quarantined.get(name, ""),
    )  # fmt: skip


_TICK = "SELECT tick, tick_at FROM ticks ORDER BY tick DESC LIMIT 1"
_LEASE = "SELECT holder FROM lease WHERE holder IS NOT NULL AND expires_at > $now"
_VERSIONS = """
    SELECT workflow, max(version) AS version, bool_and(retired_at IS NOT NULL) AS retired
    FROM workflow_versions GROUP BY workflow ORDER BY workflow
"""
_QUARANTINED = """
    SELECT c.scope, c.because FROM (
        SELECT scope, action, because, row_number() OVER (PARTITION BY scope ORDER BY created_at DESC) AS place
        FROM controls WHERE scope LIKE 'workflow:%' AND action IN ('quarantine', 'resume')
    ) AS c WHERE c.place = 1 AND c.action = 'quarantine'
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
