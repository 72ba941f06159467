"""`penstock validate`: everything that is wrong with the definition files, offline."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from compiler.allowlist import Trust
from studio.console import Console, to_json
from studio.options import Options
from studio.problems import as_data, github_line, sarif, show_problems
from studio.validation import Report, validate

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

Format = Literal["text", "github", "sarif"]


def run(options: Options, *, trust: Trust, select: Collection[str], strict: bool, form: Format) -> int:
    """Check the project and print what was found.

    Returns:
        The exit code: 1 when there are errors, or warnings with `strict`.
    """
    started = perf_counter()
    report = validate(options.project_dir, options.target, trust=trust, select=select)
    console = Console(options)
    if form == "github" and not options.json:
        prefix = _prefix(report.folder)
        console.result(None, "\n".join(github_line(problem, prefix) for problem in report.problems))
    elif form == "sarif" and not options.json:
        from penstock import __version__

        console.result(None, to_json(sarif(report.problems, _prefix(report.folder), __version__)))
    else:
        seconds = perf_counter() - started
        console.result(_data(report), lambda out: _show(report, seconds, out))
    return 1 if report.errors or (strict and report.warnings) else 0


def _prefix(folder: Path) -> str:
    """The way from the root of the repository that holds the project, for annotations."""
    root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)
    way = folder.relative_to(root).as_posix()
    return "" if way == "." else f"{way}/"


def _data(report: Report) -> dict[str, object]:
    return {
        "workflows": report.workflows, "steps": report.steps, "conditions": report.conditions,
        "errors": report.errors, "warnings": report.warnings,
        "problems": [as_data(problem) for problem in report.problems],
    }  # fmt: skip


def _show(report: Report, seconds: float, out: RichConsole) -> None:
    show_problems(report.problems, report.folder, out)
    found = f"{counted(report.errors, 'error')}, {counted(report.warnings, 'warning')}"
    looked = (
        f"{counted(report.workflows, 'workflow')}, {counted(report.steps, 'step')}, "
        f"{counted(report.conditions, 'condition')}"
    )
    color = "red" if report.errors else "yellow" if report.warnings else "green"
    out.print(f"{looked} · [{color}]{found}[/] · {seconds:.1f}s")


def counted(number: int, word: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
