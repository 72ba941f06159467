"""Stories for some of the random cases: steps that seldom meet by chance, in the night of a change of clocks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.oracle.clock import shown
from tests.oracle.conditions import Call, Compare, Name, Value, text

NIGHTS = {
    "2025-10-25T21:00": "Europe/Paris",
    "2025-11-02T02:00": "America/New_York",
    "2025-04-05T11:00": "Australia/Lord_Howe",
    "2025-03-29T21:00": "Europe/Paris",
    "2025-03-09T03:00": "America/New_York",
}
"""First instants, each with a zone whose clock changes in the hours after; most of them show an hour twice then."""
MOMENTS = ["01:00", "01:30", "01:45", "02:00", "02:15", "02:30", "02:59", "03:00"]


@dataclass
class Stories:
    """Makes runs of steps; their ids are unique in a workflow."""

    random: Random
    executed: frozenset[str]
    count: int = 0
    mine: list[Callable[[], list[dict[str, Any]]]] = field(init=False)

    def __post_init__(self) -> None:
        """Takes the stories whose steps are executed."""
        stories = {
            self.night: {"wait_until"}, self.opening: {"window"}, self.campaign: {"campaign"}, self.fields: {"set"},
            self.awaited: {"wait_for"}, self.moved: {"wait_until"},
        }  # fmt: skip
        self.mine = [story for story, kinds in stories.items() if kinds <= self.executed]

    def before(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The steps of a workflow with one or two stories before them, or after the first of them."""
        told = [step for story in self.random.sample(self.mine, self.random.choice([1, 1, 2])) for step in story()]
        place = self.random.choice([0, 0, 1])
        return [*steps[:place], *told, *steps[place:]]

    def _step(self, **step: Any) -> dict[str, Any]:
        self.count += 1
        return {"id": f"n{self.count}", **step}

    def _wait(self) -> dict[str, Any]:
        return self._step(wait=self.random.choice(["30m", "30m", "1h"]))

    def _told(self, condition: Any) -> dict[str, Any]:
        """What the story came to, as a row of the log."""
        arms = {"then": [self._step(tag="yes")], "else": [self._step(tag="no")]}
        return self._step(**{"if": text(condition), **arms})

    def night(self) -> list[dict[str, Any]]:
        """A local time that the clock may show twice, or not at all."""
        return [self._step(wait_until={"at": self.random.choice(MOMENTS)}), self._step(tag="night")]

    def moved(self) -> list[dict[str, Any]]:
        """A local time that comes earlier or later where a contact moves."""
        return [self._step(wait_until={"at": self.random.choice(["04:00", "05:00", "20:00", "22:00"])}),
                self._step(tag="night")]  # fmt: skip

    def opening(self) -> list[dict[str, Any]]:
        """A window whose bounds the clock may show twice."""
        start, end = self.random.choice([("01:00", "02:00"), ("01:30", "02:30"), ("22:00", "02:30")])
        return [self._wait(), self._step(window={"from": start, "to": end}), self._step(tag="open")]

    def campaign(self) -> list[dict[str, Any]]:
        """Joined, left, perhaps joined again, and asked about in later ticks."""
        there = Call("in_campaign", (Value("spring"),))
        steps = [self._step(campaign={"add": "spring"}), *([self._wait()] if self.random.random() < 0.7 else [])]
        steps += [self._step(campaign={"remove": "spring"}), self._wait(), self._told(there)]
        again = [self._step(campaign={"add": "spring"}), self._wait(), self._told(there)]
        return steps + (again if self.random.random() < 0.3 else [])

    def fields(self) -> list[dict[str, Any]]:
        """A field that is written twice in a tick, and read in a later one."""
        one, other = self.random.sample([1, 2, 3], 2)
        steps = [self._step(set={"n": one}), self._step(set={"n": other}), self._wait()]
        return [*steps, self._told(Compare("=", Name(("contact", "n")), Value(other)))]

    def awaited(self) -> list[dict[str, Any]]:
        """An event that may come while the workflow is paused."""
        name = self.random.choice(["x", "y", "visit"])
        arms = {"then": [self._step(tag="came")], "else": [self._step(tag="missed")]}
        return [self._step(wait_for=text(Call("did", (Value(name),))), since="step", within="1d", **arms)]


def moves(random: Random, contacts: list[str], start: datetime, span: int) -> list[dict[str, Any]]:
    """Contacts who come into another time zone."""
    zones = ["Europe/Paris", "America/New_York", "Asia/Kolkata", "Asia/Tokyo", "UTC", None]
    rows = []
    for number, contact in enumerate(contacts):
        if random.random() < 0.5:
            at = start + timedelta(minutes=random.randint(0, span // 30) * 30, seconds=40 + number)
            rows.append({"contact": contact, "at": shown(at), "set": {"timezone": random.choice(zones)}})
    return rows
