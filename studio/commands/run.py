"""`penstock run`: one tick and its delivery, or a loop of them."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

from compiler.errors import ProjectError, WarehouseLocked
from compiler.workflow import Duration
from flows.engine.dispatcher import DeliveryReport
from flows.engine.evaluator import TickReport
from flows.project import load_project
from flows.runner import Runner
from studio.commands.apply import described
from studio.console import Console, to_json
from studio.options import Options

_COUNTS = ("arrivals", "entered", "due", "exits", "skipped")


def run(options: Options, *, every: str | None) -> int:
    """Tick and deliver once, or every so often until interrupted.

    Returns:
        The exit code: 1 when a workflow was set aside or an action finally failed.

    Raises:
        ProjectError: E513, `every` is no duration.
    """
    interval = _interval(every)
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    stop = _Stop()
    runner = Runner(project, stopping=stop.is_set, wait=interval or timedelta(seconds=60))
    with stop:
        if project.deliver == "outbox":
            for change in runner.apply():
                console.note(f"applied {described(change)}")
        loop = _Loop(runner, console, options.json)
        code = loop.once(patient=interval is None)
        while interval is not None and not stop.wait(interval):
            code = max(code, loop.once(patient=False))
        if interval is not None:
            console.note("stopped; what was decided is saved. Resume with the same command.")
    return code


def _interval(every: str | None) -> timedelta | None:
    if every is None:
        return None
    try:
        interval = Duration.parse(every).elapsed
    except ValueError as error:
        raise ProjectError(f"--every {every}: {error}", code="E513") from None
    if interval <= timedelta(0):
        raise ProjectError("--every needs an interval above zero", code="E513")
    return interval


class _Stop:
    """SIGINT and SIGTERM end the loop after what is in flight; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, interval: timedelta) -> bool:
        return self._event.wait(interval.total_seconds())

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._event.set()


@dataclass
class _Loop:
    runner: Runner
    console: Console
    json: bool
    failures: list[str] = field(default_factory=list)

    def once(self, *, patient: bool) -> int:
        """One tick and delivery; in a loop a locked warehouse costs this tick only."""
        try:
            tick, delivery = self._through_prefect() if os.environ.get("PREFECT_API_URL") else self._directly()
        except WarehouseLocked as error:
            if patient:
                raise
            self.console.note(f"waiting: {error.message}")
            return 0
        self._show(tick, delivery)
        return 1 if tick.set_aside or delivery.counts.get("failed") or delivery.counts.get("dead") else 0

    def _directly(self) -> tuple[TickReport, DeliveryReport]:
        return self.runner.tick(), self.runner.deliver()

    def _through_prefect(self) -> tuple[TickReport, DeliveryReport]:
        """The same two calls as flow runs; the engine is right without them, so only a configured API is told."""
        from flows import deliver, evaluate

        tick = evaluate.observed(self.runner.tick, self.runner.project.workspace)
        return tick, deliver.observed(self.runner.deliver)

    def _show(self, tick: TickReport, delivery: DeliveryReport) -> None:
        for note in self.runner.notes:
            self.console.note(note)
        self.runner.notes.clear()
        for workflow, why in tick.set_aside.items():
            self.console.note(f"set aside {workflow}: {why}")
        for destination, why in delivery.paused.items():
            self.console.note(f"paused {destination}: {why}")
        if delivery.messages_blocked:
            self.console.note(f"no message was sent: {delivery.messages_blocked}")
        if self.json:
            self.console.out.print(_as_json(tick, delivery), markup=False)
        else:
            self.console.out.print(_line(tick, delivery), markup=False)


def _as_json(tick: TickReport, delivery: DeliveryReport) -> str:
    data = {
        "tick": tick.tick, "tick_at": tick.tick_at.isoformat() + "Z", "counts": tick.counts,
        "set_aside": tick.set_aside, "delivered": dict(delivery.counts), "ambiguous": delivery.ambiguous,
        "paused": delivery.paused,
    }  # fmt: skip
    return " ".join(to_json(data).split("\n"))


def _line(tick: TickReport, delivery: DeliveryReport) -> str:
    counts = "  ".join(f"{name} {tick.counts.get(name, 0):,}" for name in _COUNTS)
    delivered = "  ".join(f"{state} {number:,}" for state, number in sorted(delivery.counts.items()) if number)
    unknown = f"  ambiguous {delivery.ambiguous}" if delivery.ambiguous else ""
    return f"{tick.tick_at:%Y-%m-%d %H:%M:%S}  tick {tick.tick}  {counts}  {delivered or 'nothing to deliver'}{unknown}"
