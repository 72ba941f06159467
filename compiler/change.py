"""What can change whether a condition over the contact holds, so that only those contacts are looked at again.

A contact's own row, its events and what Penstock keeps about it are seen to change. Time alone moves a condition when
an event leaves a window (`within`), reaches an age (`days_since`, `first_event`, `last_event` against `now()`), or when
the wall clock reads otherwise (`local_hour` …). Everything else cannot be told, and such a condition is evaluated for
everybody in every tick.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from compiler.condition import Condition
from compiler.functions import days_before, wall_clock
from compiler.lookup import TICK_AT, Lookup, frame, tick_at

_COMPARED = (exp.GT, exp.GTE, exp.LT, exp.LTE, exp.EQ, exp.NEQ)
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 604800}


@dataclass(frozen=True)
class Edge:
    """An event of one of these names moves the condition when it is so many seconds old."""

    names: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Moves:
    """What moves a condition, beside the contact's row and its events.

    Attributes:
        edges: ages of events.
        clocks: parts that only the contact's wall clock decides, over `f.tz`.
        kept: it reads what Penstock keeps about the contact: tags, fields, points, campaigns, enrollments.
        untold: why it cannot be told; empty when it can.
    """

    edges: frozenset[Edge] = frozenset()
    clocks: tuple[exp.Expr, ...] = ()
    kept: bool = False
    untold: str = ""


def moves(condition: Condition) -> Moves:
    """What moves a condition."""
    scores = [name for name in condition.facts if name.startswith("x_score_")]
    if condition.subquery:
        return Moves(untold="a sub-select may change with any row of its model")
    if scores:
        return Moves(untold=f"score('{scores[0].removeprefix('x_score_')}') may change with every build of its model")
    for lookup in condition.lookups.values():
        if any(tree is not None and tree.find(exp.Placeholder) for tree in (lookup.predicate, lookup.value)):
            return Moves(untold="an event is compared with the time of the tick")
    edges = {Edge(each.names, each.within) for each in condition.lookups.values() if each.within is not None}
    clocks: list[exp.Expr] = []
    for node in _moved_by_time(condition.tree):
        if _only_clock(node):
            clocks.append(node)
            continue
        found = _edges(node, condition)
        if found is None:
            return Moves(untold=f"time moves it in a way that is not followed: {node.sql(dialect='duckdb')[:80]}")
        edges |= found
    return Moves(frozenset(edges), tuple(clocks), bool(condition.facts))


def fades(condition: Condition) -> bool:
    """Whether time alone can end that it holds, but never begin it: then only an event or a change of state can.

    Such are `did('a', within => '30d')`, `event_count('a', within => '30d') >= 3` and `days_since('a') < 3`, joined by
    `and` and `or`; not their opposites, and nothing whose value may rise as events grow old.
    """
    lookups = condition.lookups.values()
    if any(
        tree is not None and tree.find(exp.Placeholder) for each in lookups for tree in (each.predicate, each.value)
    ):
        return False
    return not condition.subquery and _fades(condition.tree, condition)


def _fades(node: exp.Expr, condition: Condition) -> bool:
    ageing = {lookup.column for lookup in condition.lookups.values() if lookup.within is not None}
    if not _timed(node) and not any(column.name in ageing for column in node.find_all(exp.Column)):
        return True
    match node:
        case exp.And() | exp.Or():
            return _fades(node.this, condition) and _fades(node.expression, condition)
        case exp.Paren():
            return _fades(node.this, condition)
        case exp.EQ():
            return any(lookup.kind == "exists" and node == lookup.read() for lookup in condition.lookups.values())
        case exp.GT() | exp.GTE():
            return _at_least(node.this, node.expression, condition)
        case exp.LT() | exp.LTE():
            return _at_least(node.expression, node.this, condition)
        case _:
            return False


def _at_least(greater: exp.Expr, less: exp.Expr, condition: Condition) -> bool:
    """Whether time alone can only end that one is greater than the other."""
    if _number(less) is not None:
        counts = [lookup for lookup in condition.lookups.values() if lookup.kind == "count"]
        return any(greater == lookup.read() for lookup in counts)
    age = _age(less, condition)
    if age is not None:
        return age.within is None and _number(greater) is not None
    moment = _moment(greater, condition)
    return moment is not None and moment.within is None and _back(_bare(less)) is not None


def _moved_by_time(node: exp.Expr) -> Iterator[exp.Expr]:
    """The smallest booleans that hold the tick's time; what has none is left out."""
    if not _timed(node):
        return
    match node:
        case exp.And() | exp.Or() | exp.Not() | exp.Paren() if not isinstance(node, exp.Paren) or _boolean(node.this):
            for child in (node.args.get("this"), node.args.get("expression")):
                if child is not None:
                    yield from _moved_by_time(child)
        case exp.Coalesce() if _boolean(node.this):
            for child in (node.this, *node.expressions):
                yield from _moved_by_time(child)
        case _:
            yield node


