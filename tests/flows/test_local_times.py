"""Local times over two years of hours, in zones that change their clocks differently: compiled SQL against zoneinfo."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from sqlglot import exp

from compiler.calendar import WEEKDAYS, instant, next_time, on_day, opening, wall
from compiler.workflow import Weekday, Window
from flows.warehouse.duckdb import DuckDBWarehouse

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Nuuk")
FIRST, LAST = datetime(2024, 1, 1), datetime(2026, 1, 1)
HOURS = [FIRST + timedelta(hours=number) for number in range(int((LAST - FIRST) / timedelta(hours=1)) + 1)]
ZONE, MOMENT = exp.column("tz", table="f"), exp.column("moment", table="f")


@pytest.fixture(scope="module")
def hours() -> Iterator[DuckDBWarehouse]:
    """Every hour of two years in every zone, as table `f`."""
    warehouse = DuckDBWarehouse(None)
    warehouse.execute("create table f (tz varchar, moment timestamp)")
    at = [hour for _ in ZONES for hour in HOURS]
    rows = {"tz": [zone for zone in ZONES for _ in HOURS], "moment": pa.array(at, pa.timestamp("us"))}
    warehouse.load(("f",), pa.table(rows))
    yield warehouse
    warehouse.close()


@cache
def resolved(zone: str, day: date, at: time) -> datetime:
    """The instant of a local time as naive UTC."""
    local = datetime.combine(day, at, ZoneInfo(zone))
    return local.astimezone(UTC).replace(tzinfo=None)


def all_times(zone: str, at: time, days: Sequence[Weekday]) -> list[datetime]:
    """Every instant at which the clock of a zone shows a time on such a day, and a few more at both ends."""
    around = [FIRST.date() + timedelta(days=number) for number in range(-9, (LAST - FIRST).days + 10)]
    return sorted(resolved(zone, day, at) for day in around if WEEKDAYS[day.weekday()] in days)


def local_day(zone: str, there: datetime, at: time) -> date:
    """The day whose local time `at` is an instant, which a gap may have moved past midnight."""
    shown = there.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    return shown.date() if shown.time() >= at else shown.date() - timedelta(days=1)


def shown() -> exp.Expr:
    return exp.column("shown", table="f")


def with_wall_clock() -> exp.Expr:
    return exp.select("f.tz", "f.moment", wall(MOMENT, ZONE).as_("shown")).from_("f").subquery("f")


@pytest.mark.parametrize(
    ("at", "days"),
    [
        ("09:00", None), ("02:15", None), ("01:45", None), ("02:30", ("sun",)),
        ("08:05", ("mon", "tue", "wed", "thu", "fri")), ("23:30", ("sat",)),
    ],
)  # fmt: skip
def test_the_next_local_time_is_that_of_zoneinfo_and_comes_once_a_day(
    hours: DuckDBWarehouse, at: str, days: tuple[Weekday, ...] | None
) -> None:
    following = next_time(MOMENT, shown(), at, days, ZONE).as_("following")
    rows = hours.rows(exp.select("f.tz", "f.moment", following).from_(with_wall_clock()))
    assert len(rows) == len(ZONES) * len(HOURS)
    for zone in ZONES:
        due = all_times(zone, time.fromisoformat(at), days or WEEKDAYS)
        found = [(row["moment"], row["following"]) for row in rows if row["tz"] == zone]
        assert [following for _, following in found] == [due[bisect_right(due, moment)] for moment, _ in found]
        fired = {following for _, following in found}
        assert sorted(fired) == [there for there in due if FIRST < there <= max(fired)], "each day once"


def test_wall_clocks_and_instants_are_those_of_zoneinfo(hours: DuckDBWarehouse) -> None:
    there = instant(on_day(shown(), "02:15", 1), ZONE).as_("there")
    for row in hours.rows(exp.select("f.tz", "f.moment", "f.shown", there).from_(with_wall_clock())):
        clock = row["moment"].replace(tzinfo=UTC).astimezone(ZoneInfo(row["tz"])).replace(tzinfo=None)
        assert row["shown"] == clock, row
        assert row["there"] == resolved(row["tz"], clock.date() + timedelta(days=1), time(2, 15)), row


@pytest.mark.parametrize(
    "window",
    [
        Window(from_="01:45", to="02:40"), Window(from_="22:00", to="02:15", days=("fri", "sun")),
    ],
    ids=lambda window: f"{window.from_}-{window.to}",
)  # fmt: skip
def test_openings_are_those_of_zoneinfo(hours: DuckDBWarehouse, window: Window) -> None:
    found = opening(MOMENT, shown(), window, ZONE).as_("found")
    rows = hours.rows(exp.select("f.tz", "f.moment", found).from_(with_wall_clock()))
    start, end = time.fromisoformat(window.from_), time.fromisoformat(window.to)
    for zone in ZONES:
        starts = all_times(zone, start, window.days or WEEKDAYS)
        over_midnight = timedelta(days=1 if end <= start else 0)
        ends = {there: resolved(zone, local_day(zone, there, start) + over_midnight, end) for there in starts}
        for row in rows:
            if row["tz"] == zone:
                place = bisect_right(starts, row["moment"])
                inside = row["moment"] < ends[starts[place - 1]]
                assert row["found"] == starts[place - 1 if inside else place], row
