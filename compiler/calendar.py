"""Time arithmetic as trees: elapsed and calendar durations, wall clocks (language §4, RFC 5545 for gaps and folds)."""

from __future__ import annotations

from sqlglot import exp

from compiler.functions import wall_clock
from compiler.lookup import seconds
from compiler.workflow import Duration

UTC_INSTANT = "utc_instant"
"""Function every warehouse adapter provides: (wall clock timestamp, zone) -> naive UTC timestamp."""


def after(moment: exp.Expr, duration: Duration, zone: exp.Expr | None) -> exp.Expr:
    """`moment + duration`; d and w are calendar days on the wall clock of `zone` (None = UTC)."""
    days = duration.calendar_days
    if days is None or zone is None:
        return exp.Add(this=moment.copy(), expression=seconds(duration.elapsed.total_seconds()))
    interval = exp.Interval(this=exp.Literal.string(str(days)), unit=exp.var("DAY"))
    in_utc = exp.Add(this=moment.copy(), expression=interval)
    if isinstance(zone, exp.Literal) and zone.this == "UTC":
        return in_utc
    local = exp.Add(this=exp.paren(wall_clock(moment, zone)), expression=interval.copy())
    elsewhere = exp.Anonymous(this=UTC_INSTANT, expressions=[local, zone.copy()])
    # Most contacts live in UTC as far as the warehouse knows, and zone arithmetic costs a hundred times an addition.
    is_utc = exp.EQ(this=zone.copy(), expression=exp.Literal.string("UTC"))
    return exp.Case(ifs=[exp.If(this=is_utc, true=in_utc)], default=elsewhere)


def elapsed_more_than(earlier: exp.Expr, later: exp.Expr, amount: float) -> exp.Expr:
    """`later - earlier > amount seconds`, without date_diff (engines disagree about it)."""
    limit = exp.Add(this=earlier.copy(), expression=seconds(amount))
    return exp.GT(this=later.copy(), expression=limit)


def shows_between(moment: exp.Expr, start: str, end: str, zone: exp.Expr | None) -> exp.Expr:
    """Whether the wall clock of `zone` (None = UTC) shows a time in [start, end) then, which may cross midnight."""
    shown = exp.cast(_wall(moment, zone), "time")
    after_start = exp.GTE(this=shown, expression=exp.cast(exp.Literal.string(start), "time"))
    before_end = exp.LT(this=shown.copy(), expression=exp.cast(exp.Literal.string(end), "time"))
    return exp.and_(after_start, before_end) if start < end else exp.paren(exp.or_(after_start, before_end))


def _wall(moment: exp.Expr, zone: exp.Expr | None) -> exp.Expr:
    """A UTC timestamp on the wall clock of `zone`, without zone arithmetic for contacts in UTC."""
    if zone is None or (isinstance(zone, exp.Literal) and zone.this == "UTC"):
        return moment.copy()
    return exp.Case(ifs=[exp.If(this=_in_utc(zone), true=moment.copy())], default=wall_clock(moment, zone))


def _in_utc(zone: exp.Expr) -> exp.Expr:
    return exp.EQ(this=zone.copy(), expression=exp.Literal.string("UTC"))
