"""Plan -> what a tick does for one workflow, for people and programs: the very trees that the evaluator executes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from compiler.plan import (
    CANDIDATES,
    FRAME,
    MODEL_ROWS,
    Action,
    AudienceEntry,
    EventEntry,
    ModelEntry,
    Plan,
    ScheduleEntry,
)

_WIDTH = 100


@dataclass(frozen=True)
class Statement:
    """One statement of a tick: a name that is unique in the plan, what its result is for, the table it makes."""

    name: str
    purpose: str
    table: str | None
    query: exp.Select

    def sql(self, dialect: str) -> str:
        """The query as readable text."""
        return _readable(self.query, dialect)

    def script(self, dialect: str) -> str:
        """The query as a script has it: with the table that it makes, if any."""
        if self.table is None:
            return self.sql(dialect)
        temporary = exp.Properties(expressions=[exp.TemporaryProperty()])
        made = exp.Create(
            this=exp.to_table(self.table), kind="TABLE", replace=dialect == "duckdb", properties=temporary,
            expression=self.query,
        )  # fmt: skip
        return _readable(made, dialect)


def _readable(tree: exp.Expr, dialect: str) -> str:
    return tree.sql(dialect=dialect, pretty=True, comments=False, max_text_width=_WIDTH)


def statements(plan: Plan) -> tuple[Statement, ...]:
    """All statements of a plan, in the order of a tick."""
    return tuple(_statements(plan))


def _statements(plan: Plan) -> Iterator[Statement]:
    yield from _entry(plan)
    if plan.refusing is not None:
        yield Statement(
            "refusing", "contacts who did not give the consent that `require` asks for", None, plan.refusing
        )
    if plan.exits is not None:
        yield Statement("exits", "enrollments that leave before anything else happens: goals, exits, time over",
                        "tick_exits", plan.exits)  # fmt: skip
    yield Statement("frame", "one row per due enrollment with everything its conditions read, computed once",
                    FRAME, plan.frame)  # fmt: skip
    for number, stage in enumerate(plan.stages, start=1):
        steps = ", ".join(action.step for action in stage.actions)
        purpose = "every due enrollment walks on, one layer per step, until it rests or ends"
        yield Statement(f"stage {number}", f"{purpose}; acts: {steps}" if steps else purpose, stage.name, stage.query)
        yield from (_action(action) for action in stage.actions)
    yield Statement("moves", "where each enrollment came to rest, until when, or how it ended", "tick_moves",
                    plan.moves)  # fmt: skip


def _entry(plan: Plan) -> Iterator[Statement]:
    match plan.entry:
        case EventEntry(names, query):
            yield Statement("entry", f"candidates: events {', '.join(names)} that arrived", CANDIDATES, query)
        case AudienceEntry(members, audience=audience):
            purpose = "members of the audience now; who was none at the tick before is a candidate"
            if audience is not None:
                untold = audience.moves.untold
                who = (
                    f"for everybody in every tick, because {untold}" if untold else "for contacts that may have changed"
                )
                purpose += f"; evaluated together with other audiences, {who}"
            yield Statement("entry", purpose, "tick_members", members)
        case ScheduleEntry(cron, zone, members):
            yield Statement("entry", f"whom the schedule {cron} ({zone or 'zone of the contact'}) concerns now",
                            "tick_members", members)  # fmt: skip
        case ModelEntry(relation, rows, query):
            yield Statement("rows", f"rows of {relation} whose key is new", MODEL_ROWS, rows)
            yield Statement("entry", "candidates among them", CANDIDATES, query)


def _action(action: Action) -> Statement:
    goes = f" through {action.destination}" if action.destination else ""
    return Statement(f"action {action.step}", f"{action.kind} {action.what}{goes}: who reached it in this tick", None,
                     action.rows)  # fmt: skip


def script(plan: Plan, dialect: str) -> str:
    """The whole tick of a workflow as one readable SQL file; `$tick_at` is the tick's instant."""
    lines = [
        f"-- Workflow {plan.workflow}: what every tick runs for it, in this order.",
        "-- Written by `penstock compile`; the engine runs the same statements.",
        "-- $tick_at: instant of the tick · $earliest: what is older is no candidate · $fresh: the workflow is new.",
    ]
    if plan.conditions:
        lines += ["--", "-- Conditions as written:"]
        lines += [f"--   {path}: {' '.join(text.split())}" for path, text in plan.conditions.items()]
    for number, statement in enumerate(statements(plan), start=1):
        lines += ["", f"-- {number} · {statement.name}", f"-- {statement.purpose}"]
        lines.append(statement.script(dialect) + ";")
    return "\n".join(lines) + "\n"


def describe(plan: Plan, dialect: str) -> dict[str, Any]:
    """The plan for programs."""
    rules = plan.rules
    return {
        "workflow": plan.workflow,
        "steps": plan.steps,
        "first_step": plan.first_step,
        "priority": plan.priority,
        "entry": _described_entry(plan),
        "rules": {
            "reentry": rules.reentry, "min_gap_seconds": rules.min_gap, "backfill_seconds": rules.backfill,
            "max_age_seconds": rules.max_age, "cap": rules.cap_count, "cap_seconds": rules.cap_seconds,
        },
        "wakes": sorted(plan.wakes),
        "watches_state": plan.watches_state,
        "reads": {
            "contact_columns": sorted(plan.contact_columns), "events": sorted(plan.events),
            "properties": dict(sorted(plan.properties.items())),
        },
        "conditions": dict(plan.conditions),
        "actions": [
            {"step": a.step, "kind": a.kind, "what": a.what, "destination": a.destination, "template": a.template,
             "transactional": a.transactional}
            for a in plan.actions
        ],
        "statements": [
            {"name": s.name, "purpose": s.purpose, "table": s.table, "sql": s.sql(dialect)} for s in statements(plan)
        ],
    }  # fmt: skip


def _described_entry(plan: Plan) -> dict[str, Any]:
    match plan.entry:
        case EventEntry(names):
            return {"kind": "event", "events": list(names)}
        case AudienceEntry(exit_on_leave=leave):
            return {"kind": "audience", "exit_on_leave": leave}
        case ScheduleEntry(cron, zone):
            return {"kind": "schedule", "cron": cron, "timezone": zone or "contact"}
        case ModelEntry(relation):
            return {"kind": "model", "relation": relation}
