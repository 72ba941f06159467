"""Time arithmetic as trees: elapsed and calendar durations, wall clocks (language §4, RFC 5545 for gaps and folds)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot import exp

from compiler.functions import wall_clock
from compiler.lookup import seconds
from compiler.workflow import Duration, Weekday, Window

UTC_INSTANT = "utc_instant"
"""Function every warehouse adapter provides: (wall clock timestamp, zone) -> naive UTC timestamp."""
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 86400
_LONGEST_GAP = 3 * 3600
"""By how much a clock goes forward at most; that a zone skips a whole day moves its times to the next day's own."""


def after(moment: exp.Expr, duration: Duration, zone: exp.Expr | None) -> exp.Expr:
    """`moment + duration`; d and w are calendar days on the wall clock of `zone` (None = UTC)."""
    days = duration.calendar_days
    if days is None:
        return exp.Add(this=moment.copy(), expression=seconds(duration.elapsed.total_seconds()))
    interval = exp.Interval(this=exp.Literal.string(str(days)), unit=exp.var("DAY"))
    in_utc = exp.Add(this=moment.copy(), expression=interval)

    def elsewhere(place: exp.Expr) -> exp.Expr:
        local = exp.Add(this=exp.paren(wall_clock(moment, place)), expression=interval.copy())
        return _utc_instant(local, place)

    return _unless_utc(zone, in_utc, elsewhere)


def elapsed_more_than(earlier: exp.Expr, later: exp.Expr, amount: float) -> exp.Expr:
    """`later - earlier > amount seconds`, without date_diff (engines disagree about it)."""
    limit = exp.Add(this=earlier.copy(), expression=seconds(amount))
    return exp.GT(this=later.copy(), expression=limit)


def shows_between(moment: exp.Expr, start: str, end: str, zone: exp.Expr | None) -> exp.Expr:
    """Whether the wall clock of `zone` (None = UTC) shows a time in [start, end) then, which may cross midnight."""
    shown = exp.cast(wall(moment, zone), "time")
    after_start = exp.GTE(this=shown, expression=exp.cast(exp.Literal.string(start), "time"))
    before_end = exp.LT(this=shown.copy(), expression=exp.cast(exp.Literal.string(end), "time"))
    return exp.and_(after_start, before_end) if start < end else exp.paren(exp.or_(after_start, before_end))


def wall(moment: exp.Expr, zone: exp.Expr | None) -> exp.Expr:
    """A UTC timestamp on the wall clock of `zone` (None = UTC)."""
    return _unless_utc(zone, moment, lambda place: wall_clock(moment, place))


def instant(shown: exp.Expr, zone: exp.Expr | None) -> exp.Expr:
    """The instant at which the wall clock of `zone` shows a time; in gaps and folds as RFC 5545 has it."""
    return _unless_utc(zone, shown, lambda place: _utc_instant(shown, place))


def on_day(shown: exp.Expr, time: str, days: int) -> exp.Expr:
    """The wall clock time `time`, so many days after the day of a wall clock timestamp."""
    midnight = exp.cast(exp.cast(shown.copy(), "date"), "timestamp")
    return exp.Add(this=midnight, expression=seconds(days * _DAY + _seconds_of(time)))


def next_time(
    moment: exp.Expr, shown: exp.Expr, time: str, days: Sequence[Weekday] | None, zone: exp.Expr | None
) -> exp.Expr:
    """The first instant after `moment` at which the wall clock of `zone` shows `time` on one of the weekdays.

    Args:
        moment: a UTC timestamp.
        shown: the column with its wall clock in the zone.
        time: the time of day.
        days: the weekdays, None for all.
        zone: the zone, None = UTC.
    """
    # Yesterday's time is still to come where a gap over midnight moves it to today; the day after tomorrow's always is.
    found = [_offsets(weekday, days) for weekday in range(1, 8)]
    width = max(map(len, found))
    *earlier, last = zip(*(offsets + offsets[-1:] * (width - len(offsets)) for offsets in found), strict=True)
    ifs = []
    for each in earlier:
        candidate = _by_weekday(shown, time, each)
        # plain arithmetic first: it is cheap, and settles it nearly always
        near = exp.GT(this=exp.Add(this=candidate, expression=seconds(_LONGEST_GAP)), expression=shown.copy())
        there = instant(candidate, zone)
        ifs.append(exp.If(this=exp.and_(near, exp.GT(this=there, expression=moment.copy())), true=there.copy()))
    return exp.Case(ifs=ifs, default=instant(_by_weekday(shown, time, last), zone))


