"""`penstock init`: Penstock's files in a dbt project, or a new project."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.project import load_project
from studio.commands.validate import counted
from studio.console import Console
from studio.init import Initiated, init
from studio.options import Options
from studio.problems import as_data, show_problems
from studio.validation import check_project


def run(options: Options, *, folder: Path | None, template: str, ask: bool) -> int:
    """Make the files, check them, and say what to do next.

    Returns:
        The exit code: 1 when what was made does not fit the project.
    """
    console = Console(options)
    asking = ask and not options.json and sys.stdin.isatty()
    place = folder or options.project_dir or Path.cwd()
    done = init(place, template=template, choose=_ask if asking else _first, target=options.target)
    report = check_project(load_project(done.folder, options.target))
    console.result(
        {"folder": done.folder, "new_project": done.new_project, "contact": done.contact, "events": done.events,
         "event": done.event, "created": done.created, "kept": done.kept, "next": _next(done),
         "problems": [as_data(problem) for problem in report.problems]},
        "\n".join(_lines(done)),
    )  # fmt: skip
    if not options.json:
        show_problems(report.problems, done.folder, console.out)
    return 1 if report.errors else 0


def _first(question: str, choices: list[str]) -> str:
    return choices[0]


def _ask(question: str, choices: list[str]) -> str:
    import typer

    if len(choices) == 1:
        return choices[0]
    for number, name in enumerate(choices[:9], start=1):
        typer.echo(f"  {number}  {name}", err=True)
    number = 0
    while not 1 <= number <= min(9, len(choices)):
        number = int(typer.prompt(question, default=1, type=int, err=True))
    return choices[number - 1]


def _lines(done: Initiated) -> list[str]:
    if done.new_project:
        lines = [f"made a project in {done.folder}: a shop to try things on ({counted(len(done.created), 'file')})"]
    else:
        lines = [f"contacts are {done.contact}, events are {done.events} (penstock.yaml says which columns are what)"]
        lines += [f"+ {name}" for name in done.created]
    lines += [f"= {name} was there and is left as it is" for name in done.kept]
    return [*lines, "next  " + " · ".join(_next(done))]


def _next(done: Initiated) -> list[str]:
    here = done.folder == Path.cwd()
    there = [*([] if here else [f"cd {done.folder}"]), "penstock dbt build", "penstock test"]
    # The shop's events end when the demo begins, so a tick of today would find nothing.
    return [*there, "penstock run" if not done.new_project else _TRY]


_TRY = "penstock backtest abandoned_cart --since 30d --until 2026-03-01"
