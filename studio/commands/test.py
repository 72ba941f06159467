"""`penstock test`: journeys as tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from flows.engine.simulator import Outcome
from studio.console import Console
from studio.options import Options
from studio.simulations import Broken, as_data, difference, run_file, simulation_files, update

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


def run(options: Options, *, paths: Sequence[Path], select: Sequence[str], rewrite: bool) -> int:
    """Run simulation files and print what differs.

    Returns:
        The exit code: 1 when a case differs, 2 when one is broken.
    """
    console = Console(options)
    started = perf_counter()
    results: list[tuple[Path, list[Outcome | Broken]]] = []
    for path in simulation_files(paths, options.project_dir):
        outcomes: list[Outcome | Broken] = []
        for outcome in run_file(path, select):
            outcomes.append(outcome)
            if not options.json:
                _show(outcome, console.out)
        results.append((path, outcomes))
        if rewrite and update(path, [outcome for outcome in outcomes if isinstance(outcome, Outcome)]):
            console.note(f"rewrote expect in {path}")
    everything = [outcome for _, outcomes in results for outcome in outcomes]
    broken = sum(isinstance(outcome, Broken) for outcome in everything)
    passed = sum(isinstance(outcome, Outcome) and outcome.passed for outcome in everything)
    data = [as_data(path, outcomes) for path, outcomes in results]
    seconds = perf_counter() - started
    console.result(
        data[0] if len(data) == 1 else data, f"{passed} of {len(everything)} journeys passed · {seconds:.1f}s"
    )
    if broken:
        return 2
    return 0 if passed == len(everything) else 1


def _show(outcome: Outcome | Broken, out: RichConsole) -> None:
    if isinstance(outcome, Broken):
        out.print(f"[red]✗[/] {outcome.draft.id}  broken")
        for line in str(outcome.error).splitlines():
            out.print(f"    {line}", style="red", markup=False)
        return
    case = outcome.case
    title = f"{case.id}  {case.title}".rstrip()
    if outcome.passed:
        out.print(f"[green]✓[/] {title}  ({len(outcome.log)} rows)")
        return
    out.print(f"[red]✗[/] {title}  ({case.file})")
    for line in difference(outcome):
        color = {"-": "red", "+": "green"}.get(line[:1])
        out.print(f"    {line}", style=color, markup=False)
