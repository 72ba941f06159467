"""Acceptance: the intents of past ticks settled as a destination that takes all of them would, in a few statements."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from flows.journal.tables import StateTables, stage
from flows.warehouse.base import Warehouse


def accept_all(warehouse: Warehouse, state: StateTables, withdrawn: Mapping[str, str], *, events: bool) -> None:
    """Settle every intent of the outbox at the tick that decided it, inside the caller's transaction.

    Args:
        warehouse: an open connection.
        state: the state tables.
        withdrawn: actions that are not performed, and why.
        events: whether somebody reads that messages were sent.
    """
    if withdrawn:
        rows = {"action_id": list(withdrawn), "reason": list(withdrawn.values())}
        stage(warehouse, "withdrawn", pa.table(rows, pa.schema([(name, pa.string()) for name in rows])))
    for text in (_JOURNAL, *((_EVENTS,) if events else ()), _CLOSE):
        chosen = text if withdrawn else text.replace(_WITHDRAWN, _NOTHING_WITHDRAWN)
        warehouse.execute(state.statement(warehouse, chosen))
    warehouse.execute(state.statement(warehouse, "DELETE FROM outbox"))


_WITHDRAWN = "LEFT JOIN withdrawn AS w ON w.action_id = o.action_id"
_NOTHING_WITHDRAWN = "CROSS JOIN (SELECT CAST(NULL AS TEXT) AS reason) AS w"
_JOURNAL = (
    """
    INSERT INTO journal
    SELECT o.tick, j.last + row_number() OVER (PARTITION BY o.tick ORDER BY o.seq), o.decided_at, o.workflow,
        o.version, o.enrollment_id, o.contact_id, o.key, o.step, 'delivery',
        coalesce(o.payload ->> '$.step.key', o.kind) || ':' || o.what,
        CASE WHEN w.reason IS NULL THEN 'sent' ELSE 'skipped(' || w.reason || ')' END, o.due, o.action_id, NULL, NULL
    FROM outbox AS o
    JOIN (
        SELECT l.tick, max(l.seq) AS last FROM journal AS l WHERE l.tick >= (SELECT min(p.tick) FROM outbox AS p)
        GROUP BY l.tick
    ) AS j ON j.tick = o.tick
    """
    + _WITHDRAWN
)
_EVENTS = (
    """
    INSERT INTO events
    SELECT CAST(o.action_id AS TEXT) || ':sent',
        (SELECT coalesce(max(e.seq), 0) FROM events AS e) + row_number() OVER (ORDER BY o.tick, o.seq), o.contact_id,
        CAST(o.action_id AS TEXT), NULL, NULL, o.kind || '_sent', o.decided_at, o.decided_at,
        json_object('template', o.what, 'workflow', o.workflow, 'step', o.step, 'action_id', CAST(o.action_id AS TEXT),
            'destination', o.destination),
        'delivery'
    FROM outbox AS o """
    + _WITHDRAWN
    + " WHERE w.reason IS NULL AND o.kind IN ('email', 'sms', 'push')"
)
_CLOSE = (
    """
    INSERT INTO outbox_closed
    SELECT o.action_id, o.enrollment_id, o.workflow, o.version, o.contact_id, o.key, o.step, o.visit, o.kind, o.what,
        o.destination, o.template_hash, o.payload, o.due, o.decided_at, o.tick, o.seq, o.expires_at, o.transactional,
        CASE WHEN w.reason IS NULL THEN 'sent' WHEN w.reason = 'too_late' THEN 'expired' ELSE 'cancelled' END,
        NULL, o.fence, CASE WHEN w.reason IS NULL THEN 1 ELSE 0 END, NULL, NULL, w.reason, o.decided_at
    FROM outbox AS o """
    + _WITHDRAWN
)
