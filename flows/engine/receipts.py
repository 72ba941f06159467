"""Receipts: what became of claimed rows, written in one short transaction, set by set.

A receipt counts only while the row still carries the claim it belongs to (state, worker, fence); a worker that was
away too long writes nothing over what others decided.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from flows.engine.claims import address_hash
from flows.engine.intents import FINAL, MESSAGES, Intent, Outcome
from flows.journal.ids import identity
from flows.journal.tables import StateTables, stage
from flows.warehouse.base import Warehouse

_SCHEMA = pa.schema([
    ("action_id", pa.string()), ("fence", pa.int64()), ("attempt", pa.int64()), ("state", pa.string()),
    ("final", pa.bool_()), ("word", pa.string()), ("code", pa.string()), ("reason", pa.string()),
    ("next_attempt_at", pa.timestamp("us")), ("attempted", pa.bool_()), ("ambiguous", pa.bool_()),
    ("receipt", pa.string()), ("details", pa.string()), ("started_at", pa.timestamp("us")),
    ("address_hash", pa.string()), ("suppression_id", pa.string()), ("sent_event", pa.string()),
    ("bounced_event", pa.string()), ("place", pa.int64()),
])  # fmt: skip
"""One row per outcome; `place` is the order in which outcomes are journaled."""

_VALID = """
    CREATE OR REPLACE TEMPORARY TABLE receipts_valid AS
    SELECT r.*, o.enrollment_id, o.workflow, o.version, o.contact_id, o.key, o.step, o.kind, o.what, o.due,
        o.destination, o.payload, o.worker
    FROM receipts AS r JOIN outbox AS o ON o.action_id = r.action_id
    WHERE o.state = 'claimed' AND o.fence = r.fence AND ($worker IS NULL OR o.worker = $worker)
"""
_CLOSE = """
    INSERT INTO outbox_closed
    SELECT o.action_id, o.enrollment_id, o.workflow, o.version, o.contact_id, o.key, o.step, o.visit, o.kind, o.what,
        o.destination, o.template_hash, o.payload, o.due, o.decided_at, o.tick, o.seq, o.expires_at, o.transactional,
        r.state, o.worker, o.fence, CASE WHEN r.attempted THEN r.attempt ELSE o.attempts END, NULL, r.code, r.reason,
        $now
    FROM outbox AS o JOIN receipts_valid AS r ON r.action_id = o.action_id WHERE r.final
"""
_REMOVE = "DELETE FROM outbox WHERE action_id IN (SELECT action_id FROM receipts_valid WHERE final)"
_UPDATE = """
    UPDATE outbox SET state = r.state, attempts = CASE WHEN r.attempted THEN r.attempt ELSE outbox.attempts END,
        next_attempt_at = CASE WHEN r.attempted THEN r.next_attempt_at ELSE outbox.next_attempt_at END,
        code = coalesce(r.code, outbox.code), reason = r.reason, worker = NULL, updated_at = $now
    FROM receipts_valid AS r WHERE outbox.action_id = r.action_id AND NOT r.final
"""
_JOURNAL = """
    INSERT INTO journal
    SELECT $tick, $seq + row_number() OVER (ORDER BY r.place), $now, r.workflow, r.version, r.enrollment_id,
        r.contact_id, r.key, r.step, 'delivery', coalesce(r.payload ->> '$.step.key', r.kind) || ':' || r.what, r.word,
        r.due, r.action_id, NULL, CAST(r.details AS JSON)
    FROM receipts_valid AS r WHERE r.word <> ''
"""
_ATTEMPTS = """
    INSERT INTO attempts
    SELECT r.action_id, r.attempt, r.started_at, $now, r.state, r.code, r.ambiguous, r.worker, CAST(r.receipt AS JSON)
    FROM receipts_valid AS r WHERE r.attempted
"""
_EVENTS = """
    INSERT INTO events
    SELECT t.event_id, $seq + row_number() OVER (ORDER BY t.place, t.name), t.contact_id, CAST(t.action_id AS TEXT),
        NULL, NULL, t.name, $now, $now, CAST(t.data AS JSON), 'delivery'
    FROM (
        SELECT r.sent_event AS event_id, r.place, r.contact_id, r.action_id, r.kind || '_sent' AS name,
            r.details AS data
        FROM receipts_valid AS r WHERE r.sent_event IS NOT NULL
        UNION ALL
        SELECT r.bounced_event AS event_id, r.place, r.contact_id, r.action_id, r.kind || '_bounced' AS name,
            r.details AS data
        FROM receipts_valid AS r WHERE r.bounced_event IS NOT NULL
    ) AS t
"""
_SUPPRESS = """
    INSERT INTO suppressions
    SELECT CAST(r.suppression_id AS UUID), r.contact_id, r.address_hash, r.kind, 'all', 'add', 'bounced',
        'destination:' || r.destination, $now
    FROM receipts_valid AS r WHERE r.suppression_id IS NOT NULL
"""
_FAILED_OUT = """
    CREATE OR REPLACE TEMPORARY TABLE receipts_exits AS
    SELECT e.enrollment_id, e.workflow, e.version, e.contact_id, e.key, min(r.place) AS place
    FROM receipts_valid AS r JOIN enrollments AS e ON e.enrollment_id = r.enrollment_id
    WHERE r.state IN ('failed', 'dead') AND r.payload ->> '$.on_error' = 'exit' AND e.exit IS NULL
    GROUP BY e.enrollment_id, e.workflow, e.version, e.contact_id, e.key
