"""`penstock dbt`: dbt gets target and variables, keeps its exit codes, and takes turns at the warehouse."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from compiler.errors import ProjectError, WarehouseLocked
from flows.build import run_dbt
from flows.project import load_project
from flows.warehouse.location import FileLocation
from flows.warehouse.lock import Patience, SidecarLock
from studio import cli
from tests.studio.projects import bakery, replaced, write

STATE = {"models/state.sql": 'select \'{{ var("penstock_schema") }}\' as state, \'{{ var("city", "none") }}\' as city'}


def test_dbt_builds_with_the_variables_of_the_target_and_the_catalog_is_known_then(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = write(bakery(tmp_path), STATE)
    assert cli.run(["dbt", "build", "--quiet", "--vars", "city: Rome", "--project-dir", str(project)]) == 0
    with duckdb.connect(str(project / "bakery.duckdb")) as connection:
        assert connection.execute("select * from shop.state").fetchall() == [("penstock_dev", "Rome")]
    known = json.loads((project / ".penstock/dev/catalog.json").read_text())["tables"]
    assert {table["name"] for table in known} == {"people", "activity", "state"}
    replaced(project / "models/state.sql", "select", "select no_such_column, ")
    assert cli.run(["--project-dir", str(project), "dbt", "run", "-q", "--select", "state"]) == 1
    assert cli.run(["--project-dir", str(project), "dbt", "run", "--no-such-option"]) == 2
    assert "No such option" in capfd.readouterr().err


def test_dbt_waits_for_the_warehouse_and_names_its_holder(tmp_path: Path) -> None:
    project = load_project(bakery(tmp_path))
    location = project.warehouse.location
    assert isinstance(location, FileLocation)
    lock = SidecarLock(location.path)
    assert lock.acquire(Patience(timedelta(0)))
    try:
        with pytest.raises(WarehouseLocked, match="held by process"):
            run_dbt(project, ["run"], wait=timedelta(0))
    finally:
        lock.release()


def test_vars_that_are_no_map_are_refused_before_dbt_starts(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="--vars takes a YAML map"):
        run_dbt(load_project(bakery(tmp_path)), ["run", "--vars", "city"])
