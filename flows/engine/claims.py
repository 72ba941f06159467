"""The claim: which intents may be performed now, read and marked in one short transaction.

Claimable is a row of the outbox that is due, whose destination is ready, that nobody paused, and that has no earlier
row of the same enrollment before it: rows leave the outbox when they are final, so one enrollment's actions are
performed in order. A pause is the last row in `controls` of a scope: `all`, `workflow:<name>`, `destination:<name>`,
`channel:<kind>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast, get_args

import pyarrow as pa

from compiler.errors import PenstockError
from destinations.base import Capabilities, Status, Verdict
from flows.engine.attempts import Attempt
from flows.engine.intents import MESSAGES, Intent, Outcome, Recheck, held, ruled, skipped
from flows.journal.tables import StateTables, stage
from flows.warehouse.base import Warehouse

CLAIM_LIFE = timedelta(minutes=15)
"""A row that another machine's worker claimed longer ago than this is taken to be lost."""
SEND_WITHIN = timedelta(minutes=10)
"""A worker sends nothing that it claimed longer ago, so that a paused one does not send what others took to be lost."""

# The order in which a message is checked; a reason that is not here (goal, exit_when, …) comes before all of them.
_ORDER = ("too_late", "bounced", "no_address", "unsubscribed", "unsubscribed_group", "no_consent")
_ALWAYS = frozenset({"bounced", "no_address", "too_late"})

