"""Writing down what a plan decided in a tick: journal, outbox, positions, and what its steps keep: tags, fields, …"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set

from sqlglot import exp

from compiler.identity import action_identity
from compiler.plan import Action, Plan, Stage
from flows.engine.work import Work

NUMBERS = 4096
"""Numbers of the log for each enrollment in a pass: its steps, at most 500 and two each, in the order of the file."""


def record(work: Work, plan: Plan, reached: Sequence[tuple[Stage, Sequence[int]]], enrollments: int) -> None:
    """Write the decisions of one plan about the enrollments in scope; `tick_frame` and the stages' tables are there."""
    key = (plan.workflow, str(plan.version))
    actions = [action for stage, indexes in reached for action in stage.actions if action.index in set(indexes)]
    work.make("tick_moves", lambda: work.texts.owned(plan, plan.moves), *key)
    work.run(_NO_ACTIONS)
    for action in actions:
        # A statement each: which actions are reached together differs from tick to tick, and their texts are kept.
        work.add("tick_actions", lambda a=action: _action(work, plan, a), *key, str(action.index), action.kind)
    if actions and work.deployment.workflows[plan.workflow].migrations:
        work.run("DELETE FROM tick_actions WHERE action_id IN (SELECT c.action_id FROM completed_actions AS c)")
    given = {"workflow": plan.workflow, "version": plan.version}
    kinds = {row["outcome"]: row["n"] for row in work.rows(_KINDS)} if actions else {}
    work.run(_JOURNAL, **given)
    if kinds.get("decided"):
        work.run(_OUTBOX, **given)
    written = {action.kind for action in actions}
    _keep(work, written)
    moved = work.run(_MOVE)
    work.seq += (enrollments + 1) * NUMBERS
    if "unenroll" in written:
        _unenroll(work)
    work.count("moved", moved)
    work.count("decided", kinds.get("decided", 0))
    work.count("done", kinds.get("ok", 0))
    work.count("skipped", sum(n for outcome, n in kinds.items() if outcome.startswith("skipped")))


def _keep(work: Work, written: Set[str]) -> None:
    """What the internal steps of some kinds write."""
    if written & {"tag", "untag"}:
        if "untag" in written:
            work.run(_UNTAG)
        work.run(_TAG)
        if work.deployment.catalog.contact.tags is not None:
            work.run(_UNTAGS)
            work.run(_TAGGED_AGAIN)
    if "campaign" in written:
        work.run(_LEAVE_CAMPAIGN)
        work.run(_JOIN_CAMPAIGN)
    if "score" in written:
        work.run(_ADD_POINTS)
        work.run(_FIRST_POINTS, starts=json.dumps(dict(work.deployment.catalog.points)))
    if "set" in written:
        work.run(_SET_REMOVE)
        work.run(_SET)
    if "emit" in written:
        work.run(_EMIT, last=work.number("SELECT coalesce(max(seq), 0) AS seq FROM events"))
    if "enroll" in written:
        work.run(_ENROLL)


def _unenroll(work: Work) -> None:
    """End the contacts' enrollments in the workflows that they were taken out of."""
    if work.run(_UNENROLLED):
        left = work.journal(_UNENROLLED_JOURNAL)
        work.run(_UNENROLLED_EXIT)
        work.count("exits", left)


def _action(work: Work, plan: Plan, action: Action) -> exp.Expr:
    """The rows of a reached action for `tick_actions`: with its id, how the log calls it, and where it goes."""
    template = work.deployment.templates.get(action.template) if action.template else None
    visit = exp.column("visit", table="r") if action.repeated else None
    rows = exp.select(
        "r.*",
        exp.Add(this=exp.column("log_at", table="r"), expression=exp.Literal.number(2 * action.index)),
        _text(None if action.kind == "split" else f"{action.word}:{action.what}"),
        _text(action.destination),
        _text(template),
        exp.convert(action.transactional),
        action_identity(exp.column("enrollment_id", table="r"), action.step, visit),
    ).from_(action.rows.subquery("r"))
    return work.texts.owned(plan, rows)


