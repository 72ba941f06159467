"""An even pace for requests: within every short limit, waiting instead of refusing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from destinations.base import Limit

LONGEST_WAITED = timedelta(minutes=1)
"""Limits over longer windows are no pace: they are budgets, which the dispatcher keeps for all processes."""


class Pace:
    """A token bucket of one second's worth (at least one token) per limit, on the event loop's monotonic time."""

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        per_second = [limit.per_second for limit in limits if limit.per <= LONGEST_WAITED]
        self._per_second = min(per_second, default=None)
        self._burst = max(1.0, self._per_second or 1.0)
        self._tokens = self._burst
        self._seen: float | None = None

    async def turn(self) -> None:
        """Return when the next request may leave; at once without a limit."""
        if self._per_second is None:
            return
        now = asyncio.get_running_loop().time()
        elapsed = 0.0 if self._seen is None else max(0.0, now - self._seen)
        self._tokens = min(self._burst, self._tokens + elapsed * self._per_second)
        self._seen = now
        # Taken before the wait, so that concurrent callers queue up behind one another.
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._per_second)
