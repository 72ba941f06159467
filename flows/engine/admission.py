"""Admission: candidates become enrollments, or are refused with a reason (language §1).

One contact's candidates of one tick are considered one after another, because each may forbid the next; so admission
goes in rounds, each round the earliest remaining candidate of every contact, as sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlglot import exp

from compiler.identity import identity_tree
from compiler.plan import CANDIDATES, MODEL_ROWS, AudienceEntry, EventEntry, ModelEntry, Plan, ScheduleEntry
from flows.engine.deployment import Deployed
from flows.engine.guard import too_many_enter
from flows.engine.work import Work

_LOGGED = ("stale_trigger", "entry_cap", "paused")
"""Refusals that are rows of the public log; the others only `explain` knows."""


def find_rows(work: Work, deployed: Deployed) -> str | None:
    """The temporary table filled with new keys of a model trigger; None when there are none."""
    plan = deployed.admitting
    if plan is None or not isinstance(plan.entry, ModelEntry):
        return None
    table = rows_table(plan)
    if not work.make(table, plan.entry.rows, str(plan.version), parameters={"earliest": deployed.earliest}):
        return None
    work.row_tables.add(table)
    return table


def rows_table(plan: Plan) -> str:
    """The temporary table with the new rows of a model trigger."""
    return f"{MODEL_ROWS}_{plan.workflow}"


@dataclass(frozen=True)
class Door:
    """What of the tick decides about entries, beside the candidates themselves.

    Attributes:
        arrived: names of the events that arrived.
        started: workflows that were evaluated before.
        occurred: workflows whose schedule came round.
        paused: workflows that nobody may enter.
        waiting: workflows for which candidates wait from earlier ticks.
        asked: workflows for which `enroll` steps of earlier ticks made candidates.
        edges: workflows whose audience somebody entered.
    """

    arrived: frozenset[str] = frozenset()
    started: frozenset[str] = frozenset()
    occurred: frozenset[str] = frozenset()
    paused: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    edges: frozenset[str] = frozenset()

    @property
    def some_wait(self) -> bool:
        """Whether there are candidates from earlier ticks."""
        return bool(self.waiting or self.asked)


def who_waits(work: Work, paused: frozenset[str]) -> frozenset[str]:
    """Workflows that are not paused and for which candidates wait from earlier ticks."""
    admitting = [deployed.admitting for deployed in work.deployment.workflows.values()]
    names = [
        plan.workflow for plan in admitting
        if plan and plan.workflow not in paused and (plan.rules.may_wait or work.holding.waits(plan.workflow))
    ]  # fmt: skip
    if not names:
        return frozenset()
    return frozenset(row["workflow"] for row in work.rows(_WHO_WAITS, names=names))


def who_has_edges(work: Work) -> frozenset[str]:
    """Workflows whose audience somebody entered in this tick."""
    return frozenset(row["workflow"] for row in work.rows(_WHO_HAS_EDGES))


def who_was_asked(work: Work) -> frozenset[str]:
    """Workflows that `enroll` steps of earlier ticks name."""
    return frozenset(row["workflow"] for row in work.rows(_WHO_WAS_ASKED))


def admit(work: Work, deployed: Deployed, door: Door) -> int:
    """Admit the candidates of one workflow; gives the number of new enrollments."""
    plan = deployed.admitting
    if plan is None:
        return 0
    waiting = _gather(work, deployed, plan, door)
    slots = _slots(work, plan) if waiting else None
    if waiting and _held(work, deployed, plan, waiting, door):
        slots = 0
    entered = 0
    while waiting:
        considered, admitted = _round(work, deployed, plan, waiting, slots, door)
        waiting -= considered
        entered += admitted
        slots = None if slots is None else slots - admitted
    work.count("entered", entered)
    return entered


def _held(work: Work, deployed: Deployed, plan: Plan, waiting: int, door: Door) -> bool:
    """Whether the size guard lets nobody in; of an audience it has looked at the edges already."""
    if isinstance(plan.entry, AudienceEntry) or plan.workflow in door.paused:
        return False
    return too_many_enter(work, plan, waiting, lambda: _would_enter(work, deployed, plan, door))


def _would_enter(work: Work, deployed: Deployed, plan: Plan, door: Door) -> int:
    """How many contacts would enter by the rules, without the ramp."""
    work.run(_ROUND, **_given(deployed, plan, None, door))
    return work.number("SELECT count(*) FROM tick_round WHERE verdict = 'entered'")


def _slots(work: Work, plan: Plan) -> int | None:
    """How many may still enter by the ramp: it counts entries by the tick of their admission."""
    if plan.rules.ramp_count is None:
        return None
    given = {"workflow": plan.workflow, "per": int(plan.rules.ramp_seconds)}
    return max(0, plan.rules.ramp_count - work.number(_RAMPED, **given))


def _gather(work: Work, deployed: Deployed, plan: Plan, door: Door) -> int:
    """Fill `tick_candidates`; gives their number."""
    waiting, asked = plan.workflow in door.waiting, plan.workflow in door.asked
    triggered = _may_arise(work, deployed, plan, door)
    if not triggered and not asked:
        if not waiting:
            return 0
        work.run(_NO_CANDIDATES)
        return _join_waiting(work, plan)
    fresh = deployed.name not in door.started
    given = {"fresh": fresh, "workflow": plan.workflow}
    key = (plan.workflow, str(plan.version), str(triggered), str(asked))
    found = work.make(CANDIDATES, lambda: _candidates(work, plan, triggered, asked), *key, parameters=given)
    if fresh and found:
        found -= work.run(_TOO_EARLY, earliest=deployed.earliest)
    return found + (_join_waiting(work, plan) if waiting else 0)


def _may_arise(work: Work, deployed: Deployed, plan: Plan, door: Door) -> bool:
    match plan.entry:
        case EventEntry():
            return deployed.name not in door.started or bool(plan.trigger_events & door.arrived)
        case ModelEntry():
            return rows_table(plan) in work.row_tables
        case ScheduleEntry():
            return plan.workflow in door.occurred
        case AudienceEntry():
            return plan.workflow in door.edges


def _join_waiting(work: Work, plan: Plan) -> int:
    """Add those who wait; who entered an audience enters the workflow at this tick, whenever the edge was.

    Whom an `enroll` step sent enters with the time of that step.
    """
    return work.run(_JOIN_WAITING, workflow=plan.workflow, edge=isinstance(plan.entry, AudienceEntry))


def _candidates(work: Work, plan: Plan, triggered: bool, asked: bool) -> exp.Expr:
    """The candidates of a plan that were not considered before, with their ids."""
    queries: list[exp.Expr] = []
    if triggered:
        queries.append(exp.select("t.*", exp.false().as_("asked")).from_(_triggered(plan).subquery("t")))
    if asked and plan.asked is not None:
        queries.append(exp.select("t.*", exp.true().as_("asked")).from_(plan.asked.subquery("t")))
    query = exp.union(*queries, distinct=False) if len(queries) > 1 else queries[0]
    candidate = identity_tree([
        work.deployment.workspace, plan.workflow, exp.column("contact_id", table="c"), exp.column("key", table="c"),
        exp.column("entry_ref", table="c"),
    ])  # fmt: skip
    candidates = exp.Subquery(this=query, alias=exp.TableAlias(this=exp.to_identifier("c")))
    identified = exp.select("c.*", candidate.as_("candidate_id")).from_(candidates)
    known = exp.alias_(work.state["candidates"], "k", table=True)
    mine = exp.EQ(this=exp.column("workflow", table="k"), expression=exp.Literal.string(plan.workflow))
    found = exp.select("n.*", exp.column("candidate_at", table="n").as_("since"), exp.false().as_("waited"))
    found = found.from_(identified.subquery("n"))
    found = found.join(known, on=exp.and_("k.candidate_id = n.candidate_id", mine), join_type="left")
    return found.where(exp.Is(this=exp.column("candidate_id", table="k"), expression=exp.null()))


def _triggered(plan: Plan) -> exp.Select:
    match plan.entry:
        case EventEntry():
            return plan.entry.query
        case ModelEntry():
            renamed: exp.Select = plan.entry.query.copy().transform(_renamed(plan))
            return renamed
        case ScheduleEntry():
            return _occurrence_candidates()
        case _:
            return _edge_candidates()


def _renamed(plan: Plan) -> Any:
    def rename(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Table) and node.name == MODEL_ROWS:
            node.set("this", exp.to_identifier(rows_table(plan)))
        return node

    return rename


def _edge_candidates() -> exp.Select:
    return exp.select(
        "g.contact_id", exp.cast(exp.null(), "text").as_("key"),
        exp.cast(exp.column("edge", table="g"), "text").as_("entry_ref"),
        exp.cast(exp.Placeholder(this="tick_at"), "timestamp").as_("candidate_at"),
        exp.cast(exp.Literal.string("{}"), "json").as_("entry"),
    ).from_("tick_edges AS g").where(
        exp.EQ(this=exp.column("workflow", table="g"), expression=exp.Placeholder(this="workflow"))
    )  # fmt: skip


def _occurrence_candidates() -> exp.Select:
    at = exp.column("at", table="o", quoted=True)
    name = exp.Literal.string("scheduled_at")
    row = exp.Anonymous(this="json_object", expressions=[name, exp.cast(at.copy(), "text")])
    return exp.select(
        "o.contact_id", exp.cast(exp.null(), "text").as_("key"), exp.column("ref", table="o").as_("entry_ref"),
        at.as_("candidate_at"), row.as_("entry"),
    ).from_("tick_occurrences AS o").where(
        exp.EQ(this=exp.column("workflow", table="o"), expression=exp.Placeholder(this="workflow"))
    )  # fmt: skip


def _round(work: Work, deployed: Deployed, plan: Plan, waiting: int, slots: int | None, door: Door) -> tuple[int, int]:
    """Consider the earliest of the waiting candidates of every contact; gives how many, and how many entered.

    While a ramp has free slots, a round ends before the second candidate of a contact, so that they go in order.
    """
    rules = plan.rules
    given = _given(deployed, plan, slots, door)
    may_wait = rules.may_wait or plan.workflow in work.holding.now or work.holding.waits(plan.workflow)
    considered = work.run(_ROUND_IN_ORDER if slots else _ROUND, **given)
    entered = work.run(_ENTER, **given)
    if may_wait:
        work.run(_NO_LONGER_WAITING, **given)
    if plan.workflow in door.asked:
        work.run(_ANSWERED, **given)
    work.run(_CONSUME, **given)
    work.journal(_ROUND_JOURNAL, "contact_id, enrollment_id", logged=list(_LOGGED), **given)
    held = work.number("SELECT count(*) FROM tick_round WHERE verdict = 'waiting'") if may_wait else 0
    work.count("refused", considered - entered - held)
    if considered < waiting:
        work.run("DELETE FROM tick_candidates WHERE candidate_id IN (SELECT candidate_id FROM tick_round)")
    return considered, entered


def _given(deployed: Deployed, plan: Plan, slots: int | None, door: Door) -> dict[str, Any]:
    """The rules of a round, as parameters."""
    rules, paused = plan.rules, plan.workflow in door.paused
    is_event = isinstance(plan.entry, EventEntry)
    return {
        "workflow": plan.workflow, "version": plan.version, "first_step": plan.first_step, "reentry": rules.reentry,
        "min_gap": _whole(rules.min_gap), "max_age": _whole(rules.max_age) if is_event else None,
        "cap": rules.cap_count, "per": int(rules.cap_seconds),
        "earliest": deployed.earliest if not isinstance(plan.entry, AudienceEntry) else datetime(1, 1, 1),
        "paused": ("waiting" if rules.waits_paused else "paused") if paused else None, "slots": slots,
    }  # fmt: skip


def _whole(amount: float | None) -> int | None:
    return None if amount is None else int(amount)


_WHO_HAS_EDGES = "SELECT DISTINCT g.workflow FROM tick_edges AS g"
_WHO_WAITS = """
    SELECT DISTINCT workflow FROM candidates WHERE verdict = 'waiting' AND list_contains($names, workflow)
