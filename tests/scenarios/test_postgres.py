"""Every simulation file has the same outcome on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.engine.simulation import read_drafts
from flows.engine.simulator import run_case
from flows.warehouse.base import Warehouse
from flows.warehouse.postgres import PostgresWarehouse
from studio.simulations import difference
from tests.flows.warehouse.postgres_server import Server

FILES = sorted((Path(__file__).parent / "workflow_tests").glob("*.yaml"))
_EMPTY = ("DROP SCHEMA IF EXISTS penstock CASCADE", "DROP SCHEMA IF EXISTS journey CASCADE", "CREATE SCHEMA journey")


@pytest.fixture(scope="module")
def database(postgres_server: Server) -> dict[str, str | int]:
    return postgres_server.database()


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_journeys(file: Path, database: dict[str, str | int]) -> None:
    def empty() -> Warehouse:
        warehouse = PostgresWarehouse(database, schema="journey")
        for statement in _EMPTY:
            warehouse.execute(statement)
        return warehouse

    outcomes = [run_case(draft.read(), empty) for draft in read_drafts(file, file.read_text("utf-8"))]
    assert [line for outcome in outcomes if not outcome.passed for line in difference(outcome)] == []
