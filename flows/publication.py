"""Publication: definition files become numbered versions in the warehouse, and what was published is read back.

Files are drafts. `publish` writes what changed and nothing else; everything that runs reads `load_published`, so a
worker needs no checkout. A version is known by the hash of its canonical form, a template by that of its sources; the
configuration holds for all from the next tick.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from compiler.catalog import Catalog, Relation
from compiler.content import Template, parse_template
from compiler.errors import DefinitionError, Problem, StateError
from compiler.graph import passed_names
from compiler.parser import canonical, content_hash, from_canonical
from compiler.workflow import Workflow
from compiler.yaml import YamlPath
from flows.engine.clock import Clock
from flows.journal.tables import StateName, StateTables
from flows.mapping import catalog_of, references
from flows.project import Project
from flows.relations import take_snapshot
from flows.settings import Deliver, Settings
from flows.warehouse.base import Warehouse

_LATEST = """
    SELECT v.workflow, v.version, v.hash, v.activated_at, v.retired_at FROM (
        SELECT *, row_number() OVER (PARTITION BY workflow ORDER BY version DESC) AS place FROM workflow_versions
    ) AS v WHERE v.place = 1
"""
# A version between that migrates is on the way of those before it. A state that was not migrated yet has no column
# `in_flight`, so it is not named here.
_NEEDED = """
    SELECT v.*, v.version = n.newest AS is_newest, e.workflow IS NOT NULL AS is_walked
    FROM workflow_versions AS v
    JOIN (SELECT workflow, max(version) AS newest FROM workflow_versions GROUP BY workflow) AS n
        ON n.workflow = v.workflow
    LEFT JOIN (
        SELECT workflow, version FROM enrollments WHERE exit IS NULL GROUP BY workflow, version
    ) AS e ON e.workflow = v.workflow AND e.version = v.version
    LEFT JOIN (
        SELECT workflow, min(version) AS oldest FROM enrollments WHERE exit IS NULL GROUP BY workflow
    ) AS o ON o.workflow = v.workflow
    WHERE v.version = n.newest OR v.version >= o.oldest
    ORDER BY v.workflow, v.version
