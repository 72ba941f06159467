"""What `make bench` prints: the tick against hand-written SQL, an idle tick, what its cost depends on, a stream of
events, `penstock validate` and `explain`, a backtest, and the collector.

    python -m tests.load.bench [--quick] [--runs N] [--minutes M]
        [--only tick|scaling|stream|validate|explain|backtest|collector]

Both sides tick from copies of one file to committed results, which are compared; runs are interleaved, so that the
ratio survives a noisy machine. The file is kept in BENCH_WORK (default: a folder in TMPDIR or /tmp).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import duckdb
from rich.console import Console
from rich.table import Table

from flows.warehouse.duckdb import DuckDBWarehouse
from tests.load import backtest, collecting, compare, data, explaining, scaling, validation
from tests.load.sides import Run, Side

RATIO = SCALE = 1.5
WORKFLOWS = 100
STEPS = 500
PLAN_SECONDS = 2.0
EVENTS_PER_SECOND = 1_000
LAG_SECONDS = 20.0
VALIDATE_SECONDS = 2.0
EXPLAIN_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 when the results of the two sides differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.bench", description="What `make bench` prints.")
    parser.add_argument("--quick", action="store_true", help="100 thousand enrollments and 1 million events")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each side (5)")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="length of the stream of events (1; 10 for the target)"
    )
    parser.add_argument("--only", choices=["tick", "scaling", "stream", "validate", "explain", "backtest", "collector"],
                        help="leave the other parts out")  # fmt: skip
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
                  f"DuckDB {duckdb.__version__}")  # fmt: skip
    equal = True
    if chosen.only in (None, "tick"):
        equal = tick(console, data.QUICK if chosen.quick else data.FULL, chosen.runs)
    if chosen.only in (None, "scaling"):
        scale(console, chosen.runs)
    if chosen.only in (None, "stream"):
        found = scaling.stream(EVENTS_PER_SECOND, chosen.minutes)
        console.print(found.told(EVENTS_PER_SECOND, chosen.minutes * 60) + f"; target <= {LAG_SECONDS:.0f} s: "
                      f"{_verdict(max(found.lags), LAG_SECONDS)}")  # fmt: skip
    if chosen.only in (None, "validate"):
        validate(console, chosen.runs)
    if chosen.only in (None, "explain"):
        people, events = (100_000, 1_000_000) if chosen.quick else (explaining.CONTACTS, explaining.EVENTS)
        console.print(explaining.told(explaining.times(people, events, chosen.runs), people, events, EXPLAIN_SECONDS))
    if chosen.only in (None, "backtest"):
        size = (10_000, 9) if chosen.quick else (backtest.CONTACTS, backtest.DAYS)
        console.print(backtest.told(backtest.measure(*size)))
    if chosen.only in (None, "collector"):
        measured = collecting.measure(1.0 if chosen.quick else 3.0, chosen.runs)
        console.print(collecting.told(measured))
    return 0 if equal else 1


# ---------------------------------------------------------------- the tick


def tick(console: Console, size: data.Size, runs: int) -> bool:
    """Measure and print the tick; whether both sides gave the same results."""
    folder = Path(os.environ.get("BENCH_WORK") or Path(tempfile.gettempdir()) / "penstock-bench")
    started = time.perf_counter()
    base = data.base_file(folder, size)
    with DuckDBWarehouse(base, read_only=True) as warehouse:
        rows = data.sizes(warehouse)
    console.print(f"data: {', '.join(f'{n:,} {what}' for what, n in rows.items())}; {_mb(base.stat().st_size)} file, "
                  f"ready after {time.perf_counter() - started:.0f} s (kept in {folder})")  # fmt: skip
    mine, theirs = folder / "engine.duckdb", folder / "hand.duckdb"
    with Side("engine", base, mine) as engine, Side("hand", base, theirs) as hand:
        first = engine.run()
        hand.run()
        pairs: list[tuple[Run, Run]] = []
        noise = [_reference()]
        for _ in range(runs):
            pairs.append((engine.run(), hand.run()))
            noise.append(_reference())
        differing = compare.differences(mine, theirs)
        idle = [engine.again() for _ in range(max(runs, 3))]
        _print_tick(console, first, pairs, idle, (engine.peak(), hand.peak()))
    console.print(f"noise: a fixed computation took {_spread(noise)} s between the runs")
    for file in (mine, theirs):
        file.unlink()
    return _print_comparison(console, differing)


def _print_tick(
    console: Console, first: Run, pairs: Sequence[tuple[Run, Run]], idle: Sequence[Run], peaks: tuple[int, int]
) -> None:
    engine, hand = [run for run, _ in pairs], [run for _, run in pairs]
    table = Table(title="predicated tick: 81 steps, one goal", title_justify="left")
    for heading in ("", "seconds: min – median – max", "cpu s", "peak memory", "due", "moved", "intents"):
        table.add_column(heading, justify="left" if not heading else "right")
    counts = engine[-1].counts
    told = [f"{counts.get(name, 0):,}" for name in ("due", "moved", "decided")]
    table.add_row("engine", _spread([run.seconds for run in engine]), _cpu(engine), _mb(peaks[0]), *told)
    table.add_row("hand-written SQL", _spread([run.seconds for run in hand]), _cpu(hand), _mb(peaks[1]))
    table.add_row("engine, nothing due", _spread([run.seconds for run in idle]), _cpu(idle), "")
    table.add_row("engine, first tick (compiles)", f"{first.seconds:.2f}", f"{first.cpu:.2f}", "")
    console.print(table)
    ratio = median(run.seconds for run in engine) / median(run.seconds for run in hand)
    by_cpu = median(run.cpu for run in engine) / median(run.cpu for run in hand)
    verdict = "met" if ratio <= RATIO else "missed"
    console.print(f"ratio of medians: {ratio:.2f} (by cpu {by_cpu:.2f}); target <= {RATIO}: {verdict}")
    if any(idle[-1].counts.values()):
        console.print(f"the idle tick was not idle: {idle[-1].counts}")


def _print_comparison(console: Console, differing: dict[str, tuple[int, int, int]]) -> bool:
    equal = True
    told = []
    for name, (rows, only_engine, only_hand) in differing.items():
        same = not only_engine and not only_hand
        equal = equal and same
        told.append(
            f"{name} {rows:,}" if same else f"{name} DIFFERS ({only_engine:,} / {only_hand:,} of one side only)"
        )
    console.print(f"results {'equal' if equal else 'NOT EQUAL'}: {', '.join(told)}")
    return equal


# ---------------------------------------------------------------- what the cost depends on


def scale(console: Console, runs: int) -> None:
    """Measure and print what makes a tick dearer, an idle tick of many workflows, and planning."""
    small = scaling.Size(2_000, 20_000, 100_000, 100_000)
    sizes = [small, replace(small, idle=10 * small.idle), replace(small, old=10 * small.old)]
    few, *more = scaling.ticks_of(sizes, runs)
    console.print(f"tick with {small.told()}: {_spread([run.wall for run in few])} s")
    for what, many in zip(("10 times the idle enrollments", "10 times the older events"), more, strict=True):
        ratio = median(run.wall for run in many) / median(run.wall for run in few)
        by_cpu = median(run.cpu for run in many) / median(run.cpu for run in few)
        console.print(f"  {what}: {_spread([run.wall for run in many])} s, ratio of medians {ratio:.2f} (by cpu "
                      f"{by_cpu:.2f}); target <= {SCALE}: {_verdict(ratio, SCALE)}")  # fmt: skip
    idle = scaling.idle_ticks(WORKFLOWS, 100_000, 1_000_000, runs)
    by_cpu = median(run.cpu for run in idle)
    console.print(f"idle tick, {WORKFLOWS} workflows, 40 of them with audiences, 100,000 contacts, 1,000,000 events: "
                  f"{_spread([run.wall for run in idle])} s (cpu {by_cpu:.2f}); target <= 1 s: "
                  f"{_verdict(median(run.wall for run in idle), 1.0)}")  # fmt: skip
    planned = scaling.planning(STEPS, runs)
    console.print(f"planning of a workflow of {STEPS} steps: {_spread(planned)} s; target <= {PLAN_SECONDS:.0f} s: "
                  f"{_verdict(median(planned), PLAN_SECONDS)}")  # fmt: skip


def _verdict(value: float, target: float) -> str:
    return "met" if value <= target else "missed"


# ---------------------------------------------------------------- validate


def validate(console: Console, runs: int) -> None:
    """Measure and print `penstock validate`."""
    cold, *warm = validation.times(runs + 1)
    verdict = "met" if median(warm) <= VALIDATE_SECONDS else "missed"
    console.print(
        f"penstock validate, {validation.WORKFLOWS} workflows of {validation.STEPS} steps, whole process: "
        f"first {cold:.2f} s, then {_spread(warm)} s; target <= {VALIDATE_SECONDS:.0f} s warm: {verdict}"
    )


# ---------------------------------------------------------------- figures


def _reference() -> float:
    """Seconds of a computation that is always the same: what differs is the machine."""
    with duckdb.connect() as connection:
        started = time.perf_counter()
        connection.execute("SELECT sum(hash(i)) FROM range(20000000) AS r(i)").fetchall()
        return time.perf_counter() - started


def _spread(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} – {median(seconds):.2f} – {max(seconds):.2f}"


def _cpu(runs: Sequence[Run]) -> str:
    return f"{median(run.cpu for run in runs):.2f}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    raise SystemExit(main())
