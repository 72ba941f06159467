"""What a condition needs from outside its own row: aggregates over a contact's events, and facts of Penstock's state.

A condition is lowered to an expression over one *frame* row (alias `f`). A `Lookup` is a column of that frame which is
an aggregate over the events `e` of the frame's contact; a `Fact` is a column which is a scalar sub-select by contact.
Equal lookups of one statement share a column, because the column's name is a digest of what it computes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

LookupKind = Literal["exists", "count", "sum", "first", "last", "times"]

TICK_AT = "tick_at"


def tick_at() -> exp.Expr:
    """The tick's time `T` as a typed parameter."""
    return exp.cast(exp.Placeholder(this=TICK_AT), "timestamp")


def from_frame(tree: exp.Expr) -> exp.Expr:
    """A copy of an expression over `f` that reads the tick's time there, not from the parameter.

    A statement without parameters keeps its plan. Sub-selects are left as they are: there a constant is cheaper.
    """
    found = tree.copy()
    inside = list(found.walk(prune=lambda node: isinstance(node, exp.Query)))
    for node in inside:
        if isinstance(node, exp.Placeholder) and node.name == TICK_AT and isinstance(cast := node.parent, exp.Cast):
            if cast is found:
                return frame(TICK_AT)
            cast.replace(frame(TICK_AT))
    return found


def seconds(amount: float) -> exp.Expr:
    """An interval of elapsed seconds."""
    return exp.Interval(this=exp.Literal.string(str(int(amount))), unit=exp.var("SECOND"))


def frame(column: str) -> exp.Column:
    """A column of the frame."""
    return exp.column(column, table="f")


def event(column: str) -> exp.Column:
    """A column of the contact's events."""
    return exp.column(column, table="e")


@dataclass(frozen=True)
class Lookup:
    """An aggregate over the events of the frame's contact.

    Attributes:
        label: readable start of the column's name, e.g. `did_purchase`.
        kind: `exists` boolean, `count` integer, `sum` number, `first`/`last` timestamp, `times` array of timestamps.
        names: event names.
        predicate: boolean over `e` and `f`, or None.
        within: only events with event time >= T - within seconds.
        since_entry: only events with event time >= the enrollment's entry `L`.
        value: what `sum` adds up, over `e`.
    """

    label: str
    kind: LookupKind
    names: tuple[str, ...]
    predicate: exp.Expr | None = None
    within: float | None = None
    since_entry: bool = False
    value: exp.Expr | None = None

    @property
    def column(self) -> str:
        """The frame column's name."""
        digest = hashlib.md5(self.described.encode(), usedforsecurity=False).hexdigest()[:6]
        return f"{re.sub(r'[^a-z0-9]+', '_', self.label.lower())[:40]}_{digest}"

    @property
    def described(self) -> str:
        """What it computes, whatever its label: equal for equal aggregates."""
        return "|".join((
            self.kind, *self.names, self.predicate.sql() if self.predicate else "", str(self.within),
            str(self.since_entry), self.value.sql() if self.value else "",
        ))  # fmt: skip

    def hit(self) -> exp.Expr:
        """Whether an event `e` counts for the frame row `f`."""
        parts: list[exp.Expr] = [names_match(self.names)]
        if self.since_entry:
            parts.append(exp.GTE(this=event("event_time"), expression=frame("entry_at")))
        if self.within is not None:
            earliest = exp.Sub(this=tick_at(), expression=seconds(self.within))
            parts.append(exp.GTE(this=event("event_time"), expression=earliest))
        if self.predicate is not None:
            parts.append(exp.paren(self.predicate.copy()))
        return exp.and_(*parts)

    def aggregate(self) -> exp.Expr:
        """The aggregate over `e`, grouped by frame row; JSON paths stand inside CASE, never under FILTER."""
        match self.kind:
            case "exists":
                return exp.Max(this=self._hit_value(exp.Literal.number(1)))
            case "count":
                return exp.Count(this=self._hit_value(exp.Literal.number(1)))
            case "sum":
                return exp.Sum(this=self._hit_value(self.value.copy() if self.value else exp.Literal.number(1)))
            case "first":
                return exp.Min(this=self._hit_value(event("event_time")))
            case "last":
                return exp.Max(this=self._hit_value(event("event_time")))
            case "times":
                return exp.Filter(this=exp.ArrayAgg(this=event("event_time")), expression=exp.Where(this=self.hit()))

    def read(self) -> exp.Expr:
        """The column's value in the frame, with what no event at all means."""
        match self.kind:
            case "exists":
                return exp.EQ(this=exp.Coalesce(this=frame(self.column), expressions=[exp.Literal.number(0)]),
                              expression=exp.Literal.number(1))  # fmt: skip
            case "count":
                return exp.Coalesce(this=frame(self.column), expressions=[exp.Literal.number(0)])
            case _:
                return frame(self.column)

    def _hit_value(self, value: exp.Expr) -> exp.Expr:
        return exp.Case(ifs=[exp.If(this=self.hit(), true=value)])


@dataclass(frozen=True)
class Fact:
    """A frame column computed from Penstock's state or a score model, by contact; `tree` is over `f`."""

    column: str
    tree: exp.Expr


def names_match(names: Iterable[str]) -> exp.Expr:
    """`e.name` is one of the names."""
    literals: list[exp.Expr] = [exp.Literal.string(name) for name in sorted(set(names))]
    if len(literals) == 1:
        return exp.EQ(this=event("name"), expression=literals[0])
    return exp.In(this=event("name"), expressions=literals)


def first_between(times: exp.Expr, lower: exp.Expr, upper: exp.Expr | None) -> exp.Expr:
    """The earliest element of an array of timestamps with lower <= x <= upper, NULL if none."""
    return exp.ArrayMin(this=_between(times, lower, upper))


def last_since(times: exp.Expr, lower: exp.Expr) -> exp.Expr:
    """The latest element of an array of timestamps with lower <= x, NULL if none."""
    return exp.ArrayMax(this=_between(times, lower, None))


def count_since(times: exp.Expr, lower: exp.Expr) -> exp.Expr:
    """How many elements of an array of timestamps are >= lower; 0 for no array."""
    size = exp.ArraySize(this=_between(times, lower, None))
    return exp.Coalesce(this=size, expressions=[exp.Literal.number(0)])


def _between(times: exp.Expr, lower: exp.Expr, upper: exp.Expr | None) -> exp.Expr:
    element = exp.to_identifier("x")
    inside: exp.Expr = exp.GTE(this=exp.column("x"), expression=lower.copy())
    if upper is not None:
        inside = exp.and_(inside, exp.LTE(this=exp.column("x"), expression=upper.copy()))
    return exp.ArrayFilter(this=times.copy(), expression=exp.Lambda(this=inside, expressions=[element]))
