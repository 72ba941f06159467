"""The only place that reads the machine's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Something that knows the time."""

    def now(self) -> datetime:
        """The time as naive UTC with microseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC).replace(tzinfo=None)


class VirtualClock:
    """A clock that stands still until it is moved, for simulations and tests; `start` is naive UTC."""

    def __init__(self, start: datetime) -> None:
        self._now = naive_utc(start)

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._now

    def advance_to(self, moment: datetime) -> None:
        """Move to a moment that is not before the present one.

        Raises:
            ValueError: the moment lies in the past.
        """
        moment = naive_utc(moment)
        if moment < self._now:
            raise ValueError(f"the clock stands at {self._now} and cannot go back to {moment}")
        self._now = moment


def naive_utc(moment: datetime) -> datetime:
    """The moment as naive UTC; a naive one is taken to be UTC already."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
