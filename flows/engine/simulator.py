"""Simulations: the same compiled SQL, tick and delivery code on an in-memory warehouse under a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from sqlglot import exp

from compiler.actions import SIMULATED
from compiler.catalog import (
    Catalog,
    ContactModel,
    DataType,
    EventModel,
    MergeModel,
    Relation,
    ScoreInfo,
    TemplateInfo,
)
from compiler.content import Template, parse_template, render
from compiler.errors import DefinitionError, Problem
from compiler.graph import flow, passed_names
from compiler.plan import Plan
from compiler.planner import Settings, plan
from compiler.workflow import ModelTrigger, ScoreStep, SetStep
from destinations.recorder import Recorder, RecorderConfig
from flows.engine.clock import VirtualClock
from flows.engine.deployment import BEGINNING, Deployed, Deployment
from flows.engine.dispatcher import Delivery, deliver
from flows.engine.evaluator import Evaluator, TickReport
from flows.engine.holding import Guard
from flows.engine.intents import MESSAGES, Intent
from flows.engine.log import log_rows
from flows.engine.recheck import rechecker
from flows.engine.simulation import Case, Published
from flows.journal.ids import identity
from flows.journal.migrations import migrate
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse

SCHEMA = "penstock"
WORKSPACE = "simulation/case"
CONTACTS = "contacts"
EVENTS = "events_model"
MERGES = "merges_model"
_MESSAGE_COLUMNS: dict[str, DataType] = {"unsubscribed_groups": "array", "tags": "array"}


@dataclass(frozen=True)
class Outcome:
    """What a case did: the log as rows of text, and whether it is as expected."""

    case: Case
    log: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """The log holds the expected rows; each enrollment's rows of one tick in the expected order."""
        return self.case.expect is None or _grouped(self.log) == _grouped(self.case.expect)


def in_memory() -> Warehouse:
    """The warehouse of a simulation unless it names another one."""
    return DuckDBWarehouse(None)


def run_case(case: Case, open_warehouse: Callable[[], Warehouse] = in_memory) -> Outcome:
    """Run a case on an empty warehouse.

    Raises:
        DefinitionError: a workflow of it does not compile.
    """
    with Simulation(case, open_warehouse) as simulation:
        return simulation.run()


