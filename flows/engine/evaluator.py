"""The tick: all due work of all workflows in one transaction (architecture §4, §7).

Order: merges · arrivals · goals and exits · admission · goals and exits of who entered · advance · the tick row, last.
A workflow whose statement fails is set aside and the tick starts again without it; the third time in a row it is
quarantined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlglot import exp

from compiler import frames
from compiler.errors import PenstockError, StateError, WarehouseAway, WarehouseLocked
from compiler.lookup import event
from compiler.plan import FRAME, Plan, Stage
from flows.engine.admission import Door, admit, find_rows, who_has_edges, who_waits, who_was_asked
from flows.engine.arrivals import Watermarks, collect
from flows.engine.audiences import AudiencesFailed, end_audiences, find_edges
from flows.engine.clock import Clock
from flows.engine.controls import paused
from flows.engine.crash import crash_point
from flows.engine.decisions import NUMBERS, record
from flows.engine.deployment import BEGINNING, Deployment
from flows.engine.holding import Held
from flows.engine.merging import merge_contacts
from flows.engine.migrating import migrate_enrollments
from flows.engine.occurrences import find_occurrences, no_occurrences
from flows.engine.turns import take_turns
from flows.engine.work import Texts, Work
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

QUARANTINE_AFTER = 3
"""A workflow that failed in so many ticks in a row is left out until it is resumed."""


@dataclass(frozen=True)
class TickReport:
    """What a tick did.

    Attributes:
        tick: its number.
        tick_at: its time T, naive UTC.
        counts: arrivals, entered, refused, exits, due, moved, decided, done, skipped.
        set_aside: workflow -> why it was left out.
        guarded: workflow -> what the size guard holds of it.
    """

    tick: int
    tick_at: datetime
    counts: dict[str, int]
    set_aside: dict[str, str] = field(default_factory=dict)
    guarded: dict[str, Held] = field(default_factory=dict)


class WorkflowFailed(Exception):
    """A statement of one workflow failed."""

    def __init__(self, workflow: str, error: Exception) -> None:
        super().__init__(workflow)
        self.workflow = workflow
        self.error = error


class Evaluator:
    """Evaluates ticks of one deployment; keeps generated SQL between ticks."""

    def __init__(self, deployment: Deployment, clock: Clock, *, incremental: bool = True) -> None:
        """`incremental`: evaluate audiences only for contacts that may have changed, where that can be told."""
        self.deployment = deployment
        self._incremental = incremental
        self._clock = clock
        self._texts = Texts()
        self._key: str | None = None
        self.last: TickReport | None = None

    def tick(self, warehouse: Warehouse) -> TickReport:
        """Evaluate everything that is due now and commit it.

        Raises:
            StateError: the schema holds no state of this workspace.
            WarehouseError: the warehouse failed outside any workflow.
        """
        crash_point("before_tick")
        state = StateTables(self.deployment.schema)
        key = self._address_key(warehouse)
        aside: dict[str, str] = {**self.deployment.broken, **dict(self._quarantined(warehouse, state))}
        quarantined = frozenset(aside)
        apart = False
        while True:
            try:
                with warehouse.transaction():
                    report = self._evaluate(warehouse, key, aside, quarantined, apart=apart)
                    crash_point("in_tick")
                crash_point("after_commit")
                self.last = report
                return report
            except WorkflowFailed as failed:
                aside[failed.workflow] = _reason(failed.error)
            except AudiencesFailed as failed:
                apart = True
                if len(failed.workflows) == 1:
                    aside[failed.workflows[0]] = _reason(failed.error)

    def work(self, warehouse: Warehouse, now: datetime) -> Work:
        """What reads the deployment's conditions outside a tick, at a time that is not before the last tick.

        Raises:
            StateError: the schema holds no state.
        """
        state = StateTables(self.deployment.schema)
        key = self._address_key(warehouse)
        last = warehouse.rows(
            state.statement(warehouse, "SELECT max(tick) AS tick, max(tick_at) AS tick_at FROM ticks")
        )[0]
        return Work(warehouse, self.deployment, self._texts, last["tick"] or 0, max(now, last["tick_at"] or now),
                    key)  # fmt: skip

    def _address_key(self, warehouse: Warehouse) -> str:
        if self._key is None:
            meta = read_meta(warehouse, self.deployment.schema)
            if meta is None:
                raise StateError(f"schema {self.deployment.schema} has no state tables", hint="penstock apply")
            self._key = str(meta.state_id)
        return self._key

    def _quarantined(self, warehouse: Warehouse, state: StateTables) -> Iterable[tuple[str, str]]:
        for row in warehouse.rows(state.statement(warehouse, _QUARANTINED)):
            yield row["scope"].removeprefix("workflow:"), "quarantined"

    def _evaluate(
        self, warehouse: Warehouse, address_key: str, aside: dict[str, str], quarantined: frozenset[str], *, apart: bool
    ) -> TickReport:
        state = StateTables(self.deployment.schema)
        last = warehouse.rows(state.statement(warehouse, _LAST))
        now = self._clock.now()
        tick_at = max(now, last[0]["tick_at"]) if last else now
        number = last[0]["tick"] + 1 if last else 1
        before = Watermarks.of(json.loads(last[0]["watermarks"]) if last and last[0]["watermarks"] else None)
        if not self._incremental:
            before = replace(before, audiences=frozenset())
        deployment = _without(self.deployment, aside)
        work = Work(warehouse, deployment, self._texts, number, tick_at, address_key)
        work.holding.before = before.guarded
        previous, pending = (last[0]["tick_at"], last[0]["pending"]) if last else (None, None)
        tick = _Tick(work, before, previous, pending=pending, apart=apart)
        after = tick.run()
        for workflow, why in sorted(aside.items()):
            if workflow not in quarantined:
                work.journal(_ASIDE, workflow=workflow, why=why)
                self._quarantine(work, workflow)
        evaluated = after.started | frozenset(deployment.workflows)
        held = after.held | frozenset(aside)
        guarded = work.holding.after(held)
        absent = before.still_absent(aside, number, previous)
        watermarks = replace(after, started=evaluated, held=held, guarded=guarded, absent=absent)
        work.run(_TICK_ROW, watermarks=json.dumps(watermarks.as_json()), counts=json.dumps(work.counts), started_at=now,
                 finished_at=self._clock.now())  # fmt: skip
        return TickReport(number, tick_at, work.counts, dict(aside), guarded)

    def _quarantine(self, work: Work, workflow: str) -> None:
        failures = work.number(_FAILURES, workflow=workflow, since=work.tick - QUARANTINE_AFTER)
        if failures >= QUARANTINE_AFTER:
            work.run(_QUARANTINE, scope=f"workflow:{workflow}", because=f"failed in {QUARANTINE_AFTER} ticks in a row")


class _Tick:
    """The steps of one tick, in order."""

    def __init__(
        self, work: Work, before: Watermarks, previous: datetime | None, *, pending: datetime | None, apart: bool
    ) -> None:
        """`apart`: evaluate each audience on its own, since they failed together."""
        self.work = work
        self.apart = apart
        self.previous = previous
        self.before = before
        self.pending = pending
        self.arrived: frozenset[str] = frozenset()
        self.rezoned: frozenset[tuple[str, int]] = frozenset()
        """Plans whose enrollments are all looked at: zones changed, or they were held and may go on."""
        self.door = Door()

    def run(self) -> Watermarks:
        work, started = self.work, self.before.started
        held = paused(work)
        merge_contacts(work)
        after, arrived = collect(work, self.before, self.pending)
        self.arrived = frozenset(arrived)
        work.count("arrivals", sum(arrived.values()))
        edges, statements = find_edges(
            work, started, apart=self.apart, previous=self.previous, evaluated=self.before.audiences
        )
        named = self.before.named & frozenset(work.deployment.catalog.audiences)
        end_audiences(work, self.before.named - named)
        occurred = self._occurred()
        row_tables = [
            table for deployed in work.deployment.workflows.values()
            if (table := self._guarded(deployed.name, lambda d=deployed: find_rows(work, d))) is not None
        ]  # fmt: skip
        for deployed in work.deployment.workflows.values():
            if deployed.migrations:
                self._guarded(deployed.name, lambda d=deployed: migrate_enrollments(work, d))
        due = self._due()
        after = replace(after, zones=self._zones(), held=held, audiences=statements,
                        named=named | {audience.name for audience in work.deployment.audiences})  # fmt: skip
        self.rezoned |= _released(work, self.before.held - held)
        self.door = Door(self.arrived, started, occurred, held, who_waits(work, held), who_was_asked(work),
                         who_has_edges(work) if edges else frozenset())  # fmt: skip
        watching = any(plan.exits is not None and plan.watches_state for plan in work.deployment.plans)
        if not (arrived or edges or occurred or row_tables or due or watching or self.rezoned or self.door.some_wait):
            return after
        self._share(row_tables)
        self._evaluate(due)
        return after

    def _occurred(self) -> frozenset[str]:
        no_occurrences(self.work)
        return frozenset(
            name for name, deployed in self.work.deployment.workflows.items()
            if self._guarded(name, lambda d=deployed: find_occurrences(self.work, d, self._evaluated_before(d.name)))
        )  # fmt: skip

    def _evaluated_before(self, workflow: str) -> datetime | None:
        """The time of the last tick that evaluated a workflow."""
        if workflow not in self.before.started:
            return None
        absence = self.before.absent.get(workflow)
        return absence.after if absence is not None else self.previous

    def _evaluate(self, due: dict[tuple[str, int], int]) -> None:
        work, plans = self.work, self.work.deployment.plans
        for plan in plans:
            if plan.exits is not None and self._concerned(plan, due):
                self._guarded(plan.workflow, lambda p=plan: self._exits(p, _ACTIVE))
        entering: list[Plan] = []
        for deployed in work.deployment.workflows.values():
            entered = self._guarded(deployed.name, lambda d=deployed: admit(work, d, self.door))
            admitting = deployed.admitting
            if entered and admitting is not None:
                due[(admitting.workflow, admitting.version)] = (
                    due.get((admitting.workflow, admitting.version), 0) + entered
                )
                entering.append(admitting)
        for plan in entering:  # only now, because exits may ask who is in another workflow
            if plan.exits is not None:
                self._guarded(plan.workflow, lambda p=plan: self._exits(p, _ENTERED))
        may_move = [plan for plan in plans if plan.workflow not in self.door.paused]
        moving = [plan for plan in may_move if self._due_or_woken(plan, due)]
        later = take_turns(work, moving, self.rezoned, lambda plan: self._scope(plan, _CONTENDED, every=False))
        for plan in moving:
            self._guarded(plan.workflow, lambda p=plan: self._advance(p, 1 if later else None))
        for turn in sorted(later):
            for plan in moving:
                if (plan.workflow, plan.version) in later[turn]:
                    self._guarded(plan.workflow, lambda p=plan, t=turn: self._advance(p, t))

    def _guarded(self, workflow: str, step: Any) -> Any:
        try:
            return step()
        except (WarehouseLocked, WarehouseAway):
            raise  # no fault of a workflow's
        except PenstockError as error:
            if not workflow:
                raise
            raise WorkflowFailed(workflow, error) from error

    # ------------------------------------------------------------ what the workflows share

    def _share(self, row_tables: list[str]) -> None:
        """Tables of this tick: the contacts concerned, with their columns, and their events."""
        work = self.work
        work.run(_CONCERNED)
        for table in row_tables:
            work.warehouse.execute(exp.insert(exp.select("contact_id").from_(table), "tick_concerned"))
        watching = [plan for plan in work.deployment.plans if plan.exits is not None and plan.watches_state]
        for workflow, version in {*((plan.workflow, plan.version) for plan in watching), *self.rezoned}:
            work.run(_CONCERNED_ACTIVE, workflow=workflow, version=version)
        for workflow in self.door.waiting | self.door.asked:
            work.run(_CONCERNED_WAITING, workflow=workflow)
        entries = BEGINNING if row_tables else work.rows(_EARLIEST_ENTRY)[0]["earliest"]
        share_contacts(work, entries, work.deployment.channels)

    def _due(self) -> dict[tuple[str, int], int]:
        rows = self.work.rows(_DUE)
        return {(row["workflow"], row["version"]): row["n"] for row in rows}

    def _zones(self) -> str | None:
        """The digest of the contacts' zones; when it changed, calendar waits end at other times than was planned."""
        work = self.work
        waiting = frozenset((plan.workflow, plan.version) for plan in work.deployment.plans if plan.waits_by_zone)
        if not waiting:
            return None
        text = work.texts.text(("zones",), lambda: frames.zone_digest(work.deployment.catalog), work.warehouse)
        digest = work.warehouse.rows(text)[0]["digest"]
        if self.before.zones not in (None, str(digest)):
            self.rezoned = waiting
        return str(digest)

    def _due_or_woken(self, plan: Plan, due: dict[tuple[str, int], int]) -> bool:
        return (
            (plan.workflow, plan.version) in self.rezoned
            or bool(due.get((plan.workflow, plan.version)))
            or bool(plan.wakes & self.arrived)
        )

    def _concerned(self, plan: Plan, due: dict[tuple[str, int], int]) -> bool:
        return plan.watches_state or self._due_or_woken(plan, due)

    # ------------------------------------------------------------ one plan

    def _scope(self, plan: Plan, which: str, *, every: bool, turn: int | None = None) -> int:
        return self.work.run(
            which, workflow=plan.workflow, version=plan.version, wakes=sorted(plan.wakes), every=every,
            reads_entry=plan.reads_entry, tells=plan.tells, turn=turn, per=NUMBERS,
        )  # fmt: skip

    def _exits(self, plan: Plan, which: str) -> None:
        work = self.work
        every = plan.watches_state or (plan.workflow, plan.version) in self.rezoned
        if plan.exits is None or not self._scope(plan, which, every=every):
            return
        if not work.make("tick_exits", plan.exits, plan.workflow, str(plan.version)):
            return
        left = work.journal(_EXIT_JOURNAL, workflow=plan.workflow, version=plan.version)
        work.run(_EXIT)
        work.count("exits", left)

    def _advance(self, plan: Plan, turn: int | None) -> None:
        """Advance the enrollments of a plan: all of them, or those whose turn it is."""
        work = self.work
        which = _STANDING if turn is None else _IN_TURN
        due = self._scope(plan, which, every=(plan.workflow, plan.version) in self.rezoned, turn=turn)
        if due:
            work.count("due", due)
        while due:
            self._round(plan, due)
            # Who jumped back stands further up than the statements of a round can lead, so they run once more.
            due = self._scope(plan, _BACK, every=False) if plan.jumps_back else 0

    def _round(self, plan: Plan, due: int) -> None:
        """Take the `due` enrollments in `tick_scope` as far as they can go down the file."""
        work = self.work
        work.make_own(plan, FRAME, plan.frame)
        reached: list[tuple[Stage, list[int]]] = []
        for stage in plan.stages:
            work.make_own(plan, stage.name, stage.query)
            reached.append((stage, self._reached(plan, stage)))
        record(work, plan, reached, due)

    def _reached(self, plan: Plan, stage: Stage) -> list[int]:
        """Indexes of the stage's actions that somebody reached."""
        if not stage.actions:
            return []
        counts = exp.select(
            *(
                exp.Count(this=exp.column(f"a{index}")).as_(f"a{index}")
                for index in dict.fromkeys(action.index for action in stage.actions)
            )
        ).from_(self.work.texts.own(plan, stage.name))
        text = self.work.texts.text(
            ("reached", plan.workflow, str(plan.version), stage.name), counts, self.work.warehouse
        )
        row = self.work.warehouse.rows(text)[0]
        return [index for index in dict.fromkeys(a.index for a in stage.actions) if row[f"a{index}"]]


