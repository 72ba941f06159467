"""One process's engine for one target: tick and delivery over what is published, with the lock held only in between.

The plain functions under the Prefect flows, `penstock run` and the demo. A `Runner` keeps compiled plans between ticks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from compiler.audience import Audience
from compiler.catalog import Catalog
from compiler.check import check_templates, check_workflow
from compiler.condition import Scope, compile_condition
from compiler.errors import ConditionError, DefinitionError, ProjectError
from compiler.plan import Plan
from compiler.planner import Settings as PlanSettings
from compiler.planner import plan
from destinations import create
from destinations.base import Destination
from destinations.recorder import Recorder, RecorderConfig
from flows.collector.ingest import Ingest, IngestReport
from flows.engine.attempts import AttemptLog, HighWater, check_high_water, read_high_water, write_high_water
from flows.engine.clock import Clock, SystemClock
from flows.engine.crash import crash_point
from flows.engine.deployment import Deployed, Deployment
from flows.engine.dispatcher import Delivery, DeliveryReport, deliver
from flows.engine.evaluator import Evaluator, TickReport
from flows.engine.holding import Guard
from flows.engine.recheck import rechecker
from flows.engine.rendering import renderer
from flows.journal.migrations import migrate, read_meta
from flows.journal.tables import StateTables
from flows.project import Project, snapshot_catalog
from flows.publication import Change, InFlight, Published, PublishedVersion, load_published, publish
from flows.signing import message_links
from flows.warehouse.base import Warehouse
from flows.warehouse.lock import DEFAULT_WAIT

OpenWarehouse = Callable[[], Any]


@dataclass
class Runner:
    """Ticks and deliveries of one project target.

    Attributes:
        project: the target.
        clock: the time.
        notes: what people should be told, in order; the caller prints and clears them.
        wait: how long to wait for the warehouse's lock.
        stopping: True ends a delivery pass after what is in flight.
        taken_in: what the collector brought since the caller looked last; the caller clears it.
    """

    project: Project
    clock: Clock = field(default_factory=SystemClock)
    notes: list[str] = field(default_factory=list)
    wait: timedelta = DEFAULT_WAIT
    stopping: Callable[[], bool] = lambda: False
    keep_open: Warehouse | None = None
    taken_in: IngestReport = field(default_factory=IngestReport)
    _evaluator: Evaluator | None = None
    _published: Published | None = None
    _fingerprint: object = None
    _state: HighWater | None = None
    _ingest: Ingest | None = None

    @contextmanager
    def open(self) -> Iterator[Warehouse]:
        """The warehouse for a short section, or the one connection that the caller keeps."""
        if self.keep_open is not None:
            yield self.keep_open
            return
        with self.project.open_warehouse(wait=self.wait) as warehouse:
            yield warehouse

    def apply(self, *, who: str | None = None, in_flight: InFlight = "pin") -> list[Change]:
        """Migrate the state and publish changed files; `in_flight` as in `publish`.

        Raises:
            DefinitionError: a definition is wrong; nothing was published.
        """
        with self.open() as warehouse:
            migrated = migrate(warehouse, self.project.state_schema, self.clock.now(), self.project.workspace)
            if migrated and read_high_water(self.project.local) is None:
                write_high_water(self.project.local, self._high_water(warehouse))
            self.check(warehouse)
            return publish(warehouse, self.project.state_schema, self.project, self.clock, who=who, in_flight=in_flight)

    def tick(self) -> TickReport:
        """Take in what the collector has, evaluate one tick and move the high-water mark.

        Raises:
            StateError: nothing is published, or the state went back.
        """
        with self.open() as warehouse:
            state = self._check_state(warehouse)
            evaluator = self._current(warehouse)
            self._take_in(warehouse, find=True)
            report = evaluator.tick(warehouse)
            crash_point("before_mark")
            self._state = replace(state, tick=report.tick)
            write_high_water(self.project.local, self._state)
        return report

    def ingest(self) -> IngestReport:
        """Take in what the collector has; gives what is in since the caller cleared `taken_in`."""
        if self.project.buffer.is_dir():
            with self.open() as warehouse:
                self._check_state(warehouse)
                self._take_in(warehouse, find=True)
        return self.taken_in

    def deliver(self) -> DeliveryReport:
        """Deliver what may be delivered now."""
        with self.open() as warehouse:
            self._check_state(warehouse)
            state = StateTables(self.project.state_schema)
            if not warehouse.rows(state.statement(warehouse, "SELECT action_id FROM outbox LIMIT 1")):
                return DeliveryReport()
            evaluator = self._current(warehouse)
        published = self._published
        if published is None:
            raise ProjectError("nothing is published", hint="penstock apply")
        render = renderer(published.templates, message_links(published.settings.collector))
        with AttemptLog(self.project.local) as log:
            return asyncio.run(deliver(Delivery(
                open_warehouse=self.open, schema=self.project.state_schema, destinations=self._destinations(published),
                render=render, clock=self.clock, recheck=rechecker(evaluator), log=log,
                max_sends_per_day=published.max_sends_per_day, stopping=self.stopping, before_claim=self._take_in,
            )))  # fmt: skip

    # ------------------------------------------------------------ the way back in

    def _take_in(self, warehouse: Warehouse, *, find: bool = False) -> None:
        """Opt-outs must be there before a claim, and events before a tick; `find`: give events to new contacts too."""
        if not self.project.buffer.is_dir():
            return
        if self._ingest is None:
            self._ingest = Ingest(self.project.buffer, self.project.state_schema, crash_point)
        if not find and not self._ingest.waiting():
            return
        catalog = self._current(warehouse).deployment.catalog
        key = (self._state or self._high_water(warehouse)).state_id
        self.taken_in.add(self._ingest.run(warehouse, self.clock.now(), key, catalog))
        if find:
            self.taken_in.found += self._ingest.find(warehouse, self.clock.now(), catalog)

    # ------------------------------------------------------------ what is published

    def check(self, warehouse: Warehouse) -> Catalog:
        """Compile every definition against the warehouse as it is now, before anything is published; gives the catalog.

        Raises:
            DefinitionError: with every problem.
        """
        catalog = snapshot_catalog(warehouse, self.project)
        definitions = self.project.definitions
        problems = list(definitions.problems)
        for document in definitions.workflows.values():
            checked = check_workflow(document, catalog, self.project.settings.effective_policy)
            problems += [problem for problem in checked.problems if problem.severity == "error"]
        problems += check_templates(definitions.templates.values(), catalog)
        if problems:
            raise DefinitionError(problems)
        return catalog

    def _check_state(self, warehouse: Warehouse) -> HighWater:
        """The state's mark; compared with this machine's unless the connection was kept since it was."""
        if self._state is not None and self.keep_open is not None:
            return self._state
        found = self._high_water(warehouse)
        note = check_high_water(self.project.local, found)
        if note:
            self.notes.append(note)
        self._state = found
        return found

    def _high_water(self, warehouse: Warehouse) -> HighWater:
        schema = self.project.state_schema
        meta = read_meta(warehouse, schema)
        if meta is None:
            raise ProjectError(f"schema {schema} has no state yet", code="E626", hint="penstock apply")
        state = StateTables(schema)
        text = "SELECT coalesce(max(tick), 0) AS tick, coalesce(max(fence), 0) AS fence FROM ticks"
        last = warehouse.rows(state.statement(warehouse, text))[0]
        return HighWater(meta.workspace, meta.state_id, meta.schema_version, last["tick"], last["fence"])

    def _current(self, warehouse: Warehouse) -> Evaluator:
        schema = self.project.state_schema
        state = StateTables(schema)
        fingerprint = tuple(warehouse.rows(state.statement(warehouse, _PUBLISHED))[0].values())
        if self._evaluator is not None and fingerprint == self._fingerprint and self.keep_open is not None:
            return self._evaluator
        if self._published is None or fingerprint != self._fingerprint:
            self._published = load_published(warehouse, schema)
        catalog = self._published.catalog(warehouse)
        known = self._evaluator
        if known is not None and fingerprint == self._fingerprint and catalog == known.deployment.catalog:
            return known
        self._evaluator = Evaluator(deployment_of(self._published, catalog, self.project.workspace), self.clock)
        self._fingerprint = fingerprint
        return self._evaluator

    def _destinations(self, published: Published) -> dict[str, Destination]:
        if published.deliver == "live":
            return {
                name: create(name, config, _secret, self.clock.now)
                for name, config in published.settings.destinations.items()
            }
        folder = str(self.project.local / "outbox")
        return {
            name: Recorder(name, RecorderConfig(folder=folder), self.clock.now)
            for name in published.settings.destinations
        }


def _secret(name: str) -> str:
    return os.environ[name]


def deployment_of(published: Published, catalog: Catalog, workspace: str) -> Deployment:
    """Compile what is published; a workflow that no longer compiles stands in `broken` with the reason."""
    settings = PlanSettings(policy=published.settings.effective_policy)
    broken: dict[str, str] = {}
    found: dict[str, dict[int, tuple[PublishedVersion, Plan]]] = {}
    for version in published.versions:
        try:
            compiled = plan(version.definition, catalog, settings, version=version.version)
        except DefinitionError as error:
            first = error.problems[0]
            place = ".".join(map(str, first.path))
            broken[version.workflow] = (
                f"{first.code} {first.message} ({version.workflow} version {version.version}, {place})"
            )
            continue
        found.setdefault(version.workflow, {})[version.version] = (version, compiled)
    deployed: dict[str, Deployed] = {}
    for name, versions in found.items():
        if name in broken:
            continue
        current = next((number for number, (version, _) in versions.items() if version.current), None)
        activated = min(version.activated_at for version, _ in versions.values())
        plans = {number: made for number, (_, made) in versions.items()}
        migrations = {
            number: version.definition.redirect
            for number, (version, _) in versions.items() if version.in_flight == "migrate"
        }  # fmt: skip
        deployed[name] = Deployed(name, current, activated, plans, migrations)
    zone = published.settings.effective_policy.default_timezone or "UTC"
    audiences = tuple(_named_audiences(published, catalog, zone, broken))
    limits = published.settings.guards
    guard = None if limits is None else Guard(limits.factor, limits.minimum, limits.max_entries)
    return Deployment(workspace, published.schema, catalog, zone, deployed, published.newest, broken, guard, audiences)


def _named_audiences(
    published: Published, catalog: Catalog, zone: str, broken: dict[str, str]
) -> Iterator[Audience]:  # fmt: skip
    """The audiences of penstock.yaml; one that no longer compiles goes into `broken` with the reason."""
    for name, text in published.settings.audiences.items():
        try:
            yield Audience(name, compile_condition(text, Scope(catalog)), zone)
        except ConditionError as error:
            broken[name] = f"{error.code} {error.message} (audiences.{name} of penstock.yaml)"


def run_tick(project: Project, clock: Clock | None = None) -> TickReport:
    """One tick of a target."""
    return Runner(project, clock or SystemClock()).tick()


def run_ingest(project: Project, clock: Clock | None = None) -> IngestReport:
    """Take in what the collector on this machine has."""
    return Runner(project, clock or SystemClock()).ingest()


def run_delivery(project: Project, clock: Clock | None = None) -> DeliveryReport:
    """One delivery pass of a target."""
    return Runner(project, clock or SystemClock()).deliver()


_PUBLISHED = """
    SELECT (SELECT count(*) FROM workflow_versions) AS versions,
        (SELECT max(retired_at) FROM workflow_versions) AS retired,
        (SELECT count(*) FROM templates) AS templates, (SELECT max(version) FROM config_versions) AS config
"""
