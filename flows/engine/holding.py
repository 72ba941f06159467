"""What the size guard holds back, as values: its limits, a held workflow, and all that is held at a tick."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

What = Literal["entries", "leaving"]


@dataclass(frozen=True)
class Guard:
    """What is too much.

    Attributes:
        factor: so many times the usual is held: of entries a day, and of an audience's members, downwards.
        minimum: so many entries of one tick are never held.
        max_entries: more entries of one tick than this are held, however usual they are; None for no limit.
    """

    factor: float = 10.0
    minimum: int = 1000
    max_entries: int | None = None


@dataclass(frozen=True)
class Held:
    """One workflow that waits for `penstock approve`.

    `entries`: `number` contacts would enter, `usual` is a day's number. `leaving`: the audience has `number` members,
    `usual` is how many it had.
    """

    what: What
    since: datetime
    number: int
    usual: float

    @property
    def said(self) -> str:
        """What would happen, in words."""
        if self.what == "entries":
            return f"{self.number:,} would enter, usual are {self.usual:,.0f} a day"
        return f"{self.usual - self.number:,.0f} of {self.usual:,.0f} members would leave"

    def as_json(self) -> dict[str, Any]:
        """The JSON of a tick row."""
        return {"what": self.what, "since": self.since.isoformat(), "number": self.number, "usual": self.usual}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Held:
        """Read the JSON of a tick row."""
        return cls(value["what"], datetime.fromisoformat(value["since"]), int(value["number"]), float(value["usual"]))


@dataclass
class Holding:
    """What the guard held at the tick before, and what it holds now, by workflow."""

    before: Mapping[str, Held] = field(default_factory=dict)
    now: dict[str, Held] = field(default_factory=dict)

    def after(self, untouched: Collection[str]) -> dict[str, Held]:
        """What is held after the tick: also what was held of workflows that had no turn in it."""
        return {name: held for name, held in self.before.items() if name in untouched} | self.now

    def waits(self, workflow: str) -> bool:
        """Whether its candidates may be waiting for an approval."""
        held = self.before.get(workflow)
        return held is not None and held.what == "entries"
