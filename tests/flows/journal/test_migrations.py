"""Migrations: complete, repeatable, whole or not at all, and never over a state that is not ours."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import get_args

import pytest

from compiler.errors import StateError
from flows.journal.migrations import MIGRATIONS, SCHEMA_VERSION, migrate, read_meta
from flows.journal.tables import StateName, StateTables
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse

NOW = datetime(2026, 3, 2, 9)


def test_every_state_table_exists_after_the_migrations(warehouse: Warehouse) -> None:
    assert migrate(warehouse, "penstock", NOW, "shop/dev") == [migration.name for migration in MIGRATIONS]
    state = StateTables("penstock")
    for name in get_args(StateName):
        assert warehouse.relation_exists(state.place(name)), name
    found = warehouse.rows("select count(*) n from information_schema.tables where table_schema = 'penstock'")
    assert found == [{"n": len(get_args(StateName))}]
    assert warehouse.columns(state.place("deliveries")) == warehouse.columns(state.place("outbox_closed"))


def test_a_second_run_changes_nothing(warehouse: Warehouse) -> None:
    migrate(warehouse, "penstock", NOW, "shop/dev")
    before = read_meta(warehouse, "penstock")
    assert migrate(warehouse, "penstock", datetime(2027, 1, 1), "shop/dev") == []
    assert read_meta(warehouse, "penstock") == before
    assert warehouse.rows("select number, applied_at from penstock.migrations") == [
        {"number": migration.number, "applied_at": NOW} for migration in MIGRATIONS
    ]


def test_only_a_server_gets_indexes_of_its_own(warehouse: Warehouse) -> None:
    migrate(warehouse, "penstock", NOW, "shop/dev")
    made = {
        "duckdb": "select table_name, index_name from duckdb_indexes() where schema_name = 'penstock'",
        "penstockpostgres": "select tablename, indexname from pg_indexes where schemaname = 'penstock'",
    }
    found = {tuple(row.values()) for row in warehouse.rows(made[type(warehouse).dialect])}
    if warehouse.indexed:
        assert {("journal", "journal_tick"), ("enrollments", "enrollments_due")} <= found
    else:
        assert found == set()


def test_two_schemas_live_side_by_side(warehouse: Warehouse) -> None:
    migrate(warehouse, "penstock", NOW, "shop/prod")
    migrate(warehouse, "penstock_dev", NOW, "shop/dev")
    ours, other = read_meta(warehouse, "penstock"), read_meta(warehouse, "penstock_dev")
    assert ours and other and ours.state_id != other.state_id


def test_a_state_written_by_a_newer_penstock_is_left_alone(warehouse: Warehouse) -> None:
    migrate(warehouse, "penstock", NOW, "shop/dev")
    warehouse.execute("update penstock.meta set schema_version = 99, written_by = '7.3.0'")
    with pytest.raises(StateError, match=r"written by penstock 7\.3\.0, needs >= 7\.3\.0") as caught:
        migrate(warehouse, "penstock", NOW, "shop/dev")
    assert caught.value.code == "E621"


def test_the_state_of_another_workspace_is_refused(warehouse: Warehouse) -> None:
    migrate(warehouse, "penstock", NOW, "shop/prod")
    with pytest.raises(StateError, match="belongs to shop/prod, not to shop/dev"):
        migrate(warehouse, "penstock", NOW, "shop/dev")


def test_the_outbox_refuses_a_second_row_of_an_action(warehouse: Warehouse) -> None:
    migrate(warehouse, "penstock", NOW, "shop/dev")
    key = warehouse.rows(
        "select table_name, column_name from information_schema.key_column_usage where table_schema = 'penstock'"
    )
    assert key == [{"table_name": "outbox", "column_name": "action_id"}]


def test_numbers_are_consecutive_and_files_say_what_they_do() -> None:
    assert [migration.number for migration in MIGRATIONS] == list(range(1, SCHEMA_VERSION + 1))
    for migration in MIGRATIONS:
        doc = sys.modules[migration.up.__module__].__doc__
        assert doc is not None and len(doc.strip().splitlines()) == 1


KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from flows.journal.migrations import migrate
from flows.warehouse.duckdb import DuckDBWarehouse

class Killed(DuckDBWarehouse):
    left = int(sys.argv[2])
    def execute(self, sql, parameters=None):
        if not Killed.left:
            os.kill(os.getpid(), signal.SIGKILL)
        Killed.left -= 1
        return super().execute(sql, parameters)

with Killed(Path(sys.argv[1])) as warehouse:
    migrate(warehouse, "penstock", datetime(2026, 3, 2, 9), "shop/dev")
"""


@pytest.mark.parametrize("statements", [1, 12, 26])
def test_a_migration_that_was_killed_starts_again_from_nothing(tmp_path: Path, statements: int) -> None:
    file = tmp_path / "w.duckdb"
    done = subprocess.run([sys.executable, "-c", KILLED, str(file), str(statements)], check=False)
    assert done.returncode == -9
    with DuckDBWarehouse(file) as warehouse:
        assert read_meta(warehouse, "penstock") is None
        assert migrate(warehouse, "penstock", NOW, "shop/dev") == [migration.name for migration in MIGRATIONS]
