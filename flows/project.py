"""A project: penstock.yaml, definition files, dbt's files and the catalog, as one frozen value for one target.

Only this module and the three that it is made of (`settings`, `profile`, `relations`) read project files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from compiler.catalog import Catalog, ContactModel, DestinationInfo, EventModel, Relation, ScoreInfo, TemplateInfo
from compiler.errors import DefinitionError, Problem, ProjectError, nearest
from compiler.parser import Document, parse_workflow
from compiler.yaml import YamlPath
from destinations import REGISTRY
from flows.profile import DbtProject, WarehouseTarget, read_dbt_project, read_target
from flows.relations import Snapshot, read_snapshot, relations_of, take_snapshot, write_snapshot
from flows.settings import Deliver, Settings, SettingsFile, read_settings
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DEFAULT_WAIT, DuckDBWarehouse

PROJECT_FILE = "penstock.yaml"
_REFERENCE = re.compile(r"^\s*(ref|source)\((.*)\)\s*$")
_CONTACT_COLUMNS = ("id", "email", "phone", "timezone", "updated_at", "unsubscribed", "bounced", "unsubscribed_groups",
                    "tags")  # fmt: skip
_EVENT_COLUMNS = ("id", "contact", "name", "at", "loaded_at", "data")
_NEVER_LATE = "event_time"


@dataclass(frozen=True)
class Definitions:
    """The definition files, read: workflows by name, and what is wrong with the files that cannot be read."""

    workflows: Mapping[str, Document]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Project:
    """A project with one of its targets.

    Attributes:
        folder: where penstock.yaml stands.
        dbt: what dbt_project.yml says.
        warehouse: the target of profiles.yml.
        file: penstock.yaml with the target's overrides.
        workflow_files, template_files, includes: name as in messages (relative to the folder) -> text; `includes`
            by the name that follows `include:`.
    """

    folder: Path
    dbt: DbtProject
    warehouse: WarehouseTarget
    file: SettingsFile
    workflow_files: Mapping[str, str]
    template_files: Mapping[str, str]
    includes: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name in dbt_project.yml."""
        return self.dbt.name

    @property
    def target(self) -> str:
        """The target's name."""
        return self.warehouse.name

    @property
    def settings(self) -> Settings:
        """penstock.yaml with the target's overrides."""
        return self.file.settings

    @property
    def deliver(self) -> Deliver:
        """`live` reaches real people; `outbox` writes files."""
        return self.file.target.deliver

    @property
    def workspace(self) -> str:
        """`<project>/<target>`, the first part of every identity."""
        return f"{self.name}/{self.target}"

    @property
    def state_schema(self) -> str:
        """Where the state tables are: the schema of penstock.yaml when live, `<schema>_<target>` otherwise."""
        schema = self.settings.state.schema_
        return schema if self.deliver == "live" else f"{schema}_{re.sub(r'[^A-Za-z0-9_]', '_', self.target)}"

    @property
    def local(self) -> Path:
        """Local files of the target: attempt log, high-water mark, messages of `deliver: outbox`, catalog snapshot."""
        return self.folder / ".penstock" / self.target

    @property
    def dbt_variables(self) -> dict[str, str]:
        """The variables that dbt models read."""
        return {"penstock_schema": self.state_schema}

    @cached_property
    def definitions(self) -> Definitions:
        """The workflow files, parsed; files with problems are left out and their problems kept."""
        workflows: dict[str, Document] = {}
        problems: list[Problem] = []
        for file, text in self.workflow_files.items():
            try:
                document = parse_workflow(text, file, includes=self.includes)
            except DefinitionError as error:
                problems.extend(error.problems)
                continue
            workflows[document.workflow.workflow] = document
        return Definitions(workflows, tuple(problems))

    def catalog(self, templates: Mapping[str, TemplateInfo] | None = None) -> Catalog:
        """Every name a definition may use; `templates` are those of `templates/`, read by the caller.

        Raises:
            DefinitionError: E501, penstock.yaml names a model, column or destination type that does not exist.
            ProjectError: E506, a file of dbt cannot be read; E507, the columns of a mapped model are unknown.
        """
        return self._catalog(read_snapshot(self.local / "catalog.json"), templates or {})

    def open_warehouse(self, *, read_only: bool = False, wait: timedelta = DEFAULT_WAIT) -> Warehouse:
        """A connection to the target's warehouse, under its lock.

        Raises:
            WarehouseLocked: somebody else holds it longer than `wait`.
            WarehouseError: it cannot be opened.
        """
        return DuckDBWarehouse(self.warehouse.path, read_only=read_only, wait=wait)

    def _catalog(self, snapshot: Snapshot | None, templates: Mapping[str, TemplateInfo]) -> Catalog:
        return _CatalogMaker(self, relations_of(self.dbt, self.warehouse.schema, snapshot)).made(templates)


