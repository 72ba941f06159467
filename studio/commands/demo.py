"""`penstock demo`: the whole job on an embedded warehouse, against built-in servers and simulated customers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from studio.console import Console
from studio.options import Options

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from flows.runner import Runner
    from studio.demo.figures import Figures
    from studio.demo.run import Demo

FOLDER = Path(".penstock") / "demo"
_NAME = 15
_PLAIN_EVERY = 0.25
_SHOWN = 20


def run(options: Options, *, folder: Path | None, contacts: int, days: int, hours: int, seed: int) -> int:
    """Run the demo and print what came of it.

    Returns:
        The exit code: 1 when the audit found a difference, or a workflow was set aside.
    """
    console = Console(options)
    place = folder or FOLDER
    console.note(f"{'penstock demo':<{_NAME}} {contacts:,} contacts, {days} days, a tick every {hours} h → {place}")
    started = perf_counter()
    from datetime import timedelta

    from studio.demo.figures import figures
    from studio.demo.report import gather, write_report
    from studio.demo.run import Demo, Scale

    found: list[Figures] = []
    reports: list[Path] = []
    with _Shown(console) as progress:
        scale = Scale(contacts, days, timedelta(hours=hours), seed)
        demo = Demo(place, scale, progress, options.target)

        def close(runner: Runner) -> None:
            found.append(figures(demo, runner))
            reports.append(write_report(place, demo, found[0], gather(demo, runner)))

        demo.run(close)
    seconds = perf_counter() - started
    console.result(_data(demo, found[0], reports[0]), lambda out: _show(demo, found[0], reports[0], seconds, out))
    return 1 if found[0].audit.differences or found[0].set_aside else 0


def next_commands(demo: Demo) -> list[str]:
    """Three command lines that work when the demo has ended."""
    folder = os.path.relpath(demo.project_folder)
    return [
        f"penstock status --project-dir {folder}",
        f"penstock logs --workflow abandoned_cart --limit 20 --project-dir {folder}",
        "penstock init my_project",
    ]


def _data(demo: Demo, found: Figures, report: Path) -> Mapping[str, Any]:
    scale = asdict(demo.scale) | {"every_hours": demo.scale.every.total_seconds() / 3600}
    del scale["every"]
    return {
        "project": demo.project_folder,
        "scale": scale,
        **asdict(found),
        "accuracy": found.audit.accuracy,
        "report": report,
        "next": next_commands(demo),
    }


def _show(demo: Demo, found: Figures, report: Path, seconds: float, out: RichConsole) -> None:
    from studio.demo.figures import closing_lines, funnel_lines

    for funnel in found.funnels:
        out.print()
        out.print(f"[bold]{funnel.workflow}[/]   {funnel.entered:,} entered · {funnel.in_flight:,} still on their way")
        for name, number, bar, told in funnel_lines(funnel):
            out.print(f"  {name:<{_NAME}}{number:>6,} [cyan]{bar:<30}[/]  {told}".rstrip())
    for line in closing_lines(found):
        out.print(line, markup=False)
    for workflow, why in found.set_aside.items():
        out.print(f"  ✗ {workflow} was set aside: {why}", markup=False, style="red")
    for difference in found.audit.differences[:_SHOWN]:
        out.print(f"  ✗ {difference}", markup=False, style="red")
    more = len(found.audit.differences) - _SHOWN
    if more > 0:
        out.print(f"  … and {more:,} more in the report", style="red")
    out.print()
    out.print(f"{'report':<{_NAME}}{report}", markup=False)
    out.print(f"{'next':<{_NAME}}{' · '.join(next_commands(demo))}", markup=False)
    out.print(f"{'':<{_NAME}}[dim]{seconds:.1f} s in all[/]")


class _Shown:
    """Progress on stderr: a bar on a terminal, one line per finished part elsewhere."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._err = console.err
        self._bars = Progress(
            TextColumn(f"{{task.fields[name]:<{_NAME}}}"), TextColumn("{task.description}"), BarColumn(30),
            MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            console=self._err, transient=True, disable=not self._err.is_terminal, refresh_per_second=8,
        )  # fmt: skip
        self._name, self._started, self._told = "", 0.0, 0.0
        self._task: Any = None

    def __enter__(self) -> _Shown:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, name: str, what: str, total: int | None = None) -> None:
        """See `Progress.begin`."""
        self._name, self._started, self._told = name, perf_counter(), 0.0
        self._task = self._bars.add_task(what, total=total, name=name, note="")

    def advance(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.advance`."""
        self._bars.update(self._task, completed=done, total=total, note=note)
        if not self._err.is_terminal and done / total >= self._told + _PLAIN_EVERY and done < total:
            self._told = done / total
            self._err.print(f"{self._name:<{_NAME}}{done} of {total} {note}".rstrip(), markup=False)

    def finish(self, what: str) -> None:
        """See `Progress.finish`."""
        self._bars.remove_task(self._task)
        seconds = f"{perf_counter() - self._started:.1f}s"
        self._err.print(f"{self._name:<{_NAME}}{what:<75} {seconds:>6}", markup=False)