"""
_WHO_WAS_ASKED = "SELECT DISTINCT workflow FROM candidates WHERE verdict = 'asked'"
_RAMPED = """
    SELECT count(*) FROM enrollments AS n LEFT JOIN ticks AS t ON t.tick = n.entered_tick
    WHERE n.workflow = $workflow
        AND coalesce(t.tick_at, $tick_at) > $tick_at - CAST($per AS BIGINT) * INTERVAL '1' SECOND
"""
_NO_CANDIDATES = """
    CREATE OR REPLACE TEMP TABLE tick_candidates (contact_id TEXT, key TEXT, entry_ref TEXT, candidate_at TIMESTAMP,
        entry JSON, asked BOOLEAN, candidate_id UUID, since TIMESTAMP, waited BOOLEAN)
"""
_JOIN_WAITING = """
    INSERT INTO tick_candidates
    SELECT k.contact_id, k.key, k.entry_ref,
        CASE WHEN $edge AND NOT coalesce(k.asked, FALSE) THEN $tick_at ELSE k.candidate_at END, k.entry,
        coalesce(k.asked, FALSE), k.candidate_id, k.candidate_at, TRUE
    FROM candidates AS k WHERE k.workflow = $workflow AND k.verdict = 'waiting'
"""
_RULED = """
    SELECT c.candidate_id, c.contact_id, c.key, c.entry_ref, c.candidate_at, c.entry, c.since, c.waited, c.asked,
        CASE
            WHEN NOT c.asked AND NOT c.waited AND c.candidate_at < $earliest THEN 'activation'
            WHEN $paused IS NOT NULL THEN $paused
            WHEN NOT c.asked AND CAST($max_age AS BIGINT) IS NOT NULL
                AND $tick_at > c.candidate_at + CAST($max_age AS BIGINT) * INTERVAL '1' SECOND THEN 'stale_trigger'
            WHEN $reentry = 'once' AND p.entered > 0 THEN 'reentry'
            WHEN $reentry = 'after_exit' AND p.active > 0 THEN 'reentry'
            WHEN CAST($min_gap AS BIGINT) IS NOT NULL AND p.last_entry IS NOT NULL
                AND c.candidate_at < p.last_entry + CAST($min_gap AS BIGINT) * INTERVAL '1' SECOND THEN 'min_gap'
            WHEN r.entered >= $cap THEN 'entry_cap'
            ELSE 'entered'
        END AS verdict
    FROM ordered AS c
    LEFT JOIN (
        SELECT n.contact_id, n.key, count(*) AS entered, count(CASE WHEN n.exit IS NULL THEN 1 END) AS active,
            max(n.entry_at) AS last_entry
        FROM enrollments AS n
        WHERE n.workflow = $workflow AND n.contact_id IN (SELECT contact_id FROM tick_candidates)
        GROUP BY n.contact_id, n.key
    ) AS p ON p.contact_id = c.contact_id AND p.key IS NOT DISTINCT FROM c.key
    LEFT JOIN (
        SELECT t.candidate_id, count(*) AS entered
        FROM tick_candidates AS t JOIN enrollments AS n ON n.contact_id = t.contact_id
        WHERE n.workflow = $workflow AND n.entry_at <= t.candidate_at
            AND n.entry_at > t.candidate_at - CAST($per AS BIGINT) * INTERVAL '1' SECOND
        GROUP BY t.candidate_id
    ) AS r ON r.candidate_id = c.candidate_id
    WHERE c.place = 1
