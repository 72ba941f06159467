"""Occurrences: when the cron line of a schedule comes round, in each time zone, and for whom (language §1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa

from compiler.plan import ScheduleEntry
from flows.engine.deployment import BEGINNING, Deployed
from flows.engine.work import Work
from flows.journal.ids import instant
from flows.journal.tables import stage

_MARGIN = timedelta(hours=26)
"""No clock change moves a wall time further: the largest one skipped a day."""


def no_occurrences(work: Work) -> None:
    """Make an empty `tick_occurrences`."""
    work.run(_OCCURRENCES)


def find_occurrences(work: Work, deployed: Deployed, previous: datetime | None) -> bool:
    """Add to `tick_occurrences` what came round of a workflow since a tick; whether somebody is concerned.

    `previous`: the time of the last tick that evaluated it, None if none did.
    """
    plan = deployed.admitting
    if plan is None or not isinstance(plan.entry, ScheduleEntry):
        return False
    after = _after(work, deployed, previous)
    key = (plan.workflow, str(plan.version))
    zones = [plan.entry.zone] if plan.entry.zone is not None else _zones(work)
    instants = [(zone, at) for zone in zones for at in occurrences(plan.entry.cron, zone, after, work.tick_at)]
    if not instants:
        return False
    stage(work.warehouse, "tick_instants", _table(instants))
    work.make("tick_members", plan.entry.members, *key)
    return bool(work.run(_WHO, workflow=plan.workflow))


def occurrences(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """The instants in (after, until], naive UTC, at which a cron line comes round on the wall clock of a zone.

    A wall time in a gap moves forward by the gap; an ambiguous one means its first occurrence.
    """
    place = ZoneInfo(zone)
    margin = timedelta(0) if _steady(place, after, until) else _MARGIN
    found = {
        wall.replace(tzinfo=place).astimezone(UTC).replace(tzinfo=None)
        for wall in _walls(cron, _wall(place, after) - margin, _wall(place, until) + margin)
    }
    return sorted(moment for moment in found if after < moment <= until)


def _after(work: Work, deployed: Deployed, previous: datetime | None) -> datetime:
    """What came round at this moment or before is no candidate; a schedule without a beginning begins now."""
    begin = deployed.earliest if deployed.earliest != BEGINNING else deployed.activated_at
    if begin == BEGINNING:
        return previous or work.tick_at - timedelta(microseconds=1)
    return max(previous or BEGINNING, begin - timedelta(microseconds=1))


def _steady(zone: ZoneInfo, after: datetime, until: datetime) -> bool:
    return _offset(zone, after - _MARGIN) == _offset(zone, after) == _offset(zone, until + _MARGIN)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta | None:
    return moment.replace(tzinfo=UTC).astimezone(zone).utcoffset()


def _wall(zone: ZoneInfo, moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)


def _walls(cron: str, after: datetime, until: datetime) -> Iterator[datetime]:
    from croniter import croniter

    times = croniter(cron, after)
    while (wall := times.get_next(datetime)) <= until:
        yield wall


def _zones(work: Work) -> list[str]:
    rows = work.deployment.contact_zones()
    text = work.texts.text(("contact_zones",), rows, work.warehouse)
    return sorted(row["tz"] for row in work.warehouse.rows(text, work.parameters))


def _table(instants: Iterable[tuple[str, datetime]]) -> pa.Table:
    rows = [{"zone": zone, "at": at, "ref": instant(at)} for zone, at in instants]
    return pa.Table.from_pylist(
        rows, pa.schema([("zone", pa.string()), ("at", pa.timestamp("us")), ("ref", pa.string())])
    )


_OCCURRENCES = """
    CREATE OR REPLACE TEMP TABLE tick_occurrences (workflow TEXT, contact_id TEXT, ref TEXT, "at" TIMESTAMP)
"""
_WHO = """
    INSERT INTO tick_occurrences
    SELECT $workflow, m.contact_id, i.ref, i."at" FROM tick_members AS m JOIN tick_instants AS i ON i.zone = m.zone
"""
