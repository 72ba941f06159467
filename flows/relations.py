"""The relations of a dbt project and their columns, whether it has been built or not.

Columns come from the snapshot of the warehouse, else from dbt's manifest.json and catalog.json, else from the schema
files of the project, so that definitions can be checked in a clean clone. A model is known by its name, a source by
`<source>.<table>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.catalog import Relation
from compiler.errors import ProjectError
from flows.dbt_files import DbtProject, read_dbt_yaml
from flows.warehouse.base import Place, Warehouse

Columns = Mapping[str, str]
_RESOURCES = ("models", "seeds", "snapshots")
_VARIABLE = re.compile(r"\{\{\s*var\(\s*['\"](\w+)['\"]\s*\)\s*\}\}")
_KINDS = ("model", "seed", "snapshot")


@dataclass(frozen=True)
class Snapshot:
    """The tables and views of a warehouse: (schema, name) in lower case -> its real place and columns."""

    tables: Mapping[Place, tuple[Place, Columns]] = field(default_factory=dict)

    def named(self, name: str) -> list[Place]:
        """The places of all tables of a name."""
        return [place for place, _ in self.tables.values() if place[1].lower() == name.lower()]

    def find(self, places: tuple[Place, ...]) -> tuple[Place, Columns] | None:
        """The first of some places that exists."""
        for place in places:
            if (found := self.tables.get(tuple(part.lower() for part in place))) is not None:
                return found
        return None


def read_snapshot(file: Path) -> Snapshot | None:
    """The snapshot that `write_snapshot` wrote; None when there is none.

    Raises:
        ProjectError: E506, the file is damaged.
    """
    if not file.is_file():
        return None
    content = _json(file)
    tables = [((entry["schema"], entry["name"]), entry["columns"]) for entry in content["tables"]]
    return Snapshot({(place[0].lower(), place[1].lower()): (place, columns) for place, columns in tables})


def take_snapshot(warehouse: Warehouse, without_schema: str) -> Snapshot:
    """The warehouse's tables, without those of the state schema."""
    return Snapshot({
        (place[0].lower(), place[1].lower()): (place, columns)
        for place, columns in warehouse.relations().items()
        if place[0] != without_schema
    })  # fmt: skip