def share_contacts(work: Work, entries: datetime | None, channels: Sequence[str]) -> None:
    """Make `tick_contacts`, with what forbids messages on the channels, and `tick_events`, for `tick_concerned`.

    `entries` is the earliest entry of the enrollments that will be looked at; events before it may be left out.
    """
    deployment = work.deployment
    names = [f"{plan.workflow}:{plan.version}" for plan in deployment.plans]
    restricted = exp.In(
        this=exp.column("contact_id", table="c"),
        query=exp.Subquery(this=exp.select("contact_id").from_("tick_concerned")),
    )

    def contacts() -> exp.Expr:
        return exp.select("c.*").from_(deployment.contact_rows(channels).subquery("c")).where(restricted.copy())

    work.make("tick_contacts", contacts, *channels, *names)
    given = {"earliest": deployment.earliest_event(work.tick_at, entries)}
    work.make("tick_events", lambda: _concerned_events(deployment, restricted), *names, parameters=given)
    # Few events stand there twice, and a window over all of them is dear: only those ids are looked at closely.
    if work.make("tick_repeated", _repeated):
        work.run("DELETE FROM tick_events WHERE event_id IN (SELECT event_id FROM tick_repeated)")
        work.run("INSERT INTO tick_events SELECT * FROM tick_repeated")


