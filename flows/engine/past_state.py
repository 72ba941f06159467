"""The state tables as they stood before a past tick, worked out from the log: what `penstock replay` starts from.

The tables of the target are copied as they are into a schema of their own in memory, and from these the tables as of a
tick are made, as often as wanted. Where an enrollment stood is its last row `rest` before that tick; what a delivery
came to is its row before that tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlglot import exp

from compiler.catalog import Relation
from flows.engine.scratch import Scratch
from flows.journal.migrations import migrate, read_meta
from flows.journal.tables import StateName, StateTables
from flows.warehouse.base import Warehouse, table

COPIED = "penstock_copied"
_TABLES: tuple[StateName, ...] = (
    "workflow_versions", "templates", "config_versions", "controls", "ticks", "journal", "candidates", "enrollments",
    "events", "event_seen", "contact_merges", "suppressions", "completed_actions", "deliveries",
)  # fmt: skip
_FILLED: tuple[StateName, ...] = (
    "workflow_versions", "templates", "config_versions", "controls", "ticks", "journal", "candidates", "enrollments",
    "audience_members", "events", "event_seen", "contact_tags", "contact_untags", "contact_fields", "contact_points",
    "campaign_members", "contact_merges", "suppressions", "outbox", "outbox_closed", "completed_actions",
)  # fmt: skip


@dataclass(frozen=True)
class PastTick:
    """A tick of the log: number, time, that of the one before, and the last `seq` of Penstock's own events it saw."""

    number: int
    tick_at: datetime
    previous: datetime | None
    own: int


@dataclass(frozen=True)
class PastState:
    """The copy; `fill` makes the tables of the state schema as they were before a tick.

    `first_steps`: (workflow, version) -> first step. `points`: score that workflows add to -> its start.
    """

    memory: Warehouse
    state: StateTables
    points: Mapping[str, float] = field(default_factory=dict)

    def fill(self, tick: PastTick, first_steps: Mapping[tuple[str, int], str]) -> None:
        """Make every table anew; audiences' members stay empty."""
        for name in _FILLED:
            self.memory.execute(exp.delete(self.state[name]))
        given = {"tick": tick.number, "tick_at": tick.tick_at, "own": tick.own}
        for text in _AS_THEY_WERE:
            self._run(text, **given)
        rows = exp.values([(*key, step) for key, step in first_steps.items()] or [("", 0, "")], alias="v",
                          columns=["workflow", "version", "step"])  # fmt: skip
        temporary = exp.Properties(expressions=[exp.TemporaryProperty()])
        self.memory.execute(exp.Create(this=exp.to_table("past_first_steps"), kind="TABLE", replace=True,
                                       expression=exp.select("v.*").from_(rows), properties=temporary))  # fmt: skip
        for text in (*_KEPT, _ENROLLMENTS, *_DELIVERIES):
            self._run(text, **given)
        for score, start in self.points.items():
            self._run(_POINTS, **given, name=score, start=start)

    def edges(self, workflow: str, tick: int) -> None:
        """Number the members of an audience as the candidates of ticks before say."""
        self._run(_EDGES, workflow=workflow, tick=tick)

    def rows(self, text: str, **given: Any) -> list[dict[str, Any]]:
        """Run a small query over the copy, or the tables made of it."""
        return self.memory.rows(self.state.statement(self.memory, text), given)

    def _run(self, text: str, **given: Any) -> int:
        return self.memory.execute(self.state.statement(self.memory, text), given)


def copy_state(scratch: Scratch, schema: str, workspace: str, at: datetime, points: Mapping[str, float]) -> PastState:
    """Copy the state tables of the target into memory, whole; the state schema there is made, and empty."""
    state, copied, memory = StateTables(schema), StateTables(COPIED), scratch.memory
    meta = read_meta(scratch.live, schema)
    state_id = meta.state_id if meta is not None else None
    migrate(memory, schema, at, workspace, state_id=state_id)
    migrate(memory, COPIED, at, workspace, state_id=state_id)
    for name in _TABLES:
        if scratch.live.relation_exists(state.place(name)):
            relation = Relation(name, state.place(name), scratch.live.columns(state.place(name)))
            into = copied.place("outbox_closed" if name == "deliveries" else name)
            scratch.fill(relation, scratch.rows_of(relation), into)
    return PastState(memory, state, points)


