"""Workload w1 of a bench harness: twenty audiences over its contacts and events, evaluated by the engine."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlglot import exp

from compiler.audience import Audience, Group, grouped
from compiler.catalog import Catalog, ContactModel, EventModel, Relation
from compiler.condition import Scope, compile_condition
from compiler.yaml import read_yaml
from flows.engine.audiences import masks
from flows.engine.deployment import Deployment
from flows.engine.work import Texts, Work
from flows.journal.migrations import migrate
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse
from tests.load.peer import NOW, SCHEMA, STATE_ID, WORKSPACE

FILE = Path(__file__).with_name("audiences.yaml")


def prepare(file: Path, data: Path) -> None:
    """The harness's contacts and events in a new file, beside an empty state."""
    for left in (file, file.with_name(file.name + ".wal")):
        left.unlink(missing_ok=True)
    with DuckDBWarehouse(file) as warehouse:
        migrate(warehouse, SCHEMA, NOW, WORKSPACE, state_id=STATE_ID)
        for name in ("contacts", "events"):
            warehouse.execute(_TABLES[name], {"file": str(data / f"{name}.parquet")})


def run(file: Path) -> dict[str, Any]:
    """Evaluate all audiences. What a process does once in its life, compiling, is done before."""
    kept = Texts()
    with DuckDBWarehouse(None) as empty:
        migrate(empty, SCHEMA, NOW, WORKSPACE, state_id=STATE_ID)
        with DuckDBWarehouse(file) as warehouse:
            _like(warehouse, empty)
        work, groups = _engine(empty, kept)
        for group in groups:
            masks(work, group, [each.name for each in group.audiences])
    with DuckDBWarehouse(file) as warehouse:
        work, groups = _engine(warehouse, kept)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        with warehouse.transaction():
            for group in groups:
                masks(work, group, [each.name for each in group.audiences])
                warehouse.execute(_KEEP)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"seconds": {"eval": seconds}, "eval_cpu_s": round(cpu, 3), **_digest(warehouse, groups)}


def texts() -> dict[str, str]:
    """The conditions by name."""
    return dict(read_yaml(FILE.read_text(encoding="utf-8"), FILE.name)[0].plain)


def _like(warehouse: Warehouse, empty: Warehouse) -> None:
    """The same tables without rows."""
    for name in ("contacts", "events"):
        columns = [
            exp.ColumnDef(this=exp.to_identifier(column, quoted=True), kind=exp.DataType.build(kind, dialect="duckdb"))
            for column, kind in warehouse.columns(("main", name)).items()
        ]
        empty.execute(exp.Create(this=exp.Schema(this=exp.to_table(f"main.{name}"), expressions=columns), kind="TABLE"))


def _engine(warehouse: Warehouse, texts_kept: Texts) -> tuple[Work, Sequence[Group]]:
    catalog = _catalog(warehouse)
    audiences = [Audience(name, compile_condition(text, Scope(catalog)), "UTC") for name, text in texts().items()]
    work = Work(warehouse, Deployment(WORKSPACE, SCHEMA, catalog, "UTC", {}), texts_kept, 2, NOW, STATE_ID)
    groups = grouped(audiences, catalog)
    return work, groups


def _catalog(warehouse: Warehouse) -> Catalog:
    contacts, events = (
        Relation(name, ("main", name), warehouse.columns(("main", name))) for name in ("contacts", "events")
    )
    return Catalog(
        ContactModel(contacts, id="contact_id", email="email", timezone="timezone"),
        EventModel(events, "event_id", "contact_id", "type", "ts", "ts", "props",
                   {"purchase": {"cents": "integer"}}),
        state_schema=SCHEMA,
    )  # fmt: skip


def _digest(warehouse: Warehouse, groups: Sequence[Group]) -> dict[str, Any]:
    """Members of each audience, and an order-free sum over the masks of all contacts."""
    (group,) = groups
    counts = [
        warehouse.rows("SELECT count(*) AS n FROM main.membership WHERE (mask & $bit) <> 0", {"bit": 1 << place})
        for place in range(len(group.audiences))
    ]
    return {
        "counts": [rows[0]["n"] for rows in counts], "checksum": int(warehouse.rows(_CHECKSUM)[0]["n"]),
    }  # fmt: skip


_TABLES = {
    "contacts": "CREATE TABLE main.contacts AS FROM read_parquet($file)",
    "events": "CREATE TABLE main.events AS FROM read_parquet($file)",
}
_KEEP = "CREATE OR REPLACE TABLE main.membership AS SELECT contact_id, mask FROM tick_masks"
_CHECKSUM = "SELECT sum(mask::HUGEINT * (contact_id::BIGINT % 1009))::BIGINT AS n FROM main.membership"
