"""Trying again by hand: what failed for good, ran out of attempts, or is held since nobody knows what became of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flows.engine.receipts import last_seq, position
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

_CHOSEN = """
    CREATE OR REPLACE TEMPORARY TABLE again AS
    SELECT d.action_id, d.state FROM deliveries AS d
    WHERE array_contains($states, d.state) AND ($destination IS NULL OR d.destination = $destination)
        AND ($workflow IS NULL OR d.workflow = $workflow) AND ($code IS NULL OR d.code = $code)
        AND ($since IS NULL OR d.updated_at >= $since)
        AND ($all_actions OR array_contains($actions, CAST(d.action_id AS TEXT)))
"""
_REOPEN = """
    INSERT INTO outbox
    SELECT c.action_id, c.enrollment_id, c.workflow, c.version, c.contact_id, c.key, c.step, c.visit, c.kind, c.what,
        c.destination, c.template_hash, c.payload, c.due, c.decided_at, c.tick, c.seq, c.expires_at, c.transactional,
        'retry', NULL, c.fence, c.attempts, NULL, c.code, 'by hand', $now
    FROM outbox_closed AS c JOIN again AS a ON a.action_id = c.action_id
"""
_REMOVE = "DELETE FROM outbox_closed WHERE action_id IN (SELECT action_id FROM again)"
_RELEASE = """
    UPDATE outbox SET state = 'retry', next_attempt_at = NULL, reason = 'by hand', updated_at = $now
    WHERE state = 'unknown' AND action_id IN (SELECT action_id FROM again)
"""
_JOURNAL = """
    INSERT INTO journal
    SELECT $tick, $seq + row_number() OVER (ORDER BY o.tick, o.seq), $now, o.workflow, o.version, o.enrollment_id,
        o.contact_id, o.key, o.step, 'delivery', coalesce(o.payload ->> '$.step.key', o.kind) || ':' || o.what,
        'retry(by hand)', o.due, o.action_id, NULL, CAST($details AS JSON)
    FROM outbox AS o JOIN again AS a ON a.action_id = o.action_id
"""


@dataclass(frozen=True)
class Choice:
    """Which deliveries: of these states, and of a destination, a workflow, a code, a time, or by id."""

    states: Sequence[str]
    destination: str | None = None
    workflow: str | None = None
    code: str | None = None
    since: datetime | None = None
    actions: Sequence[str] = field(default_factory=tuple)


def try_again(
    warehouse: Warehouse, state: StateTables, choice: Choice, now: datetime, *, who: str, because: str
) -> int:
    """Put deliveries back into the outbox, for one more attempt each; returns how many.

    They are checked again before they leave, like every other one: opt-outs, exits and age limits hold. Runs inside
    the caller's transaction.
    """
    where = position(warehouse, state, now)
    given = {
        "states": list(choice.states), "destination": choice.destination, "workflow": choice.workflow,
        "code": choice.code, "since": choice.since, "actions": list(choice.actions) or [""],
        "all_actions": not choice.actions, "now": where.now, "tick": where.tick,
        "seq": last_seq(warehouse, state, where.tick), "details": json.dumps({"who": who, "because": because}),
    }  # fmt: skip
    for text in (_CHOSEN, _REOPEN, _REMOVE, _RELEASE, _JOURNAL):
        warehouse.execute(state.statement(warehouse, text), given)
    return int(warehouse.rows("SELECT count(*) AS n FROM again")[0]["n"])
