"""The engine and the hand-written SQL of the bench give the same results, on a small file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from flows.warehouse.duckdb import DuckDBWarehouse
from tests.load import backtest, collecting, compare, data, explaining, scaling, validation
from tests.load.sides import Engine, Hand, measured


def test_the_engine_and_hand_written_sql_leave_the_same_state(tmp_path: Path) -> None:
    base = data.base_file(tmp_path, data.TINY)
    files = {name: tmp_path / f"{name}.duckdb" for name in ("engine", "hand")}
    for file in files.values():
        shutil.copyfile(base, file)
    counts = measured(Engine(), files["engine"]).counts
    measured(Hand(), files["hand"])
    differing = compare.differences(files["engine"], files["hand"])
    assert {name: (mine, theirs) for name, (_, mine, theirs) in differing.items() if mine or theirs} == {}
    assert counts["moved"] and counts["decided"] and counts["exits"] and counts["entered"]
    with DuckDBWarehouse(files["engine"]) as warehouse:
        assert len(data.workflow().steps) > 0
        assert warehouse.rows("SELECT count(*) AS n FROM penstock.outbox")[0]["n"] == counts["decided"]


def test_a_second_tick_at_the_same_time_does_nothing(tmp_path: Path) -> None:
    file = data.base_file(tmp_path, data.TINY)
    engine = Engine()
    assert measured(engine, file).counts["moved"]
    assert measured(engine, file).counts == {}


def test_the_workflows_to_validate_are_valid() -> None:
    assert len(validation.times(1)) == 1


def test_one_contact_is_explained() -> None:
    spent = explaining.times(60, 600, 1)
    assert len(spent) == 1


def test_a_small_backtest_is_measured() -> None:
    found = backtest.measure(200, 1)
    assert found.ran.ticks == 25 and found.summary.entered
    assert "target" not in backtest.told(found)


def test_ticks_of_different_sizes_have_the_same_due_work() -> None:
    small = scaling.Size(5, 20, 50, 50)
    found = scaling.ticks_of([small, replace(small, old=100)], 2)
    assert [len(spent) for spent in found] == [2, 2]
    assert len(scaling.idle_ticks(5, 50, 100, 1)) == 1
    assert len(scaling.planning(14, 1)) == 1


def test_a_short_stream_is_taken_in() -> None:
    found = scaling.stream(20, 0.4, contacts=10)
    assert len(found.lags) == 3
    assert "20 events/s" in found.told(20, 24)


def test_the_collector_is_measured_and_every_acknowledged_event_is_found() -> None:
    rates = collecting.measure(0.1, 1)
    assert min(*rates.collector, *rates.bare) > 0
    assert "share of medians" in collecting.told(rates)