def _text(value: str | None) -> exp.Expr:
    return exp.cast(exp.null(), "text") if value is None else exp.Literal.string(value)


_NO_ACTIONS = """
    CREATE OR REPLACE TEMP TABLE tick_actions (
        log_at BIGINT, enrollment_id UUID, contact_id TEXT, key TEXT, step TEXT, kind TEXT, what TEXT, due TIMESTAMP,
        outcome TEXT, payload JSON, expires_at TIMESTAMP, visit INTEGER, seq BIGINT, word TEXT, destination TEXT,
        template_hash TEXT, transactional BOOLEAN, action_id UUID
    )
"""
_KINDS = "SELECT outcome, count(*) AS n FROM tick_actions WHERE kind <> 'split' GROUP BY outcome"
_JOURNAL = """
    INSERT INTO journal
    SELECT $tick, d.seq, $tick_at, $workflow, $version, d.enrollment_id, d.contact_id, d.key, d.step, d.kind, d.word,
        d.outcome, d.due, d.action_id, NULL, d.details
    FROM (
        SELECT a.seq, a.enrollment_id, a.contact_id, a.key, a.step,
            CASE WHEN a.kind = 'split' THEN 'split' WHEN a.outcome = 'decided' THEN 'intent' ELSE 'action' END AS kind,
            a.word, CASE WHEN a.kind = 'split' THEN a.what ELSE a.outcome END AS outcome, a.due, a.action_id,
            CASE WHEN a.kind IN ('set', 'score', 'campaign', 'emit', 'enroll') THEN a.payload END AS details
        FROM tick_actions AS a
        UNION ALL
        SELECT m.log_at + 2 * m.ordinal + 1, m.enrollment_id, m.contact_id, m.key,
            CASE WHEN m.exit IS NULL THEN m.position END, CASE WHEN m.exit IS NULL THEN 'rest' ELSE 'exit' END, NULL,
            m.exit, CASE WHEN m.exit IS NULL THEN m.logical_at END, NULL,
            CASE WHEN m.exit IS NULL AND coalesce(m.steps, m.arms, m.visits) IS NOT NULL
                THEN json_object('steps', m.steps, 'arms', m.arms, 'visits', m.visits) END
        FROM tick_moves AS m WHERE m.moved OR m.exit IS NOT NULL
    ) AS d
"""
_OUTBOX = """
    INSERT INTO outbox
    SELECT d.action_id, d.enrollment_id, $workflow, $version, d.contact_id, d.key, d.step, d.visit, d.kind, d.what,
        d.destination, d.template_hash, d.payload, d.due, $tick_at, $tick, d.seq, d.expires_at, d.transactional,
        'pending', NULL, NULL, 0, NULL, NULL, NULL, $tick_at
    FROM tick_actions AS d WHERE d.outcome = 'decided'
"""
_LAST_TAGS = """
    SELECT contact_id, what, kind, action_id FROM (
        SELECT d.contact_id, d.what, d.kind, d.action_id,
            row_number() OVER (PARTITION BY d.contact_id, d.what ORDER BY d.seq DESC) AS place
        FROM tick_actions AS d WHERE d.kind IN ('tag', 'untag') AND d.outcome = 'ok'
    ) AS l WHERE l.place = 1
"""
_UNTAG = (
    "DELETE FROM contact_tags WHERE EXISTS (SELECT 1 FROM (" + _LAST_TAGS + ") AS t "
    "WHERE t.kind = 'untag' AND t.contact_id = contact_tags.contact_id AND t.what = contact_tags.tag)"
)
_UNTAGS = (
    "INSERT INTO contact_untags SELECT t.contact_id, t.what, $tick_at, t.action_id FROM (" + _LAST_TAGS + ") AS t "
    "WHERE t.kind = 'untag' AND NOT EXISTS (SELECT 1 FROM contact_untags AS c "
    "WHERE c.contact_id = t.contact_id AND c.tag = t.what)"
)
"""A tag of the user's model cannot be deleted there, so what was taken away is remembered."""
_TAGGED_AGAIN = (
    "DELETE FROM contact_untags WHERE EXISTS (SELECT 1 FROM (" + _LAST_TAGS + ") AS t "
    "WHERE t.kind = 'tag' AND t.contact_id = contact_untags.contact_id AND t.what = contact_untags.tag)"
)
_TAG = (
    "INSERT INTO contact_tags SELECT t.contact_id, t.what, $tick_at, t.action_id FROM (" + _LAST_TAGS + ") AS t "
    "LEFT JOIN contact_tags AS c ON c.contact_id = t.contact_id AND c.tag = t.what "
    "WHERE t.kind = 'tag' AND c.tag IS NULL"
)
_LAST_FIELDS = """
    SELECT contact_id, name, value, action_id FROM (
        SELECT s.contact_id, s.name, json_extract_string(s.payload, '$."' || s.name || '"') AS value, s.action_id,
            row_number() OVER (PARTITION BY s.contact_id, s.name ORDER BY s.seq DESC) AS place
        FROM (
            SELECT d.contact_id, d.payload, d.action_id, d.seq, unnest(json_keys(d.payload)) AS name
            FROM tick_actions AS d WHERE d.kind = 'set' AND d.outcome = 'ok'
        ) AS s
    ) AS l WHERE l.place = 1
"""
_SET_REMOVE = (
    "DELETE FROM contact_fields WHERE EXISTS (SELECT 1 FROM (" + _LAST_FIELDS + ") AS t "
    "WHERE t.contact_id = contact_fields.contact_id AND t.name = contact_fields.name)"
)
_SET = (
    "INSERT INTO contact_fields SELECT t.contact_id, t.name, t.value, $tick_at, t.action_id FROM ("
    + _LAST_FIELDS + ") AS t"
)  # fmt: skip
_LAST_CAMPAIGNS = """
    SELECT contact_id, what, member, action_id FROM (
        SELECT d.contact_id, d.what, CAST(d.payload ->> '$.member' AS BOOLEAN) AS member, d.action_id,
            row_number() OVER (PARTITION BY d.contact_id, d.what ORDER BY d.seq DESC) AS place
        FROM tick_actions AS d WHERE d.kind = 'campaign' AND d.outcome = 'ok'
    ) AS l WHERE l.place = 1
"""
_LEAVE_CAMPAIGN = (
    "DELETE FROM campaign_members WHERE EXISTS (SELECT 1 FROM (" + _LAST_CAMPAIGNS + ") AS t "
    "WHERE NOT t.member AND t.contact_id = campaign_members.contact_id AND t.what = campaign_members.campaign)"
)
_JOIN_CAMPAIGN = (
    "INSERT INTO campaign_members SELECT t.contact_id, t.what, $tick_at, t.action_id FROM (" + _LAST_CAMPAIGNS
    + ") AS t WHERE t.member AND NOT EXISTS (SELECT 1 FROM campaign_members AS c "
    "WHERE c.contact_id = t.contact_id AND c.campaign = t.what)"
)  # fmt: skip
_ADDED_POINTS = """
    SELECT s.contact_id, s.name, sum(coalesce(s.value, 0)) AS value,
        CAST(max(CAST(s.action_id AS TEXT)) AS UUID) AS action_id
    FROM (
        SELECT p.contact_id, p.name, CAST(json_extract_string(p.payload, '$."' || p.name || '"') AS DOUBLE) AS value,
            p.action_id
        FROM (
            SELECT d.contact_id, d.payload, d.action_id, unnest(json_keys(d.payload)) AS name
            FROM tick_actions AS d WHERE d.kind = 'score' AND d.outcome = 'ok'
        ) AS p
    ) AS s GROUP BY s.contact_id, s.name
"""
_ADD_POINTS = (
    "UPDATE contact_points SET value = contact_points.value + t.value, since = $tick_at, cause = t.action_id "
    "FROM (" + _ADDED_POINTS + ") AS t WHERE t.contact_id = contact_points.contact_id AND t.name = contact_points.name"
)
_FIRST_POINTS = (
    "INSERT INTO contact_points SELECT t.contact_id, t.name, t.value"
    " + CAST(json_extract_string(CAST($starts AS JSON), '$.\"' || t.name || '\"') AS DOUBLE), $tick_at, t.action_id "
    "FROM (" + _ADDED_POINTS + ") AS t WHERE NOT EXISTS (SELECT 1 FROM contact_points AS c "
    "WHERE c.contact_id = t.contact_id AND c.name = t.name)"
)
_PLACE = "lpad(CAST($tick AS TEXT), 9, '0') || ':' || lpad(CAST(d.seq AS TEXT), 12, '0')"
"""An id that puts what steps make of one time, events and candidates, in the order of the log."""
_EMIT = (
    """
    INSERT INTO events
    SELECT """
    + _PLACE
    + """, $last + row_number() OVER (ORDER BY d.seq), d.contact_id,
        CAST(d.action_id AS TEXT), NULL, NULL, d.what, d.due, $tick_at, d.payload, 'emit'
    FROM tick_actions AS d WHERE d.kind = 'emit' AND d.outcome = 'ok'
"""
)
_ENROLL = (
    """
    INSERT INTO candidates
    SELECT d.action_id, d.what, d.contact_id, NULL, """
    + _PLACE
    + """, d.due, 'asked', $tick, d.payload, TRUE
    FROM tick_actions AS d WHERE d.kind = 'enroll' AND d.outcome = 'ok'
"""
)
"""Candidates of the next tick's admission, which gives them their ids."""
_UNENROLLED = """
    CREATE OR REPLACE TEMP TABLE tick_unenrolled AS
    SELECT n.enrollment_id, n.workflow, n.version, n.contact_id, n.key, u.cause
    FROM enrollments AS n JOIN (
        SELECT d.contact_id, d.what AS workflow, min(CAST(d.action_id AS TEXT)) AS cause
        FROM tick_actions AS d WHERE d.kind = 'unenroll' AND d.outcome = 'ok' GROUP BY d.contact_id, d.what
    ) AS u ON u.workflow = n.workflow AND u.contact_id = n.contact_id
    WHERE n.exit IS NULL
"""
_UNENROLLED_JOURNAL = """
    SELECT x.workflow, x.version, x.enrollment_id, x.contact_id, x.key, NULL AS step, 'exit' AS kind, NULL AS what,
        'unenrolled' AS outcome, NULL AS due, NULL AS action_id, x.cause, NULL AS details
    FROM tick_unenrolled AS x
"""
_UNENROLLED_EXIT = """
    UPDATE enrollments SET exit = 'unenrolled', exited_at = $tick_at, moved_tick = $tick, due_at = NULL
    FROM tick_unenrolled AS x WHERE enrollments.enrollment_id = x.enrollment_id
"""
# Who stays, and is only due at another time, keeps all else as the log has it.
_MOVE = """
    UPDATE enrollments SET position = m.position, logical_at = m.logical_at,
        due_at = CASE WHEN m.exit IS NULL THEN m.due_at END,
        steps = CASE WHEN m.moved THEN m.steps ELSE enrollments.steps END,
        arms = CASE WHEN m.moved THEN coalesce(m.arms, enrollments.arms) ELSE enrollments.arms END,
        visits = CASE WHEN m.moved THEN coalesce(m.visits, enrollments.visits) ELSE enrollments.visits END,
        moved_tick = $tick, exit = m.exit, exited_at = CASE WHEN m.exit IS NOT NULL THEN $tick_at END
    FROM tick_moves AS m WHERE enrollments.enrollment_id = m.enrollment_id
"""
