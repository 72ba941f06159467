"""The lease of a state: who has it is said, who is gone has it no more, who was away too long is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from compiler.errors import LeaseLost, WarehouseError, WarehouseLocked
from flows.journal.migrations import migrate
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.warehouse.postgres_server import Server

SHORT = timedelta(milliseconds=50)
START = datetime(2026, 3, 2, 9)
WRITE = "insert into penstock.templates values ('t', 'h', 's', timestamp '2026-03-02 09:00:00')"
Parameters = dict[str, str | int]


@pytest.fixture
def parameters(postgres_server: Server) -> Iterator[Parameters]:
    given = postgres_server.database()
    with _engine(given) as first:
        migrate(first, "penstock", START, "shop/pg")
    yield given


def _engine(parameters: Parameters, wait: timedelta = SHORT) -> PostgresWarehouse:
    return PostgresWarehouse(parameters, state="penstock", wait=wait)


def _fence(parameters: Parameters) -> int:
    with PostgresWarehouse(parameters) as anybody:
        return int(anybody.rows("select fence from penstock.lease")[0]["fence"])


def _expire(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters) as anybody:
        anybody.execute("update penstock.lease set expires_at = timestamp '2000-01-01 00:00:00'")


def _written(parameters: Parameters) -> int:
    with PostgresWarehouse(parameters) as anybody:
        return int(anybody.rows("select count(*) as n from penstock.templates")[0]["n"])


def test_one_engine_at_a_time_and_the_other_learns_who(parameters: Parameters) -> None:
    before = _fence(parameters)
    with _engine(parameters):
        said = rf"state in penstock is held by process {os.getpid()} on \S+ \(.+\) since \d{{4}}-"
        with pytest.raises(WarehouseLocked, match=said):
            _engine(parameters)
        PostgresWarehouse(parameters, read_only=True).close()
    with _engine(parameters) as next_one, next_one.transaction():
        next_one.execute(WRITE)
    assert (_fence(parameters), _written(parameters)) == (before + 2, 1)


def test_a_session_that_only_reads_needs_no_lease_and_changes_no_fence(parameters: Parameters) -> None:
    before = _fence(parameters)
    with _engine(parameters), PostgresWarehouse(parameters, read_only=True) as reader:
        assert reader.rows("select workspace from penstock.meta") == [{"workspace": "shop/pg"}]
    assert _fence(parameters) == before + 1


def test_a_holder_whose_lease_ran_out_is_refused_and_gives_nothing_back(parameters: Parameters) -> None:
    with _engine(parameters) as paused:
        _expire(parameters)
        with _engine(parameters) as other:
            with pytest.raises(LeaseLost, match=r"was taken over: it is held by process \d+"), paused.transaction():
                paused.execute(WRITE)
            paused.close()
            with other.transaction():
                other.execute(WRITE)
    assert _written(parameters) == 1


def test_a_lease_that_ran_out_and_that_nobody_took_is_renewed(parameters: Parameters) -> None:
    with _engine(parameters) as slow:
        _expire(parameters)
        with slow.transaction():
            slow.execute(WRITE)
        with pytest.raises(WarehouseLocked):
            _engine(parameters)


def test_nobody_overtakes_a_transaction_that_is_under_way(parameters: Parameters) -> None:
    with _engine(parameters) as long:
        _expire(parameters)
        with long.transaction():
            long.execute(WRITE)
            with pytest.raises(WarehouseLocked):
                _engine(parameters)
    assert _written(parameters) == 1


DYING = """
import json, os, signal, sys
from flows.warehouse.postgres import PostgresWarehouse
with PostgresWarehouse(json.loads(sys.argv[1]), state="penstock") as warehouse, warehouse.transaction():
    warehouse.execute(sys.argv[2])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lease_of_a_killed_process_is_free_before_it_runs_out(parameters: Parameters) -> None:
    done = subprocess.run([sys.executable, "-c", DYING, json.dumps(parameters), WRITE], check=False)
    assert done.returncode == -signal.SIGKILL
    _engine(parameters, wait=timedelta(seconds=20)).close()
    assert _written(parameters) == 0


def test_one_makes_the_state_and_who_waited_finds_it(postgres_server: Server) -> None:
    given = postgres_server.database()
    with _engine(given) as first:
        with pytest.raises(WarehouseLocked, match="held by a session that makes it"):
            _engine(given)
        migrate(first, "penstock", START, "shop/pg")
        with first.transaction():
            first.execute(WRITE)
        with pytest.raises(WarehouseLocked, match="held by process"):
            _engine(given)
    with _engine(given) as second:
        assert migrate(second, "penstock", START, "shop/pg") == []


def test_somebody_else_in_the_way_is_no_fault_of_the_statement(parameters: Parameters) -> None:
    with PostgresWarehouse(parameters) as dbt, _engine(parameters) as engine:
        engine.execute("set lock_timeout = '20ms'")
        with dbt.transaction():
            dbt.execute("lock table penstock.templates in access exclusive mode")
            with pytest.raises(WarehouseLocked, match="lock timeout"):
                engine.rows("select * from penstock.templates")
        with pytest.raises(WarehouseError, match="nowhere"):
            engine.rows("select * from nowhere")
