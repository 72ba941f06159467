"""The two sides of the tick bench, each in a process of its own, so that each has its own memory high-water mark."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from flows.engine.clock import VirtualClock
from flows.engine.evaluator import Evaluator
from flows.warehouse.duckdb import DuckDBWarehouse
from tests.load import data, handwritten

Counts = dict[str, int]


@dataclass(frozen=True)
class Run:
    """One measured tick: wall and CPU seconds, and what it counted."""

    seconds: float
    cpu: float
    counts: Counts


class Engine:
    """Ticks of the engine; the first compiles, the others run what it compiled."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None

    def tick(self, warehouse: DuckDBWarehouse) -> Counts:
        if self._evaluator is None:
            self._evaluator = Evaluator(data.deployment(warehouse), VirtualClock(data.TICK_AT))
        report = self._evaluator.tick(warehouse)
        if report.set_aside:
            raise RuntimeError(f"the workflow failed: {report.set_aside}")
        return report.counts


class Hand:
    """Ticks by hand-written SQL, on a connection with the same settings."""

    def tick(self, warehouse: DuckDBWarehouse) -> Counts:
        with data.connection(warehouse) as connection:
            return handwritten.tick(connection, data.WORKSPACE, data.TICK_AT)


SIDES: dict[str, Callable[[], Engine | Hand]] = {"engine": Engine, "hand": Hand}


def measured(side: Engine | Hand, file: Path) -> Run:
    """One tick on a file, committed and closed; opening is not measured, because both open alike."""
    with DuckDBWarehouse(file) as warehouse:
        cpu, started = time.process_time(), time.perf_counter()
        counts = side.tick(warehouse)
        return Run(time.perf_counter() - started, time.process_time() - cpu, counts)


class Side:
    """A process that runs ticks of one side when asked."""

    def __init__(self, name: str, base: Path, file: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, base, file, there))
        self.file = file
        self._process.start()
        there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._here.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()

    def run(self) -> Run:
        """A tick on a fresh copy of the base file."""
        return self._ask("run")

    def again(self) -> Run:
        """A tick on what the last one left: nothing is due and nothing arrived."""
        return self._ask("again")

    def peak(self) -> int:
        """The most memory the process ever had, in bytes."""
        self._here.send("peak")
        return int(self._here.recv())

    def _ask(self, what: str) -> Run:
        self._here.send(what)
        answer = self._here.recv()
        if not isinstance(answer, Run):
            raise RuntimeError(answer)
        return answer


def _serve(name: str, base: Path, file: Path, pipe: Connection) -> None:
    side = SIDES[name]()
    try:
        while True:
            match pipe.recv():
                case "run":
                    _fresh(base, file)
                    pipe.send(measured(side, file))
                case "again":
                    pipe.send(measured(side, file))
                case "peak":
                    pipe.send(_high_water())
    except EOFError:
        return


def _fresh(base: Path, file: Path) -> None:
    for left in (file, file.with_name(file.name + ".wal")):
        left.unlink(missing_ok=True)
    shutil.copyfile(base, file)


def _high_water() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
