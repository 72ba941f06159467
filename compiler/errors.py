"""The exceptions of Penstock, and the problems a compiler reports.

    PenstockError                  everything raised on purpose; has code, message, hint
    ├── DefinitionError            a definition file is wrong; carries one or more Problems (exit code 1)
    │   └── ConditionError         a SQL condition is refused or wrong; knows its offset in the expression
    ├── ProjectError               penstock.yaml, dbt project or target cannot be used (exit code 2)
    ├── SimulationError            a simulation file is broken (exit code 2)
    ├── WarehouseError             the warehouse said no
    │   ├── WarehouseLocked        somebody else has it for now; names who
    │   │   └── LeaseLost          somebody else took the state over while this process was away
    │   ├── WarehouseAway          the server cannot be reached now
    │   └── StateError             the state tables and this machine or version do not fit together
    └── DeliveryError              delivery cannot go on (attempt log, secrets)

Codes are stable: E1xx file and keys, E2xx names and types in conditions, E3xx graph, E4xx templates and references,
E5xx project and catalog, E6xx warehouse and state, E7xx delivery, W1xx lints.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One finding about a definition: what, where and what to do.

    `line` and `column` count from 1; 0 means that the place is the file as a whole.
    """

    code: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""
    path: tuple[str | int, ...] = ()
    length: int = 1
    severity: Severity = "error"

    def at(self, file: str, line: int, column: int) -> Problem:
        """The same problem at a place in a file."""
        return replace(self, file=file, line=line, column=column)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        hint = f"  hint: {self.hint}" if self.hint else ""
        return f"{place + '  ' if place else ''}{self.code} {self.message}{hint}"


class PenstockError(Exception):
    """Root of everything Penstock raises on purpose.

    Attributes:
        code: stable code such as E501.
        message: one sentence saying what is wrong and where.
        hint: what to do next, or empty.
    """

    code = "E000"
    exit_code = 2

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint


class DefinitionError(PenstockError):
    """One or more problems in definition files."""

    code = "E100"
    exit_code = 1

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), code=self.problems[0].code if self.problems else None)


class ConditionError(PenstockError):
    """A SQL condition is refused; `offset` and `length` are characters in the expression's text."""

    code = "E200"
    exit_code = 1

    def __init__(self, message: str, *, code: str, offset: int = 0, length: int = 1, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.offset = offset
        self.length = length


class ProjectError(PenstockError):
    """The project, its configuration or its target cannot be used."""

    code = "E500"


class SimulationError(PenstockError):
    """A simulation file is broken."""

    code = "E190"


class WarehouseError(PenstockError):
    """The warehouse refused or failed."""

    code = "E600"


class WarehouseLocked(WarehouseError):
    """Somebody else has the warehouse, its state, or a table of it, for now."""

    code = "E610"


class LeaseLost(WarehouseLocked):
    """Somebody else took the state over while this process was away."""

    code = "E611"


class WarehouseAway(WarehouseError):
    """The server cannot be reached now, or the connection to it broke."""

    code = "E601"


class StateError(WarehouseError):
    """State tables, high-water mark, workspace or schema version do not fit together."""

    code = "E620"


class DeliveryError(PenstockError):
    """Delivery cannot go on."""

    code = "E700"


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint naming the nearest allowed word, or the allowed words when none is near, or an empty text."""
    options = sorted({str(option) for option in allowed})
    match = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{match[0]}'?"
    if not options:
        return ""
    shown = ", ".join(options[:12])
    return f"allowed: {shown}{', …' if len(options) > 12 else ''}"
