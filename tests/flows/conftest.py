"""Warehouses for tests that run on each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """An empty warehouse of each kind."""
    if request.param == "duckdb":
        with DuckDBWarehouse(None) as opened:
            yield opened
        return
    from flows.warehouse.postgres import PostgresWarehouse

    with PostgresWarehouse(request.getfixturevalue("postgres_server").database()) as server:
        yield server