"""
_EXIT = """
    UPDATE enrollments SET exit = 'error', exited_at = $now, due_at = NULL
    FROM receipts_exits AS x WHERE enrollments.enrollment_id = x.enrollment_id
"""
_EXIT_JOURNAL = """
    INSERT INTO journal
    SELECT $tick, $seq + row_number() OVER (ORDER BY x.place), $now, x.workflow, x.version, x.enrollment_id,
        x.contact_id, x.key, NULL, 'exit', NULL, 'error', NULL, NULL, 'delivery', NULL
    FROM receipts_exits AS x
"""


@dataclass(frozen=True)
class Position:
    """Where receipts are written: the last tick's number, and the time of the pass (never before that tick)."""

    tick: int
    now: datetime


def position(warehouse: Warehouse, state: StateTables, now: datetime) -> Position:
    """The last tick and the time that receipts carry."""
    last = warehouse.rows(state.statement(warehouse, "SELECT max(tick) AS tick, max(tick_at) AS tick_at FROM ticks"))[0]
    return Position(last["tick"] or 0, max(now, last["tick_at"] or now))


def sent_since(warehouse: Warehouse, state: StateTables, since: datetime) -> int:
    """How many actions were sent after a time."""
    text = "SELECT count(*) AS sent FROM outbox_closed WHERE state = 'sent' AND updated_at > $since"
    return int(warehouse.rows(state.statement(warehouse, text), {"since": since})[0]["sent"])


def settle(
    warehouse: Warehouse, state: StateTables, outcomes: Sequence[tuple[Intent, Outcome]], worker: str | None, key: str,
    where: Position,
) -> set[str]:  # fmt: skip
    """Write outcomes, inside the caller's transaction; returns the action ids whose claim still stood.

    Args:
        warehouse: an open connection.
        state: the state tables.
        outcomes: one per claimed row.
        worker: who claimed; None when the rows of lost workers are settled.
        key: of the address hashes.
        where: tick and time of the receipts.
    """
    if not outcomes:
        return set()
    stage(warehouse, "receipts", _table(outcomes, key))

    def run(text: str, **parameters: object) -> int:
        given = {"now": where.now, "tick": where.tick, "worker": worker, **parameters}
        return warehouse.execute(state.statement(warehouse, text), given)

    run(_VALID)
    valid = {row["action_id"] for row in warehouse.rows("SELECT action_id FROM receipts_valid")}
    run(_CLOSE)
    run(_FAILED_OUT)
    run(_REMOVE)
    run(_UPDATE)
    run(_ATTEMPTS)
    written = run(_JOURNAL, seq=(first := last_seq(warehouse, state, where.tick)))
    if run(_EXIT):
        run(_EXIT_JOURNAL, seq=first + written)
    if any(outcome.state == "sent" or outcome.suppress for _, outcome in outcomes):
        newest = state.statement(warehouse, "SELECT coalesce(max(seq), 0) AS seq FROM events")
        run(_EVENTS, seq=warehouse.rows(newest)[0]["seq"])
        run(_SUPPRESS)
    return valid


def last_seq(warehouse: Warehouse, state: StateTables, tick: int) -> int:
    """The number of the tick's last row in the journal."""
    text = state.statement(warehouse, "SELECT coalesce(max(seq), 0) AS seq FROM journal WHERE tick = $tick")
    return int(warehouse.rows(text, {"tick": tick})[0]["seq"])


def _table(outcomes: Sequence[tuple[Intent, Outcome]], key: str) -> pa.Table:
    return pa.Table.from_pylist([_row(i, o, key, place) for place, (i, o) in enumerate(outcomes)], schema=_SCHEMA)


def _row(intent: Intent, outcome: Outcome, key: str, place: int) -> dict[str, object]:
    message = intent.kind in MESSAGES
    bounced = message and outcome.suppress is not None
    sent = message and outcome.state == "sent"
    details = {
        intent.kind if not message else "template": intent.what, "workflow": intent.workflow, "step": intent.step,
        "action_id": intent.action_id, "destination": intent.destination, "attempt": outcome.attempt,
        **({"code": outcome.code} if outcome.code else {}), **({"reason": outcome.reason} if outcome.reason else {}),
    }  # fmt: skip
    return {
        "action_id": intent.action_id, "fence": outcome.fence, "attempt": outcome.attempt, "state": outcome.state,
        "final": outcome.state in FINAL, "word": outcome.word, "code": outcome.code, "reason": outcome.reason,
        "next_attempt_at": outcome.next_attempt_at, "attempted": outcome.attempted, "ambiguous": outcome.ambiguous,
        "receipt": json.dumps(dict(outcome.receipt)) if outcome.receipt else None, "details": json.dumps(details),
        "started_at": outcome.started_at, "place": place,
        "address_hash": address_hash(key, intent.address) if bounced and intent.address else None,
        "suppression_id": identity(intent.action_id, "bounced") if bounced else None,
        "sent_event": identity(intent.action_id, f"{intent.kind}_sent") if sent else None,
        "bounced_event": identity(intent.action_id, f"{intent.kind}_bounced") if bounced else None,
    }  # fmt: skip