def _concerned_events(deployment: Deployment, restricted: exp.Expr) -> exp.Expr:
    rows = deployment.event_rows()
    inside = restricted.copy()
    inside.this.set("table", exp.to_identifier("e"))
    return rows.where(exp.GTE(this=event("event_time"), expression=exp.Placeholder(this="earliest"))).where(inside)


def _repeated() -> exp.Expr:
    """The row that counts of every event that stands in `tick_events` more than once."""
    twice = exp.select("r.event_id").from_("tick_events AS r").group_by("r.event_id").having("COUNT(*) > 1")
    rows = exp.select("e.*").from_("tick_events AS e")
    return frames.first_of_each(rows.where(exp.In(this=event("event_id"), query=exp.Subquery(this=twice))))


def _released(work: Work, names: frozenset[str]) -> frozenset[tuple[str, int]]:
    """The plans of workflows; what happened while they were held woke nobody."""
    return frozenset((plan.workflow, plan.version) for plan in work.deployment.plans if plan.workflow in names)


def _without(deployment: Deployment, aside: Iterable[str]) -> Deployment:
    names = set(aside)
    if not names:
        return deployment
    kept = {name: deployed for name, deployed in deployment.workflows.items() if name not in names}
    return Deployment(deployment.workspace, deployment.schema, deployment.catalog, deployment.default_zone, kept,
                      deployment.templates, deployment.broken, deployment.guard,
                      tuple(audience for audience in deployment.audiences if audience.name not in names))  # fmt: skip


