"""Reading goals, consent and the model again when intents are claimed (language §4, "Decide and deliver")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from compiler import frames
from compiler.plan import Plan
from flows.engine.evaluator import Evaluator, share_contacts
from flows.engine.intents import MESSAGES, Recheck
from flows.engine.work import Work
from flows.warehouse.base import Warehouse

WITHDRAWING = ("goal", "exit_when", "left_audience", "expired", "merged", "step_removed", "unenrolled", "error")
"""Exits after which nothing decided before is performed; `completed` and an `exit` step withdraw nothing."""


def rechecker(evaluator: Evaluator) -> Recheck:
    """The recheck of a deployment: an exit that came since, a goal that holds now, or what forbids a message."""

    def recheck(warehouse: Warehouse, action_ids: Sequence[str], now: datetime) -> Mapping[str, str]:
        if not action_ids:
            return {}
        work = evaluator.work(warehouse, now)
        waiting = list(action_ids)
        if evaluator.last is not None and work.tick_at == evaluator.last.tick_at:
            # only a virtual clock stands still; what this very tick decided was decided on all there is to read
            waiting = _older(work, waiting)
        return _withdrawn(work, waiting) if waiting else {}

    return recheck


def _older(work: Work, action_ids: list[str]) -> list[str]:
    watching = [plan.workflow for plan in work.deployment.plans if plan.watches_state]
    return [row["action_id"] for row in work.rows(_OLDER, ids=action_ids, watching=watching, reasons=list(WITHDRAWING))]


def _withdrawn(work: Work, action_ids: list[str]) -> dict[str, str]:
    work.run(_CLAIMED, ids=action_ids)
    work.run(_CONCERNED)
    share_contacts(work, work.rows(_EARLIEST_ENTRY)[0]["earliest"], frames.CHANNELS)
    found: dict[str, str] = {}
    versions = {(row["workflow"], row["version"]) for row in work.rows(_VERSIONS)}
    for plan in work.deployment.plans:
        if (plan.workflow, plan.version) in versions:
            _by_consent(work, plan, found)
            _by_exit(work, plan, found)
    for row in work.rows(_EXITED, reasons=list(WITHDRAWING)):
        found[row["action_id"]] = row["exit"]
    for row in work.rows(_FORBIDDEN, messages=list(MESSAGES)):
        found.setdefault(row["action_id"], row["reason"])
    return found


def _by_exit(work: Work, plan: Plan, found: dict[str, str]) -> None:
    if plan.exits is None:
        return
    work.run(_SCOPE, workflow=plan.workflow, version=plan.version)
    work.make("tick_exits", plan.exits, plan.workflow, str(plan.version))
    found.update({row["action_id"]: row["reason"] for row in work.rows(_LEAVING)})


def _by_consent(work: Work, plan: Plan, found: dict[str, str]) -> None:
    if plan.refusing is None:
        return
    work.make("tick_refusing", plan.refusing, plan.workflow, str(plan.version))
    for row in work.rows(_REFUSED, workflow=plan.workflow, version=plan.version):
        found.setdefault(row["action_id"], "no_consent")


_OLDER = """
    SELECT CAST(o.action_id AS TEXT) AS action_id FROM outbox AS o
    WHERE list_contains($ids, CAST(o.action_id AS TEXT))
        AND (o.tick < $tick OR list_contains($watching, o.workflow) OR o.enrollment_id IN (
            SELECT n.enrollment_id FROM enrollments AS n WHERE list_contains($reasons, n.exit)
        ))
"""
_CLAIMED = """
    CREATE OR REPLACE TEMP TABLE tick_claimed AS
    SELECT CAST(o.action_id AS TEXT) AS action_id, o.enrollment_id, o.workflow,
        coalesce(n.version, o.version) AS version, o.contact_id, o.kind,
        o.transactional, o.payload ->> '$.step.group' AS message_group, n.exit
    FROM outbox AS o LEFT JOIN enrollments AS n ON n.enrollment_id = o.enrollment_id
    WHERE list_contains($ids, CAST(o.action_id AS TEXT))
"""
_CONCERNED = """
    CREATE OR REPLACE TEMP TABLE tick_concerned AS SELECT DISTINCT contact_id FROM tick_claimed
"""
_EARLIEST_ENTRY = """
    SELECT min(n.entry_at) AS earliest FROM enrollments AS n
    WHERE n.enrollment_id IN (SELECT enrollment_id FROM tick_claimed)
"""
_VERSIONS = "SELECT DISTINCT workflow, version FROM tick_claimed"
_SCOPE = """
    CREATE OR REPLACE TEMP TABLE tick_scope AS
    SELECT n.enrollment_id, n.contact_id, n.key, n.entry_ref, n.entry, n.entry_at, n.position, n.logical_at, n.due_at,
        n.steps, n.arms, n.visits, CAST($tick_at AS TIMESTAMP) AS tick_at
    FROM enrollments AS n
    WHERE n.workflow = $workflow AND n.version = $version
        AND n.enrollment_id IN (SELECT enrollment_id FROM tick_claimed)
"""
_LEAVING = """
    SELECT c.action_id, x.reason FROM tick_claimed AS c JOIN tick_exits AS x ON x.enrollment_id = c.enrollment_id
"""
_REFUSED = """
    SELECT c.action_id FROM tick_claimed AS c JOIN tick_refusing AS r ON r.contact_id = c.contact_id
    WHERE c.workflow = $workflow AND c.version = $version AND r.channel = c.kind
"""
_EXITED = "SELECT action_id, exit FROM tick_claimed WHERE list_contains($reasons, exit)"
_FORBIDDEN = """
    SELECT f.action_id, f.reason FROM (
        SELECT k.action_id,
            CASE
                WHEN CASE k.kind WHEN 'sms' THEN c.m_bounced_sms WHEN 'push' THEN c.m_bounced_push ELSE c.m_bounced END
                    THEN 'bounced'
                WHEN trim(coalesce(
                    CASE k.kind WHEN 'sms' THEN c.m_phone WHEN 'push' THEN c.m_push ELSE c.m_email END, ''
                )) = '' THEN 'no_address'
                WHEN k.transactional THEN NULL
                WHEN CASE k.kind WHEN 'sms' THEN c.m_unsubscribed_sms WHEN 'push' THEN c.m_unsubscribed_push
                    ELSE c.m_unsubscribed END THEN 'unsubscribed'
                WHEN list_contains(CASE k.kind WHEN 'sms' THEN c.m_groups_sms WHEN 'push' THEN c.m_groups_push
                    ELSE c.m_groups END, k.message_group) THEN 'unsubscribed_group'
            END AS reason
        FROM tick_claimed AS k LEFT JOIN tick_contacts AS c ON c.contact_id = k.contact_id
        WHERE list_contains($messages, k.kind)
    ) AS f WHERE f.reason IS NOT NULL
"""