"""
_RULED_BY_RAMP = (
    """
    SELECT r.candidate_id, r.contact_id, r.key, r.entry_ref, r.candidate_at, r.entry, r.since, r.waited, r.asked,
        CASE
            WHEN r.verdict = 'entered' AND CAST($slots AS BIGINT) IS NOT NULL AND r.rank > $slots THEN 'waiting'
            ELSE r.verdict
        END AS verdict
    FROM (
        SELECT v.*, sum(CASE WHEN v.verdict = 'entered' THEN 1 ELSE 0 END) OVER (
            ORDER BY v.since, NOT v.asked, CASE WHEN v.asked THEN v.contact_id END, v.entry_ref, v.contact_id,
                v.candidate_id
        ) AS rank
        FROM ("""
    + _RULED
    + """) AS v
    ) AS r
"""
)
_ROUND = (
    """
    CREATE OR REPLACE TEMP TABLE tick_round AS
    WITH ordered AS (
        SELECT *, row_number() OVER (PARTITION BY contact_id ORDER BY since, NOT asked, entry_ref) AS place
        FROM tick_candidates
    )"""
    + _RULED_BY_RAMP
)
_ROUND_IN_ORDER = (
    """
    CREATE OR REPLACE TEMP TABLE tick_round AS
    WITH placed AS (
        SELECT *, row_number() OVER (PARTITION BY contact_id ORDER BY since, NOT asked, entry_ref) AS place,
            row_number() OVER (
                ORDER BY since, NOT asked, CASE WHEN asked THEN contact_id END, entry_ref, contact_id, candidate_id
            ) AS line
        FROM tick_candidates
    ), ordered AS (
        SELECT a.* FROM placed AS a
        WHERE a.line < coalesce((SELECT min(b.line) FROM placed AS b WHERE b.place = 2), a.line + 1)
    )"""
    + _RULED_BY_RAMP
)
_ENTER = """
    INSERT INTO enrollments
    SELECT r.candidate_id, $workflow, $version, r.contact_id, r.key, r.entry_ref, r.entry, r.candidate_at, $first_step,
        r.candidate_at, r.candidate_at, NULL, NULL, NULL, $tick, $tick, NULL, NULL
    FROM tick_round AS r WHERE r.verdict = 'entered'
