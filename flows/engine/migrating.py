"""Migrating: contacts in flight move to a new version of their workflow, by the ids of its steps (language §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            before = [plan for number, plan in deployed.plans.items() if number < version]
            _migrate(work, before, deployed.plans[version], redirect)


def _migrate(work: Work, before: Sequence[Plan], plan: Plan, redirect: Mapping[str, str]) -> None:
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
    work.run(_WALKED)
    work.run(_COMPLETED)
    if plan.counted:
        _count_visits(work, before, plan)
    _recall_times(work, before, plan)
    work.journal(_MOVED_JOURNAL, **given)
    work.run(_MOVED, **given)


def _count_visits(work: Work, before: Sequence[Plan], plan: Plan) -> None:
    """Let steps that can be met again go on counting from what was done, so that each further visit is a new action.

    A step that was passed and lies ahead again is done: its last visit is taken once more, which is found completed.
    """
    new = {step: place for place, step in enumerate(plan.step_ids)}
    rows = []
    for earlier in before:
        old = {step: place for place, step in enumerate(earlier.step_ids)}
        rows += [(earlier.version, step, old.get(step), new.get(step)) for step in {*old, *new}]
    columns = {name: [row[number] for row in rows] for number, name in enumerate(("version", "step", "old", "new"))}
    kinds = [("version", pa.int64()), ("step", pa.string()), ("old", pa.int64()), ("new", pa.int64())]
    stage(work.warehouse, "tick_orders", pa.table(columns, pa.schema(kinds)))
    work.run(_COUNTED, counted=sorted(plan.counted))


def _recall_times(work: Work, before: Sequence[Plan], plan: Plan) -> None:
    """Find in the journal the times of steps that conditions count from only now."""
    wanted = [(earlier.version, step) for earlier in before for step in sorted(plan.since_steps - earlier.since_steps)]
    if not wanted:
        return
    columns = {"version": [version for version, _ in wanted], "step": [step for _, step in wanted]}
    kinds = [("version", pa.int64()), ("step", pa.string())]
    stage(work.warehouse, "tick_recalled", pa.table(columns, pa.schema(kinds)))
    work.run(_TIMES, grace=int(plan.grace))


_BEFORE = """
    SELECT count(*) FROM enrollments AS n
    WHERE n.workflow = $workflow AND n.version < $version AND n.exit IS NULL
"""
_MIGRATING = """
    CREATE OR REPLACE TEMP TABLE tick_migrating AS
    SELECT n.enrollment_id, n.contact_id, n.key, n.version AS before, n.position AS place, n.logical_at, p.target
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
_WALKED = """
    CREATE OR REPLACE TEMP TABLE tick_walked AS
    SELECT j.enrollment_id, j.step, j.kind, j.tick, j.seq, j.executed_at, j.due, j.action_id FROM journal AS j
    JOIN tick_migrating AS m ON m.enrollment_id = j.enrollment_id AND m.target IS NOT NULL
    WHERE j.kind IN ('action', 'intent', 'split', 'rest') AND coalesce(j.cause, '') <> 'migrated'
"""
_COMPLETED = """
    INSERT INTO completed_actions
    SELECT DISTINCT w.action_id, w.enrollment_id FROM tick_walked AS w
    WHERE w.action_id IS NOT NULL AND w.action_id NOT IN (SELECT c.action_id FROM completed_actions AS c)
"""
_COUNTED = """
    UPDATE enrollments SET visits = json_merge_patch(coalesce(enrollments.visits, CAST('{}' AS JSON)), s.visits)
    FROM (
        SELECT d.enrollment_id,
            CAST('{' || string_agg('"' || d.step || '": ' || CAST(d.visits AS TEXT), ', ') || '}' AS JSON) AS visits
        FROM (
            SELECT w.enrollment_id, w.step, count(DISTINCT w.action_id)
                - max(CASE WHEN coalesce(o.old, -1) < p.old AND o.new >= t.new THEN 1 ELSE 0 END) AS visits
            FROM tick_walked AS w
            JOIN tick_migrating AS m ON m.enrollment_id = w.enrollment_id
            JOIN tick_orders AS o ON o.version = m.before AND o.step = w.step
            JOIN tick_orders AS p ON p.version = m.before AND p.step = m.place
            JOIN tick_orders AS t ON t.version = m.before AND t.step = m.target
            WHERE w.action_id IS NOT NULL AND list_contains($counted, w.step)
            GROUP BY w.enrollment_id, w.step
        ) AS d GROUP BY d.enrollment_id
    ) AS s WHERE enrollments.enrollment_id = s.enrollment_id
"""
# An action's time is its L, or its tick where it was late by more than the grace; that of another step is the L with
# which the enrollment came to what follows the rest there.
_TIMES = """
    UPDATE enrollments SET steps = json_merge_patch(coalesce(enrollments.steps, CAST('{}' AS JSON)), s.times)
    FROM (
        SELECT d.enrollment_id,
            CAST('{' || string_agg('"' || d.step || '": "' || CAST(d.at_ AS TEXT) || '"', ', ') || '}' AS JSON) AS times
        FROM (
            SELECT l.enrollment_id, l.step, l.at_, row_number() OVER (
                PARTITION BY l.enrollment_id, l.step ORDER BY l.tick DESC, l.seq DESC) AS place
            FROM (
                SELECT w.enrollment_id, w.step, w.tick, w.seq, CASE
                    WHEN w.kind = 'rest' THEN lead(w.due) OVER (PARTITION BY w.enrollment_id ORDER BY w.tick, w.seq)
                    WHEN w.kind <> 'split' AND w.executed_at > w.due + CAST($grace AS BIGINT) * INTERVAL '1' SECOND
                        THEN w.executed_at
                    ELSE w.due
                END AS at_
                FROM tick_walked AS w
            ) AS l
            JOIN tick_migrating AS m ON m.enrollment_id = l.enrollment_id
            JOIN tick_recalled AS r ON r.version = m.before AND r.step = l.step
            WHERE l.at_ IS NOT NULL
        ) AS d WHERE d.place = 1 GROUP BY d.enrollment_id
    ) AS s WHERE enrollments.enrollment_id = s.enrollment_id
"""
_MOVED_JOURNAL = """
    SELECT $workflow AS workflow, $version AS version, m.enrollment_id, m.contact_id, m.key, m.target AS step,
        'rest' AS kind, NULL AS what, NULL AS outcome, m.logical_at AS due, NULL AS action_id, 'migrated' AS cause,
        CASE WHEN coalesce(n.steps, n.arms, n.visits) IS NOT NULL
            THEN json_object('steps', n.steps, 'arms', n.arms, 'visits', n.visits) END AS details
    FROM tick_migrating AS m JOIN enrollments AS n ON n.enrollment_id = m.enrollment_id WHERE m.target IS NOT NULL
"""
_MOVED = """
    UPDATE enrollments SET version = $version, position = m.target, due_at = $tick_at, moved_tick = $tick
    FROM tick_migrating AS m WHERE enrollments.enrollment_id = m.enrollment_id AND m.target IS NOT NULL
"""