"""
_RETIRE = "UPDATE workflow_versions SET retired_at = $now WHERE workflow = $workflow AND version = $version"
_AGAIN = "UPDATE templates SET published_at = $now WHERE name = $name AND hash = $hash"


InFlight = Literal["pin", "migrate"]


@dataclass(frozen=True)
class Change:
    """Something that a publication wrote; `version` is None for templates, `new` what was not there before."""

    kind: Literal["workflow", "template", "config"]
    name: str
    version: int | None
    action: Literal["published", "retired"]
    new: bool = False


@dataclass(frozen=True)
class PublishedVersion:
    """One version of a workflow that may still act. `current`: it admits; an older or retired one only finishes.

    `in_flight`: whether contacts in flight in earlier versions stay there or move to this one.
    """

    workflow: str
    version: int
    hash: str
    definition: Workflow
    source: str
    published_at: datetime
    activated_at: datetime
    current: bool
    in_flight: InFlight = "pin"


@dataclass(frozen=True)
class Published:
    """All that a tick and a delivery need, without a checkout.

    Attributes:
        versions: those that admit, and those with contacts in flight.
        templates: hash -> template.
        newest: template name -> hash of the newest one.
        settings: the mapping, policy, scores and destinations of penstock.yaml, with the target's overrides.
        deliver, max_sends_per_day: of the target.
        places: name of a relation (`model`, `source.table`) -> schema and table.
        schema: of the state tables.
    """

    versions: tuple[PublishedVersion, ...]
    templates: Mapping[str, Template]
    newest: Mapping[str, str]
    settings: Settings
    deliver: Deliver
    max_sends_per_day: int | None
    places: Mapping[str, tuple[str, ...]]
    schema: str

    def catalog(self, warehouse: Warehouse) -> Catalog:
        """The catalog, with the columns that the warehouse has now; a relation that is gone is left out.

        Raises:
            DefinitionError: E501, a mapped model or column is gone.
        """
        relations = {
            name: Relation(name, place, warehouse.columns(place), "the warehouse")
            for name, place in self.places.items()
            if warehouse.relation_exists(place)
        }
        passed = passed_names(version.definition for version in self.versions)
        return catalog_of(
            self.settings, relations, problem=_problem, state_schema=self.schema,
            # a workflow that is gone may still be named by a version whose last contacts are under way
            workflows={version.workflow for version in self.versions} | set(passed),
            templates={name: self.templates[hash].info for name, hash in self.newest.items()}, passed=passed,
        )  # fmt: skip


def publish(
    warehouse: Warehouse, schema: str, project: Project, clock: Clock, *, who: str | None = None,
    in_flight: InFlight = "pin",
) -> list[Change]:  # fmt: skip
    """Publish what changed since the last time, in one transaction; the files were checked by the caller.

    A new or changed workflow gets the next version, active from the first tick at or after now; a workflow without a
    file is retired. Nothing is written when nothing changed. With `migrate` contacts in flight move to the changed
    workflows' new versions, at that tick.

    Raises:
        DefinitionError: a definition file has problems; nothing was written.
    """
    with warehouse.transaction():
        return _publish(warehouse, StateTables(schema), project, clock.now(), who, in_flight)


def _publish(
    warehouse: Warehouse, state: StateTables, project: Project, now: datetime, who: str | None, in_flight: InFlight
) -> list[Change]:
    if project.definitions.problems:
        raise DefinitionError(project.definitions.problems)
    return [
        *_publish_config(warehouse, state, _config(warehouse, project), now),
        *_publish_templates(warehouse, state, project, now),
        *_publish_workflows(warehouse, state, project, now, who, in_flight),
    ]


def rehearse(warehouse: Warehouse, schema: str, project: Project, clock: Clock) -> list[Change]:
    """What `publish` would write now: it is written and taken back.

    Raises:
        DefinitionError: as `publish`.
    """
    changes: list[Change] = []
    with suppress(_TakenBack), warehouse.transaction():
        changes = _publish(warehouse, StateTables(schema), project, clock.now(), None, "pin")
        raise _TakenBack
    return changes


class _TakenBack(Exception):
    """Ends a rehearsal's transaction."""


def load_published(warehouse: Warehouse, schema: str) -> Published:
    """What was published.

    Raises:
        StateError: E626, nothing was published yet.
    """
    state = StateTables(schema)
    config = _newest_config(warehouse, state)
    if config is None:
        raise StateError(f"nothing was published in schema {schema} yet", code="E626", hint="`penstock apply`")
    content = json.loads(config["config"])
    newest: dict[str, str] = {}
    templates: dict[str, Template] = {}
    text = state.statement(warehouse, "SELECT name, hash, source FROM templates ORDER BY published_at")
    for row in warehouse.rows(text):
        newest[row["name"]] = row["hash"]
        templates[row["hash"]] = parse_template(row["name"], json.loads(row["source"]), f"templates/{row['name']}")
    versions = tuple(
        PublishedVersion(
            row["workflow"], row["version"], row["hash"], from_canonical(row["definition"]), row["source"],
            row["published_at"], row["activated_at"], row["is_newest"] and row["retired_at"] is None,
            row.get("in_flight") or "pin",
        )
        for row in warehouse.rows(state.statement(warehouse, _NEEDED))
        if row["is_newest"] or row["is_walked"] or row.get("in_flight") == "migrate"
    )  # fmt: skip
    return Published(
        versions, templates, newest, Settings.model_validate(content["settings"]), content["deliver"],
        content["max_sends_per_day"], {name: tuple(place) for name, place in content["places"].items()}, schema,
    )  # fmt: skip


