"""Whose turn it is: enrollments of one contact advance one after another where one may read what another writes.

The order is the language's (§4): priority, then due, then workflow. Contacts with one moving enrollment, nearly all,
go in the first turn; the others' later enrollments follow, each turn as sets.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa

from compiler.plan import Plan
from flows.engine.work import Work
from flows.journal.tables import stage

Version = tuple[str, int]


def take_turns(work: Work, moving: Sequence[Plan], rezoned: Collection[Version]) -> dict[int, frozenset[Version]]:
    """Fill `tick_later` with the enrollments that have to wait for another one of their contact.

    Args:
        work: of the tick.
        moving: the plans that have something due or woken.
        rezoned: versions of which every enrollment moves.

    Returns:
        The versions that have an enrollment in each later turn (2, 3, …); empty when nobody has to wait.
    """
    if not any(plan.ordered for plan in moving):
        return {}
    plans = {
        "workflow": [plan.workflow for plan in moving],
        "version": [plan.version for plan in moving],
        "priority": [plan.priority for plan in moving],
        "every_one": [(plan.workflow, plan.version) in rezoned for plan in moving],
    }
    kinds = [("workflow", pa.string()), ("version", pa.int64()), ("priority", pa.int64()), ("every_one", pa.bool_())]
    stage(work.warehouse, "tick_moving", pa.table(plans, pa.schema(kinds)))
    wakes = [(plan.workflow, plan.version, name) for plan in moving for name in sorted(plan.wakes)]
    columns = {
        "workflow": [workflow for workflow, _, _ in wakes],
        "version": [version for _, version, _ in wakes],
        "name": [name for _, _, name in wakes],
    }
    kinds = [("workflow", pa.string()), ("version", pa.int64()), ("name", pa.string())]
    stage(work.warehouse, "tick_wakes", pa.table(columns, pa.schema(kinds)))
    if not work.run(_LATER):
        return {}
    found: dict[int, set[Version]] = {}
    for row in work.rows("SELECT DISTINCT turn, workflow, version FROM tick_later"):
        found.setdefault(row["turn"], set()).add((row["workflow"], row["version"]))
    return {turn: frozenset(versions) for turn, versions in found.items()}


# Who is woken moves at the time of the event that wakes it, not at its own deadline.
_LATER = """
    CREATE OR REPLACE TEMP TABLE tick_later AS
    SELECT t.enrollment_id, t.workflow, t.version, t.turn FROM (
        SELECT m.enrollment_id, m.workflow, m.version, row_number() OVER (
            PARTITION BY m.contact_id ORDER BY m.priority DESC, m.due, m.workflow, m.entry_at, m.enrollment_id
        ) AS turn
        FROM (
            SELECT n.enrollment_id, n.contact_id, n.workflow, n.version, n.entry_at, p.priority,
                greatest(n.logical_at, least(
                    coalesce(n.due_at, $tick_at), coalesce(w.woken_at, CAST($tick_at AS TIMESTAMP))
                )) AS due
            FROM enrollments AS n
            JOIN tick_moving AS p ON p.workflow = n.workflow AND p.version = n.version
            LEFT JOIN (
                SELECT k.workflow, k.version, a.contact_id, min(a.event_time) AS woken_at
                FROM tick_arrivals AS a JOIN tick_wakes AS k ON k.name = a.name
                GROUP BY k.workflow, k.version, a.contact_id
            ) AS w ON w.workflow = n.workflow AND w.version = n.version AND w.contact_id = n.contact_id
            WHERE n.exit IS NULL AND (p.every_one OR n.due_at <= $tick_at OR w.woken_at IS NOT NULL)
        ) AS m
    ) AS t WHERE t.turn > 1
"""
