"""What an answer means for an action: the retry classification as data, in one place.

HTTP statuses not listed follow their class (2xx sent, 3xx and 4xx failed, 5xx retry). A destination overrides single
entries, never the reading of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal

from destinations.base import Status, Stop

MAX_RETRY_AFTER = timedelta(hours=24)
"""A longer `Retry-After` is clamped: it would keep an action past any sensible age."""


class Trouble(StrEnum):
    """A call without an answer; the value is the code of the verdict."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    DNS = "dns"
    TLS = "tls"
    CERTIFICATE = "certificate"
    ADDRESS = "address_refused"
    TIMEOUT = "timeout"
    RESET = "reset"
    ANSWER = "unreadable_answer"


@dataclass(frozen=True, slots=True)
class Ruling:
    """`split`: the verdict holds for the request, not for each row; halve the batch to find the bad one."""

    status: Status
    stop: Stop | None = None
    split: bool = False
    suppress: Literal["bounced"] | None = None


SENT = Ruling("sent")
RETRY = Ruling("retry")
FAILED = Ruling("failed")
UNKNOWN = Ruling("unknown")
CREDENTIALS = Ruling("retry", stop="credentials")
BAD_ROW = Ruling("failed", split=True)

HTTP: Mapping[int, Ruling] = {
    400: BAD_ROW,
    401: CREDENTIALS,
    403: CREDENTIALS,
    408: RETRY,
    409: BAD_ROW,
    413: BAD_ROW,
    422: BAD_ROW,
    425: RETRY,
    429: RETRY,
    # A gateway answers these when it lost the server that may have done the work.
    502: UNKNOWN,
    504: UNKNOWN,
}
"""Default rulings for HTTP destinations."""

TROUBLES: Mapping[Trouble, Ruling] = {
    Trouble.CONNECT: RETRY,
    Trouble.CONNECT_TIMEOUT: RETRY,
    Trouble.DNS: RETRY,
    Trouble.TLS: RETRY,
    Trouble.CERTIFICATE: Ruling("retry", stop="tls"),
    Trouble.ADDRESS: Ruling("retry", stop="configuration"),
    Trouble.TIMEOUT: UNKNOWN,
    Trouble.RESET: UNKNOWN,
    Trouble.ANSWER: UNKNOWN,
}
"""Rulings for calls without an answer: `unknown` once the request was written, `retry` before."""

HUBSPOT: Mapping[int, Ruling] = {
    # Upserts are safe to repeat, and the vendor names these as retryable.
    423: RETRY,
    477: RETRY,
    502: RETRY,
    504: RETRY,
    521: RETRY,
    522: RETRY,
    523: RETRY,
    524: RETRY,
}

HUBSPOT_ROW: Mapping[str, Ruling] = {
    "RATE_LIMITS": RETRY,
    "RATE_LIMIT": RETRY,
    "INTERNAL_ERROR": RETRY,
    "LOCKED": RETRY,
    "MIGRATION_IN_PROGRESS": RETRY,
}
"""By category of one row's error inside an accepted batch; every other category is final for the row."""

WEBHOOK: Mapping[int, Ruling] = {410: Ruling("failed", stop="endpoint_gone")}

SCRIPTED: Mapping[int, Ruling] = {
    # The language's own rule, which simulations promise: 2xx sent, 429 and 5xx retried, every other 4xx failed at once.
    401: FAILED,
    403: FAILED,
    408: FAILED,
    425: FAILED,
    502: RETRY,
    504: RETRY,
}

SMTP: Mapping[str, Ruling] = {
    "530": CREDENTIALS,
    "534": CREDENTIALS,
    "535": CREDENTIALS,
    "538": CREDENTIALS,
    "550 5.1.1": Ruling("failed", suppress="bounced"),
}
"""By reply code or reply code and enhanced status; otherwise 2xx sent, 4xx retry, 5xx failed."""

_ENHANCED = re.compile(r"^\s*([245]\.\d{1,3}\.\d{1,3})\b")


def http_ruling(status: int, overrides: Mapping[int, Ruling] | None = None) -> Ruling:
    """The ruling for an HTTP status."""
    for table in (overrides or {}, HTTP):
        if status in table:
            return table[status]
    if 200 <= status < 300:
        return SENT
    return RETRY if status >= 500 else FAILED


def smtp_code(reply: int, text: str) -> str:
    """`550 5.1.1` from a reply code and its text; only the code when there is no enhanced status."""
    match = _ENHANCED.match(text)
    return f"{reply} {match[1]}" if match else str(reply)


def smtp_ruling(code: str) -> Ruling:
    """The ruling for a code of `smtp_code`."""
    for key in (code, code[:3]):
        if key in SMTP:
            return SMTP[key]
    match code[0]:
        case "2":
            return SENT
        case "4":
            return RETRY
        case "5":
            # 5.1.1 says "no such mailbox" under any 55x reply.
            return SMTP["550 5.1.1"] if code.endswith(" 5.1.1") else FAILED
        case _:
            return UNKNOWN


def clamp(pause: timedelta) -> timedelta:
    """Between zero and MAX_RETRY_AFTER."""
    return min(max(pause, timedelta(0)), MAX_RETRY_AFTER)


def retry_after(headers: Mapping[str, str], now: datetime | None) -> timedelta | None:
    """`Retry-After` as a pause: delta-seconds, or an HTTP date when `now` is known; None when absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"-?\d{1,12}(\.\d+)?", value):
        return clamp(timedelta(seconds=float(value)))
    if not value or now is None:
        return None
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return clamp(utc(when) - utc(now))


def utc(moment: datetime) -> datetime:
    """The moment as aware UTC; a naive one is UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