def _boolean(node: exp.Expr) -> bool:
    if isinstance(node, exp.Paren):
        return _boolean(node.this)
    return isinstance(node, exp.Predicate | exp.Connector | exp.Not | exp.Coalesce | exp.Is | exp.Between)


def _timed(node: exp.Expr) -> bool:
    return any(found.name == TICK_AT for found in node.find_all(exp.Placeholder))


def _only_clock(node: exp.Expr) -> bool:
    """Whether a boolean reads nothing but the contact's wall clock."""
    asked = wall_clock(tick_at(), frame("tz"))
    rest = node.transform(lambda part: exp.null() if isinstance(part, exp.AtTimeZone) and part == asked else part)
    return not _timed(rest) and rest.find(exp.Column) is None


def _edges(node: exp.Expr, condition: Condition) -> set[Edge] | None:
    """The ages at which a comparison of an age, or of an event's time, moves; None for what is no such comparison."""
    match node:
        case exp.Is(expression=exp.Null()) if _age(node.this, condition) is not None:
            return set()
        case exp.Between():
            sides = [(node.this, node.args["low"]), (node.this, node.args["high"])]
        case _ if isinstance(node, _COMPARED):
            sides = [(node.this, node.expression)]
        case _:
            return None
    found: set[Edge] = set()
    for left, right in sides:
        edge = _edge(left, right, condition) or _edge(right, left, condition)
        if edge is None:
            return None
        found.add(edge)
    return found


def _edge(value: exp.Expr, bound: exp.Expr, condition: Condition) -> Edge | None:
    """The edge of `days_since(…) >= 3`, or of `last_event(…) < now() - interval '3 days'`."""
    bare = _bare(value)
    lookup, days = _age(bare, condition), _number(bound)
    if lookup is not None and days is not None:
        return Edge(lookup.names, days * 86400)
    lookup, back = _moment(bare, condition), _back(_bare(bound))
    return Edge(lookup.names, back) if lookup is not None and back is not None else None


def _bare(node: exp.Expr) -> exp.Expr:
    """What stands in parentheses, or in a coalesce with a constant."""
    match node:
        case exp.Coalesce() if all(_constant(each) for each in node.expressions):
            return _bare(node.this)
        case exp.Paren() if not isinstance(node.this, exp.Div):
            return _bare(node.this)
        case _:
            return node


def _constant(node: exp.Expr) -> bool:
    return node.find(exp.Column, exp.Placeholder, exp.Subquery) is None


def _number(node: exp.Expr) -> float | None:
    if isinstance(node, exp.Paren):
        return _number(node.this)
    if isinstance(node, exp.Neg):
        inner = _number(node.this)
        return None if inner is None else -inner
    return float(node.name) if isinstance(node, exp.Literal) and not node.is_string else None


def _age(node: exp.Expr, condition: Condition) -> Lookup | None:
    """The lookup of `days_since(…)`."""
    for lookup in condition.lookups.values():
        if lookup.kind == "last" and node == days_before(lookup.read()):
            return lookup
    return None


def _moment(node: exp.Expr, condition: Condition) -> Lookup | None:
    for lookup in condition.lookups.values():
        if lookup.kind in ("first", "last") and node == lookup.read():
            return lookup
    return None


def _back(node: exp.Expr) -> float | None:
    """Seconds before the tick that `now()`, `now() - interval …` or `now() + interval …` is."""
    if node == tick_at():
        return 0.0
    if not isinstance(node, exp.Add | exp.Sub) or node.this != tick_at():
        return None
    span = _span(_bare(node.expression))
    if span is None:
        return None
    return span if isinstance(node, exp.Sub) else -span


def _span(node: exp.Expr) -> float | None:
    if not isinstance(node, exp.Interval) or not isinstance(node.this, exp.Literal):
        return None
    words = [*node.this.name.split(), *([str(node.args["unit"])] if node.args.get("unit") is not None else [])]
    unit = _SECONDS.get(words[1].upper().removesuffix("S")) if len(words) == 2 else None
    try:
        return float(words[0]) * unit if unit is not None else None
    except ValueError:
        return None
