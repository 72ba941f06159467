"""An even pace for requests: at most `per_second`, waiting instead of refusing."""

from __future__ import annotations

import asyncio


class Pace:
    """A token bucket of one second's worth (at least one token), on the event loop's monotonic time."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second or 1.0)
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