def _publish_workflows(
    warehouse: Warehouse, state: StateTables, project: Project, now: datetime, who: str | None, in_flight: InFlight
) -> Iterator[Change]:
    known = {row["workflow"]: row for row in warehouse.rows(state.statement(warehouse, _LATEST))}
    for name, document in sorted(project.definitions.workflows.items()):
        last = known.get(name)
        digest = content_hash(document.workflow)
        if last is not None and last["hash"] == digest and last["retired_at"] is None:
            continue
        version = last["version"] + 1 if last is not None else 1
        row = {
            "workflow": name, "version": version, "hash": digest, "definition": canonical(document.workflow),
            "source": document.text, "published_at": now, "published_by": who,
            "activated_at": last["activated_at"] if last is not None else now,
            "in_flight": in_flight if last is not None and in_flight == "migrate" else None,
        }  # fmt: skip
        _insert(warehouse, state, "workflow_versions", row)
        yield Change("workflow", name, version, "published", new=last is None)
    for name, last in sorted(known.items()):
        if name not in project.definitions.workflows and last["retired_at"] is None:
            gone = {"now": now, "workflow": name, "version": last["version"]}
            warehouse.execute(state.statement(warehouse, _RETIRE), gone)
            yield Change("workflow", name, last["version"], "retired")


def _publish_templates(warehouse: Warehouse, state: StateTables, project: Project, now: datetime) -> Iterator[Change]:
    text = state.statement(warehouse, "SELECT name, hash, published_at FROM templates ORDER BY published_at")
    published = warehouse.rows(text)
    newest = {row["name"]: row["hash"] for row in published}
    known = {(row["name"], row["hash"]) for row in published}
    # Two publications at one instant (a clock that stands still) must keep their order.
    last = max((row["published_at"] for row in published), default=None)
    moment = now if last is None else max(now, last + timedelta(microseconds=1))
    for name, template in sorted(project.definitions.templates.items()):
        if newest.get(name) == template.digest:
            continue
        if (name, template.digest) in known:
            warehouse.execute(
                state.statement(warehouse, _AGAIN), {"now": moment, "name": name, "hash": template.digest}
            )
        else:
            source = json.dumps(project.template_sources[name], ensure_ascii=False, sort_keys=True)
            row = {"name": name, "hash": template.digest, "source": source, "published_at": moment}
            _insert(warehouse, state, "templates", row)
        yield Change("template", name, None, "published", new=name not in newest)


def _publish_config(
    warehouse: Warehouse, state: StateTables, config: Mapping[str, Any], now: datetime
) -> Iterator[Change]:
    text = json.dumps(config, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    last = _newest_config(warehouse, state)
    if last is not None and last["hash"] == digest:
        return
    version = last["version"] + 1 if last is not None else 1
    _insert(
        warehouse, state, "config_versions", {"version": version, "hash": digest, "config": text, "published_at": now}
    )
    yield Change("config", "penstock.yaml", version, "published", new=last is None)


def _config(warehouse: Warehouse, project: Project) -> dict[str, Any]:
    settings = project.settings.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"targets"})
    relations = project.catalog_with(take_snapshot(warehouse, project.state_schema)).relations
    texts = [
        json.dumps(settings),
        *(canonical(document.workflow) for document in project.definitions.workflows.values()),
    ]
    named = {name for text in texts for name in references(text)}
    return {
        "settings": settings, "deliver": project.deliver, "max_sends_per_day": project.file.target.max_sends_per_day,
        "places": {name: list(relations[name].place) for name in sorted(named) if name in relations},
    }  # fmt: skip


def _newest_config(warehouse: Warehouse, state: StateTables) -> dict[str, Any] | None:
    text = "SELECT version, hash, config FROM config_versions ORDER BY version DESC LIMIT 1"
    return next(iter(warehouse.rows(state.statement(warehouse, text))), None)


def _insert(warehouse: Warehouse, state: StateTables, name: StateName, row: Mapping[str, Any]) -> None:
    given = {column: value for column, value in row.items() if value is not None}
    columns = {
        column: pa.array([value], pa.timestamp("us") if isinstance(value, datetime) else pa.scalar(value).type)
        for column, value in given.items()
    }
    warehouse.load(state.place(name), pa.table(columns))


def _problem(code: str, message: str, path: YamlPath, hint: str) -> Problem:
    return Problem(code, message, "penstock.yaml (as published)", hint=hint, path=path)
