"""A project: penstock.yaml, definition files, dbt's files and the catalog, as one frozen value for one target.

Only this module and those that it is made of (`settings`, `profile`, `relations`, `mapping`) read project files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath

from compiler.catalog import Catalog
from compiler.content import Template, parse_template
from compiler.errors import DefinitionError, Problem, ProjectError, nearest
from compiler.graph import passed_names
from compiler.parser import Document, parse_workflow
from compiler.workflow import Workflow
from flows.dbt_files import DbtProject, WarehouseTarget, read_dbt_project, read_target
from flows.mapping import catalog_of
from flows.relations import Snapshot, read_snapshot, relations_of, take_snapshot, write_snapshot
from flows.settings import Deliver, Settings, SettingsFile, read_settings
from flows.warehouse.base import Warehouse
from flows.warehouse.lock import DEFAULT_WAIT

PROJECT_FILE = "penstock.yaml"
PROJECT_DIR = "PENSTOCK_PROJECT_DIR"
"""Environment variable that names the folder."""


@dataclass(frozen=True)
class Definitions:
    """The definition files, read: workflows and templates by name, and what is wrong with files that cannot be read."""

    workflows: Mapping[str, Document]
    templates: Mapping[str, Template]
    problems: tuple[Problem, ...]

    def workflow(self, name: str) -> Workflow:
        """A workflow as its file says now.

        Raises:
            DefinitionError: its file cannot be read.
            ProjectError: E508, no such workflow.
        """
        found = self.workflows.get(name)
        if found is not None:
            return found.workflow
        broken = [problem for problem in self.problems if PurePosixPath(problem.file).stem == name]
        if broken:
            raise DefinitionError(broken)
        raise ProjectError(f"no workflow '{name}'", code="E508", hint=nearest(name, self.workflows))


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
    def buffer(self) -> Path:
        """What the collector of this machine took and is not in the warehouse yet."""
        return self.local / "collector"

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
        templates: dict[str, Template] = {}
        for name, files in self.template_sources.items():
            try:
                templates[name] = parse_template(name, files, f"templates/{name}")
            except DefinitionError as error:
                problems.extend(error.problems)
        return Definitions(workflows, templates, tuple(problems))

    @property
    def template_sources(self) -> dict[str, dict[str, str]]:
        """Template name -> suffix without dot -> text."""
        found: dict[str, dict[str, str]] = {}
        for file, text in self.template_files.items():
            path = PurePosixPath(file)
            found.setdefault(path.stem, {})[path.suffix.removeprefix(".")] = text
        return found

    def catalog(self) -> Catalog:
        """Every name a definition may use.

        Raises:
            DefinitionError: E501, penstock.yaml names a model, column or destination type that does not exist.
            ProjectError: E506, a file of dbt cannot be read; E507, the columns of a mapped model are unknown.
        """
        return self.catalog_with(read_snapshot(self.local / "catalog.json"))

    def catalog_with(self, snapshot: Snapshot | None) -> Catalog:
        """The catalog with the columns of a snapshot of the warehouse."""
        workflows = [PurePosixPath(file).stem for file in self.workflow_files]
        if shared := sorted(set(workflows) & set(self.settings.audiences)):
            raise DefinitionError([
                self.file.problem("E501", f"audience '{name}' has the name of a workflow", ("audiences", name),
                                  "rename it; the members of both are kept by name")
                for name in shared
            ])  # fmt: skip
        relations = relations_of(self.dbt, self.warehouse.schema, snapshot, self.dbt_variables)
        return catalog_of(
            self.settings, relations, problem=self.file.problem,
            state_schema=self.state_schema, workflows=workflows,
            templates={name: template.info for name, template in self.definitions.templates.items()},
            passed=passed_names(document.workflow for document in self.definitions.workflows.values()),
        )  # fmt: skip

    def open_warehouse(self, *, read_only: bool = False, wait: timedelta = DEFAULT_WAIT) -> Warehouse:
        """A connection to the target's warehouse, under its lock.

        Raises:
            WarehouseLocked: somebody else holds it longer than `wait`.
            WarehouseError: it cannot be opened.
        """
        return self.warehouse.location.open(self.state_schema, read_only=read_only, wait=wait)


def find_project(project_dir: Path | None = None) -> Path:
    """The project's folder: `project_dir`, else PENSTOCK_PROJECT_DIR, else the nearest upwards, else ./dbt_project.

    Raises:
        ProjectError: E500, there is no penstock.yaml.
    """
    named = project_dir or (Path(os.environ[PROJECT_DIR]) if os.environ.get(PROJECT_DIR) else None)
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
        dict(_texts(folder, "templates", (".mjml", ".html", ".txt"), deep=False)),
        dict(_includes(folder)),
    )  # fmt: skip


def snapshot_catalog(warehouse: Warehouse, project: Project) -> Catalog:
    """The catalog with the columns that the warehouse really has, kept as `.penstock/<target>/catalog.json`.

    Raises:
        DefinitionError: as `Project.catalog`.
    """
    snapshot = take_snapshot(warehouse, project.state_schema)
    write_snapshot(project.local / "catalog.json", snapshot)
    return project.catalog_with(snapshot)


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
