"""The shipped dbt project, built by dbt on generated raw data: models, tests, and what the engine relies on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from ruamel.yaml import YAML

from compiler.planner import plan
from flows.project import load_project, snapshot_catalog
from studio.demo import shop


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with `warehouse.duckdb` after `dbt build`, and dbt's `target`."""
    folder = tmp_path_factory.mktemp("dbt")
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        shop.load(connection, shop.generate(seed=5, contacts=800))
    outcome = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", "build", "--profiles-dir", ".",
         "--target-path", str(folder / "target"), "--log-path", str(folder / "logs")],
        cwd=repository / "dbt_project", capture_output=True, text=True, check=False,
        env={**os.environ, "PENSTOCK_WAREHOUSE": str(folder / "warehouse.duckdb"),
             "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-4000:]
    return folder


@pytest.fixture
def warehouse(built: Path, tmp_path: Path) -> duckdb.DuckDBPyConnection:
    """A copy under another file name: the views must not remember the first one."""
    shutil.copy(built / "warehouse.duckdb", tmp_path / "elsewhere.duckdb")
    return duckdb.connect(str(tmp_path / "elsewhere.duckdb"))


@pytest.fixture(scope="module")
def settings(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load((repository / "dbt_project" / "penstock.yaml").read_text())
    return loaded


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    return int(connection.execute(f"select count(*) from {relation}").fetchall()[0][0])


def test_every_model_and_test_passes(built: Path) -> None:
    results = json.loads((built / "target" / "run_results.json").read_text())["results"]
    built_or_tested = [result for result in results if not result["unique_id"].startswith("exposure.")]
    assert {result["status"] for result in built_or_tested} == {"success", "pass"}
    assert sum(result["unique_id"].startswith("test.") for result in results) >= 70


def test_every_model_is_documented_column_by_column(built: Path, warehouse: duckdb.DuckDBPyConnection) -> None:
    nodes = json.loads((built / "target" / "manifest.json").read_text())["nodes"]
    models = [node for node in nodes.values() if node["resource_type"] == "model"]
    for model in models:
        assert model["description"], model["name"]
        columns = {row[0] for row in warehouse.execute(f"describe analytics.{model['name']}").fetchall()}
        described = {name for name, column in model["columns"].items() if column["description"]}
        assert described <= columns, model["name"]
        if not model["name"].startswith("int_events"):
            assert columns == described, model["name"]


def test_no_model_reads_the_truth(built: Path) -> None:
    manifest = json.loads((built / "target" / "manifest.json").read_text())
    assert all("truth" not in source["identifier"] for source in manifest["sources"].values())
    assert all("truth" not in node.get("raw_code", "").lower() for node in manifest["nodes"].values())


def test_what_penstock_maps_exists(warehouse: duckdb.DuckDBPyConnection, settings: dict[str, Any]) -> None:
    for part, model in (("contact", "dim_contacts"), ("events", "fct_events")):
        columns = {row[0] for row in warehouse.execute(f"describe analytics.{model}").fetchall()}
        names = {value for key, value in settings[part].items() if isinstance(value, str) and key != "model"}
        assert names <= columns
    declared = {name for properties in settings["events"]["properties"].values() for name in properties}
    columns = {row[0] for row in warehouse.execute("describe analytics.fct_events").fetchall()}
    assert declared - columns <= {"device"}, "what is not in `props` is a column"


def test_declared_events_happen(warehouse: duckdb.DuckDBPyConnection, settings: dict[str, Any]) -> None:
    names = {row[0] for row in warehouse.execute("select distinct event_name from analytics.fct_events").fetchall()}
    assert settings["events"]["properties"].keys() <= names


def test_new_raw_rows_are_visible_without_a_build(warehouse: duckdb.DuckDBPyConnection) -> None:
    course = shop.world(seed=5, contacts=800)
    before = {name: _count(warehouse, f"analytics.{name}") for name in ("fct_events", "dim_contacts", "fct_carts")}
    later = shop.START + timedelta(days=10)
    window = (pl.col("_loaded_at") >= shop.START) & (pl.col("_loaded_at") < later)
    shop.land(warehouse, {name: frame.filter(window) for name, frame in course.tables.items()})
    after = {name: _count(warehouse, f"analytics.{name}") for name in before}
    assert all(after[name] > before[name] for name in before)
    newest = warehouse.execute("select max(loaded_at) from analytics.fct_events").fetchall()[0][0]
    assert later - timedelta(days=1) < newest < later


def test_an_opt_out_changes_the_contact_at_once(warehouse: duckdb.DuckDBPyConnection) -> None:
    row = {"contact_id": "C-00001", "reason": "unsubscribed", "suppressed_at": shop.START,
           "_loaded_at": shop.START + timedelta(minutes=2)}  # fmt: skip
    shop.land(warehouse, {"mail_suppressions": pl.DataFrame([row])})
    found = warehouse.execute(
        "select is_unsubscribed, updated_at from analytics.dim_contacts where contact_id = 'C-00001'"
    ).fetchall()
    assert found == [(True, shop.START + timedelta(minutes=2))]


def test_the_six_workflows_compile_on_what_dbt_built(
    built: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(repository / "dbt_project", folder, ignore=shutil.ignore_patterns(".penstock", "target"))
    monkeypatch.setenv("PENSTOCK_WAREHOUSE", str(built / "warehouse.duckdb"))
    project = load_project(folder)
    with project.open_warehouse() as warehouse:
        catalog = snapshot_catalog(warehouse, project)
    assert not project.definitions.problems
    plans = {name: plan(document.workflow, catalog) for name, document in project.definitions.workflows.items()}
    assert len(plans) == 6


def test_the_filter_on_loaded_at_reaches_the_raw_tables(warehouse: duckdb.DuckDBPyConnection) -> None:
    plan = warehouse.execute(
        "explain select event_id from analytics.fct_events where loaded_at > timestamp '2026-02-27'"
    ).fetchall()[0][1]
    assert plan.count("Filters") == 2, plan
    assert "WINDOW" not in plan and "JOIN" not in plan