def find_project(project_dir: Path | None = None) -> Path:
    """The project's folder: `project_dir`, else PENSTOCK_PROJECT_DIR, else the nearest upwards, else ./dbt_project.

    Raises:
        ProjectError: E500, there is no penstock.yaml.
    """
    named = project_dir or (
        Path(os.environ["PENSTOCK_PROJECT_DIR"]) if os.environ.get("PENSTOCK_PROJECT_DIR") else None
    )
    here = Path.cwd()
    places = [named] if named is not None else [here, *here.parents, here / "dbt_project"]
    for place in places:
        if (place / PROJECT_FILE).is_file():
            return place.resolve()
    where = f"in {named}" if named is not None else f"in {here}, above it, or in dbt_project"
    raise ProjectError(f"no {PROJECT_FILE} {where}", hint="`penstock init`, or name the folder: --project-dir DIR")


def load_project(
    project_dir: Path | None = None, target: str | None = None, *, profiles_dir: Path | None = None
) -> Project:
    """Read a project for a target, by default the profile's.

    Raises:
        ProjectError: no project, no dbt project, no such target, or a file cannot be read.
        DefinitionError: penstock.yaml has problems.
    """
    folder = find_project(project_dir)
    dbt = read_dbt_project(folder)
    warehouse = read_target(dbt, target, profiles_dir)
    file = read_settings(_text(folder / PROJECT_FILE), PROJECT_FILE, warehouse.name)
    return Project(
        folder, dbt, warehouse, file,
        dict(_texts(folder, "workflows", (".yaml", ".yml"), deep=False)),
        dict(_texts(folder, "templates", (".mjml", ".html", ".txt", ".liquid"), deep=False)),
        dict(_includes(folder)),
    )  # fmt: skip


def snapshot_catalog(
    warehouse: Warehouse, project: Project, templates: Mapping[str, TemplateInfo] | None = None
) -> Catalog:
    """The catalog with the columns that the warehouse really has, kept as `.penstock/<target>/catalog.json`.

    Raises:
        DefinitionError: as `Project.catalog`.
    """
    snapshot = take_snapshot(warehouse, project.state_schema)
    write_snapshot(project.local / "catalog.json", snapshot)
    return project._catalog(snapshot, templates or {})


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError(f"cannot read {file}: {error}", code="E500", hint="files are UTF-8 text") from error


def _texts(folder: Path, name: str, endings: tuple[str, ...], *, deep: bool) -> Iterator[tuple[str, str]]:
    for file in sorted((folder / name).rglob("*") if deep else (folder / name).glob("*")):
        if file.is_file() and file.suffix in endings and not file.name.startswith("."):
            yield file.relative_to(folder).as_posix(), _text(file)


def _includes(folder: Path) -> Iterator[tuple[str, str]]:
    """`include: steps/upsell.yaml` is looked for beside the workflow files, then in the project's folder."""
    yield from _texts(folder, "steps", (".yaml", ".yml"), deep=True)
    for name, text in _texts(folder, "workflows", (".yaml", ".yml"), deep=True):
        if name.count("/") > 1:
            yield name.removeprefix("workflows/"), text