def _grouped(rows: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Rows per (tick, enrollment): only inside one is order significant."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        parts = [part.strip() for part in row.split("|")]
        key = (parts[0], parts[2] if len(parts) > 2 else "")
        grouped.setdefault(key, []).append(" | ".join(parts))
    return grouped


class Simulation:
    """One case on its own warehouse, in memory unless another is given, tick by tick; a context manager.

    The size guard is off unless its limits are given.
    """

    def __init__(
        self, case: Case, open_warehouse: Callable[[], Warehouse] = in_memory, guard: Guard | None = None
    ) -> None:
        """Compile the case's workflows and make its tables.

        Raises:
            DefinitionError: a workflow does not compile.
        """
        self.case = case
        self.clock = VirtualClock(case.ticks[0] if case.ticks else BEGINNING)
        self.warehouse = open_warehouse()
        self.recorder = Recorder(SIMULATED, RecorderConfig(answers=case.destination))
        self._tables = _Tables(case, self.warehouse)
        self._templates = {name: _template(name, text) for name, text in case.templates.items()}
        self._versions = _Versions(case, self._tables.catalog(self._templates), guard)
        self._evaluator: Evaluator | None = None
        migrate(self.warehouse, SCHEMA, self.clock.now(), WORKSPACE)

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.warehouse.close()

    def step(self, moment: datetime) -> TickReport:
        """Show what is visible at a moment, evaluate one tick, deliver what it decided."""
        self.clock.advance_to(moment)
        self._tables.show(moment)
        deployment = self._versions.deployment(moment)
        if self._evaluator is None or self._evaluator.deployment is not deployment:
            self._evaluator = Evaluator(deployment, self.clock)
        report = self._evaluator.tick(self.warehouse)
        if self.warehouse.rows(exp.select("action_id").from_(exp.table_("outbox", db=SCHEMA)).limit(1)):
            asyncio.run(deliver(self._delivery(self._evaluator)))
        return report

    @property
    def deployment(self) -> Deployment:
        """What is published at the clock's time."""
        return self._versions.deployment(self.clock.now())

    def log(self) -> tuple[str, ...]:
        """The log so far."""
        prefix = len(self.case.names) > 1
        return tuple(row.text(prefix=prefix) for row in log_rows(self.warehouse, SCHEMA))

    def run(self) -> Outcome:
        """All ticks of the case.

        Raises:
            DefinitionError: E690, a workflow failed.
        """
        for moment in self.case.ticks:
            failed = self.step(moment).set_aside
            if failed:
                raise DefinitionError(
                    Problem("E690", f"workflow {name} failed: {why}", self.case.file) for name, why in failed.items()
                )
        return Outcome(self.case, self.log())

    def _delivery(self, evaluator: Evaluator) -> Delivery:
        return Delivery(
            open_warehouse=self._open, schema=SCHEMA, destinations={SIMULATED: self.recorder}, render=self._render,
            clock=self.clock, recheck=rechecker(evaluator),
        )  # fmt: skip

    @contextmanager
    def _open(self) -> Iterator[Warehouse]:
        yield self.warehouse

    def _render(self, intent: Intent) -> Mapping[str, Any]:
        template = self._templates.get(intent.what) if intent.kind in MESSAGES else None
        if template is None:
            return {"to": intent.address, "subject": intent.what, "text": intent.what}
        message = render(template, intent.payload, subject=intent.what)
        return {"to": intent.address, "subject": message.subject, "text": message.text}


def _template(name: str, text: str) -> Template:
    return parse_template(name, {"txt": text}, f"templates.{name}")


class _Versions:
    """The versions of a case's workflows as they are published, compiled once each."""

    def __init__(self, case: Case, catalog: Catalog, guard: Guard | None) -> None:
        self._case = case
        self._catalog = catalog
        self._guard = guard
        self._settings = Settings(policy=case.policy)
        self._plans: dict[tuple[str, int], Plan] = {}
        self._known: tuple[int, Deployment] | None = None
        for number, published in enumerate(case.workflows):
            self._plans[self._key(number)] = self._plan(published, self._key(number)[1])

    def _key(self, number: int) -> tuple[str, int]:
        name = self._case.workflows[number].document.workflow.workflow
        before = [p.document.workflow.workflow for p in self._case.workflows[:number]]
        return name, before.count(name) + 1

    def _plan(self, published: Published, version: int) -> Plan:
        try:
            return plan(published.document.workflow, self._catalog, self._settings, version=version)
        except DefinitionError as error:
            raise DefinitionError(_located(published, problem) for problem in error.problems) from None

    def deployment(self, moment: datetime) -> Deployment:
        """What is published at a moment; the same object until something changes."""
        visible = [
            number for number, published in enumerate(self._case.workflows)
            if published.published_at is None or published.published_at <= moment
        ]  # fmt: skip
        if self._known is not None and self._known[0] == len(visible):
            return self._known[1]
        deployed: dict[str, Deployed] = {}
        for number in visible:
            name, version = self._key(number)
            published = self._case.workflows[number]
            before = deployed.get(name)
            plans = {**(before.plans if before else {}), version: self._plans[(name, version)]}
            activated = before.activated_at if before else self._activation(published)
            migrations = dict(before.migrations) if before else {}
            if published.redirect is not None:
                migrations[version] = published.redirect
            deployed[name] = Deployed(name, version, activated, plans, migrations)
        zone = self._case.policy.default_timezone or "UTC"
        made = Deployment(WORKSPACE, SCHEMA, self._catalog, zone, deployed, guard=self._guard)
        self._known = (len(visible), made)
        return made

    def _activation(self, published: Published) -> datetime:
        if published.activated_at is not None:
            return published.activated_at
        return published.published_at or BEGINNING


def _located(published: Published, problem: Problem) -> Problem:
    document = published.document
    if problem.code.startswith("E2") and problem.path:
        return problem.at(*document.spot(problem.path, problem.column))
    return document.located(problem)


class _Tables:
    """The case's data as tables that show, at each tick, what is visible by then."""

    def __init__(self, case: Case, warehouse: Warehouse) -> None:
        self.case, self.warehouse = case, warehouse
        self.columns = _contact_columns(case)
        self.untyped = _without_values(case, self.columns)
        self.contacts = {contact["id"]: dict(contact) for contact in case.contacts}
        self.changes = sorted(case.changes, key=lambda change: change[0])
        self.events = sorted(case.events, key=lambda event: event[6])
        self.models = {name: sorted(rows, key=lambda row: row[0]) for name, rows in case.models.items()}
        self.scores = sorted(case.scores, key=lambda score: score[0])
        self.merges = sorted(case.merges)
        self.controls = sorted(case.controls, key=lambda control: control[0])
        self.shown: dict[str, int] = {}
        self._create(CONTACTS, self.columns)
        self._create(EVENTS, {"event_id": "text", "contact_id": "text", "name": "text", "event_time": "timestamp",
                              "loaded_at": "timestamp", "data": "json"})  # fmt: skip
        for name, rows in self.models.items():
            self._create(name, _types(row for _, row in rows))
        for name in {score[2] for score in self.scores}:
            self._create(f"score_{name}", {"contact_id": "text", "score": "number", "scored_at": "timestamp"})
        if self.merges:
            self._create(MERGES, {"from_id": "text", "into_id": "text", "merged_at": "timestamp"})
        self._write_contacts()

    def catalog(self, templates: Mapping[str, Template]) -> Catalog:
        relations = {name: self._relation(name) for name in self.models}
        fields = {
            name: self.columns.get(name, "other")
            for published in self.case.workflows
            for node in flow(published.document.workflow).nodes if isinstance(node.step, SetStep)
            for name in node.step.set
        } | {name: "other" for name in self.untyped}  # fmt: skip
        points = {
            name: 0.0
            for published in self.case.workflows
            for node in flow(published.document.workflow).nodes if isinstance(node.step, ScoreStep)
            for name in node.step.score
        }  # fmt: skip
        contact = ContactModel(
            self._relation(CONTACTS), id="id", email="email", timezone="timezone", unsubscribed="unsubscribed",
            bounced="bounced", unsubscribed_groups="unsubscribed_groups", tags="tags",
            phone="phone" if "phone" in self.columns else None,
            push_token="push_token" if "push_token" in self.columns else None,
            fields={name: "other" if kind in ("array", "json") else kind for name, kind in fields.items()},
            merges=MergeModel(self._relation(MERGES), "from_id", "into_id", "merged_at") if self.merges else None,
        )  # fmt: skip
        events = EventModel(self._relation(EVENTS), "event_id", "contact_id", "name", "event_time", "loaded_at", "data")
        infos: dict[str, TemplateInfo] = {name: template.info for name, template in templates.items()}
        scores = {name: ScoreInfo(name, self._relation(f"score_{name}")) for name in {s[2] for s in self.scores}}
        return Catalog(
            contact, events, relations=relations, templates=infos, scores=scores, points=points,
            passed=passed_names(published.document.workflow for published in self.case.workflows),
            workflows=frozenset(self.case.names), state_schema=SCHEMA, open_names=True,
        )  # fmt: skip

    def show(self, moment: datetime) -> None:
        """Make visible what is visible at a moment."""
        changed = False
        while self.changes and self.changes[0][0] <= moment:
            _, contact, values = self.changes.pop(0)
            self.contacts.setdefault(contact, {"id": contact}).update(values)
            changed = True
        if changed:
            self._write_contacts()
        arrived = self._due("events", [event[6] for event in self.events], moment)
        if arrived:
            rows = [
                {"event_id": e[0], "contact_id": e[1], "name": e[2], "event_time": e[3], "loaded_at": e[5],
                 "data": json.dumps(e[4])}
                for e in self.events[arrived.start : arrived.stop]
            ]  # fmt: skip
            self._load(EVENTS, rows)
        for name, rows_of_model in self.models.items():
            new = self._due(name, [row[0] for row in rows_of_model], moment)
            for _, row in rows_of_model[new.start : new.stop]:
                self._replace(name, row)
        scored = self._due("score", [score[0] for score in self.scores], moment)
        for at, contact, name, value in self.scores[scored.start : scored.stop]:
            self._load(f"score_{name}", [{"contact_id": contact, "score": value, "scored_at": at}])
        merged = self._due("merges", [merge[0] for merge in self.merges], moment)
        for at, source, into in self.merges[merged.start : merged.stop]:
            self._load(MERGES, [{"from_id": source, "into_id": into, "merged_at": at}])
        ruled = self._due("controls", [control[0] for control in self.controls], moment)
        for number in ruled:
            self._control(number, *self.controls[number])

    def _control(self, number: int, at: datetime, action: str, name: str) -> None:
        row = {
            "control_id": identity("control", number), "scope": name if name == "all" else f"workflow:{name}",
            "action": action, "created_at": at,
        }  # fmt: skip
        self.warehouse.load((SCHEMA, "controls"), pa.Table.from_pylist([row]))

    def _due(self, what: str, times: list[datetime], moment: datetime) -> range:
        start = self.shown.get(what, 0)
        stop = start
        while stop < len(times) and times[stop] <= moment:
            stop += 1
        self.shown[what] = stop
        return range(start, stop)

    def _replace(self, name: str, row: Mapping[str, Any]) -> None:
        key = self._key_column(name, row)
        same = exp.EQ(this=exp.cast(exp.column(key, quoted=True), "text"), expression=exp.Placeholder(this="key"))
        self.warehouse.execute(exp.delete(exp.to_table(name)).where(same), {"key": str(row[key])})
        self._load(name, [row])

    def _key_column(self, name: str, row: Mapping[str, Any]) -> str:
        for published in self.case.workflows:
            trigger = published.document.workflow.trigger
            if isinstance(trigger, ModelTrigger) and f"'{name}'" in trigger.from_.replace('"', "'"):
                column = trigger.key.split(".")[-1].strip()
                if column in row:
                    return column
        return next(iter(row))

    def _write_contacts(self) -> None:
        self.warehouse.execute(exp.delete(exp.to_table(CONTACTS)))
        self._load(CONTACTS, [{name: contact.get(name) for name in self.columns} for contact in self.contacts.values()])

    def _create(self, name: str, columns: Mapping[str, DataType]) -> None:
        definitions = [
            exp.ColumnDef(this=exp.to_identifier(column, quoted=True), kind=exp.DataType.build(_SQL[kind]))
            for column, kind in columns.items()
        ]  # fmt: skip
        schema = exp.Schema(this=exp.to_table(name), expressions=definitions)
        self.warehouse.execute(exp.Create(this=schema, kind="TABLE"))

    def _load(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        kinds = {column: _ARROW[_kind_of(kind)] for column, kind in self.warehouse.columns((name,)).items()}
        arrays = {
            column: pa.array([_arrow_value(row.get(column), kind) for row in rows], type=kind)
            for column, kind in kinds.items()
        }
        self.warehouse.load((name,), pa.table(arrays))

    def _relation(self, name: str) -> Relation:
        return Relation(name, (name,), self.warehouse.columns((name,)))


_SQL: dict[str, str] = {"text": "text", "integer": "bigint", "number": "double", "boolean": "boolean",
                        "timestamp": "timestamp", "json": "json", "array": "text[]", "other": "text"}  # fmt: skip
_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us"), "json": pa.string(), "array": pa.list_(pa.string()),
}  # fmt: skip


def _kind_of(warehouse_type: str) -> str:
    from compiler.catalog import data_type

    kind = data_type(warehouse_type)
    return kind if kind in _ARROW else "text"


def _arrow_value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.replace(tzinfo=None) - (moment.utcoffset() or timedelta(0))
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value)
    if pa.types.is_list(kind):
        return [str(item) for item in value]
    return float(value) if pa.types.is_floating(kind) else value


