"""Migrating: contacts in flight move to a new version of their workflow, by the ids of its steps (language §6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from compiler.plan import Plan
from flows.engine.deployment import Deployed
from flows.engine.work import Work
from flows.journal.tables import stage


def migrate_enrollments(work: Work, deployed: Deployed) -> None:
    """Move the enrollments of earlier versions, version after version; there are none after the first tick."""
    for version, redirect in sorted(deployed.migrations.items()):
        if version in deployed.plans:
            _migrate(work, deployed.plans[version], redirect)


def _migrate(work: Work, plan: Plan, redirect: Mapping[str, str]) -> None:
    given: dict[str, Any] = {"workflow": plan.workflow, "version": plan.version}
    if not work.number(_BEFORE, **given):
        return
    places = {**{old: new for old, new in redirect.items() if new in plan.step_ids}, **{s: s for s in plan.step_ids}}
    stage(work.warehouse, "tick_places", pa.table(
        {"step": list(places), "target": list(places.values())},
        pa.schema([("step", pa.string()), ("target", pa.string())]),
    ))  # fmt: skip
    work.run(_MIGRATING, **given)
    work.count("exits", work.journal(_REMOVED_JOURNAL, **given))
    work.run(_REMOVED)
    work.run(_COMPLETED)
    work.journal(_MOVED_JOURNAL, **given)
    work.run(_MOVED, **given)


_BEFORE = """
    SELECT count(*) FROM enrollments AS n
    WHERE n.workflow = $workflow AND n.version < $version AND n.exit IS NULL
"""
_MIGRATING = """
    CREATE OR REPLACE TEMP TABLE tick_migrating AS
    SELECT n.enrollment_id, n.contact_id, n.key, n.version AS before, n.logical_at, p.target
    FROM enrollments AS n LEFT JOIN tick_places AS p ON p.step = n.position
    WHERE n.workflow = $workflow AND n.version < $version AND n.exit IS NULL
"""
_REMOVED_JOURNAL = """
    SELECT $workflow AS workflow, m.before AS version, m.enrollment_id, m.contact_id, m.key, NULL AS step,
        'exit' AS kind, NULL AS what, 'step_removed' AS outcome, NULL AS due, NULL AS action_id, NULL AS cause,
        NULL AS details
    FROM tick_migrating AS m WHERE m.target IS NULL
"""
_REMOVED = """
    UPDATE enrollments SET exit = 'step_removed', exited_at = $tick_at, moved_tick = $tick, due_at = NULL
    FROM tick_migrating AS m WHERE enrollments.enrollment_id = m.enrollment_id AND m.target IS NULL
"""
_COMPLETED = """
    INSERT INTO completed_actions
    SELECT DISTINCT j.action_id, j.enrollment_id FROM journal AS j
    JOIN tick_migrating AS m ON m.enrollment_id = j.enrollment_id AND m.target IS NOT NULL
    WHERE j.kind IN ('action', 'intent') AND j.action_id IS NOT NULL
        AND j.action_id NOT IN (SELECT c.action_id FROM completed_actions AS c)
"""
_MOVED_JOURNAL = """
    SELECT $workflow AS workflow, $version AS version, m.enrollment_id, m.contact_id, m.key, m.target AS step,
        'rest' AS kind, NULL AS what, NULL AS outcome, m.logical_at AS due, NULL AS action_id, 'migrated' AS cause,
        NULL AS details
    FROM tick_migrating AS m WHERE m.target IS NOT NULL
"""
_MOVED = """
    UPDATE enrollments SET version = $version, position = m.target, due_at = $tick_at, moved_tick = $tick
    FROM tick_migrating AS m WHERE enrollments.enrollment_id = m.enrollment_id AND m.target IS NOT NULL
"""
