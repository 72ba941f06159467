"""Numbered migrations of the state tables: one file each, never edited after a release, listed here in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from uuid import uuid4

from sqlglot import exp

from compiler.errors import StateError
from flows.journal.migrations import (
    m0001_state_tables,
    m0002_whole_language,
    m0003_in_flight,
    m0004_audience_masks,
    m0005_indexes,
    m0006_collected,
    m0007_accounts,
)
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse


@dataclass(frozen=True)
class Migration:
    """One step of the schema: its number, its name and the statements for a schema.

    `on_server` are further statements for a warehouse that finds rows by indexes.
    """

    number: int
    name: str
    up: Callable[[str], Iterable[exp.Expr]]
    on_server: Callable[[str], Iterable[exp.Expr]] = lambda schema: ()


MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "state_tables", m0001_state_tables.up),
    Migration(2, "whole_language", m0002_whole_language.up),
    Migration(3, "in_flight", m0003_in_flight.up),
    Migration(4, "audience_masks", m0004_audience_masks.up),
    Migration(5, "indexes", m0005_indexes.up, m0005_indexes.on_server),
    Migration(6, "collected", m0006_collected.up, m0006_collected.on_server),
    Migration(7, "accounts", m0007_accounts.up),
)

SCHEMA_VERSION = MIGRATIONS[-1].number
"""The schema version that this Penstock reads and writes."""


@dataclass(frozen=True)
class Meta:
    """The identity of a state: workspace `<project>/<target>`, random state id, schema version, who wrote it last."""

    workspace: str
    state_id: str
    schema_version: int
    written_by: str


def penstock_version() -> str:
    """The version of the installed distribution."""
    return metadata.version("penstock")


def read_meta(warehouse: Warehouse, schema: str) -> Meta | None:
    """The identity of the state in a schema; None when there is none yet.

    Raises:
        StateError: E620, the schema has a `meta` table without exactly one row.
    """
    state = StateTables(schema)
    if not warehouse.relation_exists(state.place("meta")):
        return None
    found = warehouse.rows(exp.select("workspace", "state_id", "schema_version", "written_by").from_(state["meta"]))
    if len(found) != 1:
        raise StateError(f"{schema}.meta has {len(found)} rows instead of one", hint="restore the state from a backup")
    return Meta(**found[0])


def check_meta(meta: Meta | None, schema: str, workspace: str) -> None:
    """Refuse a state that this Penstock must not write.

    Raises:
        StateError: E621, written by a newer Penstock; E623, it belongs to another project or target.
    """
    if meta is None:
        return
    if meta.schema_version > SCHEMA_VERSION:
        raise StateError(
            f"the state in schema {schema} has version {meta.schema_version}, written by penstock {meta.written_by}, "
            f"needs >= {meta.written_by}; this is {penstock_version()} and knows version {SCHEMA_VERSION}",
            code="E621", hint=f"install penstock {meta.written_by} or newer; nothing was written",
        )  # fmt: skip
    if meta.workspace != workspace:
        raise StateError(
            f"the state in schema {schema} belongs to {meta.workspace}, not to {workspace}",
            code="E623", hint="set another state.schema in penstock.yaml, or use the project and target it belongs to",
        )  # fmt: skip


def migrate(
    warehouse: Warehouse, schema: str, now: datetime, workspace: str, *, state_id: str | None = None
) -> list[str]:
    """Bring the state tables of a schema to the newest version, in one transaction; returns the names applied.

    Repeatable: nothing is done when nothing is missing, and a run that was killed leaves nothing behind. `now` is
    naive UTC; `state_id` is a new random one unless a simulation gives its own.

    Raises:
        StateError: see `check_meta`.
    """
    meta = read_meta(warehouse, schema)
    check_meta(meta, schema, workspace)
    pending = [migration for migration in MIGRATIONS if migration.number > (meta.schema_version if meta else 0)]
    if not pending:
        return []
    state = StateTables(schema)
    with warehouse.transaction():
        for migration in pending:
            for statement in migration.up(schema):
                warehouse.execute(statement)
            for statement in migration.on_server(schema) if warehouse.indexed else ():
                warehouse.execute(statement)
            row = {"number": migration.number, "name": migration.name, "applied_at": now}
            warehouse.execute(_insert(state["migrations"], row), row)
        written = {"schema_version": SCHEMA_VERSION, "written_by": penstock_version()}
        if meta is None:
            born = {"workspace": workspace, "state_id": state_id or str(uuid4()), **written}
            warehouse.execute(_insert(state["meta"], born), born)
            lease = {"id": 1, "fence": 0}
            warehouse.execute(_insert(state["lease"], lease), lease)
        else:
            changes: dict[str, object] = {name: exp.Placeholder(this=name) for name in written}
            warehouse.execute(exp.update(state["meta"], changes), written)
    return [migration.name for migration in pending]


def _insert(into: exp.Table, row: Mapping[str, object]) -> exp.Insert:
    values = exp.select(*(exp.Placeholder(this=name) for name in row))
    return exp.insert(values, into, columns=list(row))
