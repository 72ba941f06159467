"""Workload w1 of a bench harness: twenty audiences over its contacts and events, evaluated by the engine.

`run` evaluates them for everybody. `run_again` evaluates them once more after 1 % of the contacts changed, half of them
by their row and half by an event that arrived, as triggers of twenty workflows, with who entered and left.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlglot import exp

from compiler.audience import Audience, Group, grouped
from compiler.catalog import Catalog, ContactModel, EventModel, Relation
from compiler.condition import Scope, compile_condition
from compiler.parser import parse_workflow
from compiler.planner import plan
from compiler.yaml import read_yaml
from flows.engine.audiences import find_edges, prepare_masks
from flows.engine.deployment import Deployed, Deployment
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
        _evaluate(work, groups)
    with DuckDBWarehouse(file) as warehouse:
        work, groups = _engine(warehouse, kept)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        with warehouse.transaction():
            _evaluate(work, groups)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"seconds": {"eval": seconds}, "eval_cpu_s": round(cpu, 3), **_digest(warehouse)}


def _evaluate(work: Work, groups: Sequence[Group]) -> None:
    """Write the members of the audiences, which are one group, into a table."""
    (group,) = groups
    key = [each.name for each in group.audiences]
    own = prepare_masks(work, group, key)

    def create() -> exp.Expr:
        rows = exp.select("m.contact_id", "m.mask").from_(group.masks(own=own).subquery("m"))
        return exp.Create(this=exp.to_table("main.membership"), kind="TABLE", replace=True, expression=rows)

    work.warehouse.execute(work.texts.text(("membership", str(own), *key), create, work.warehouse), work.parameters)


def texts() -> dict[str, str]:
    """The conditions by name."""
    return dict(read_yaml(FILE.read_text(encoding="utf-8"), FILE.name)[0].plain)


def prepare_again(file: Path, data: Path) -> None:
    """The state after a tick over data in which 1 % of the contacts were otherwise; then they are as in `data`."""
    prepare(file, data)
    with DuckDBWarehouse(file) as warehouse:
        for statement in (_TOO_EARLY, _OTHERWISE, _NOT_YET, _WITHOUT):
            warehouse.execute(statement)
        work = _triggers(warehouse, Texts(), 1)
        with warehouse.transaction():
            warehouse.execute(_NOTHING_ARRIVED)
            find_edges(work, frozenset())
        for statement in (_AS_THEY_ARE, _ARRIVING):
            warehouse.execute(statement, {"file": str(data / "contacts.parquet")})


def run_again(file: Path) -> dict[str, Any]:
    """Evaluate who may have changed, in a copy of the file."""
    copy = file.with_name("run-" + file.name)
    kept = Texts()
    with DuckDBWarehouse(None) as empty:
        migrate(empty, SCHEMA, NOW, WORKSPACE, state_id=STATE_ID)
        with DuckDBWarehouse(file) as warehouse:
            _like(warehouse, empty)
        work = _triggers(empty, kept, 1)
        empty.execute(_NOTHING_ARRIVED)
        _, statements = find_edges(work, frozenset())
        find_edges(_triggers(empty, kept, 2), frozenset(texts()), previous=NOW, evaluated=statements)
    shutil.copyfile(file, copy)
    with DuckDBWarehouse(copy) as warehouse:
        work = _triggers(warehouse, kept, 2)
        warehouse.execute(_ARRIVED)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        with warehouse.transaction():
            find_edges(work, frozenset(texts()), previous=NOW, evaluated=statements)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        warehouse.execute("CREATE TABLE main.membership AS SELECT contact_id, mask FROM penstock.audience_masks")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        looked_at = warehouse.rows("SELECT count(*) AS n FROM tick_changed")[0]["n"]
        found = {"eval_cpu_s": round(cpu, 3), "looked_at": looked_at, **_digest(warehouse)}
    copy.unlink()
    return {"seconds": {"eval": seconds}, **found}


def _triggers(warehouse: Warehouse, kept: Texts, tick: int) -> Work:
    """A tick of twenty workflows whose triggers are the audiences."""
    catalog = _catalog(warehouse)
    deployed = {}
    for name, text in texts().items():
        definition = {"version": 1, "workflow": name, "trigger": {"audience": text}, "steps": [{"id": "m", "tag": "x"}]}
        workflow = parse_workflow(json.dumps(definition), f"{name}.yaml").workflow
        deployed[name] = Deployed(name, 1, NOW, {1: plan(workflow, catalog, version=1)})
    return Work(warehouse, Deployment(WORKSPACE, SCHEMA, catalog, "UTC", deployed), kept, tick, NOW, STATE_ID)


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


def _digest(warehouse: Warehouse) -> dict[str, Any]:
    """Members of each audience, and an order-free sum over the masks of all contacts."""
    counts = [
        warehouse.rows("SELECT count(*) AS n FROM main.membership WHERE (mask & $bit) <> 0", {"bit": 1 << place})
        for place in range(len(texts()))
    ]
    return {
        "counts": [rows[0]["n"] for rows in counts], "checksum": int(warehouse.rows(_CHECKSUM)[0]["n"]),
    }  # fmt: skip


_TABLES = {
    "contacts": "CREATE TABLE main.contacts AS FROM read_parquet($file)",
    "events": "CREATE TABLE main.events AS FROM read_parquet($file)",
}
_CHECKSUM = "SELECT sum(mask::HUGEINT * (contact_id::BIGINT % 1009))::BIGINT AS n FROM main.membership"

# Contacts 0, 200, 400, … have another row at first; the last event of 100, 300, 500, … is not there at first.
_TOO_EARLY = "CREATE TABLE main.late AS SELECT * FROM main.events WHERE FALSE"
_OTHERWISE = """
    UPDATE main.contacts SET country = 'XX', mrr = mrr + 40, lifecycle = 'lead', score = 100 - score
    WHERE contact_id % 200 = 0
"""
_NOT_YET = """
    INSERT INTO main.late
    SELECT * FROM main.events WHERE contact_id % 200 = 100
    QUALIFY row_number() OVER (PARTITION BY contact_id ORDER BY ts DESC, event_id) = 1
"""
_WITHOUT = "DELETE FROM main.events WHERE event_id IN (SELECT event_id FROM main.late)"
_AS_THEY_ARE = """
    UPDATE main.contacts SET country = p.country, mrr = p.mrr, lifecycle = p.lifecycle, score = p.score
    FROM read_parquet($file) AS p WHERE contacts.contact_id = p.contact_id AND p.contact_id % 200 = 0
"""
_ARRIVING = "INSERT INTO main.events SELECT * FROM main.late"
_NOTHING_ARRIVED = "CREATE OR REPLACE TEMP TABLE tick_arrivals (contact_id TEXT, name TEXT)"
_ARRIVED = """
    CREATE OR REPLACE TEMP TABLE tick_arrivals AS SELECT contact_id::TEXT AS contact_id, "type" AS name FROM main.late
"""