def opening(moment: exp.Expr, shown: exp.Expr, window: Window, zone: exp.Expr | None) -> exp.Expr:
    """When the opening of a window starts that a moment lies in, else when the next one does.

    `shown` is the column with the moment on the wall clock of `zone`; equal times make a window of a whole day.
    """
    ifs = []
    for offset in (1, 0, -1):
        first = on_day(shown, window.from_, offset)
        last = on_day(shown, window.to, offset + (window.to <= window.from_))
        start, end = instant(first, zone), instant(last, zone)
        tests: list[exp.Expr] = [
            exp.LTE(this=exp.Sub(this=first, expression=seconds(_LONGEST_GAP)), expression=shown.copy()),
            exp.GT(this=exp.Add(this=last, expression=seconds(_LONGEST_GAP)), expression=shown.copy()),
            exp.LTE(this=start, expression=moment.copy()), exp.GT(this=end, expression=moment.copy()),
        ]  # fmt: skip
        if window.days is not None:
            weekdays = [exp.Literal.number((WEEKDAYS.index(day) - offset) % 7 + 1) for day in window.days]
            tests.insert(0, exp.In(this=_weekday(shown), expressions=weekdays))
        ifs.append(exp.If(this=exp.and_(*tests), true=start.copy()))
    return exp.Case(ifs=ifs, default=next_time(moment, shown, window.from_, window.days, zone))


def _offsets(weekday: int, days: Sequence[Weekday] | None) -> list[int]:
    """Days from a weekday to those whose time may be next: from the day before to the first that surely is."""
    allowed = {WEEKDAYS.index(day) + 1 for day in days or WEEKDAYS}
    found = [offset for offset in range(-1, 10) if (weekday + offset - 1) % 7 + 1 in allowed]
    enough = next(place for place, offset in enumerate(found) if offset >= 2)
    return found[: enough + 1]


def _by_weekday(shown: exp.Expr, time: str, offsets: Sequence[int]) -> exp.Expr:
    """A wall clock time, `offsets` days after a day: one number for each weekday of that day."""
    if len(set(offsets)) == 1:
        return on_day(shown, time, offsets[0])
    ifs = [
        exp.If(this=exp.Literal.number(weekday), true=on_day(shown, time, offset))
        for weekday, offset in enumerate(offsets, 1)
    ]
    return exp.Case(this=_weekday(shown), ifs=ifs)


def _weekday(shown: exp.Expr) -> exp.Expr:
    return exp.Extract(this=exp.var("ISODOW"), expression=shown.copy())


def _seconds_of(time: str) -> int:
    hours, minutes = time.split(":")
    return int(hours) * 3600 + int(minutes) * 60


def _unless_utc(zone: exp.Expr | None, in_utc: exp.Expr, elsewhere: Callable[[exp.Expr], exp.Expr]) -> exp.Expr:
    """What needs no zone arithmetic for contacts in UTC: they are many, and it costs a hundred times an addition."""
    if zone is None or (isinstance(zone, exp.Literal) and zone.this == "UTC"):
        return in_utc.copy()
    is_utc = exp.EQ(this=zone.copy(), expression=exp.Literal.string("UTC"))
    return exp.Case(ifs=[exp.If(this=is_utc, true=in_utc.copy())], default=elsewhere(zone))


def _utc_instant(shown: exp.Expr, zone: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=UTC_INSTANT, expressions=[shown.copy(), zone.copy()])
