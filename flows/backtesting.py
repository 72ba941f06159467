"""Backtests of a project's workflows: which version, over which period, on a copy of the target's past."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlglot import exp

from compiler.catalog import Catalog
from compiler.condition import relation_table
from compiler.errors import ProjectError
from compiler.frames import timestamp
from compiler.parser import canonical, from_canonical, parse_workflow
from compiler.plan import Plan
from compiler.planner import Settings, plan
from compiler.workflow import ModelTrigger, Policy, Workflow
from flows.engine.backtest import run_backtest, ticks_of
from flows.engine.backtest_report import Comparison, Person, Summary, compare, people, summarise
from flows.engine.deployment import Deployed, Deployment
from flows.engine.history import History, Span, copy_history
from flows.engine.log import LogRow, log_rows
from flows.journal.tables import StateTables
from flows.mapping import references
from flows.project import Project
from flows.relations import take_snapshot
from flows.warehouse.base import Warehouse

_REVISION = re.compile(r"[A-Za-z0-9_.@/][A-Za-z0-9_.@/~^{}-]*")
_VERSION = re.compile(r"v?(\d+)")
Progress = Callable[[str, int, int], None]
"""Told which version runs, how many ticks are behind, and of how many."""


@dataclass(frozen=True)
class Period:
    """From when to when, and how often a tick comes."""

    start: datetime
    until: datetime
    every: timedelta


@dataclass(frozen=True)
class Version:
    """A version of the workflow that was run: `name` is `file`, `v3` or a revision of git."""

    name: str
    definition: Workflow
    summary: Summary
    people: Mapping[str, Person] = field(repr=False, default_factory=dict)
    log: tuple[LogRow, ...] = field(repr=False, default=())


@dataclass(frozen=True)
class Backtested:
    """What came of it; `other` and `comparison` only when two versions were run. `notes`: what it cannot know."""

    workflow: str
    period: Period
    contacts: int
    events: int
    version: Version
    other: Version | None
    comparison: Comparison | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sides:
    """What all versions share."""

    project: Project
    catalog: Catalog
    policy: Policy
    period: Period

    def plan(self, definition: Workflow) -> Plan:
        return plan(definition, self.catalog, Settings(self.policy), version=1)

    def copy(self, live: Warehouse, definition: Workflow) -> History:
        project = self.project
        named = references("\n".join([
            canonical(definition), self.policy.model_dump_json(), json.dumps(project.settings.audiences)
        ]))  # fmt: skip
        span = Span(definition.workflow, project.workspace, self.period.until)
        return copy_history(live, self.catalog, [self.plan(definition)], named, span)

    def run(self, name: str, definition: Workflow, history: History, progress: Progress, *, log: bool) -> Version:
        templates = {name: template.digest for name, template in self.project.definitions.templates.items()}
        compiled = self.plan(definition)
        deployed = Deployed(definition.workflow, 1, self.period.start, {1: compiled})
        deployment = Deployment(
            self.project.workspace, history.schema, self.catalog, self.policy.default_timezone or "UTC",
            {definition.workflow: deployed}, templates,
        )  # fmt: skip
        ticks = ticks_of(self.period.start, self.period.until, self.period.every)
        ran = run_backtest(history, deployment, ticks, lambda done, of: progress(name, done, of))
        warehouse = history.warehouse
        return Version(
            name, definition, summarise(warehouse, history.schema, definition, ran),
            people(warehouse, history.schema, definition.workflow),
            tuple(log_rows(warehouse, history.schema)) if log else (),
        )  # fmt: skip


def backtest(
    project: Project, workflow: str, *, since: timedelta | datetime, until: datetime | None, every: timedelta,
    now: Callable[[Warehouse], datetime], wait: timedelta, against: str | None = None,
    progress: Progress = lambda _name, _done, _of: None, log: bool = False,
) -> Backtested:  # fmt: skip
    """Run a workflow, as its file says now, over the past of a target; the warehouse is only read, nothing is sent.

    Args:
        project: the target.
        workflow: its name.
        since: the beginning, or how long before the end.
        until: the end; what `now` says of the warehouse when None.
        every: how often a tick comes.
        now: the instant that stands for now.
        wait: how long to wait for the warehouse.
        against: another version to run too: a published version (`3`), or a revision of git.
        progress: told of every tick.
        log: whether the log is wanted.

    Raises:
        ProjectError: E508, no such workflow; E510, no warehouse; E519, no such version or period.
        DefinitionError: a definition is refused.
    """
    definition = project.definitions.workflow(workflow)
    with project.open_warehouse(read_only=True, wait=wait) as live:
        end = until or now(live)
        period = _period(since, end, every)
        sides = _Sides(project, project.catalog_with(take_snapshot(live, project.state_schema)),
                       project.settings.effective_policy, period)  # fmt: skip
        versions = [("file", definition)]
        if against is not None:
            versions.append(_other(live, project, workflow, against))
        copies = [sides.copy(live, each) for _, each in versions]
        newest = _newest_event(live, sides.catalog)
    size = _size(copies[0], sides.catalog)
    found: list[Version] = []
    for (name, each), history in zip(versions, copies, strict=True):
        with history:
            found.append(sides.run(name, each, history, progress, log=log))
    other = found[1] if len(found) > 1 else None
    comparison = compare(other.people, found[0].people) if other is not None else None
    return Backtested(workflow, period, *size, found[0], other, comparison, tuple(_notes(sides, definition, newest)))


def _period(since: timedelta | datetime, end: datetime, every: timedelta) -> Period:
    """Ticks at whole multiples of their distance, so that an hourly one comes at the full hour."""
    if every < timedelta(minutes=1):
        raise ProjectError(f"ticks every {every} are too close for a backtest", code="E519", hint="--every 1h")
    last = datetime.min + (end - datetime.min) // every * every
    start = last - since if isinstance(since, timedelta) else since
    if start > last:
        raise ProjectError(f"the period ends at {last} before it begins at {start}", code="E519", hint="--since 90d")
    return Period(start, last, every)


def _size(history: History, catalog: Catalog) -> tuple[int, int]:
    contacts = history.count(catalog.contact.relation.place)
    return contacts, history.staged("events")


def _other(live: Warehouse, project: Project, workflow: str, against: str) -> tuple[str, Workflow]:
    number = _VERSION.fullmatch(against)
    if number is None:
        return against, _at_revision(project, workflow, against)
    state = StateTables(project.state_schema)
    rows: list[dict[str, str]] = []
    if live.relation_exists(state.place("workflow_versions")):
        given = {"workflow": workflow, "version": int(number[1])}
        rows = live.rows(state.statement(live, _PUBLISHED), given)
    if not rows:
        raise ProjectError(
            f"{workflow} has no version {number[1]} on {project.target}", code="E519", hint="penstock status"
        )
    return f"v{number[1]}", from_canonical(rows[0]["definition"])


def _at_revision(project: Project, workflow: str, revision: str) -> Workflow:
    """The workflow as git has it at a revision, with the files that it includes."""
    if not _REVISION.fullmatch(revision):
        raise ProjectError(
            f"--compare {revision}: neither a version nor a revision", code="E519", hint="--compare HEAD~1, or 3"
        )
    files = _git(project, "ls-tree", "-r", "--name-only", revision, "--", "workflows", "steps").splitlines()
    named = [file for file in files if file in (f"workflows/{workflow}.yaml", f"workflows/{workflow}.yml")]
    if not named:
        raise ProjectError(f"{revision} has no workflow '{workflow}'", code="E519", hint="git log -- workflows")
    includes = {
        file.removeprefix("workflows/"): _git(project, "show", f"{revision}:./{file}")
        for file in files if file.endswith((".yaml", ".yml")) and (file.startswith("steps/") or file.count("/") > 1)
    }  # fmt: skip
    text = _git(project, "show", f"{revision}:./{named[0]}")
    return parse_workflow(text, f"{named[0]} at {revision}", includes=includes).workflow


def _git(project: Project, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(project.folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
    except OSError as error:
        raise ProjectError(f"git cannot be run: {error}", code="E519", hint="--compare 3, a version") from error
    if done.returncode:
        first = (done.stderr.strip().splitlines() or ["it failed"])[0]
        raise ProjectError(f"git: {first}", code="E519", hint="--compare HEAD~1, or 3")
    return done.stdout


def _newest_event(live: Warehouse, catalog: Catalog) -> datetime | None:
    events = catalog.events
    newest = exp.Max(this=timestamp(events.relation, events.time, "m")).as_("newest")
    found: datetime | None = live.rows(exp.select(newest).from_(relation_table(events.relation, "m")))[0]["newest"]
    return found


def _notes(sides: _Sides, definition: Workflow, newest: datetime | None) -> Iterator[str]:
    """What the past in the warehouse does not tell."""
    text = canonical(definition)
    if newest is None or newest < sides.period.start:
        last = "there is no event at all" if newest is None else f"the last one is of {newest:%Y-%m-%d %H:%M}"
        yield f"no event lies in the period: {last}; --until names another end"
    yield "contact columns are as they are now, at every instant"
    if any(word in text for word in ("opened(", "clicked(", "replied(", "delivered(", "bounced(")):
        yield "nobody opens or clicks what was never really sent: only what the log of the target knows is there"
    if any(word in text for word in ("in_workflow(", "was_in_workflow(", "position_in(", "enroll")):
        yield "other workflows do not run: nobody is in them"
    models = {name for name in references(text) if name != sides.catalog.events.relation.name}
    if models and not isinstance(definition.trigger, ModelTrigger):
        yield f"other models are as they are now: {', '.join(sorted(models))}"
    elif models:
        yield f"rows of {', '.join(sorted(models))} are as they are now, and there since their `at`"
    yield "every send is taken to be accepted; the frequency cap counts what other workflows really sent"


_PUBLISHED = "SELECT definition FROM workflow_versions WHERE workflow = $workflow AND version = $version"