class _CatalogMaker:
    """Turns the mapping of penstock.yaml into a catalog; collects every problem before it refuses."""

    def __init__(self, project: Project, relations: Mapping[str, Relation]) -> None:
        self.project, self.settings, self.relations = project, project.settings, relations
        self.problems: list[Problem] = []

    def made(self, templates: Mapping[str, TemplateInfo]) -> Catalog:
        contact, events = self._contact(), self._events()
        scores = dict(self._scores())
        destinations = dict(self._destinations())
        if self.problems or contact is None or events is None:
            raise DefinitionError(self.problems)
        return Catalog(
            contact, events, self.relations, destinations, templates, dict(self.settings.audiences), scores,
            frozenset(self._workflow_names()), state_schema=self.project.state_schema,
        )  # fmt: skip

    def _contact(self) -> ContactModel | None:
        given = self.settings.contact
        columns = {key: getattr(given, key) for key in _CONTACT_COLUMNS}
        relation = self._mapped(given.model, ("contact",), columns)
        return None if relation is None else ContactModel(relation, **columns, fields=dict(given.fields))

    def _events(self) -> EventModel | None:
        given = self.settings.events
        columns = {key: getattr(given, key) for key in _EVENT_COLUMNS}
        relation = self._relation(given.model, ("events", "model"))
        if relation is None:
            return None
        if given.loaded_at == _NEVER_LATE and _NEVER_LATE not in relation.columns:
            columns["loaded_at"] = given.at
        self._check_columns(relation, ("events",), columns)
        return EventModel(
            relation, id=given.id, contact=given.contact, name=given.name, time=given.at,
            loaded_at=columns["loaded_at"], data=given.data, properties=given.properties,
            overlap_seconds=int(given.overlap.elapsed.total_seconds()),
        )  # fmt: skip

    def _scores(self) -> Iterator[tuple[str, ScoreInfo]]:
        for name, score in self.settings.scores.items():
            if score.model is None:
                continue
            written = {"contact": score.contact, "value": score.value}
            relation = self._mapped(score.model, ("scores", name), written)
            if relation is not None:
                dated = score.scored_at if score.scored_at in relation.columns else None
                yield name, ScoreInfo(name, relation, score.contact, score.value, dated)

    def _destinations(self) -> Iterator[tuple[str, DestinationInfo]]:
        for name, config in self.settings.destinations.items():
            path: YamlPath = ("destinations", name)
            kind = config.get("type")
            if not isinstance(kind, str) or kind not in REGISTRY:
                wrong = "has no type" if kind is None else f"has the unknown type '{kind}'"
                hint = nearest(str(kind or ""), REGISTRY)
                self.problems.append(
                    self.project.file.problem("E501", f"destination {name} {wrong}", (*path, "type"), hint)
                )
                continue
            targets = next((config[key] for key in ("targets", "notify_to") if isinstance(config.get(key), dict)), None)
            roles: Any = REGISTRY[kind].capabilities.roles
            yield (
                name,
                DestinationInfo(
                    name, roles, config.get("default") is True, None if targets is None else frozenset(targets)
                ),
            )

    def _workflow_names(self) -> Iterator[str]:
        yield from (Path(file).stem for file in self.project.workflow_files)

    def _mapped(self, model: str, path: YamlPath, columns: Mapping[str, str | None]) -> Relation | None:
        relation = self._relation(model, (*path, "model"))
        if relation is not None:
            self._check_columns(relation, path, columns)
        return relation

    def _relation(self, model: str, path: YamlPath) -> Relation | None:
        name = relation_name(model)
        if (relation := self.relations.get(name)) is not None:
            return relation
        hint = nearest(name, self.relations) or "the dbt project has no models yet"
        self.problems.append(self.project.file.problem("E501", f"no model '{name}' in the dbt project", path, hint))
        return None

    def _check_columns(self, relation: Relation, path: YamlPath, columns: Mapping[str, str | None]) -> None:
        if not relation.columns:
            raise ProjectError(
                f"the columns of '{relation.name}' are unknown", code="E507",
                hint="`penstock dbt build` makes it; or declare its columns with data_type in the model's schema file",
            )  # fmt: skip
        known = {column.lower() for column in relation.columns}
        for key, column in columns.items():
            if column is not None and column.lower() not in known:
                message = f"{relation.name} has no column '{column}'"
                hint = f"{nearest(column, relation.columns)} (columns: {relation.source})"
                self.problems.append(self.project.file.problem("E501", message, (*path, key), hint))


def relation_name(model: str) -> str:
    """The catalog's name of `ref('model')` or `source('source', 'table')`: `model`, `source.table`.

    Raises:
        ValueError: it is neither.
    """
    match = _REFERENCE.match(model)
    if match is None:
        raise ValueError(f"not a relation: {model}")
    return ".".join(part.strip().strip("'\"") for part in match[2].split(","))
