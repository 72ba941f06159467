"""Whose turn it is: enrollments of one contact advance one after another where one may read what another writes.

The order is the language's (§4): priority, then due, then workflow. Contacts with one moving enrollment, nearly all,
go in the first turn; the others' later enrollments follow, each turn as sets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from compiler.plan import FRAME, Plan
from flows.engine.work import Work
from flows.journal.tables import stage

Version = tuple[str, int]


def take_turns(
    work: Work, moving: Sequence[Plan], rezoned: Collection[Version], scope: Callable[[Plan], int]
) -> dict[int, frozenset[Version]]:
    """Fill `tick_later` with the enrollments that have to wait for another one of their contact.

    Args:
        work: of the tick.
        moving: the plans that have something due or woken.
        rezoned: versions of which every enrollment moves.
        scope: makes `tick_scope` of a plan's enrollments in `tick_turns`, those whose contact has several that move.

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
    if not work.run(_TURNS):
        return {}
    for plan in moving:
        _find_dues(work, plan, scope, every_one=(plan.workflow, plan.version) in rezoned)
    work.run(_LATER)
    found: dict[int, set[Version]] = {}
    for row in work.rows("SELECT DISTINCT turn, workflow, version FROM tick_later"):
        found.setdefault(row["turn"], set()).add((row["workflow"], row["version"]))
    return {turn: frozenset(versions) for turn, versions in found.items()}


def _find_dues(work: Work, plan: Plan, scope: Callable[[Plan], int], *, every_one: bool) -> None:
    """Say when those go on for whom that was not planned before: by an event, a column that changed, …"""
    steps = [step for step, due in plan.dues.items() if every_one or not due.planned]
    if not plan.dues:
        return
    given = {"steps": steps, "waiting": list(plan.dues)}
    standing = work.rows(_STANDING, workflow=plan.workflow, version=plan.version, **given)
    if not standing:
        return
    key = (plan.workflow, str(plan.version))
    scope(plan)
    work.make_own(plan, FRAME, plan.frame)
    for row in standing:
        step = str(row["position"])
        work.make("tick_dues", lambda s=step: work.texts.owned(plan, plan.dues[s].query), *key, step)
        work.run(_GOES_ON)


# Where the order leaves two of one workflow equal, the one goes first that entered first, as admission has it.
_TURNS = """
    CREATE OR REPLACE TEMP TABLE tick_turns AS
    SELECT m.enrollment_id, m.contact_id, m.workflow, m.version, m.position, m.entry_at, m.entry_ref, m.priority, m.due,
        m.fresh
    FROM (
        SELECT n.entered_tick = $tick AS fresh,
            n.enrollment_id, n.contact_id, n.workflow, n.version, n.position, n.entry_at, n.entry_ref, p.priority,
            greatest(n.logical_at, coalesce(n.due_at, n.logical_at)) AS due,
            count(*) OVER (PARTITION BY n.contact_id) AS several
        FROM enrollments AS n
        JOIN tick_moving AS p ON p.workflow = n.workflow AND p.version = n.version
        WHERE n.exit IS NULL AND (p.every_one OR n.due_at <= $tick_at OR EXISTS (
            SELECT 1 FROM tick_arrivals AS a JOIN tick_wakes AS k ON k.name = a.name
            WHERE k.workflow = n.workflow AND k.version = n.version AND a.contact_id = n.contact_id
        ))
    ) AS m WHERE m.several > 1
"""
_STANDING = """
    SELECT DISTINCT t.position FROM tick_turns AS t
    WHERE t.workflow = $workflow AND t.version = $version
        AND (list_contains($steps, t.position) OR t.fresh AND list_contains($waiting, t.position))
"""
_GOES_ON = """
    UPDATE tick_turns SET due = d.due FROM tick_dues AS d WHERE d.enrollment_id = tick_turns.enrollment_id
"""
_LATER = """
    CREATE OR REPLACE TEMP TABLE tick_later AS
    SELECT t.enrollment_id, t.workflow, t.version, t.turn FROM (
        SELECT m.enrollment_id, m.workflow, m.version, row_number() OVER (
            PARTITION BY m.contact_id
            ORDER BY m.priority DESC, m.due, m.workflow, m.entry_at, m.entry_ref, m.enrollment_id
        ) AS turn
        FROM tick_turns AS m
    ) AS t WHERE t.turn > 1
"""