def write_snapshot(file: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, whole or not at all."""
    tables = [{"schema": place[0], "name": place[1], "columns": columns} for place, columns in snapshot.tables.values()]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    partial.write_text(json.dumps({"version": 1, "tables": tables}, indent=1), encoding="utf-8")
    partial.replace(file)


def relations_of(
    project: DbtProject, schema: str, snapshot: Snapshot | None, variables: Mapping[str, str] | None = None
) -> dict[str, Relation]:
    """Every model, seed, snapshot and source of the project.

    Args:
        project: the dbt project.
        schema: the one that the target builds into.
        snapshot: of the warehouse, None when there is none yet.
        variables: dbt variables given at the command line, over those of dbt_project.yml.

    Raises:
        ProjectError: E506, a file of dbt or Penstock cannot be read.
    """
    known = {
        relation.name: relation for relation in _declared(project, schema, {**project.variables, **(variables or {})})
    }
    for relation in _built(project):
        declared = known.get(relation.name)
        if declared is None or relation.columns:
            known[relation.name] = relation
        else:
            known[relation.name] = Relation(relation.name, relation.place, declared.columns, declared.source)
    if snapshot is None:
        return known
    raw = {relation.place[0].lower() for relation in known.values() if "." in relation.name}
    return {name: _real(relation, schema, snapshot, raw) for name, relation in known.items()}


def _real(relation: Relation, schema: str, snapshot: Snapshot, raw: set[str]) -> Relation:
    """The relation as it stands in the warehouse.

    manifest.json may be of another target, and `+schema:` and macros choose schemas, so a model's place is a guess
    that the warehouse corrects; a source stands where it says.
    """
    name = relation.place[-1]
    places: tuple[Place, ...] = (relation.place,)
    if "." not in relation.name:
        elsewhere = [place for place in snapshot.named(name) if place[0].lower() not in raw]
        custom = [place for place in elsewhere if place[0].lower().startswith(f"{schema.lower()}_")]
        places = ((schema, name), relation.place, *custom, *(elsewhere if len(elsewhere) == 1 else ()))
    found = snapshot.find(places)
    return relation if found is None else Relation(relation.name, found[0], found[1], "the warehouse")


def _built(project: DbtProject) -> Iterator[Relation]:
    """What dbt's manifest knows, with the types of its catalog."""
    folder = project.folder / project.target_path
    if not (folder / "manifest.json").is_file():
        return
    manifest = _json(folder / "manifest.json")
    catalog = _json(folder / "catalog.json") if (folder / "catalog.json").is_file() else {}
    seen = {**catalog.get("nodes", {}), **catalog.get("sources", {})}
    for unique, node in {**manifest.get("nodes", {}), **manifest.get("sources", {})}.items():
        kind = node.get("resource_type")
        if kind == "source":
            name, table = f"{node['source_name']}.{node['name']}", node.get("identifier") or node["name"]
        elif kind in _KINDS and node.get("config", {}).get("materialized") != "ephemeral":
            name, table = node["name"], node.get("alias") or node["name"]
        else:
            continue
        columns = {column["name"]: column.get("data_type") or "" for column in node.get("columns", {}).values()}
        if unique in seen:
            columns = {column["name"]: column["type"] for column in seen[unique]["columns"].values()}
        typed = columns if unique in seen or any(columns.values()) else {}
        yield Relation(name, (node["schema"], table), typed, f"{project.target_path}/manifest.json")


def _declared(project: DbtProject, schema: str, variables: Mapping[str, Any]) -> Iterator[Relation]:
    """What the project's own source files declare."""
    for path in (*project.model_paths, *project.seed_paths, *project.snapshot_paths):
        folder = project.folder / path
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".sql", ".py", ".csv"):
                yield Relation(file.stem, (schema, file.stem), {}, str(file.relative_to(project.folder)))
    for path in dict.fromkeys((*project.model_paths, *project.seed_paths, *project.snapshot_paths)):
        for file in sorted((project.folder / path).rglob("*.y*ml")):
            yield from _schema_file(project, schema, file, variables)


def _schema_file(project: DbtProject, schema: str, file: Path, variables: Mapping[str, Any]) -> Iterator[Relation]:
    where = str(file.relative_to(project.folder))
    try:
        content = read_dbt_yaml(file)
    except (OSError, ValueError) as error:
        raise ProjectError(f"cannot read {file}: {error}", code="E506", hint="mend the file") from error
    if not isinstance(content, dict):
        return
    for resource in _RESOURCES:
        for entry in _entries(content.get(resource)):
            config = entry.get("config") or {}
            custom = config.get("schema")
            place = (f"{schema}_{custom}" if custom else schema, str(config.get("alias") or entry["name"]))
            yield Relation(entry["name"], place, _columns(entry), where)
    for source in _entries(content.get("sources")):
        for entry in _entries(source.get("tables")):
            owner = _VARIABLE.sub(
                lambda match: str(variables.get(match[1], match[0])), str(source.get("schema") or source["name"])
            )
            place = (owner, str(entry.get("identifier") or entry["name"]))
            yield Relation(f"{source['name']}.{entry['name']}", place, _columns(entry), where)


def _entries(value: Any) -> Iterator[dict[str, Any]]:
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry


def _columns(entry: Mapping[str, Any]) -> dict[str, str]:
    return {column["name"]: str(column.get("data_type") or "") for column in _entries(entry.get("columns"))}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"cannot read {file}: {error}", code="E506", hint="remove it and build again") from error
    if not isinstance(content, dict):
        raise ProjectError(f"{file} does not hold a JSON object", code="E506", hint="remove it and build again")
    return content
