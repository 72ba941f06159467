"""The value of a condition for one contact at one tick; None is unknown."""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import md5
from typing import Any

from tests.oracle.clock import elapsed, local, moment, zone_of
from tests.oracle.conditions import Both, Call, Case, Compare, In, IsNull, Math, Name, Not, Unsupported, Value
from tests.oracle.world import Event, World

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
MATH: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def bucket(salt: str, contact: str) -> float:
    """A number from 0 up to 1, the same for the same salt and contact."""
    return int(md5(f"{salt}:{contact}".encode()).hexdigest()[:8], 16) / 2**32


def both(word: str, left: bool | None, right: bool | None) -> bool | None:
    """`and` / `or` with unknown."""
    decisive = word == "or"
    if decisive in (left, right):
        return decisive
    return None if None in (left, right) else not decisive


def same_kind(left: Any, right: Any) -> tuple[Any, Any]:
    """Both sides as one type; what cannot be read as the other's type is NULL."""
    if left is None or right is None or type(left) is type(right):
        return left, right
    if isinstance(left, str):
        return read_as(left, right), right
    if isinstance(right, str):
        return left, read_as(right, left)
    if isinstance(left, datetime) != isinstance(right, datetime) and isinstance(left, date):
        return midnight(left), midnight(right)
    return left, right


def midnight(value: date) -> datetime:
    """A day as its first instant."""
    return value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)


def read_as(value: str, other: Any) -> Any:
    """A text as the type of the other side."""
    try:
        if isinstance(other, bool):
            return {"true": True, "false": False}.get(value.lower())
        if isinstance(other, datetime):
            return moment(value)
        if isinstance(other, date):
            return date.fromisoformat(value)
        return float(value)
    except ValueError:
        return None


@dataclass
class Evaluation:
    """Where a condition is read: the tick, the contact, and the enrollment if there is one."""

    world: World
    contact: str
    zone_default: object = None
    entry: dict[str, Any] | None = None
    enrollment: Any = None
    event: Event | None = None

    def true(self, node: Any) -> bool:
        """Whether it holds; unknown does not."""
        return self.value(node) is True

    def value(self, node: Any) -> Any:
        """The value of a tree."""
        match node:
            case Value(value):
                return value
            case Name(path):
                return self._name(path)
            case Not(inner):
                found = self.value(inner)
                return None if found is None else not found
            case Both(word, left, right):
                return both(word, self.value(left), self.value(right))
            case Compare(word, left, right):
                return self._compare(word, self.value(left), self.value(right))
            case IsNull(inner):
                return self.value(inner) is None
            case In(inner, among):
                found = [self._compare("=", self.value(inner), self.value(each)) for each in among]
                return True if True in found else None if None in found else False
            case Math(word, left, right):
                values = [self.value(left), self.value(right)]
                if isinstance(values[1], timedelta) and isinstance(values[0], str):
                    values[0] = read_as(values[0], self.world.tick)
                return None if None in values else MATH[word](*values)
            case Case(arms, otherwise):
                for test, value in arms:
                    if self.true(test):
                        return self.value(value)
                return self.value(otherwise)
            case Call():
                return self._call(node)
        raise Unsupported(repr(node))

    def _compare(self, word: str, left: Any, right: Any) -> bool | None:
        left, right = same_kind(left, right)
        if left is None or right is None:
            return None
        if word == "like":
            pattern = re.escape(right).replace("%", ".*").replace("_", ".")
            return re.fullmatch(pattern, left, re.DOTALL) is not None
        return COMPARE[word](left, right)

    def _name(self, path: tuple[str, ...]) -> Any:
        if len(path) == 1:
            return self.world.column(self.contact, path[0])
        if path[0] == "contact":
            return self.world.column(self.contact, path[1])
        if path[0] == "entry" and self.entry is not None:
            return self.entry.get(path[1])
        if path[0] == "event" and self.event is not None:
            return self.event.column(path[1])
        if path == ("goal", "met") and self.enrollment is not None:
            return any(self.true(goal) for goal in self.enrollment.workflow.goals)
        if path[0] == "steps" and self.enrollment is not None:
            return self.enrollment.fact(path[1], path[2], self.world.tick)
        raise Unsupported(".".join(path))

    def _call(self, call: Call) -> Any:
        name, world = call.name, self.world
        words = [each.value for each in call.arguments if isinstance(each, Value)]
        zone = zone_of([world.column(self.contact, "timezone"), self.zone_default])
        match name:
            case "did":
                return len(list(self.events(call))) >= (call.option("at_least") or 1)
            case "event_count":
                return len(list(self.events(call)))
            case "event_sum":
                return self._sum(call)
            case "first_event" | "last_event":
                times = sorted(each.time for each in self.events(call))
                return None if not times else times[0] if name == "first_event" else times[-1]
            case "days_since":
                times = [each.time for each in self.events(call)]
                return (world.tick - max(times)) / timedelta(days=1) if times else None
            case "rate":
                counts = [len(list(self.events(Call("did", (each,), call.options)))) for each in call.arguments]
                return counts[0] / counts[1] if counts[1] else None
            case "has_tag":
                return world.has_tag(self.contact, words[0])
            case "score":
                return world.score(self.contact, words[0])
            case "now":
                return world.tick
            case "local_hour":
                return local(world.tick, zone).hour
            case "local_dow":
                return local(world.tick, zone).isoweekday()
            case "local_date":
                return local(world.tick, zone).date()
            case "bucket":
                return bucket(words[0], self.contact)
            case "coalesce":
                return next((v for v in map(self.value, call.arguments) if v is not None), None)
            case "failed":
                return self.enrollment.fact(words[0], "status", world.tick) == "failed"
            case "in_campaign":
                return (self.contact, words[0]) in world.campaigns
            case "in_workflow" | "was_in_workflow" | "position_in":
                return self._workflow(name, words[0])
        raise Unsupported(name)

    def _workflow(self, function: str, name: str) -> Any:
        mine = [each for each in self.world.enrollments if each.contact == self.contact and each.workflow.name == name]
        active = [each for each in mine if each.active]
        if function == "was_in_workflow":
            return bool(mine)
        if function == "in_workflow":
            return bool(active)
        latest = max(active, key=lambda each: each.entered, default=None)
        return latest.rest if latest is not None else None

    def _sum(self, call: Call) -> Any:
        short = Call("did", (call.arguments[0], *call.arguments[2:]), call.options)
        values = [self._with(each).value(call.arguments[1]) for each in self.events(short)]
        known = [each for each in values if each is not None]
        return sum(known) if known else None

    def _with(self, event: Event) -> "Evaluation":
        return Evaluation(self.world, self.contact, self.zone_default, self.entry, self.enrollment, event)

    def events(self, call: Call) -> Iterator[Event]:
        """The contact's visible events that a `did(…)` is about."""
        first = call.arguments[0]
        names = [each.value for each in first] if isinstance(first, tuple) else [first.value]
        lower: datetime | None = None
        if within := call.option("within"):
            lower = self.world.tick - elapsed(within)
        if since := call.option("since"):
            start = self.enrollment.entered if since == "entry" else self.enrollment.left_at.get(since)
            if start is None:
                return
            lower = start if lower is None else max(lower, start)
        trigger = self.enrollment.trigger if self.enrollment is not None else None
        for event in self.world.events(self.contact):
            if event.name not in names or event.id == trigger or (lower is not None and event.time < lower):
                continue
            if len(call.arguments) < 2 or self._with(event).true(call.arguments[1]):
                yield event
