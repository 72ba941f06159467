"""Workflow -> plan -> SQL: the files that `penstock compile` writes, held by golden files and executed on DuckDB."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog
from compiler.explainer import script, statements
from compiler.parser import parse_workflow
from compiler.plan import Plan
from compiler.planner import plan
from flows.journal.migrations import migrate
from flows.project import load_project
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse
from tests.studio.projects import FILES, bakery

FOLDER = Path(__file__).parent / "plans"
NAMES = ("audience", "event", "rows")
NOW = datetime(2026, 3, 1, 12)
PARAMETERS = {
    "tick_at": NOW, "address_key": "k", "fresh": False, "earliest": datetime(2026, 1, 1), "workflow": "event",
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return load_project(bakery(tmp_path_factory.mktemp("bakery"))).catalog()


def _plan(name: str, catalog: Catalog) -> Plan:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return plan(parse_workflow(text, f"workflows/{name}.yaml").workflow, catalog)


@pytest.mark.parametrize("name", NAMES)
def test_the_sql_of_a_workflow(name: str, catalog: Catalog, golden: Callable[[Path, str], None]) -> None:
    golden(FOLDER / f"{name}.sql", script(_plan(name, catalog), "duckdb"))


@pytest.fixture
def warehouse(catalog: Catalog) -> Iterator[Warehouse]:
    """The bakery's two models, and state tables in which p1 is due at `soon` of the workflow `event`."""
    with DuckDBWarehouse(None) as opened:
        opened.execute("create schema shop")
        for name in ("people", "activity"):
            opened.execute(f"create table shop.{name} as {FILES[f'models/{name}.sql']}")
        migrate(opened, catalog.state_schema, NOW, "bakery/dev")
        yield opened


def _prepare(warehouse: Warehouse, made: Plan, catalog: Catalog) -> None:
    """What a tick shares among its workflows, with everybody concerned and every event just arrived."""
    events = frames.event_rows(catalog, made.properties, names=sorted(made.events) or [""])
    shared = {"tick_contacts": frames.contact_rows(catalog, made.contact_columns, "UTC"), "tick_events": events}
    for table, query in shared.items():
        warehouse.execute(f"create temp table {table} as {warehouse.sql(query)}", PARAMETERS)
    warehouse.execute(
        "create temp table tick_arrivals as select activity_id as event_id, person_id as contact_id, "
        "activity as name, happened_at as event_time, arrived_at as loaded_at, "
        "to_json(struct_pack(activity_id := activity_id, activity := activity)) as entry, false as fresh, "
        "null::text as missed_by from shop.activity"
    )
    warehouse.execute(
        "create temp table tick_scope as select $id::uuid as enrollment_id, 'p1' as contact_id, 'a1' as key, "
        "'a1' as entry_ref, '{}'::json as entry, $entered::timestamp as entry_at, $position as position, "
        "$entered::timestamp as logical_at, $entered::timestamp + interval 1 hour as due_at, '{}'::json as steps, "
        "'{}'::json as arms, '{}'::json as visits, $tick_at::timestamp as tick_at, 1 as log_at",
        {"id": UUID(int=1), "tick_at": NOW, "entered": NOW - timedelta(hours=3), "position": made.first_step},
    )


def _execute(warehouse: Warehouse, made: Plan) -> dict[str, list[dict[str, Any]]]:
    """Every statement as the golden file has it, in its order; the rows of each by its name."""
    found = {}
    for statement in statements(made):
        text = statement.sql("duckdb")
        found[statement.name] = warehouse.rows(text, PARAMETERS)
        if statement.table is not None:
            warehouse.execute(f"create or replace temp table {statement.table} as {text}", PARAMETERS)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_of_a_plan_runs(name: str, catalog: Catalog, warehouse: Warehouse) -> None:
    made = _plan(name, catalog)
    _prepare(warehouse, made, catalog)
    assert all(isinstance(statement.query, exp.Select) for statement in statements(made))
    assert len(_execute(warehouse, made)) == len(statements(made))


def test_an_event_workflow_walks_from_arrival_to_message(catalog: Catalog, warehouse: Warehouse) -> None:
    made = _plan("event", catalog)
    _prepare(warehouse, made, catalog)
    found = _execute(warehouse, made)
    assert [(row["contact_id"], row["key"]) for row in found["entry"]] == [("p1", "a1")]
    assert found["exits"] == []
    thanks = found["action thanks"][0]
    assert (thanks["contact_id"], thanks["outcome"], thanks["due"]) == ("p1", "decided", NOW - timedelta(hours=2))
    assert json.loads(thanks["payload"])["address"] == "ann@example.com"
    assert [(row["position"], row["exit"]) for row in found["moves"]] == [("looked", None)]
    # `thanks` ran an hour later than its grace allows, so the time to wait counts from now.
    assert found["moves"][0]["due_at"] == NOW + timedelta(days=2)


def test_an_audience_and_rows_of_a_model_are_candidates(catalog: Catalog, warehouse: Warehouse) -> None:
    made = _plan("audience", catalog)
    _prepare(warehouse, made, catalog)
    assert [row["contact_id"] for row in _execute(warehouse, made)["entry"]] == ["p2"]
    made = _plan("rows", catalog)
    for table in ("tick_contacts", "tick_events", "tick_arrivals", "tick_scope"):
        warehouse.execute(f"drop table {table}")
    _prepare(warehouse, made, catalog)
    found = _execute(warehouse, made)
    assert [(row["contact_id"], row["key"], row["entry_ref"]) for row in found["entry"]] == [("p2", None, "a2")]
    assert json.loads(found["entry"][0]["entry"])["activity"] == "page_seen"
