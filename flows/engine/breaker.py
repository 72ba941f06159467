"""The circuit breaker of an account: after which answers nothing more is sent to it, and for how long.

It opens by class of error: at once when the credentials or the configuration are refused or the account is throttled;
after some calls in a row when nobody answers or the server fails; after many actions in a row that were all refused.
When its time is up one call is let through: an answer closes it, another error opens it for twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from destinations.base import Stop, Verdict

Reason = Literal["credentials", "configuration", "tls", "endpoint_gone", "throttled", "server", "payload"]

FAILING_CALLS = 5
"""So many calls in a row without an answer, or with a 5xx, are a system that is down."""
REFUSED_ACTIONS = 100
"""So many refused actions in a row, and none taken, are a mistake in the definition and not in the contacts."""
PATIENCE: dict[Reason, tuple[timedelta, timedelta]] = {
    "credentials": (timedelta(minutes=1), timedelta(hours=1)),
    "configuration": (timedelta(minutes=1), timedelta(hours=1)),
    "tls": (timedelta(minutes=1), timedelta(hours=1)),
    "endpoint_gone": (timedelta(hours=1), timedelta(hours=24)),
    "throttled": (timedelta(seconds=10), timedelta(minutes=10)),
    "server": (timedelta(seconds=30), timedelta(minutes=10)),
    "payload": (timedelta(minutes=10), timedelta(hours=1)),
}
"""The first pause of each class, and the longest; each is twice the one before."""


@dataclass(frozen=True)
class Breaker:
    """An open breaker: until when nothing is sent, and why; `failures` in a row."""

    account: str
    reason: Reason
    code: str
    failures: int
    since: datetime
    until: datetime

    @property
    def said(self) -> str:
        """In words."""
        return f"{self.reason} ({self.code}), until {self.until:%Y-%m-%d %H:%M:%S} UTC"


@dataclass
class Circuit:
    """What the calls of one account said lately; `breaker` is open, or half open once its time is up."""

    account: str
    breaker: Breaker | None = None
    failing_calls: int = 0
    refused_actions: int = 0

    def resting(self, now: datetime) -> Breaker | None:
        """The breaker while it is open."""
        return self.breaker if self.breaker is not None and now < self.breaker.until else None

    @property
    def probing(self) -> bool:
        """Whether only one call may be made, to see whether the account is well again."""
        return self.breaker is not None

    def observe(self, verdicts: Sequence[Verdict], now: datetime) -> Breaker | None:
        """Learn from one call; the breaker that it opened."""
        if not verdicts or self.resting(now) is not None:
            return None
        stop: Stop | None = next((verdict.stop for verdict in verdicts if verdict.stop is not None), None)
        if stop is not None:
            return self._open(stop, _code(verdicts, stopped=True), now)
        if any(verdict.status == "sent" for verdict in verdicts):
            self.breaker, self.failing_calls, self.refused_actions = None, 0, 0
            return None
        if all(verdict.status == "failed" for verdict in verdicts):
            self.failing_calls = 0
            self.refused_actions += len(verdicts)
            if self.breaker is not None and self.breaker.reason != "payload":
                self.breaker = None  # it answers again
            if self.refused_actions < REFUSED_ACTIONS and not self.probing:
                return None
            return self._open("payload", _code(verdicts), now)
        if _throttled(verdicts):
            asked = max((v.retry_after for v in verdicts if v.retry_after is not None), default=None)
            return self._open("throttled", _code(verdicts), now, asked)
        if any(verdict.status == "failed" for verdict in verdicts):
            return None
        self.failing_calls += 1
        if self.failing_calls < FAILING_CALLS and not self.probing:
            return None
        return self._open("server", _code(verdicts), now)

    def _open(self, reason: Reason, code: str, now: datetime, asked: timedelta | None = None) -> Breaker:
        again = self.breaker is not None and self.breaker.reason == reason
        failures = self.breaker.failures + 1 if self.breaker is not None and again else 1
        first, longest = PATIENCE[reason]
        pause = asked if asked is not None else min(first * 2 ** min(failures - 1, 16), longest)
        opened = Breaker(self.account, reason, code, failures, now, now + pause)
        if self.breaker is not None and again:
            opened = replace(opened, since=self.breaker.since)
        self.breaker, self.failing_calls = opened, 0
        return opened


def _throttled(verdicts: Sequence[Verdict]) -> bool:
    """Every action of the call is to be tried again, and the answer was about the pace."""
    waits = all(verdict.status == "retry" for verdict in verdicts)
    return waits and any(v.retry_after is not None or v.code.startswith("429") for v in verdicts)


def _code(verdicts: Sequence[Verdict], *, stopped: bool = False) -> str:
    chosen = next((v for v in verdicts if v.stop is not None), verdicts[0]) if stopped else verdicts[0]
    return chosen.code