def _contact_columns(case: Case) -> dict[str, DataType]:
    rows: list[Mapping[str, Any]] = [*case.contacts, *(values for _, _, values in case.changes)]
    columns: dict[str, DataType] = {"id": "text", "email": "text", "timezone": "text", "unsubscribed": "boolean",
                                    "bounced": "boolean", **_MESSAGE_COLUMNS}  # fmt: skip
    return {**_types(rows), **columns}


def _without_values(case: Case, columns: Mapping[str, DataType]) -> frozenset[str]:
    """Columns of contacts that are always NULL, so that no type is known: they compare with anything."""
    rows: list[Mapping[str, Any]] = [*case.contacts, *(values for _, _, values in case.changes)]
    valued = {name for row in rows for name, value in row.items() if value is not None}
    return frozenset(columns) - valued - {"id", "email", "timezone", "phone", "push_token", *_MESSAGE_COLUMNS}


def _types(rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> dict[str, DataType]:
    """Column types from the YAML types of all values; a column of mixed kinds is text."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: _type([value for value in found if value is not None]) for name, found in values.items()}


def _type(values: Sequence[Any]) -> DataType:
    if not values:
        return "text"
    if all(isinstance(value, bool) for value in values):
        return "boolean"
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "integer"
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "number"
    if all(isinstance(value, list) for value in values):
        return "array"
    if all(isinstance(value, str) and _is_time(value) for value in values):
        return "timestamp"
    return "text"


def _is_time(value: str) -> bool:
    try:
        return "T" in value and datetime.fromisoformat(value) is not None
    except ValueError:
        return False
