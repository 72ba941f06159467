"""`penstock backtest`: a workflow over the past of the warehouse, in figures, and two versions person by person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from compiler.errors import Problem, ProjectError
from compiler.linter.unreached import NobodyCame
from compiler.workflow import Duration
from flows.backtesting import Backtested, Version, backtest
from flows.engine.backtest_report import StepFigures, Summary
from flows.project import Project, load_project
from studio.console import Console
from studio.moment import instant, present_of
from studio.options import Options
from studio.state import LOOK

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_LENGTH = re.compile(r"\d+[smhdw]")


def run(options: Options, *, workflow: str, since: str, until: str | None, every: str, compare: str | None) -> int:
    """Run a workflow over a period of the past and say what would have happened.

    Returns:
        The exit code 0.
    """
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    with _progress(console) as told:
        found = backtest(
            project, workflow, since=beginning(since), until=instant(until, "--until") if until is not None else None,
            every=_length(every, "--every"), now=present_of(project), wait=LOOK, against=compare, progress=told,
        )  # fmt: skip
    warnings = unreached(project, found)
    console.result(_data(found, warnings), lambda out: _show(found, warnings, out))
    return 0


def beginning(text: str) -> timedelta | datetime:
    """`90d` before the end, or an instant."""
    return _length(text, "--since") if _LENGTH.fullmatch(text) else instant(text, "--since")


def _length(text: str, option: str) -> timedelta:
    try:
        return Duration.parse(text).elapsed
    except ValueError:
        raise ProjectError(f"{option} {text}: this is no length", code="E515", hint="write it as 1h or 90d") from None


def unreached(project: Project, found: Backtested) -> list[Problem]:
    """Warnings about steps that no contact reached; none when nobody entered at all."""
    document = project.definitions.workflows.get(found.workflow)
    if document is None or not found.version.summary.entered:
        return []
    return [finding.problem for finding in NobodyCame().check(document, found.version.summary.unreached)]


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, else nothing."""
    if not console.err.is_terminal or console.options.quiet:
        yield lambda _name, _done, _of: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ticks"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console.err, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, of: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=of)
            bar.update(tasks[name], completed=done)

        yield told


# ---------------------------------------------------------------- output


def _data(found: Backtested, warnings: list[Problem]) -> dict[str, object]:
    versions = [version for version in (found.version, found.other) if version is not None]
    comparison = found.comparison
    return {
        "workflow": found.workflow, "start": found.period.start, "until": found.period.until,
        "every": found.period.every, "contacts": found.contacts, "events": found.events,
        "versions": [_version(version) for version in versions],
        "comparison": None if comparison is None else {
            "same": comparison.same,
            "differing": {kind: {"contacts": n, "sample": ids} for kind, (n, ids) in comparison.differing.items()},
        },
        "warnings": [asdict(problem) for problem in warnings], "notes": found.notes,
    }  # fmt: skip


def _version(version: Version) -> dict[str, object]:
    summary = version.summary
    return {
        "version": version.name, "ticks": summary.ran.ticks, "evaluated": summary.ran.evaluated,
        "entered": summary.entered, "contacts": summary.contacts, "refused": dict(summary.refused),
        "exits": dict(summary.exits), "sent": summary.sent, "steps": [asdict(step) for step in summary.steps],
        "sends": [{"day": day, "kind": kind, "sent": number} for day, kind, number in summary.sends],
    }  # fmt: skip


def _show(found: Backtested, warnings: list[Problem], out: RichConsole) -> None:
    period = found.period
    out.print(
        f"{found.workflow} · {period.start:%Y-%m-%d %H:%M} → {period.until:%Y-%m-%d %H:%M} UTC, a tick every "
        f"{_hours(period.every)} · {found.contacts:,} contacts, {found.events:,} events · nothing was sent",
        markup=False,
    )
    versions = [version for version in (found.other, found.version) if version is not None]
    for version in versions:
        out.print()
        _show_version(version, found, out)
    if found.comparison is not None and found.other is not None:
        _show_comparison(found, found.other, out)
    if warnings:
        out.print()
    for problem in warnings:
        out.print(f"! {problem}", markup=False)
    out.print()
    for note in found.notes:
        out.print(f"note  {note}", markup=False)


def _show_version(version: Version, found: Backtested, out: RichConsole) -> None:
    from rich.table import Table

    summary = version.summary
    name = f"{version.name}  " if found.other is not None else ""
    ran = f"{summary.ran.evaluated:,} of {summary.ran.ticks:,} ticks had something to do"
    who = f"{summary.entered:,} entered ({summary.contacts:,} contacts)"
    out.print(f"{name}{who} · {summary.sent:,} sent · {ran}", markup=False)
    for title, counts in (("exits", summary.exits), ("not entered", summary.refused)):
        if counts:
            out.print(f"{title:<12} {_counts(counts)}", markup=False)
    table = Table("STEP", "KIND", box=None, pad_edge=False, header_style="bold")
    table.add_column("CONTACTS", justify="right")
    table.add_column("ROWS")
    for step in summary.steps:
        table.add_row(f"{'  ' * (step.depth - 1)}{step.step}", step.kind, _reach(step), _counts(step.outcomes))
    out.print(table)
    if summary.sends:
        out.print(plot(summary, found.period.start.date(), found.period.until.date()), markup=False)


def _reach(step: StepFigures) -> str:
    return f"{step.contacts:,}" if step.contacts else "passed" if step.reached else "nobody"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word} {number:,}" for word, number in counts.items())


def plot(summary: Summary, first: date, last: date) -> str:
    """Sends per day as bars of one line; several days share a bar when the period is long."""
    per_day: dict[date, int] = {}
    for day, _, number in summary.sends:
        per_day[day] = per_day.get(day, 0) + number
    days = (last - first).days + 1
    width = max(1, -(-days // _WIDTH))
    groups = [
        sum(per_day.get(first + timedelta(days=day), 0) for day in range(start, min(start + width, days)))
        for start in range(0, days, width)
    ]  # fmt: skip
    most = max(groups, default=0) or 1
    bars = "".join(_BARS[0 if not number else 1 + (number * 7) // most] for number in groups)
    each = "day" if width == 1 else f"{width} days"
    return f"sends per {each}  {bars}  most {max(groups, default=0):,}, {summary.sent / days:,.1f} a day"


def _show_comparison(found: Backtested, other: Version, out: RichConsole) -> None:
    comparison = found.comparison
    if comparison is None:
        return
    out.print()
    out.print(f"person by person, {other.name} → {found.version.name}: {comparison.same:,} the same", markup=False)
    for kind, (number, sample) in sorted(comparison.differing.items(), key=lambda item: -item[1][0]):
        more = " …" if number > len(sample) else ""
        out.print(f"  {number:>8,}  {kind:<24} {', '.join(sample)}{more}", markup=False)


def _hours(length: timedelta) -> str:
    seconds = int(length.total_seconds())
    return f"{seconds // 3600}h" if seconds % 3600 == 0 else f"{seconds // 60}m"
