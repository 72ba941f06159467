"""Limits of how much may come: token buckets on a monotonic clock."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable


class Allowance:
    """So many units a second, and at most two seconds' worth at once.

    Args:
        rate: units a second.
        monotonic: seconds that only grow.
    """

    __slots__ = ("_full", "_left", "_monotonic", "_rate", "_then")

    def __init__(self, rate: float, monotonic: Callable[[], float]) -> None:
        self._rate, self._monotonic = rate, monotonic
        self._full = self._left = max(2 * rate, 1.0)
        self._then = monotonic()

    def take(self, units: int) -> int:
        """Take units; 0 when they were there, else in how many seconds they will be.

        More than there can ever be are let through when nothing was taken lately, and paid off afterwards.
        """
        now = self._monotonic()
        self._left = min(self._full, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left >= min(units, self._full):
            self._left -= units
            return 0
        return max(1, math.ceil((min(units, self._full) - self._left) / self._rate))


class Allowances:
    """One allowance per address, or whatever else is counted, for those that came last."""

    def __init__(self, rate: float, monotonic: Callable[[], float], remembered: int = 10_000) -> None:
        self._rate, self._monotonic, self._remembered = rate, monotonic, remembered
        self._known: OrderedDict[str, Allowance] = OrderedDict()

    def take(self, who: str) -> int:
        """Take one unit of one; see `Allowance.take`."""
        known = self._known.get(who)
        if known is None:
            known = self._known[who] = Allowance(self._rate, self._monotonic)
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(who)
        return known.take(1)
