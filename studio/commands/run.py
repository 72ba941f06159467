"""`penstock run`: one tick and its delivery, or a loop of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from compiler.errors import ProjectError, WarehouseAway, WarehouseLocked
from compiler.workflow import Duration
from flows.collector.ingest import IngestReport
from flows.engine.dispatcher import DeliveryReport
from flows.engine.evaluator import TickReport
from flows.project import load_project
from flows.runner import Runner
from studio.commands.apply import described
from studio.console import Console, to_json
from studio.options import Options
from studio.stopping import Stop

HELD = 3
"""Exit code when something waits for `penstock approve`."""
_COUNTS = ("arrivals", "entered", "due", "exits", "skipped")


def run(options: Options, *, every: str | None) -> int:
    """Tick and deliver once, or every so often until interrupted.

    Returns:
        The exit code: 1 when a workflow was set aside or an action finally failed, 3 when the size guard holds one.

    Raises:
        ProjectError: E513, `every` is no duration.
    """
    interval = _interval(every)
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    stop = Stop()
    runner = Runner(project, stopping=stop.is_set, wait=interval or timedelta(seconds=60))
    with stop:
        loop = _Loop(runner, console, options.json, applies=project.deliver == "outbox")
        code = loop.once(patient=interval is None)
        # A round that waited for the file in vain has had its pause.
        while interval is not None and not stop.wait(timedelta(0) if loop.locked else interval):
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


@dataclass
class _Loop:
    runner: Runner
    console: Console
    json: bool
    applies: bool
    locked: bool = False
    reached: bool = False

    def once(self, *, patient: bool) -> int:
        """One tick and delivery; in a loop a warehouse that is locked or away costs what is left of this round only."""
        self.locked = False
        try:
            self._apply()
            tick = self._tick()
            self.reached = True
            try:
                delivery = self._deliver()
            except (WarehouseLocked, WarehouseAway):
                self._show(tick, None)
                raise
        except (WarehouseLocked, WarehouseAway) as error:
            # A server that was never reached is more likely a mistake in the profile.
            if patient or isinstance(error, WarehouseAway) and not self.reached:
                raise
            self.locked = isinstance(error, WarehouseLocked)
            self.console.note(f"waiting: {error.message}")
            return 0
        self._show(tick, delivery)
        failed = tick.set_aside or delivery.counts.get("failed") or delivery.counts.get("dead")
        return 1 if failed else HELD if tick.guarded else 0

    def _apply(self) -> None:
        """Publish changed files, once, on a target that publishes by itself."""
        if self.applies:
            for change in self.runner.apply():
                self.console.note(f"applied {described(change)}")
            self.applies = False

    # As flow runs where a Prefect API is configured: the engine is right without them, so only such an API is told.

    def _tick(self) -> TickReport:
        if not os.environ.get("PREFECT_API_URL"):
            return self.runner.tick()
        from flows import evaluate

        return evaluate.observed(self.runner.tick, self.runner.project.workspace)

    def _deliver(self) -> DeliveryReport:
        if not os.environ.get("PREFECT_API_URL"):
            return self.runner.deliver()
        from flows import deliver

        return deliver.observed(self.runner.deliver)

    def _show(self, tick: TickReport, delivery: DeliveryReport | None) -> None:
        for note in self.runner.notes:
            self.console.note(note)
        self.runner.notes.clear()
        self._show_taken_in()
        for workflow, why in tick.set_aside.items():
            self.console.note(f"set aside {workflow}: {why}")
        for workflow, held in tick.guarded.items():
            self.console.note(f"held {workflow}: {held.said} → penstock approve {workflow} --because ...")
        if delivery is not None:
            for destination, why in delivery.paused.items():
                self.console.note(f"paused {destination}: {why}")
            if delivery.messages_blocked:
                self.console.note(f"no message was sent: {delivery.messages_blocked}")
        if self.json:
            self.console.out.print(_as_json(tick, delivery), markup=False)
        else:
            self.console.out.print(_line(tick, delivery), markup=False)

    def _show_taken_in(self) -> None:
        """What the collector brought, when it brought something."""
        found, self.runner.taken_in = self.runner.taken_in, IngestReport()
        told = [f"{name.replace('_', ' ')} {number:,}" for name, number in vars(found).items() if number]
        if told:
            refused = "; refused events stand in events_rejected" if found.refused else ""
            self.console.note(f"from the collector: {', '.join(told)}{refused}")


def _as_json(tick: TickReport, delivery: DeliveryReport | None) -> str:
    """One line; without a delivery `delivered` is null: its turn did not come, and the next one takes it up."""
    report = delivery or DeliveryReport()
    data = {
        "tick": tick.tick, "tick_at": tick.tick_at.isoformat() + "Z", "counts": tick.counts,
        "set_aside": tick.set_aside, "held": {name: held.said for name, held in tick.guarded.items()},
        "delivered": None if delivery is None else dict(report.counts),
        "ambiguous": report.ambiguous, "paused": report.paused,
    }  # fmt: skip
    return " ".join(line.strip() for line in to_json(data).split("\n"))


def _line(tick: TickReport, delivery: DeliveryReport | None) -> str:
    counts = "  ".join(f"{name} {tick.counts.get(name, 0):,}" for name in _COUNTS)
    return f"{tick.tick_at:%Y-%m-%d %H:%M:%S}  tick {tick.tick}  {counts}  {_delivered(delivery)}"


def _delivered(delivery: DeliveryReport | None) -> str:
    if delivery is None:
        return "delivery waits"
    counts = "  ".join(f"{state} {number:,}" for state, number in sorted(delivery.counts.items()) if number)
    unknown = f"  ambiguous {delivery.ambiguous}" if delivery.ambiguous else ""
    return f"{counts or 'nothing to deliver'}{unknown}"
