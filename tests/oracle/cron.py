"""Cron lines on a wall clock: the occurrences of a schedule, straight from the language page."""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from tests.oracle.clock import local, resolve

NAMES = {name: number for number, name in enumerate("sun mon tue wed thu fri sat".split())}


def field(text: str, low: int, high: int) -> set[int]:
    """The numbers of one field: `*`, `*/6`, `9,17`, `1-5`, `MON`."""
    found: set[int] = set()
    for part in text.lower().split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            first, last = str(low), str(high)
        start = NAMES.get(first, first)
        end = NAMES.get(last, last) or start
        found |= set(range(int(start), int(end) + 1, int(step or 1)))
    return found


def occurrences(line: str, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """The instants in (after, until] at which the wall clock shows a time of the line, each once."""
    minutes, hours, days, months, weekdays = line.split()
    at = sorted(time(hour, minute) for hour in field(hours, 0, 23) for minute in field(minutes, 0, 59))
    found: set[datetime] = set()
    day = local(after, zone).date() - timedelta(days=2)
    while day <= local(until, zone).date() + timedelta(days=2):
        if (
            day.day in field(days, 1, 31)
            and day.month in field(months, 1, 12)
            and day.isoweekday() % 7 in {number % 7 for number in field(weekdays, 0, 6)}
        ):
            found |= {resolve(datetime.combine(day, each), zone) for each in at}
        day += timedelta(days=1)
    return sorted(each for each in found if after < each <= until)