def _reason(error: Exception) -> str:
    code = getattr(error, "code", "E000")
    return f"{code} {str(error).splitlines()[0][:300]}"


_LAST = """
    SELECT t.*, (
        SELECT min(coalesce(s.loaded_at, s.event_time)) FROM event_seen AS s WHERE s.arrived_tick IS NULL
    ) AS pending
    FROM ticks AS t ORDER BY t.tick DESC LIMIT 1
"""
_COLUMNS = """
    CREATE OR REPLACE TEMP TABLE tick_scope AS
    SELECT n.enrollment_id, n.contact_id, n.key, n.entry_ref, CASE WHEN $reads_entry THEN n.entry END AS entry,
        n.entry_at, n.position, n.logical_at, n.due_at, n.steps, n.arms, n.visits,
        CAST($tick_at AS TIMESTAMP) AS tick_at
"""
_LOG_AT = """, $seq + $per * row_number() OVER (
        ORDER BY coalesce(n.due_at, n.logical_at), n.contact_id, CASE WHEN $tells THEN n.entry_at END,
            CASE WHEN $tells THEN n.entry_ref END, n.enrollment_id
    ) AS log_at
"""
_NO_LOG = ", CAST(NULL AS BIGINT) AS log_at"
_ROWS = """
    FROM enrollments AS n
    WHERE n.workflow = $workflow AND n.version = $version AND n.exit IS NULL
"""
_WOKEN = """
    (n.due_at <= $tick_at OR n.contact_id IN (
        SELECT a.contact_id FROM tick_arrivals AS a WHERE list_contains($wakes, a.name)
    ))
"""
_LOOKED_AT = _ROWS + " AND ($every OR " + _WOKEN + ")"
_ACTIVE = _COLUMNS + _NO_LOG + _LOOKED_AT
# Side by side with those at the same step: most layers then leave whole vectors of rows as they are.
_STANDING = _COLUMNS + _LOG_AT + _LOOKED_AT + " ORDER BY n.position"
_BACK = (
    _COLUMNS + _LOG_AT + _ROWS + " AND n.enrollment_id IN (SELECT m.enrollment_id FROM tick_moves AS m WHERE m.back) "
    "ORDER BY n.position"
)
_IN_TURN = (
    _COLUMNS
    + _LOG_AT
    + _LOOKED_AT
    + " AND coalesce((SELECT l.turn FROM tick_later AS l WHERE l.enrollment_id = n.enrollment_id), 1) = $turn "
    "ORDER BY n.position"
)
_CONTENDED = _COLUMNS + _LOG_AT + _ROWS + " AND n.enrollment_id IN (SELECT t.enrollment_id FROM tick_turns AS t)"
_ENTERED = _COLUMNS + _NO_LOG + _ROWS + " AND n.entered_tick = $tick"
_CONCERNED = """
    CREATE OR REPLACE TEMP TABLE tick_concerned AS
    SELECT contact_id FROM enrollments WHERE exit IS NULL AND due_at <= $tick_at
    UNION SELECT contact_id FROM tick_arrivals
    UNION SELECT contact_id FROM tick_edges
    UNION SELECT contact_id FROM tick_occurrences
"""
_EARLIEST_ENTRY = """
    SELECT least(
        (SELECT min(n.entry_at) FROM enrollments AS n WHERE n.exit IS NULL),
        (SELECT min(a.event_time) FROM tick_arrivals AS a),
        (SELECT min(o."at") FROM tick_occurrences AS o),
        (SELECT min(k.candidate_at) FROM candidates AS k WHERE k.verdict IN ('asked', 'waiting'))
    ) AS earliest
"""
_CONCERNED_ACTIVE = """
    INSERT INTO tick_concerned
    SELECT n.contact_id FROM enrollments AS n WHERE n.workflow = $workflow AND n.version = $version AND n.exit IS NULL
"""
_CONCERNED_WAITING = """
    INSERT INTO tick_concerned
    SELECT k.contact_id FROM candidates AS k WHERE k.workflow = $workflow AND k.verdict IN ('asked', 'waiting')
"""
_DUE = """
    SELECT workflow, version, count(*) AS n FROM enrollments WHERE exit IS NULL AND due_at <= $tick_at
    GROUP BY workflow, version
"""
_EXIT_JOURNAL = """
    SELECT $workflow AS workflow, $version AS version, x.enrollment_id, x.contact_id, x.key, NULL AS step,
        'exit' AS kind, NULL AS what, x.reason AS outcome, NULL AS due, NULL AS action_id, NULL AS cause,
        NULL AS details
    FROM tick_exits AS x
"""
_EXIT = """
    UPDATE enrollments SET exit = x.reason, exited_at = $tick_at, moved_tick = $tick, due_at = NULL
    FROM tick_exits AS x WHERE enrollments.enrollment_id = x.enrollment_id
"""
_ASIDE = """
    SELECT $workflow AS workflow, NULL AS version, NULL AS enrollment_id, NULL AS contact_id, NULL AS key, NULL AS step,
        'workflow' AS kind, NULL AS what, 'set_aside' AS outcome, NULL AS due, NULL AS action_id, $why AS cause,
        NULL AS details
"""
_TICK_ROW = """
    INSERT INTO ticks
    SELECT $tick, $tick_at, (SELECT coalesce(max(fence), 0) FROM lease), $watermarks, $counts,
        (SELECT md5(coalesce(
            string_agg(concat_ws('|', j.seq, j.enrollment_id, j.step, j.kind, j.outcome), ';' ORDER BY j.seq), ''))
         FROM journal AS j WHERE j.tick = $tick),
        $started_at, $finished_at
"""
_FAILURES = """
    SELECT count(DISTINCT tick) FROM journal
    WHERE kind = 'workflow' AND outcome = 'set_aside' AND workflow = $workflow AND tick > $since
"""
_QUARANTINE = """
    INSERT INTO controls SELECT uuid(), $scope, 'quarantine', 'penstock', $because, $tick_at
"""
_QUARANTINED = """
    SELECT scope FROM (
        SELECT scope, action, row_number() OVER (PARTITION BY scope ORDER BY created_at DESC, control_id DESC) AS place
        FROM controls WHERE scope LIKE 'workflow:%' AND action IN ('quarantine', 'resume')
    ) AS c WHERE c.place = 1 AND c.action = 'quarantine'
"""
