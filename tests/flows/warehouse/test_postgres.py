"""PostgreSQL alone: failed transactions, sessions that take turns, a server that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pyarrow as pa
import pytest

from compiler.errors import WarehouseAway, WarehouseError, WarehouseLocked
from flows.journal.tables import stage
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


def test_a_session_that_the_server_ended_is_away_whatever_is_asked_of_it(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters) as warehouse, PostgresWarehouse(parameters) as administrator:
        [row] = warehouse.rows("select pg_backend_pid() as pid")
        administrator.rows("select pg_terminate_backend($pid)", row)
        asked = (
            lambda: warehouse.rows("select 1"), lambda: warehouse.fetch("select 1"),
            lambda: warehouse.load(("t",), pa.table({"a": [1]})), warehouse.transaction().__enter__,
        )  # fmt: skip
        for ask in asked:
            with pytest.raises(WarehouseAway, match="connection"):
                ask()


def test_a_session_becomes_its_role(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters) as warehouse:
        warehouse.execute("create role clerk")
        warehouse.execute("create table secrets (a integer)")
        with PostgresWarehouse(parameters, role="clerk") as clerk, pytest.raises(WarehouseError, match="denied"):
            clerk.rows("select a from secrets")


MIXED = """
SELECT i AS n, CAST(i AS text) AS t, CAST(md5(CAST(i AS text)) AS uuid) AS u, jsonb_build_object('a', i) AS j,
    TIMESTAMP '2026-01-01 00:00:00' + i * INTERVAL '1 second' AS at, TIMESTAMPTZ '2026-01-01 01:00:00+01' AS zoned,
    CASE WHEN i % 2 = 0 THEN i / 2.0 END :: double precision AS x, i % 3 = 0 AS b, DATE '2026-01-01' + i AS d
FROM generate_series(1, $rows) AS s(i) WHERE $text <> 'x%' ORDER BY i DESC
"""


def test_many_rows_come_by_a_second_session_and_are_the_same(parameters: Parameters) -> None:
    given = {"rows": 6000, "text": "it's {100%}"}
    sessions = "select count(*) as n from pg_stat_activity where application_name = 'penstock: results'"
    with PostgresWarehouse({**parameters, "password": "s3cret"}) as warehouse:
        with warehouse.transaction():
            own = warehouse.fetch(MIXED, given)
            assert warehouse.rows(sessions) == [{"n": 0}]
        second = warehouse.fetch(MIXED, given)
        assert warehouse.rows(sessions) == [{"n": 1}]
        assert second.num_rows == 6000
        assert second.schema.types == own.schema.types
        assert second.to_pylist() == own.to_pylist()


def test_only_this_session_gives_what_only_it_sees(parameters: Parameters) -> None:
    many = "select i from generate_series(1, 6000) as s(i)"
    with PostgresWarehouse(parameters) as warehouse:
        warehouse.execute("create table t (a integer)")
        stage(warehouse, "mine", pa.table({"name": ["x"]}))
        with warehouse.transaction():
            warehouse.execute(f"insert into t {many}")
            assert warehouse.fetch("select a from t").num_rows == 6000, "not committed yet"
        assert warehouse.fetch("select a from t").num_rows == 6000
        assert warehouse.fetch("select a, m.name from t cross join mine as m").num_rows == 6000
        assert warehouse.fetch("select pg_temp.try_bigint(a::text) as a from t").num_rows == 6000
        assert warehouse.fetch("select a, a::numeric as c from t").num_rows == 6000
        assert warehouse.fetch("delete from t returning a").num_rows == 6000


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
