"""The way back: what an outside system tells us, checked and turned into events.

A destination's `parse_inbound` takes one request as it came (raw bytes; signatures are over those) and answers with
events in our own words, or refuses. It opens nothing and keeps nothing: whoever serves the request limits its size,
remembers `once` for a while, stores the events by their ids and answers.

Event names are the channel and what happened: `email_delivered`, `email_deferred`, `email_bounced` (the address is
dead), `email_soft_bounced`, `email_rejected`, `email_complained`, `email_unsubscribed`, `email_resubscribed`,
`email_opened`, `email_clicked`, `email_replied`; the same with `sms_`. Others are the sender's own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

TOLERANCE = timedelta(minutes=5)
"""How old, or how far ahead, a signed time may be."""

MAX_EVENTS = 1000
"""More events in one request are refused."""

OptOutReason = Literal["bounced", "complained", "unsubscribed"]


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request, as it came. Header names are lower case; `url` is the full address that the sender called."""

    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = ""
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class OptOut:
    """What an event changes about who may be written to.

    `scope` is `all` or a message group; `lift` takes an earlier opt-out back.
    """

    reason: OptOutReason
    channel: Literal["email", "sms", "push"]
    scope: str = "all"
    lift: bool = False


@dataclass(frozen=True, slots=True)
class InboundEvent:
    """One thing that happened outside.

    `event_id` is the same whenever the sender repeats itself. `time` is naive UTC. `action_id` is the message it is
    about, when the sender gives it back; `email` and `phone` say whom it is about, in any case they are personal data.
    `machine` marks an open or click that a scanner or image proxy made. `data` holds only what is worth keeping.
    """

    event_id: str
    name: str
    time: datetime
    action_id: str | None = None
    email: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    opt_out: OptOut | None = None
    machine: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """What a request holds.

    `once`: a request with this value was accepted before within twice the tolerance is a replay, answer 200 and drop
    it (None: the event ids alone tell). `confirm`: an https URL of the vendor that has to be fetched once, by which it
    learns that we want its messages; its host is checked already. `answer`: the body the sender expects back.
    """

    events: tuple[InboundEvent, ...] = ()
    once: str | None = None
    confirm: str | None = field(default=None, repr=False)
    answer: str = ""


class InboundRefused(Exception):
    """A request that is not taken: `status` to answer with, a stable `code`, and why, without anything of the body."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.status = status
        self.code = code
        self.message = message


def forged() -> InboundRefused:
    """The refusal of a request that does not carry a valid signature; it never says what was wrong with it."""
    return InboundRefused(401, "D401", "the signature is missing or wrong")


def check_time(seconds: str, now: datetime, tolerance: timedelta = TOLERANCE) -> datetime:
    """The signed time, in epoch seconds, as naive UTC. Raises InboundRefused when it is unreadable or stale."""
    try:
        moment = datetime.fromtimestamp(float(seconds), UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        raise forged() from None
    if abs(moment - now) > tolerance:
        raise InboundRefused(401, "D402", "the signed time is not the present")
    return moment


def same(expected: str, given: str) -> bool:
    """Whether two signatures are equal, in constant time."""
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))


def hmac_base64(key: bytes, content: bytes, digest: str = "sha256") -> str:
    """An HMAC in base64."""
    return base64.b64encode(hmac.digest(key, content, digest)).decode()


def hmac_hex(key: bytes, content: bytes) -> str:
    """An HMAC-SHA256 in lower-case hex."""
    return hmac.digest(key, content, "sha256").hex()


def decoded(body: bytes) -> Any:
    """The body as JSON. Raises InboundRefused."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InboundRefused(400, "D403", "the body is not JSON") from None


def json_map(value: object, what: str = "the body") -> Mapping[str, Any]:
    """The value, if it is a JSON object. Raises InboundRefused."""
    if not isinstance(value, dict):
        raise InboundRefused(400, "D404", f"{what} is not a JSON object")
    return value


def json_list(value: object, what: str = "the body") -> Sequence[Any]:
    """The value, if it is a JSON array of at most MAX_EVENTS. Raises InboundRefused."""
    if not isinstance(value, list):
        raise InboundRefused(400, "D404", f"{what} is not a JSON array")
    if len(value) > MAX_EVENTS:
        raise InboundRefused(413, "D405", f"more than {MAX_EVENTS} events in one request")
    return value


def moment_of(value: object, default: datetime) -> datetime:
    """A time as naive UTC: epoch seconds, epoch milliseconds or ISO 8601; `default` when it is none of these."""
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
        number = float(str(value))
        # Seconds stay below this until the year 5138; milliseconds were above it since 1973.
        return datetime.fromtimestamp(number / 1000 if number > 1e11 else number, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return default


def text_of(value: object, limit: int = 500) -> str | None:
    """A text or number as text of at most `limit` characters, without control characters; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = "".join(sign if sign.isprintable() else " " for sign in str(value)).strip()
    return text[:limit] or None


def kept(**values: object) -> dict[str, str]:
    """The values that are short texts or numbers, by name; what is missing is left out."""
    return {name: text for name, value in values.items() if (text := text_of(value)) is not None}


def event_id_of(source: str, *parts: object) -> str:
    """An id of an event whose sender gives none: the same parts are the same event."""
    joined = "".join(f"{len(text)}:{text}" for text in map(str, parts))
    return f"{source}:{hashlib.sha256(joined.encode()).hexdigest()[:32]}"


def standard_webhook_key(secret: str) -> bytes | None:
    """The bytes of a `whsec_…` secret of the Standard Webhooks specification; None when it is none."""
    if not secret.startswith("whsec_"):
        return None
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return None
    return key if 24 <= len(key) <= 64 else None


def check_standard_webhook(request: Inbound, secrets: Sequence[str], now: datetime) -> tuple[str, datetime]:
    """Check a request signed as the Standard Webhooks specification says: its id and its time.

    Any of the secrets may have signed it, so that they can be rotated. Raises InboundRefused.
    """
    message = request.headers.get("webhook-id", "")
    seconds = request.headers.get("webhook-timestamp", "")
    given = request.headers.get("webhook-signature", "").split(" ")
    if not message or not seconds.isdigit():
        raise forged()
    content = f"{message}.{seconds}.".encode() + request.body
    keys = [key for secret in secrets if (key := standard_webhook_key(secret)) is not None]
    valid = [same("v1," + hmac_base64(key, content), one) for key in keys for one in given]
    if not any(valid):
        raise forged()
    return message, check_time(seconds, now)