def past_tick(past: PastState, number: int) -> PastTick | None:
    """A tick of the copied log; None when there is none of that number."""
    rows = past.rows(_TICK, tick=number)
    if not rows:
        return None
    return PastTick(number, rows[0]["tick_at"], rows[0]["previous"], int(rows[0]["own"] or 0))


def copied(name: StateName) -> exp.Table:
    """A copied table as it stands in the target now."""
    return table((COPIED, name))


_TICK = """
    SELECT t.tick_at, b.tick_at AS previous, CAST(t.watermarks ->> '$.own' AS BIGINT) AS own
    FROM penstock_copied.ticks AS t LEFT JOIN penstock_copied.ticks AS b ON b.tick = t.tick - 1 WHERE t.tick = $tick
"""
_AS_THEY_WERE = (
    "INSERT INTO ticks SELECT * FROM penstock_copied.ticks AS c WHERE c.tick < $tick",
    "INSERT INTO journal SELECT * FROM penstock_copied.journal AS c WHERE c.tick < $tick",
    "INSERT INTO templates SELECT * FROM penstock_copied.templates AS c WHERE c.published_at <= $tick_at",
    "INSERT INTO config_versions SELECT * FROM penstock_copied.config_versions AS c WHERE c.published_at <= $tick_at",
    "INSERT INTO controls SELECT * FROM penstock_copied.controls AS c WHERE c.created_at <= $tick_at",
    "INSERT INTO suppressions SELECT * FROM penstock_copied.suppressions AS c WHERE c.created_at <= $tick_at",
    "INSERT INTO completed_actions SELECT * FROM penstock_copied.completed_actions",
    "INSERT INTO events SELECT * FROM penstock_copied.events AS c WHERE c.seq <= $own",
    """
    INSERT INTO workflow_versions
    SELECT * REPLACE (CASE WHEN c.retired_at <= $tick_at THEN c.retired_at END AS retired_at)
    FROM penstock_copied.workflow_versions AS c WHERE c.published_at <= $tick_at
    """,
    """
    INSERT INTO event_seen
    SELECT * REPLACE (CASE WHEN c.arrived_tick < $tick THEN c.arrived_tick END AS arrived_tick)
    FROM penstock_copied.event_seen AS c WHERE c.seen_tick < $tick
    """,
    """
    INSERT INTO contact_merges
    SELECT * FROM penstock_copied.contact_merges AS c
    WHERE c.merged_at <= (SELECT max(t.tick_at) FROM penstock_copied.ticks AS t WHERE t.tick < $tick)
    """,
    """
    INSERT INTO candidates
    SELECT * FROM penstock_copied.candidates AS c WHERE c.tick < $tick AND c.verdict NOT IN ('asked', 'waiting')
    """,
    # candidates that `enroll` steps made and no tick considered before this one
    """
    INSERT INTO candidates BY NAME
    SELECT j.action_id AS candidate_id, split_part(j.what, ':', 2) AS workflow, j.contact_id,
        lpad(CAST(j.tick AS TEXT), 9, '0') || ':' || lpad(CAST(j.seq AS TEXT), 12, '0') AS entry_ref,
        j.due AS candidate_at, 'asked' AS verdict, j.tick, j.details AS entry, TRUE AS asked
    FROM penstock_copied.journal AS j
    WHERE j.tick < $tick AND j.kind = 'action' AND starts_with(j.what, 'enroll:') AND j.outcome = 'ok'
        AND NOT EXISTS (
            SELECT 1 FROM penstock_copied.journal AS d
            WHERE d.tick < $tick AND d.kind IN ('enter', 'rejected', 'refused', 'waiting')
                AND d.cause = lpad(CAST(j.tick AS TEXT), 9, '0') || ':' || lpad(CAST(j.seq AS TEXT), 12, '0')
        )
    """,
    # candidates that waited for a ramp, the end of a pause or an approval
    """
    INSERT INTO candidates BY NAME
    SELECT j.enrollment_id AS candidate_id, j.workflow, j.contact_id, j.key, j.cause AS entry_ref,
        j.due AS candidate_at, 'waiting' AS verdict, j.tick, coalesce(k.entry, n.entry) AS entry, k.asked
    FROM penstock_copied.journal AS j
    LEFT JOIN penstock_copied.candidates AS k ON k.candidate_id = j.enrollment_id
    LEFT JOIN penstock_copied.enrollments AS n ON n.enrollment_id = j.enrollment_id
    WHERE j.tick < $tick AND j.kind = 'waiting' AND NOT EXISTS (
        SELECT 1 FROM penstock_copied.journal AS d
        WHERE d.tick < $tick AND d.kind IN ('enter', 'rejected', 'refused') AND d.enrollment_id = j.enrollment_id
    )
    """,
    """
    UPDATE candidates SET contact_id = m.into_id FROM contact_merges AS m
    WHERE m.from_id = candidates.contact_id AND candidates.verdict IN ('asked', 'waiting')
    """,
)
_DONE = """
    SELECT coalesce(m.into_id, j.contact_id) AS contact_id, j.what, j.details, j.executed_at, j.action_id, j.tick, j.seq
    FROM journal AS j LEFT JOIN contact_merges AS m ON m.from_id = j.contact_id
    WHERE j.kind = 'action' AND j.outcome = 'ok'
"""
_LAST_TAGS = (
    """
    SELECT a.contact_id, split_part(a.what, ':', 2) AS tag, a.executed_at, a.action_id FROM (
        SELECT d.*, row_number() OVER (
            PARTITION BY d.contact_id, split_part(d.what, ':', 2) ORDER BY d.tick DESC, d.seq DESC) AS place
        FROM ("""
    + _DONE
    + """) AS d WHERE starts_with(d.what, 'tag:') OR starts_with(d.what, 'untag:')
    ) AS a WHERE a.place = 1 AND """
)
_DETAILS = (
    """
    SELECT u.contact_id, u.name, json_extract_string(u.details, '$."' || u.name || '"') AS value, u.executed_at,
        u.action_id, u.tick, u.seq
    FROM (
        SELECT d.*, unnest(json_keys(d.details)) AS name
        FROM ("""
    + _DONE
    + """) AS d WHERE starts_with(d.what, $of) AND d.details IS NOT NULL
    ) AS u
"""
)
_KEPT = (
    "INSERT INTO contact_tags " + _LAST_TAGS + "starts_with(a.what, 'tag:')",
    "INSERT INTO contact_untags " + _LAST_TAGS + "starts_with(a.what, 'untag:')",
    "INSERT INTO contact_fields SELECT f.contact_id, f.name, f.value, f.executed_at, f.action_id FROM ("
    + _DETAILS.replace("$of", "'set:'")
    + """) AS f QUALIFY row_number() OVER (PARTITION BY f.contact_id, f.name ORDER BY f.tick DESC, f.seq DESC) = 1""",
    """
    INSERT INTO campaign_members
    SELECT c.contact_id, split_part(c.what, ':', 2), c.executed_at, c.action_id FROM (
        SELECT d.*, row_number() OVER (PARTITION BY d.contact_id, d.what ORDER BY d.tick DESC, d.seq DESC) AS place
        FROM ("""
    + _DONE
    + """) AS d WHERE starts_with(d.what, 'campaign:')
    ) AS c WHERE c.place = 1 AND CAST(c.details ->> '$.member' AS BOOLEAN)
    """,
)
_POINTS = (
    "INSERT INTO contact_points SELECT p.contact_id, p.name, "
    "CAST($start AS DOUBLE) + sum(coalesce(CAST(p.value AS DOUBLE), 0)), "
    "max(p.executed_at), CAST(max(CAST(p.action_id AS TEXT)) AS UUID) FROM ("
    + _DETAILS.replace("$of", "'score:'")
    + ") AS p WHERE p.name = $name GROUP BY p.contact_id, p.name"
)
# What an enrollment keeps about its steps: from its last rest where jumps are counted; else arms from their rows, and
# of the times of steps those that it had come to, which no later tick changes.
_ENROLLMENTS = """
    INSERT INTO enrollments
    WITH past_traces AS (
        SELECT t.enrollment_id, t.step, min(t.tick) AS first_tick FROM penstock_copied.journal AS t
        WHERE t.kind IN ('action', 'intent', 'split', 'rest') AND t.step IS NOT NULL GROUP BY t.enrollment_id, t.step
    ), past_steps AS (
        SELECT k.enrollment_id, json_group_object(k.step, CASE WHEN coalesce(w.first_tick, 0) < $tick
            THEN json_extract_string(k.steps, '$."' || k.step || '"') END) AS steps
        FROM (
            SELECT e.enrollment_id, e.steps, unnest(json_keys(e.steps)) AS step FROM penstock_copied.enrollments AS e
        ) AS k
        LEFT JOIN past_traces AS w ON w.enrollment_id = k.enrollment_id AND w.step = k.step GROUP BY k.enrollment_id
    ), past_arms AS (
        SELECT a.enrollment_id, json_group_object(a.step, a.outcome) AS arms FROM (
            SELECT s.enrollment_id, s.step, s.outcome FROM journal AS s WHERE s.kind = 'split'
            QUALIFY row_number() OVER (PARTITION BY s.enrollment_id, s.step ORDER BY s.tick DESC, s.seq DESC) = 1
        ) AS a GROUP BY a.enrollment_id
    ), past_rests AS (
        SELECT j.enrollment_id, j.step, j.due, j.details FROM journal AS j WHERE j.kind = 'rest'
        QUALIFY row_number() OVER (PARTITION BY j.enrollment_id ORDER BY j.tick DESC, j.seq DESC) = 1
    ), past_last AS (
        SELECT j.enrollment_id, j.version, j.contact_id FROM journal AS j
        WHERE j.enrollment_id IS NOT NULL AND j.kind <> 'delivery'
        QUALIFY row_number() OVER (PARTITION BY j.enrollment_id ORDER BY j.tick DESC, j.seq DESC) = 1
    ), past_exits AS (
        SELECT j.enrollment_id, j.outcome, j.executed_at, j.tick FROM journal AS j WHERE j.kind = 'exit'
    )
    SELECT n.enrollment_id, n.workflow, l.version, l.contact_id, n.key, n.entry_ref, n.entry, n.entry_at,
        CASE WHEN s.settled THEN n.position ELSE coalesce(r.step, f.step) END,
        CASE WHEN s.settled THEN n.logical_at ELSE coalesce(r.due, n.entry_at) END,
        CASE WHEN x.tick IS NOT NULL THEN NULL
            WHEN s.settled AND n.exit IS NULL THEN n.due_at ELSE coalesce(r.due, n.entry_at) END,
        CASE WHEN s.settled THEN n.steps WHEN r.details IS NOT NULL THEN r.details -> '$.steps' ELSE p.steps END,
        CASE WHEN s.settled THEN n.arms ELSE a.arms END,
        CASE WHEN s.settled THEN n.visits ELSE r.details -> '$.visits' END, n.entered_tick,
        CASE WHEN s.settled THEN n.moved_tick ELSE n.entered_tick END, x.outcome, x.executed_at
    FROM penstock_copied.enrollments AS n
    JOIN (SELECT *, coalesce(moved_tick, entered_tick) < $tick AS settled FROM penstock_copied.enrollments) AS s
        ON s.enrollment_id = n.enrollment_id
    JOIN past_last AS l ON l.enrollment_id = n.enrollment_id
    LEFT JOIN past_rests AS r ON r.enrollment_id = n.enrollment_id
    LEFT JOIN past_first_steps AS f ON f.workflow = n.workflow AND f.version = l.version
    LEFT JOIN past_steps AS p ON p.enrollment_id = n.enrollment_id
    LEFT JOIN past_arms AS a ON a.enrollment_id = n.enrollment_id
    LEFT JOIN past_exits AS x ON x.enrollment_id = n.enrollment_id
    WHERE n.entered_tick < $tick
    """
_OPEN = """
    NOT EXISTS (
        SELECT 1 FROM journal AS j WHERE j.kind = 'delivery' AND j.action_id = o.action_id
            AND NOT starts_with(j.outcome, 'retry') AND j.outcome NOT IN ('unknown', 'held')
    )
"""
_DELIVERIES = (
    "INSERT INTO outbox_closed SELECT * FROM penstock_copied.outbox_closed AS o WHERE o.tick < $tick AND NOT " + _OPEN,
    "INSERT INTO outbox SELECT * REPLACE ('pending' AS state) FROM penstock_copied.outbox_closed AS o "
    "WHERE o.tick < $tick AND " + _OPEN,
)
_EDGES = """
    UPDATE audience_members SET edge = coalesce((
        SELECT max(CAST(k.entry_ref AS BIGINT)) FROM candidates AS k
        WHERE k.workflow = $workflow AND k.contact_id = audience_members.contact_id AND k.tick < $tick
    ), 0) WHERE name = $workflow
"""
