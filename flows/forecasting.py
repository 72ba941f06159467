"""The forecast of a publication: on a copy of the target the files are published, and the ticks of a day run ahead.

Nothing arrives on that copy that is not in the warehouse yet, so it forecasts what is decided by now: who would enter
at once, and what waits for its time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from compiler.catalog import Catalog
from compiler.errors import DefinitionError
from compiler.graph import flow
from compiler.parser import canonical
from compiler.workflow import MessageStep
from flows.engine.backtest import run_backtest, ticks_of
from flows.engine.clock import Clock, VirtualClock
from flows.engine.deployment import Deployment
from flows.engine.history import History, Span, copy_history
from flows.engine.overview import guarded
from flows.engine.scratch import Scratch
from flows.journal.migrations import migrate, read_meta
from flows.journal.tables import StateName, StateTables
from flows.mapping import references
from flows.project import Project
from flows.publication import InFlight, Published, load_published, publish
from flows.runner import deployment_of
from flows.warehouse.base import Warehouse

AHEAD = timedelta(days=1)
EVERY = timedelta(hours=1)
_COPIED: tuple[StateName, ...] = (
    "workflow_versions", "templates", "config_versions", "controls", "ticks", "candidates", "enrollments",
    "audience_members", "events", "event_seen", "contact_tags", "contact_untags", "contact_fields", "contact_points",
    "campaign_members", "contact_merges", "suppressions", "outbox", "outbox_closed", "completed_actions", "journal",
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What one workflow would do in the next 24 hours.

    Attributes:
        entering: enrollments at once, and in the whole time.
        sends: step -> kind -> number of messages and other outward actions.
        skipped: reason -> number of actions that would not be done.
        waiting: messages that are held back at the end: quiet hours, a frequency cap.
        held: what the size guard would hold, in words; empty when nothing.
    """

    entering: tuple[int, int] = (0, 0)
    sends: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    held: str = ""


@dataclass(frozen=True)
class Forecast:
    """The next 24 hours by workflow; `failed` says why there is none."""

    start: datetime
    workflows: Mapping[str, Expected] = field(default_factory=dict)
    limit: int | None = None
    failed: str = ""

    @property
    def kinds(self) -> dict[str, int]:
        """Sends per kind of step, all workflows together."""
        found: dict[str, int] = {}
        for expected in self.workflows.values():
            for kinds in expected.sends.values():
                for kind, number in kinds.items():
                    found[kind] = found.get(kind, 0) + number
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def sends(self) -> int:
        """All sends together."""
        return sum(self.kinds.values())


def forecast(live: Warehouse, project: Project, catalog: Catalog, clock: Clock, in_flight: InFlight) -> Forecast:
    """What would happen in the 24 hours after an `apply`; the warehouse is only read."""
    start = _start(live, project, clock)
    named = references("\n".join([
        json.dumps(project.settings.model_dump(mode="json", by_alias=True)),
        *(canonical(document.workflow) for document in project.definitions.workflows.values()),
    ]))  # fmt: skip
    span = Span("", project.workspace, start + AHEAD)
    with copy_history(live, catalog, (), named, span, state=False) as history:
        _copy_state(live, history.warehouse, project, start)
        history.show(start)
        publish(history.warehouse, project.state_schema, project, VirtualClock(start), in_flight=in_flight)
        published = load_published(history.warehouse, project.state_schema)
        deployment = deployment_of(published, published.catalog(history.warehouse), project.workspace)
        limit = project.file.target.max_sends_per_day
        try:
            run_backtest(history, deployment, ticks_of(start, start + AHEAD, EVERY))
        except DefinitionError as error:
            return Forecast(start, limit=limit, failed=error.problems[0].message)
        return Forecast(start, _expected(history, published, deployment, start), limit)


def _start(live: Warehouse, project: Project, clock: Clock) -> datetime:
    state = StateTables(project.state_schema)
    last = None
    if live.relation_exists(state.place("ticks")):
        last = live.rows(state.statement(live, "SELECT max(tick_at) AS tick_at FROM ticks"))[0]["tick_at"]
    return clock.now() if last is None else max(last, clock.now())


def _copy_state(live: Warehouse, memory: Warehouse, project: Project, start: datetime) -> None:
    state = StateTables(project.state_schema)
    meta = read_meta(live, state.schema)
    migrate(memory, state.schema, start, project.workspace, state_id=meta.state_id if meta else None)
    if meta is not None:
        scratch = Scratch(live, memory)
        for name in _COPIED:
            scratch.state(state, name)


def _expected(history: History, published: Published, deployment: Deployment, start: datetime) -> dict[str, Expected]:
    memory, state = history.warehouse, StateTables(published.schema)

    def rows(text: str) -> list[dict[str, Any]]:
        given = {"start": start, "end": start + AHEAD, "steps": sorted(_message_steps(published))}
        return memory.rows(state.statement(memory, text), given)

    held = {name: each.said for name, each in guarded(memory, state).items()}
    entering = {row["workflow"]: (row["at_once"], row["n"]) for row in rows(_ENTERING)}
    sends: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows(_SENDS):
        sends.setdefault(row["workflow"], {}).setdefault(row["step"], {})[row["kind"]] = row["n"]
    skipped: dict[str, dict[str, int]] = {}
    for row in rows(_SKIPPED):
        skipped.setdefault(row["workflow"], {})[row["reason"]] = row["n"]
    waiting = {row["workflow"]: row["n"] for row in rows(_WAITING)}
    return {
        name: Expected(entering.get(name, (0, 0)), sends.get(name, {}), skipped.get(name, {}), waiting.get(name, 0),
                       held.get(name, ""))
        for name in sorted(deployment.workflows)
    }  # fmt: skip


def _message_steps(published: Published) -> set[str]:
    """`workflow:step` of the steps in which a message may be held."""
    return {
        f"{version.workflow}:{node.id}" for version in published.versions
        for node in flow(version.definition).nodes if isinstance(node.step, MessageStep)
    }  # fmt: skip


_ENTERING = """
    SELECT workflow, count(*) AS n, count(*) FILTER (WHERE executed_at = $start) AS at_once FROM journal
    WHERE kind = 'enter' AND executed_at >= $start GROUP BY workflow
"""
_SENDS = """
    SELECT workflow, step, split_part(what, ':', 1) AS kind, count(*) AS n FROM journal
    WHERE kind = 'delivery' AND outcome = 'sent' AND executed_at >= $start GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC, 2
"""
_SKIPPED = """
    SELECT workflow, regexp_extract(outcome, 'skipped\\((.*)\\)', 1) AS reason, count(*) AS n FROM journal
    WHERE kind IN ('action', 'delivery') AND starts_with(outcome, 'skipped') AND executed_at >= $start
    GROUP BY 1, 2 ORDER BY 1, 3 DESC
"""
_WAITING = """
    SELECT workflow, count(*) AS n FROM enrollments
    WHERE exit IS NULL AND due_at <= $end AND list_contains($steps, workflow || ':' || position) GROUP BY workflow
"""
