"""DuckDB: values in and out, transactions, and processes that take turns on one file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

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


def test_values_come_back_as_text_uuids_and_naive_utc(memory: DuckDBWarehouse) -> None:
    moment = datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    row = memory.rows(
        "select md5('x')::uuid u, timestamptz '2026-01-01 01:00:00+01' z, $moment m, sum(2) s", {"moment": moment}
    )[0]
    assert row == {
        "u": "9dd4e461-268c-8034-f5c8-564e155c67a6", "z": datetime(2026, 1, 1),
        "m": moment.astimezone(UTC).replace(tzinfo=None), "s": 2,
    }  # fmt: skip


def test_load_appends_arrow_and_execute_counts(memory: DuckDBWarehouse) -> None:
    memory.execute("create schema s")
    memory.execute('create table s."odd name" (id uuid, data json, "select" integer)')
    ids = ["9dd4e461-268c-8034-f5c8-564e155c67a6", None]
    data = pa.table({"id": pa.array(ids), "data": pa.array(['{"a": 1}', None]), "select": pa.array([1, 2])})
    assert memory.load(("s", "odd name"), data) == 2
    assert memory.load(("s", "odd name"), data, columns=["id"]) == 2
    assert memory.columns(("s", "odd name")) == {"id": "UUID", "data": "JSON", "select": "INTEGER"}
    assert memory.execute('update s."odd name" set data = null where "select" = $n', {"n": 1, "unused": 2}) == 1
    assert memory.fetch('select count(*) n from s."odd name"').to_pylist() == [{"n": 4}]


def test_relations_are_found_by_their_place(memory: DuckDBWarehouse) -> None:
    memory.execute("create view v as select 1 a")
    for place in (("v",), ("main", "V"), ("memory", "main", "v"), ("temp", "iana_zones")):
        assert memory.relation_exists(place), place
    assert not memory.relation_exists(("other", "v"))
    with pytest.raises(WarehouseError, match=r"no table or view other\.v"):
        memory.columns(("other", "v"))


def test_a_transaction_keeps_all_or_nothing(memory: DuckDBWarehouse) -> None:
    memory.execute("create table t (a integer)")
    with pytest.raises(ZeroDivisionError), memory.transaction():
        memory.execute("insert into t values (1)")
        raise ZeroDivisionError
    with memory.transaction():
        memory.execute("insert into t values (2)")
    assert memory.rows("select a from t") == [{"a": 2}]
    with memory.transaction(), pytest.raises(WarehouseError, match="already open"), memory.transaction():
        pass


def test_one_statement_at_a_time_and_no_values_of_rows_in_messages(memory: DuckDBWarehouse) -> None:
    with pytest.raises(WarehouseError, match="one statement"):
        memory.execute("select 1; select 2")
    with pytest.raises(WarehouseError) as caught:
        memory.rows("select $v::integer", {"v": "joe@example.com"})
    assert "joe" not in str(caught.value)
    with pytest.raises(WarehouseError) as caught:
        memory.rows("select $v::timestamp", {"v": "joe@example.com"})
    assert "joe" not in str(caught.value)


def test_a_statement_cannot_read_files_by_extension_or_python_variables(memory: DuckDBWarehouse) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(WarehouseError):
        memory.rows("select * from secret")
    assert secret.num_rows == 1


def test_wall_clocks_become_instants_as_in_zoneinfo(memory: DuckDBWarehouse) -> None:
    zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
    start = datetime(2025, 1, 1)
    walls = [start + timedelta(days=day, minutes=minute) for day in range(365) for minute in range(0, 240, 15)]
    memory.execute("create table w (wall timestamp, zone varchar)")
    rows = [(wall, zone) for zone in zones for wall in walls]
    memory.load(("w",), pa.table({"wall": [wall for wall, _ in rows], "zone": [zone for _, zone in rows]}))
    for row in memory.rows("select wall, zone, utc_instant(wall, zone) at_utc from w"):
        expected = row["wall"].replace(tzinfo=ZoneInfo(row["zone"]), fold=0).astimezone(UTC).replace(tzinfo=None)
        assert row["at_utc"] == expected, row


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
