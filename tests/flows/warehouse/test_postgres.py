"""PostgreSQL alone: failed transactions, sessions that take turns, a server that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest

from compiler.errors import WarehouseError, WarehouseLocked
from flows.warehouse.base import Warehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.warehouse.postgres_server import Server

SHORT = timedelta(milliseconds=50)
Parameters = dict[str, str | int]


@pytest.fixture
def parameters(postgres_server: Server) -> Parameters:
    return postgres_server.database()


@pytest.fixture
def warehouse(parameters: Parameters) -> Iterator[Warehouse]:
    with PostgresWarehouse(parameters) as opened:
        yield opened


def test_a_transaction_after_a_failed_statement_is_not_committed(warehouse: Warehouse) -> None:
    warehouse.execute("create table t (a integer)")
    with pytest.raises(WarehouseError), warehouse.transaction():
        warehouse.execute("insert into t values (1)")
        with pytest.raises(WarehouseError):
            warehouse.rows("select * from nowhere")
        warehouse.execute("insert into t values (2)")
    assert warehouse.rows("select a from t") == []


def test_a_server_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(WarehouseError) as caught:
        PostgresWarehouse({"host": "127.0.0.1", "port": 1, "user": "nobody", "password": "s3cret"})
    assert caught.value.code == "E601"
    assert "s3cret" not in str(caught.value)


def test_a_conflict_names_the_session_that_has_its_turn(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters, state="penstock"):
        with pytest.raises(WarehouseLocked, match="the state in penstock is held by a session that makes it"):
            PostgresWarehouse(parameters, state="penstock", wait=SHORT)
        PostgresWarehouse(parameters, state="another", wait=SHORT).close()
        PostgresWarehouse(parameters).close()
    PostgresWarehouse(parameters, state="penstock", wait=SHORT).close()


def test_a_session_becomes_its_role(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters) as warehouse:
        warehouse.execute("create role clerk")
        warehouse.execute("create table secrets (a integer)")
        with PostgresWarehouse(parameters, role="clerk") as clerk, pytest.raises(WarehouseError, match="denied"):
            clerk.rows("select a from secrets")


COUNTER = """
import json, sys
from flows.warehouse.postgres import PostgresWarehouse
parameters = json.loads(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with PostgresWarehouse(parameters, state="counter") as warehouse:
        [row] = warehouse.rows("select n from counter")
        warehouse.execute("update counter set n = $next", {"next": row["n"] + 1})
"""


def test_sessions_that_take_turns_lose_no_commit(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters) as warehouse:
        warehouse.execute("create table counter as select 0 as n")
    command = [sys.executable, "-c", COUNTER, json.dumps(parameters), "20"]
    children = [subprocess.Popen(command) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    with PostgresWarehouse(parameters) as warehouse:
        assert warehouse.rows("select n from counter") == [{"n": 40}]
