"""DuckDB: values in and out, transactions, and processes that take turns on one file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from sqlglot import exp

from compiler.errors import WarehouseError, WarehouseLocked
from flows.warehouse.duckdb import DuckDBWarehouse

SHORT = timedelta(milliseconds=50)


@pytest.fixture
def memory() -> Iterator[DuckDBWarehouse]:
    with DuckDBWarehouse(None) as warehouse:
        yield warehouse


def test_relations_are_found_by_their_place(memory: DuckDBWarehouse) -> None:
    memory.execute("create view v as select 1 a")
    for place in (("v",), ("main", "V"), ("memory", "main", "v"), ("temp", "iana_zones")):
        assert memory.relation_exists(place), place
    assert not memory.relation_exists(("other", "v"))
    with pytest.raises(WarehouseError, match=r"no table or view other\.v"):
        memory.columns(("other", "v"))


def test_a_statement_cannot_read_files_by_extension_or_python_variables(memory: DuckDBWarehouse) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(WarehouseError):
        memory.rows("select * from secret")
    assert secret.num_rows == 1


def test_trees_are_generated_for_duckdb(memory: DuckDBWarehouse) -> None:
    tree = exp.select(exp.Placeholder(this="name").as_("n"))
    assert memory.sql(tree) == "SELECT $name AS n"
    assert memory.rows(tree, {"name": "x"}) == [{"n": "x"}]


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs code and has said that it is ready."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    try:
        yield child
    finally:
        child.communicate("go\n")


OURS = """
import sys
from pathlib import Path
from flows.warehouse.duckdb import DuckDBWarehouse
with DuckDBWarehouse(Path(sys.argv[1])) as warehouse:
    print("ready", flush=True)
    sys.stdin.readline()
"""
FOREIGN = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("code", [OURS, FOREIGN], ids=["ours", "foreign"])
def test_a_conflict_names_the_process_that_holds_the_file(tmp_path: Path, code: str) -> None:
    file = tmp_path / "w.duckdb"
    with process(code, str(file)) as child:
        with pytest.raises(WarehouseLocked, match=f"process {child.pid} ") as caught:
            DuckDBWarehouse(file, wait=SHORT)
        assert caught.value.code == "E610"
    DuckDBWarehouse(file, wait=SHORT).close()


def test_a_waiting_process_gets_its_turn(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    with process(OURS, str(file)) as child:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        with DuckDBWarehouse(file) as warehouse:
            assert warehouse.rows("select 1 a") == [{"a": 1}]


COUNTER = """
import sys
from pathlib import Path
from flows.warehouse.duckdb import DuckDBWarehouse
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    with DuckDBWarehouse(Path(sys.argv[1])) as warehouse:
        warehouse.execute("update counter set n = n + 1")
"""


def test_processes_that_take_turns_lose_no_commit(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    with DuckDBWarehouse(file) as warehouse:
        warehouse.execute("create table counter as select 0 as n")
    with process(COUNTER, str(file), "20"), process(COUNTER, str(file), "20"):
        for _ in range(20):
            with DuckDBWarehouse(file) as warehouse:
                warehouse.execute("update counter set n = n + 1")
    with DuckDBWarehouse(file) as warehouse:
        assert warehouse.rows("select n from counter") == [{"n": 60}]


def test_the_same_process_can_open_the_file_with_another_configuration_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    DuckDBWarehouse(file).close()
    with duckdb.connect(str(file), config={"threads": "1"}) as connection:
        connection.execute("create table t (a integer)")
    with DuckDBWarehouse(file) as warehouse:
        assert warehouse.relation_exists(("t",))


def test_readers_share_the_file_and_keep_writers_out(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    DuckDBWarehouse(file).close()
    with DuckDBWarehouse(file, read_only=True) as reader:
        assert reader.rows("select 1 a") == [{"a": 1}]
        with pytest.raises(WarehouseLocked):
            DuckDBWarehouse(file, wait=SHORT)


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="nowhere") as caught:
        DuckDBWarehouse(tmp_path / "nowhere" / "w.duckdb")
    assert caught.value.code == "E601"


def test_a_damaged_file_is_an_error_and_lets_the_lock_go(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    file.write_bytes(b"not a database" * 1000)
    for _ in range(2):
        with pytest.raises(WarehouseError, match=r"w\.duckdb") as caught:
            DuckDBWarehouse(file, wait=SHORT)
        assert caught.value.code == "E601"
