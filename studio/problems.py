"""Problems of definition files for people, for GitHub and for code scanning (SARIF)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import Problem

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow")}
_WORD = re.compile(r"[\w.-]+")
_ESCAPES = {"%": "%25", "\r": "%0D", "\n": "%0A"}


class Sources:
    """The lines of the files that problems point into, read once each."""

    def __init__(self, folder: Path, texts: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._lines = {file: text.splitlines() for file, text in (texts or {}).items()}

    def line(self, file: str, number: int) -> str | None:
        """A line of a file, counted from 1; None when there is none."""
        lines = self._lines.get(file)
        if lines is None:
            try:
                lines = (self._folder / file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                lines = []
            self._lines[file] = lines
        return lines[number - 1] if 0 < number <= len(lines) else None


def show_problems(
    problems: Iterable[Problem], folder: Path, out: Console, *, texts: Mapping[str, str] | None = None
) -> None:
    """Print problems, each with its source line and a caret.

    Args:
        problems: what was found.
        folder: what the file names are relative to.
        out: where to.
        texts: what the problems call a file and is none, such as a condition of the command line.
    """
    sources = Sources(folder, texts)
    for problem in problems:
        _show(problem, sources, out)


def _show(problem: Problem, sources: Sources, out: Console) -> None:
    from rich.text import Text

    mark, color = MARKS[problem.severity]
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    head = Text.assemble((mark, f"bold {color}"), f" {place}  " if place else " ", (problem.code, color), " ",
                         problem.message)  # fmt: skip
    out.print(head)
    source = sources.line(problem.file, problem.line)
    if source is not None:
        before = sources.line(problem.file, problem.line - 1)
        if before is not None and before.strip():
            out.print(_numbered(problem.line - 1, before))
        out.print(_numbered(problem.line, source))
        # Tabs stay tabs above the caret, so that it stands under the word at any tab width.
        indent = re.sub(r"[^\t]", " ", source[: problem.column - 1])
        rest = source[problem.column - 1 :].rstrip()
        word = _WORD.match(rest) if problem.length == 1 else None
        length = len(word[0]) if word else max(1, min(problem.length, len(rest)))
        out.print(Text.assemble(("      │ ", "dim"), indent, ("^" * length, f"bold {color}")))
    if problem.hint:
        out.print(Text.assemble(("   hint: ", "cyan"), problem.hint))


def _numbered(number: int, line: str) -> Any:
    from rich.text import Text

    return Text.assemble((f"{number:>5} │ ", "dim"), line)


def as_data(problem: Problem) -> dict[str, Any]:
    """A problem for programs."""
    return {
        "severity": problem.severity, "code": problem.code, "message": problem.message, "file": problem.file,
        "line": problem.line, "column": problem.column, "length": problem.length, "hint": problem.hint,
    }  # fmt: skip


def github_line(problem: Problem, prefix: str) -> str:
    """A workflow command of GitHub Actions, which annotates the line of a pull request.

    Args:
        problem: what was found.
        prefix: path of the project's folder from the repository's root, empty or with a slash at its end.
    """
    place = f"file={_property(prefix + problem.file)}"
    if problem.line:
        place += f",line={problem.line},col={problem.column},endColumn={problem.column + problem.length}"
    text = problem.message + (f" · hint: {problem.hint}" if problem.hint else "")
    return f"::{problem.severity} {place},title={_property(problem.code)}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def sarif(problems: Iterable[Problem], prefix: str, version: str) -> dict[str, Any]:
    """The problems as a SARIF 2.1.0 log; arguments as `github_line`, and Penstock's version."""
    found = list(problems)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "penstock",
                        "version": version,
                        "rules": [{"id": code} for code in sorted({problem.code for problem in found})],
                    }
                },
                "results": [_result(problem, prefix) for problem in found],
            }
        ],
    }


def _result(problem: Problem, prefix: str) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": prefix + problem.file}}
    if problem.line:
        place["region"] = {
            "startLine": problem.line, "startColumn": problem.column, "endColumn": problem.column + problem.length,
        }  # fmt: skip
    text = problem.message + (f" (hint: {problem.hint})" if problem.hint else "")
    return {
        "ruleId": problem.code, "level": problem.severity, "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }  # fmt: skip
