"""Times, durations and wall clocks, straight from the language page."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}
CALENDAR = {"d": timedelta(days=1), "w": timedelta(weeks=1)}
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = frozenset(available_timezones())


def moment(value: object) -> datetime:
    """A time of a simulation file as naive UTC."""
    if isinstance(value, datetime):
        parsed = value
    elif isinstance(value, date):
        parsed = datetime(value.year, value.month, value.day)
    else:
        parsed = datetime.fromisoformat(str(value))
    return parsed.astimezone(UTC).replace(tzinfo=None) if parsed.tzinfo else parsed


def shown(value: datetime) -> str:
    """As the log prints it: seconds only when they are not zero."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ" if value.second else "%Y-%m-%dT%H:%MZ")


def elapsed(text: object) -> timedelta:
    """A duration where `d` is plain 24 hours."""
    words = str(text).strip()
    return int(words[:-1]) * (UNITS | CALENDAR)[words[-1]]


def zone_of(names: list[object]) -> ZoneInfo:
    """The first name that the IANA database knows, else UTC."""
    for name in names:
        if isinstance(name, str) and name in ZONES:
            return ZoneInfo(name)
    return ZoneInfo("UTC")


def local(value: datetime, zone: ZoneInfo) -> datetime:
    """The wall clock of a zone at a UTC instant."""
    return value.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)


def resolve(wall: datetime, zone: ZoneInfo) -> datetime:
    """The UTC instant of a wall time: the first of two; one in a gap moves forward by the gap (both are `fold=0`)."""
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC).replace(tzinfo=None)


def later(start: datetime, duration: object, zone: ZoneInfo) -> datetime:
    """`start` plus a duration of `wait` or `within:`, whose days and weeks keep the wall time."""
    words = str(duration).strip()
    if words[-1] in UNITS:
        return start + elapsed(words)
    wall = local(start, zone)
    return resolve(wall + int(words[:-1]) * CALENDAR[words[-1]], zone)


def wall_time(text: object) -> time:
    """`08:00` as a time of day."""
    hour, minute = str(text).split(":")[:2]
    return time(int(hour), int(minute))


def next_local(after: datetime, at: time, days: list[str] | None, zone: ZoneInfo) -> datetime:
    """The first instant strictly after `after` at which the wall clock shows `at` on one of the days."""
    first = local(after, zone).date() - timedelta(days=2)
    found = []
    for step in range(20):
        day = first + timedelta(days=step)
        if days is None or DAY_NAMES[day.weekday()] in days:
            instant = resolve(datetime.combine(day, at), zone)
            if instant > after:
                found.append(instant)
    return min(found)


def window(value: datetime, start: time, end: time, days: list[str] | None, zone: ZoneInfo) -> datetime | None:
    """When the window that is open at an instant opened, None outside; equal times are a whole day."""
    today = local(value, zone).date()
    for day in (today + timedelta(days=1), today, today - timedelta(days=1)):
        last = day if start < end else day + timedelta(days=1)
        opened = resolve(datetime.combine(day, start), zone)
        if opened <= value < resolve(datetime.combine(last, end), zone):
            return opened if days is None or DAY_NAMES[day.weekday()] in days else None
    return None


def opening(value: datetime, start: time, end: time, days: list[str] | None, zone: ZoneInfo) -> date | None:
    """The day on which the window that holds an instant opened, None outside."""
    wall = local(value, zone)
    if start == end:
        return None
    if start < end:
        day = wall.date() if start <= wall.time() < end else None
    elif wall.time() >= start:
        day = wall.date()
    else:
        day = wall.date() - timedelta(days=1) if wall.time() < end else None
    if day is None or (days is not None and DAY_NAMES[day.weekday()] not in days):
        return None
    return day