_PAUSED = """
    SELECT 1 FROM (
        SELECT scope, action, row_number() OVER (PARTITION BY scope ORDER BY created_at DESC, control_id DESC) AS place
        FROM controls WHERE action IN ('pause', 'resume')
    ) AS c
    WHERE c.place = 1 AND c.action = 'pause' AND (
        c.scope = 'all' OR c.scope = 'workflow:' || o.workflow OR c.scope = 'destination:' || o.destination
        OR c.scope = 'channel:' || o.kind
    )
"""
_CLAIMABLE = (
    """
    FROM outbox AS o
    WHERE o.state IN ('pending', 'retry') AND (o.next_attempt_at IS NULL OR o.next_attempt_at <= $now)
        AND NOT EXISTS (
            SELECT 1 FROM outbox AS e
            WHERE e.enrollment_id = o.enrollment_id AND (e.tick < o.tick OR e.tick = o.tick AND e.seq < o.seq)
        )
        AND NOT EXISTS ("""
    + _PAUSED
    + ")"
)
_COLUMNS = (
    "o.action_id, o.enrollment_id, o.workflow, o.version, o.contact_id, o.key, o.step, o.visit, o.kind, o.what, "
    "coalesce(o.destination, '') AS destination, o.template_hash, o.payload, o.due, o.expires_at, "
    "coalesce(o.transactional, false) AS transactional, o.attempts, coalesce(o.fence, 0) AS fence"
)
_WAITING = (
    "SELECT coalesce(o.destination, '') AS destination, count(*) AS waiting " + _CLAIMABLE + " GROUP BY 1 ORDER BY 1"
)
_CLAIMED = "SELECT count(*) AS claimed FROM outbox WHERE state = 'claimed'"
_READY = " AND array_contains($ready, o.destination) AND (NOT $no_messages OR o.kind NOT IN ('email', 'sms', 'push'))"
# Who waits for a password goes before who gets a newsletter.
_ORDERED = " ORDER BY CASE WHEN o.transactional THEN 0 ELSE 1 END, o.tick, o.seq"
_CANDIDATES = "SELECT " + _COLUMNS + _CLAIMABLE + _READY + _ORDERED + " LIMIT $batch"
_CANDIDATES_ALLOWED = (
    "SELECT " + _COLUMNS + " FROM (SELECT o.*, row_number() OVER (PARTITION BY o.destination" + _ORDERED + ") AS place"
    + _CLAIMABLE + _READY + ") AS o LEFT JOIN claim_allowed AS a ON a.destination = o.destination"
    " WHERE a.allowed IS NULL OR o.place <= a.allowed" + _ORDERED + " LIMIT $batch"
)  # fmt: skip
_LEFT = (
    "SELECT " + _COLUMNS + ", o.worker, o.updated_at FROM outbox AS o WHERE o.state = 'claimed' "
    "AND (o.worker = $worker OR o.worker IS NULL OR o.updated_at IS NULL OR o.updated_at <= $lost) "
    "ORDER BY o.tick, o.seq"
)
_FIRST_UNKNOWN = """
    SELECT a.action_id, min(a.started_at) AS first_at
    FROM attempts AS a JOIN claim_keys AS k ON k.action_id = a.action_id JOIN outbox AS o ON o.action_id = a.action_id
    WHERE a.ambiguous AND coalesce(o.reason, '') <> 'by hand' GROUP BY a.action_id
"""
_CLAIM = """
    UPDATE outbox SET state = 'claimed', worker = $worker, fence = c.fence, updated_at = $now
    FROM claim_rows AS c WHERE outbox.action_id = c.action_id AND outbox.state IN ('pending', 'retry')
"""
_SUPPRESSED = """
    SELECT DISTINCT t.action_id, t.scope, t.bounce FROM (
        SELECT m.*, row_number() OVER (
            PARTITION BY m.action_id, m.who, m.channel, m.scope, m.bounce
            ORDER BY m.created_at DESC, m.suppression_id DESC
        ) AS place
        FROM (
            SELECT k.action_id, 'contact' AS who, s.channel, s.scope, s.action, s.created_at, s.suppression_id,
                coalesce(s.reason IN ('bounced', 'hard_bounce'), false) AS bounce
            FROM claim_checks AS k JOIN (
                SELECT o.*, CASE
                    WHEN o.reason IN ('bounced', 'hard_bounce') THEN o.contact_id
                    ELSE coalesce(g.into_id, o.contact_id)
                END AS owner_id
                FROM suppressions AS o LEFT JOIN contact_merges AS g ON g.from_id = o.contact_id
            ) AS s ON s.owner_id = k.contact_id
            WHERE (s.channel IS NULL OR s.channel = k.channel) AND (s.scope = 'all' OR s.scope = k.grp)
            UNION ALL
            SELECT k.action_id, 'address' AS who, s.channel, s.scope, s.action, s.created_at, s.suppression_id,
                coalesce(s.reason IN ('bounced', 'hard_bounce'), false) AS bounce
            FROM claim_checks AS k JOIN suppressions AS s ON s.address_hash = k.address_hash
            WHERE (s.channel IS NULL OR s.channel = k.channel) AND (s.scope = 'all' OR s.scope = k.grp)
        ) AS m
    ) AS t WHERE t.place = 1 AND t.action = 'add'
"""


class Unchecked(Exception):
    """Messages cannot be checked again, so none may be claimed; the text says why."""


@dataclass(frozen=True)
class Claimed:
    """What a claim found: intents to perform, and those that are withdrawn at once."""

    intents: tuple[Intent, ...]
    withdrawn: tuple[tuple[Intent, Outcome], ...]


@dataclass(frozen=True)
class Limits:
    """What a claim may take: ready destinations, no messages when they cannot be checked, at most `batch` rows.

    `allowed` are the rows of destinations whose accounts have a limit; `lifetimes` how long destinations remember the
    key of an action.
    """

    ready: Sequence[str]
    batch: int
    no_messages: bool = False
    allowed: Mapping[str, int] = field(default_factory=dict)
    lifetimes: Mapping[str, timedelta] = field(default_factory=dict)


def address_hash(key: str, address: str) -> str:
    """The keyed hash of an address, as `compiler.frames.address_hash` computes it in SQL."""
    return hashlib.md5(f"{key}:{address.strip(' ').lower()}".encode(), usedforsecurity=False).hexdigest()


def waiting(warehouse: Warehouse, state: StateTables, now: datetime) -> dict[str, int]:
    """How many intents may be claimed now, per destination; '' stands for none."""
    found = warehouse.rows(state.statement(warehouse, _WAITING), {"now": now})
    return {row["destination"]: row["waiting"] for row in found}


