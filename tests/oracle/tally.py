"""Counts the random cases of a run, so that it can say at its end what it has shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Kind:
    """One kind of cases: on a warehouse, or with something else changed."""

    seeds: set[int] = field(default_factory=set)
    differ: set[int] = field(default_factory=set)
    ticks: int = 0
    rows: int = 0


_KINDS: dict[str, _Kind] = {}
_COLUMNS = ("random cases", "seeds", "cases", "ticks", "log rows", "differences")


def count(what: str, seed: int, case: dict[str, Any], rows: Sequence[str], found: Sequence[str]) -> None:
    """Notes a case: the rows of its log, and what was found to differ."""
    kind = _KINDS.setdefault(what, _Kind())
    kind.seeds.add(seed)
    kind.ticks += len(case["ticks"])
    kind.rows += len(rows)
    if found:
        kind.differ.add(seed)


def lines() -> list[str]:
    """A table with one line for each kind of case that was run."""
    table = [_COLUMNS, *(_line(what, kind) for what, kind in sorted(_KINDS.items()))] if _KINDS else []
    widths = [max(len(row[place]) for row in table) for place in range(len(_COLUMNS))] if table else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _line(what: str, kind: _Kind) -> tuple[str, ...]:
    named = f" (seeds {', '.join(map(str, sorted(kind.differ)))})" if kind.differ else ""
    between = f"{min(kind.seeds)}-{max(kind.seeds)}"
    return what, between, *(f"{n:,}" for n in (len(kind.seeds), kind.ticks, kind.rows)), f"{len(kind.differ)}{named}"