"""
_NO_LONGER_WAITING = """
    DELETE FROM candidates WHERE workflow = $workflow AND verdict = 'waiting'
        AND candidate_id IN (SELECT candidate_id FROM tick_round WHERE verdict <> 'waiting')
"""
_TOO_EARLY = "DELETE FROM tick_candidates WHERE NOT asked AND candidate_at < $earliest"
_ANSWERED = """
    DELETE FROM candidates WHERE workflow = $workflow AND verdict = 'asked'
        AND entry_ref IN (SELECT r.entry_ref FROM tick_round AS r WHERE r.asked)
"""
_CONSUME = """
    INSERT INTO candidates
    SELECT r.candidate_id, $workflow, r.contact_id, r.key, r.entry_ref, r.since, r.verdict, $tick,
        CASE WHEN r.verdict = 'waiting' THEN r.entry END, r.asked
    FROM tick_round AS r WHERE NOT (r.waited AND r.verdict = 'waiting')
"""
_ROUND_JOURNAL = """
    SELECT $workflow AS workflow, $version AS version, r.candidate_id AS enrollment_id, r.contact_id, r.key,
        NULL AS step,
        CASE WHEN r.verdict = 'entered' THEN 'enter' WHEN r.verdict = 'waiting' THEN 'waiting'
             WHEN list_contains($logged, r.verdict) THEN 'rejected' ELSE 'refused' END AS kind,
        NULL AS what, r.verdict AS outcome, r.candidate_at AS due, NULL AS action_id, r.entry_ref AS cause,
        CASE WHEN r.verdict = 'entered' THEN r.entry END AS details
    FROM tick_round AS r WHERE NOT (r.waited AND r.verdict = 'waiting')
"""