def claimed_now(warehouse: Warehouse, state: StateTables) -> int:
    """How many rows are claimed and not finished."""
    return int(warehouse.rows(state.statement(warehouse, _CLAIMED))[0]["claimed"])


def claim(
    warehouse: Warehouse, state: StateTables, worker: str, now: datetime, limits: Limits, key: str,
    recheck: Recheck | None,
) -> Claimed:  # fmt: skip
    """Take rows for this worker, inside the caller's transaction.

    All of them are marked as claimed; `withdrawn` are to be settled before the transaction ends.

    Raises:
        Unchecked: goals, consent or suppressions cannot be read; the transaction must be rolled back.
    """
    parameters = {"now": now, "ready": list(limits.ready), "batch": limits.batch, "no_messages": limits.no_messages}
    text = _CANDIDATES
    if limits.allowed:
        text = _CANDIDATES_ALLOWED
        rows = {"destination": list(limits.allowed), "allowed": list(limits.allowed.values())}
        kinds = pa.schema([("destination", pa.string()), ("allowed", pa.int64())])
        stage(warehouse, "claim_allowed", pa.table(rows, kinds))
    intents = [_intent(row, 1) for row in warehouse.rows(state.statement(warehouse, text), parameters)]
    if not intents:
        return Claimed((), ())
    try:
        reasons = _reasons(warehouse, state, intents, now, key, recheck)
    except Exception as error:  # fail closed, whatever it was
        raise Unchecked(str(error) if isinstance(error, PenstockError) else type(error).__name__) from error
    outlived = _outlived(warehouse, state, intents, limits.lifetimes, now)
    _mark(warehouse, state, intents, worker, now)
    withdrawn = [(intent, skipped(intent, reasons[i])) for intent in intents if (i := intent.action_id) in reasons]
    withdrawn += [
        (intent, held(intent, "key_expired"))
        for intent in intents if intent.action_id in outlived and intent.action_id not in reasons
    ]  # fmt: skip
    left = reasons.keys() | outlived
    return Claimed(tuple(intent for intent in intents if intent.action_id not in left), tuple(withdrawn))


def _outlived(
    warehouse: Warehouse, state: StateTables, intents: Sequence[Intent], lifetimes: Mapping[str, timedelta],
    now: datetime,
) -> set[str]:  # fmt: skip
    """Actions that may have been performed under a key that the destination has forgotten since.

    Sending them again could act twice; who tries again by hand has looked.
    """
    again = [intent for intent in intents if intent.attempt > 1 and intent.destination in lifetimes]
    if not again:
        return set()
    rows = {"action_id": [intent.action_id for intent in again]}
    stage(warehouse, "claim_keys", pa.table(rows, pa.schema([("action_id", pa.string())])))
    first = {row["action_id"]: row["first_at"] for row in warehouse.rows(state.statement(warehouse, _FIRST_UNKNOWN))}
    return {
        intent.action_id for intent in again
        if intent.action_id in first and now - first[intent.action_id] > lifetimes[intent.destination]
    }  # fmt: skip


def abandoned(
    warehouse: Warehouse, state: StateTables, worker: str, now: datetime, log: Mapping[str, Attempt],
    capabilities: Mapping[str, Capabilities],
) -> list[tuple[Intent, Outcome]]:  # fmt: skip
    """What became of the rows that a dead process of this worker, or a lost worker elsewhere, had claimed.

    With an outcome in the attempt log it is that; with a start and no outcome it is unknown; without a start nothing
    left. Of another worker's rows nothing is known, once they are older than `CLAIM_LIFE`.
    """
    rows = warehouse.rows(state.statement(warehouse, _LEFT), {"worker": worker, "lost": now - CLAIM_LIFE})
    outcomes = []
    for row in rows:
        intent = _intent(row, 0)
        entry = log.get(intent.action_id) if row["worker"] == worker else Attempt(intent.action_id, intent.attempt)
        verdict = _remembered(intent, entry)
        outcomes.append((intent, ruled(intent, verdict, capabilities.get(intent.destination), now)))
    return outcomes


