"""What every warehouse does alike: values in and out, transactions, one statement at a time, wall clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
import sqlglot

from compiler.errors import WarehouseError
from flows.journal.tables import stage
from flows.warehouse.base import Warehouse


def test_values_come_back_as_text_uuids_and_naive_utc(warehouse: Warehouse) -> None:
    moment = datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    text = "select md5('x')::uuid u, timestamptz '2026-01-01 01:00:00+01' z, $moment m, sum(2::bigint) s, 1.5 d"
    [row] = warehouse.rows(text, {"moment": moment})
    assert float(row.pop("d")) == 1.5
    assert row == {
        "u": "9dd4e461-268c-8034-f5c8-564e155c67a6", "z": datetime(2026, 1, 1),
        "m": moment.astimezone(UTC).replace(tzinfo=None), "s": 2,
    }  # fmt: skip


def test_load_appends_arrow_and_execute_counts(warehouse: Warehouse) -> None:
    warehouse.execute("create schema s")
    warehouse.execute('create table s."odd name" (id uuid, data json, "select" integer)')
    ids = ["9dd4e461-268c-8034-f5c8-564e155c67a6", None]
    data = pa.table({"id": pa.array(ids), "data": pa.array(['{"a": 1}', None]), "select": pa.array([1, 2])})
    assert warehouse.load(("s", "odd name"), data) == 2
    assert warehouse.load(("s", "odd name"), data, columns=["id"]) == 2
    found = {name: kind.lower() for name, kind in warehouse.columns(("s", "odd name")).items()}
    assert found == {"id": "uuid", "data": "json", "select": "integer"}
    assert warehouse.execute('update s."odd name" set data = null where "select" = $n', {"n": 1, "unused": 2}) == 1
    assert warehouse.fetch('select count(*) n from s."odd name"').to_pylist() == [{"n": 4}]


def test_every_kind_of_value_goes_in_and_out(warehouse: Warehouse) -> None:
    warehouse.execute("create table t (a text, b bigint, c boolean, d timestamp, e double precision, f text[], g date)")
    moment = datetime(2026, 2, 3, 4, 5, 6, 789000)
    rows = [
        {"a": 'x "y"\n,\\z é', "b": 2**40, "c": True, "d": moment, "e": 0.1, "f": ['a,"b', "\\", ""],
         "g": moment.date()},
        {"a": "", "b": -1, "c": False, "d": moment, "e": -1e300, "f": [], "g": moment.date()},
        dict.fromkeys("abcdefg"),
    ]  # fmt: skip
    kinds = [pa.string(), pa.int64(), pa.bool_(), pa.timestamp("us"), pa.float64(), pa.list_(pa.string()), pa.date32()]
    arrays = [pa.array([row[name] for row in rows], kind) for name, kind in zip("abcdefg", kinds, strict=True)]
    assert warehouse.load(("t",), pa.table(arrays, names=list("abcdefg"))) == 3
    assert warehouse.rows("select * from t order by b desc nulls last") == rows
    assert warehouse.fetch("select a, b, c, d, e, g from t order by b desc nulls last").to_pylist() == [
        {name: value for name, value in row.items() if name != "f"} for row in rows
    ]
    empty = warehouse.fetch("select a, b, d from t where false")
    assert empty.num_rows == 0 and empty.schema.types == [pa.string(), pa.int64(), pa.timestamp("us")]


def test_text_is_a_value_whatever_it_looks_like(warehouse: Warehouse) -> None:
    odd = "100% 'quoted' \\ $name %(name)s ; --"
    assert warehouse.rows("select $v v, '50% $v ;' w", {"v": odd}) == [{"v": odd, "w": "50% $v ;"}]


def test_a_temporary_table_is_made_anew(warehouse: Warehouse) -> None:
    for size in (2, 3):
        stage(warehouse, "some_rows", pa.table({"name": [f"n{number}" for number in range(size)]}))
        assert warehouse.rows("select count(*) n from some_rows") == [{"n": size}]
    made = sqlglot.parse_one("CREATE OR REPLACE TEMP TABLE again AS SELECT * FROM some_rows", dialect="duckdb")
    assert [warehouse.execute(made) for _ in range(2)] == [3, 3]
    assert warehouse.relation_exists(("temp", "again"))
    assert warehouse.columns(("temp", "iana_zones")).keys() == {"name"}


def test_relations_are_found_by_their_place(warehouse: Warehouse) -> None:
    warehouse.execute("create schema s")
    warehouse.execute("create view s.v as select 1 a")
    assert warehouse.relation_exists(("s", "V"))
    assert not warehouse.relation_exists(("v",))
    assert not warehouse.relation_exists(("other", "v"))
    with warehouse.transaction():
        assert not warehouse.relation_exists(("s", "w"))
        assert warehouse.rows("select a from s.v") == [{"a": 1}]
    with pytest.raises(WarehouseError, match=r"no table or view other\.v"):
        warehouse.columns(("other", "v"))


def test_a_transaction_keeps_all_or_nothing(warehouse: Warehouse) -> None:
    warehouse.execute("create table t (a integer)")
    with pytest.raises(ZeroDivisionError), warehouse.transaction():
        warehouse.execute("insert into t values (1)")
        raise ZeroDivisionError
    with warehouse.transaction():
        warehouse.execute("insert into t values (2)")
    assert warehouse.rows("select a from t") == [{"a": 2}]
    with warehouse.transaction(), pytest.raises(WarehouseError, match="already open"), warehouse.transaction():
        pass


def test_one_statement_at_a_time_and_no_values_of_rows_in_messages(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="one statement"):
        warehouse.execute("select 1; select 2")
    for kind in ("integer", "timestamp", "uuid"):
        with pytest.raises(WarehouseError) as caught:
            warehouse.rows(f"select $v::{kind}", {"v": "joe@example.com"})
        assert "joe" not in str(caught.value)
    with pytest.raises(WarehouseError):
        warehouse.rows("select $missing", {"other": 1})


def test_a_closed_connection_says_so(warehouse: Warehouse) -> None:
    warehouse.close()
    warehouse.close()
    with pytest.raises(WarehouseError, match="closed"):
        warehouse.rows("select 1")


def test_wall_clocks_become_instants_as_in_zoneinfo(warehouse: Warehouse) -> None:
    zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
    start = datetime(2025, 1, 1)
    walls = [start + timedelta(days=day, minutes=minute) for day in range(365) for minute in range(0, 240, 15)]
    warehouse.execute("create table w (wall timestamp, zone varchar)")
    rows = [(wall, zone) for zone in zones for wall in walls]
    warehouse.load(("w",), pa.table({"wall": [wall for wall, _ in rows], "zone": [zone for _, zone in rows]}))
    query = sqlglot.parse_one("SELECT wall, zone, utc_instant(wall, zone) AS at_utc FROM w", dialect="duckdb")
    for row in warehouse.rows(query):
        expected = row["wall"].replace(tzinfo=ZoneInfo(row["zone"]), fold=0).astimezone(UTC).replace(tzinfo=None)
        assert row["at_utc"] == expected, row
