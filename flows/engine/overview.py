"""The state of a target in figures: what `penstock status` shows, read from the state tables by one query each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from flows.engine.arrivals import Watermarks
from flows.engine.breaker import Breaker
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
class DestinationState:
    """One destination.

    Attributes:
        waiting, retrying, unknown: its open actions: not yet tried, to be tried again, held because nobody knows.
        sent_24h, failed_24h: final ones of the last 24 hours; failed are those refused and those out of attempts.
        ambiguous: attempts ever whose outcome was never learned.
        rests: why and until when nothing is sent to its account, or who paused it; or empty.
        used: what was used of each quota of its account: seconds of the window -> requests.
    """

    destination: str
    waiting: int
    retrying: int
    unknown: int
    sent_24h: int
    failed_24h: int
    ambiguous: int
    rests: str = ""
    used: Mapping[int, int] = field(default_factory=dict)


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
    destinations: tuple[DestinationState, ...] = ()
    paused_channels: Mapping[str, str] = field(default_factory=dict)


def overview(warehouse: Warehouse, schema: str, now: datetime, accounts: Mapping[str, str] | None = None) -> Overview:
    """Read the figures.

    Args:
        warehouse: an open connection; reading is enough.
        schema: of the state tables.
        now: the present, naive UTC.
        accounts: destination -> its account, where that has another name.
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
        tuple(_destinations(rows, accounts or {})),
        {row["scope"].removeprefix("channel:"): _said(row) for row in rows(_HELD_BACK, prefix="channel:%")},
    )  # fmt: skip


def _destinations(rows: Callable[..., list[dict[str, Any]]], accounts: Mapping[str, str]) -> Iterator[DestinationState]:
    resting = {row["account"]: Breaker(**row) for row in rows(_BREAKERS)}
    paused = {row["scope"].removeprefix("destination:"): _said(row) for row in rows(_HELD_BACK, prefix="destination:%")}
    used: dict[str, dict[int, int]] = {}
    for row in rows(_USED):
        used.setdefault(row["account"], {})[row["per_seconds"]] = row["used"]
    lost = {row["destination"]: row["n"] for row in rows(_AMBIGUOUS)}
    found = {row["destination"]: row for row in rows(_BY_DESTINATION)}
    for name in sorted({*found, *paused} - {""}):
        account = accounts.get(name, name)
        row = found.get(name, {})
        counts = {key: int(row.get(key) or 0) for key in ("waiting", "retrying", "unknown", "sent_24h", "failed_24h")}
        breaker = resting.get(account)
        why = f"paused: {paused[name]}".removesuffix(": ") if name in paused else breaker.said if breaker else ""
        yield DestinationState(name, **counts, ambiguous=lost.get(name, 0), rests=why, used=used.get(account, {}))


def _said(row: Mapping[str, Any]) -> str:
    who = f"{row['who']}: " if row["who"] else ""
    return f"{who}{row['because'] or ''}".removesuffix(": ")


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
        said = _said(row if state == "paused" else {**row, "who": None})
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
_BY_DESTINATION = """
    SELECT coalesce(destination, '') AS destination,
        count(*) FILTER (WHERE state IN ('pending', 'claimed')) AS waiting,
        count(*) FILTER (WHERE state = 'retry') AS retrying, count(*) FILTER (WHERE state = 'unknown') AS unknown,
        count(*) FILTER (WHERE state = 'sent' AND updated_at > $since) AS sent_24h,
        count(*) FILTER (WHERE state IN ('failed', 'dead') AND updated_at > $since) AS failed_24h
    FROM deliveries GROUP BY coalesce(destination, '')
"""
_AMBIGUOUS = """
    SELECT coalesce(d.destination, '') AS destination, count(*) AS n
    FROM attempts AS a JOIN deliveries AS d ON d.action_id = a.action_id WHERE a.ambiguous
    GROUP BY coalesce(d.destination, '')
"""
_BREAKERS = "SELECT account, reason, code, failures, since, until FROM breakers WHERE until > $now"
_USED = "SELECT account, per_seconds, used FROM budgets WHERE per_seconds > 60 ORDER BY account, per_seconds"
_HELD_BACK = """
    SELECT c.scope, c.who, c.because FROM (
        SELECT scope, action, who, because, row_number() OVER (
            PARTITION BY scope ORDER BY created_at DESC, control_id DESC
        ) AS place
        FROM controls WHERE scope LIKE $prefix AND action IN ('pause', 'resume')
    ) AS c WHERE c.place = 1 AND c.action = 'pause' ORDER BY c.scope
"""