def _remembered(intent: Intent, entry: Attempt | None) -> Verdict:
    if entry is None or entry.attempt != intent.attempt:
        return Verdict(intent.action_id, "retry", "not_started", stop="configuration")
    if entry.status is None:
        return Verdict(intent.action_id, "unknown", "lost", "the process ended before the answer was recorded")
    status, _, flag = entry.status.partition("/")
    if flag == "stop":
        return Verdict(intent.action_id, "retry", entry.code or "", stop="configuration")
    known: Status = cast(Status, status) if status in get_args(Status) else "unknown"
    return Verdict(intent.action_id, known, entry.code or "", suppress="bounced" if flag == "bounced" else None)


def noted(verdict: Verdict) -> str:
    """A verdict's status as the attempt log has it: with what else must not be forgotten."""
    if verdict.stop is not None and verdict.status != "failed":
        return f"{verdict.status}/stop"
    return f"{verdict.status}/bounced" if verdict.suppress else verdict.status


def _reasons(
    warehouse: Warehouse, state: StateTables, intents: Sequence[Intent], now: datetime, key: str,
    recheck: Recheck | None,
) -> dict[str, str]:  # fmt: skip
    """Why an intent must not be performed: the first reason in the order of the language."""
    found: dict[str, list[str]] = {}
    again = recheck(warehouse, [intent.action_id for intent in intents], now) if recheck is not None else {}
    for action, reason in again.items():
        found.setdefault(action, []).append(reason)
    for action, reason in _suppressed(warehouse, state, intents, key):
        found.setdefault(action, []).append(reason)
    for intent in intents:
        if intent.expires_at is not None and now > intent.expires_at:
            found.setdefault(intent.action_id, []).append("too_late")
        if intent.kind in MESSAGES and not intent.address:
            found.setdefault(intent.action_id, []).append("no_address")
    return {action: min(reasons, key=_rank) for action, reasons in found.items()}


def _rank(reason: str) -> int:
    return _ORDER.index(reason) if reason in _ORDER else -1


def _suppressed(
    warehouse: Warehouse, state: StateTables, intents: Iterable[Intent], key: str
) -> Iterable[tuple[str, str]]:
    messages = {intent.action_id: intent for intent in intents if intent.kind in MESSAGES}
    if not messages:
        return []
    checks = {
        "action_id": list(messages),
        "contact_id": [intent.contact_id for intent in messages.values()],
        "channel": [intent.kind for intent in messages.values()],
        "grp": [intent.group for intent in messages.values()],
        "address_hash": [address_hash(key, i.address) if i.address else None for i in messages.values()],
    }
    stage(warehouse, "claim_checks", pa.table(checks, pa.schema([(name, pa.string()) for name in checks])))
    found = []
    for row in warehouse.rows(state.statement(warehouse, _SUPPRESSED)):
        reason = "bounced" if row["bounce"] else "unsubscribed" if row["scope"] == "all" else "unsubscribed_group"
        if reason in _ALWAYS or not messages[row["action_id"]].transactional:
            found.append((row["action_id"], reason))
    return found


def _mark(warehouse: Warehouse, state: StateTables, intents: Collection[Intent], worker: str, now: datetime) -> None:
    rows = {"action_id": [intent.action_id for intent in intents], "fence": [intent.fence for intent in intents]}
    stage(warehouse, "claim_rows", pa.table(rows, pa.schema([("action_id", pa.string()), ("fence", pa.int64())])))
    warehouse.execute(state.statement(warehouse, _CLAIM), {"worker": worker, "now": now})


def _intent(row: Mapping[str, Any], claims: int) -> Intent:
    return Intent(
        row["action_id"], row["enrollment_id"], row["workflow"], row["version"], row["contact_id"], row["key"],
        row["step"], row["visit"], row["kind"], row["what"], row["destination"], row["template_hash"],
        json.loads(row["payload"] or "{}"), row["due"], row["expires_at"], row["transactional"],
        row["attempts"] + 1, row["fence"] + claims,
    )  # fmt: skip
