"""Where output goes: results to stdout, progress and notes to stderr."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from studio.options import Options

if TYPE_CHECKING:
    import rich.console


class Console:
    """The two channels of a verb.

    Args:
        options: the options of the command line.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    @cached_property
    def out(self) -> "rich.console.Console":
        """Stdout; colours only on a terminal. Lines are never wrapped, so that they can be searched and piped."""
        return self._console(quiet=False, stderr=False)

    @cached_property
    def err(self) -> "rich.console.Console":
        """Stderr for progress and notes; silent with `--quiet`. Its `is_terminal` says whether bars may move."""
        return self._console(quiet=self.options.quiet, stderr=True)

    def _console(self, *, quiet: bool, stderr: bool) -> "rich.console.Console":
        from rich.console import Console as RichConsole

        return RichConsole(
            stderr=stderr,
            quiet=quiet,
            no_color=self.options.no_color or None,
            highlight=False,
            soft_wrap=True,
        )

    def result(self, data: Any, text: str | Callable[["rich.console.Console"], None]) -> None:
        """Writes the result of the verb to stdout.

        Args:
            data: the result for programs: mappings, sequences, dataclasses, dates, decimals and paths.
            text: the result for people, or a function that prints it.
        """
        if self.options.json:
            sys.stdout.write(to_json(data) + "\n")
            sys.stdout.flush()
        elif isinstance(text, str):
            self.out.print(text, markup=False)
        else:
            text(self.out)

    def note(self, message: str) -> None:
        """Writes one line for people to stderr."""
        self.err.print(message, markup=False)


def to_json(data: Any) -> str:
    """The JSON text of a result, indented; the order of keys is kept."""
    return json.dumps(data, default=_jsonable, indent=2, ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case Enum():
            return value.value
        case UUID() | PurePath():
            return str(value)
        case set() | frozenset():
            return sorted(value, key=str)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        case _:
            raise TypeError(f"a result holds a {type(value).__name__}, which has no JSON form")
