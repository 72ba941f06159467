"""What DuckDBWarehouse keeps between statements never shows: results are those of the tables as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa
import pytest

from compiler.errors import WarehouseError
from flows.warehouse.duckdb import FEW, DuckDBWarehouse
from flows.warehouse.duckdb_plans import MANY, RUNS

MADE = "CREATE OR REPLACE TEMPORARY TABLE chosen AS SELECT a, s FROM t WHERE a > 100"
# Each is planned by what DuckDB knows of the values: ranges, NULLs, numbers of rows and of distinct values.
QUESTIONS = (
    "SELECT count(*) AS n FROM t WHERE a > 100",
    "SELECT count(*) AS n FROM t WHERE s IS NULL",
    "SELECT a, s FROM t ORDER BY s, a",
    "SELECT a, count(*) AS n FROM t GROUP BY a ORDER BY a",
    "SELECT DISTINCT a, s FROM t ORDER BY a, s",
    "SELECT count(*) AS n FROM t JOIN t AS u USING (a)",
    "SELECT sum(a) AS a, min(d) AS d, max(d) AS e FROM t WHERE d <= TIMESTAMP '2026-06-01'",
    "SELECT a, row_number() OVER (PARTITION BY a ORDER BY s DESC) AS n FROM t ORDER BY a, n",
    "SELECT count(*) AS n FROM t WHERE a IN (SELECT a FROM picked)",
)


@pytest.fixture
def warehouse() -> Iterator[DuckDBWarehouse]:
    with DuckDBWarehouse(None) as opened:
        opened.execute(
            "CREATE TABLE t AS SELECT i AS a, 'x' || i AS s, TIMESTAMP '2026-01-01' AS d FROM range(10) AS r(i)"
        )
        opened.execute("CREATE TEMPORARY TABLE picked (a BIGINT)")
        yield opened


def _grow(warehouse: DuckDBWarehouse) -> None:
    warehouse.execute(
        "INSERT INTO t SELECT i * 1000000007, 'a longer text than twelve bytes ' || i, "
        "TIMESTAMP '2027-01-01' + to_seconds(i) FROM range(5000) AS r(i)"
    )
    warehouse.execute("INSERT INTO t VALUES (NULL, NULL, NULL)")
    warehouse.execute("INSERT INTO picked SELECT a FROM t WHERE a > 1000")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_kept_plan_sees_rows_unlike_those_it_was_made_for(warehouse: DuckDBWarehouse, question: str) -> None:
    for _ in range(3):
        warehouse.rows(question)
    _grow(warehouse)
    with_comment = question + " -- a text that was never run"
    assert warehouse.rows(question) == warehouse.rows(with_comment)


def test_a_table_made_anew_holds_the_last_rows_only(warehouse: DuckDBWarehouse) -> None:
    assert [warehouse.execute(MADE) for _ in range(3)] == [0, 0, 0]
    _grow(warehouse)
    assert [warehouse.execute(MADE) for _ in range(3)] == [4999, 4999, 4999]
    warehouse.execute("DELETE FROM t WHERE a > 1000")
    assert warehouse.execute(MADE) == 0
    assert warehouse.rows("SELECT count(*) AS n FROM chosen") == [{"n": 0}]


def test_a_table_made_anew_with_other_columns_has_these(warehouse: DuckDBWarehouse) -> None:
    other = "CREATE OR REPLACE TEMPORARY TABLE chosen AS SELECT s FROM t"
    for _ in range(3):
        warehouse.execute(MADE)
        assert warehouse.execute(other) == 10
    assert list(warehouse.columns(("chosen",))) == ["s"]
    warehouse.execute("CREATE OR REPLACE TEMPORARY TABLE chosen (n BIGINT)")
    warehouse.execute("INSERT INTO chosen VALUES (1)")
    warehouse.execute("CREATE OR REPLACE TEMPORARY TABLE chosen (n BIGINT)")
    assert warehouse.rows("SELECT n FROM chosen") == []


def test_a_table_that_took_many_rows_takes_no_more_room(warehouse: DuckDBWarehouse) -> None:
    many = f"CREATE OR REPLACE TEMPORARY TABLE crowd AS SELECT i FROM range({MANY // 4}) AS r(i)"
    sizes = []
    for _ in range(30):
        warehouse.execute(many)
        groups = warehouse.rows("SELECT count(DISTINCT row_group_id) AS n FROM pragma_storage_info('crowd')")
        sizes.append(groups[0]["n"])
    assert max(sizes) <= 2, sizes


def test_a_rollback_takes_the_tables_back_that_were_made_in_it(warehouse: DuckDBWarehouse) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError), warehouse.transaction():
            warehouse.execute(MADE)
            raise RuntimeError
        with warehouse.transaction():
            assert warehouse.execute(MADE) == 0
    warehouse.execute("DROP TABLE chosen")
    with pytest.raises(WarehouseError, match="chosen"):
        warehouse.rows("SELECT * FROM chosen")
    assert warehouse.execute(MADE) == 0


def test_a_plan_follows_a_table_that_was_replaced(warehouse: DuckDBWarehouse) -> None:
    question = "SELECT * FROM t ORDER BY ALL LIMIT 1"
    for _ in range(3):
        assert warehouse.rows(question) == [{"a": 0, "s": "x0", "d": datetime(2026, 1, 1)}]
    warehouse.execute("CREATE OR REPLACE TABLE t AS SELECT 'other' AS b")
    assert [warehouse.rows(question) for _ in range(RUNS + 2)] == [[{"b": "other"}]] * (RUNS + 2)


@pytest.mark.parametrize("number", [FEW, FEW + 1])
def test_few_and_many_loaded_rows_are_the_same(warehouse: DuckDBWarehouse, number: int) -> None:
    warehouse.execute("CREATE TABLE loaded (s TEXT, n INTEGER, b BOOLEAN, d TIMESTAMP, u UUID)")
    day, identity = datetime(2026, 3, 1, 9, 30, 0, 250), "0c3e0d4c-4b3f-4c6e-9a76-3f1d3a1d9c11"
    columns = {
        "s": pa.array([None, *[f"it's {i}" for i in range(1, number)]], pa.string()),
        "n": pa.array([None, *range(1, number)], pa.int64()),
        "b": pa.array([None] * (number - 1) + [True], pa.bool_()),
        "d": pa.array([None] + [day] * (number - 1), pa.timestamp("us")),
        "u": pa.array([None] + [identity] * (number - 1), pa.string()),
    }
    assert warehouse.load(("loaded",), pa.table(columns)) == number
    found = warehouse.rows("SELECT * FROM loaded ORDER BY n NULLS FIRST")
    assert found[0] == {"s": None, "n": None, "b": None, "d": None, "u": None}
    assert found[-1] == {"s": f"it's {number - 1}", "n": number - 1, "b": True, "d": day, "u": identity}
