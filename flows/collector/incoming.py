"""What an event that comes in must look like, and why one is refused.

    {"id": "…", "name": "cart_created", "time": "2026-03-02T09:00:00Z", "contact_id": "c1", "properties": {"total": 12}}

Only `name` is required. Who it is about: `contact_id`, or `email` or `phone` of a contact, or `action_id` of a
message; `anonymous_id` names a visitor who is nobody yet. A write key that stands in web pages is public: it may say
who somebody is only by a signed `identity`, and may not use the names of what Penstock itself observes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from flows.collector.tokens import Keyring

LARGEST = 64_000
"""Bytes of one event as JSON."""
MOST_PROPERTIES = 200
DEEPEST = 8
MOST_EVENTS = 500
"""Events of one request."""
OBSERVED = ("email_", "sms_", "push_")
"""Names begin so of what Penstock itself observes: opens, clicks, bounces, opt-outs."""

_KEYS = frozenset({
    "id", "name", "time", "contact_id", "action_id", "email", "phone", "anonymous_id", "identity", "properties",
})  # fmt: skip
_TEXTS = ("id", "contact_id", "email", "phone", "anonymous_id")
_PERSONAL = frozenset({"contact_id", "email", "phone", "action_id"})
_LONGEST = 200
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:/ -]{0,99}").fullmatch
_NESTED: frozenset[type] = frozenset({dict, list})

Json = dict[str, Any]
Who = Literal["server", "browser"]


@dataclass(frozen=True)
class Refused:
    """An event that was not taken: its place in the request, a stable word, and a sentence."""

    index: int
    reason: str
    message: str


class Intake:
    """Checks the events of one write key; a signed `identity` is replaced by the contact it stands for.

    Args:
        who: whether the key is public.
        keyring: what an `identity` is signed with.
        names: the only names that are taken; empty for any.
    """

    def __init__(self, who: Who, keyring: Keyring, names: frozenset[str] = frozenset()) -> None:
        self._public = who == "browser"
        self._keyring, self._names = keyring, names

    def split(self, found: Sequence[Any], size: int, *, odd: bool) -> tuple[list[Json], list[Refused]]:
        """The events that are taken, and those that are not.

        Args:
            found: what the request held.
            size: its bytes; a request that is not larger than one event may be holds no larger event.
            odd: the request holds an escaped NUL somewhere.
        """
        taken: list[Json] = []
        refused: list[Refused] = []
        closely = odd or size > LARGEST
        for index, event in enumerate(found):
            problem = self._problem(event) or (_size_or_nul(event) if closely else None)
            if problem is None:
                taken.append(event)
            else:
                refused.append(Refused(index, *problem))
        return taken, refused

    def _problem(self, event: Any) -> tuple[str, str] | None:
        if type(event) is not dict:
            return "not_an_event", "an event is a JSON object"
        if not event.keys() <= _KEYS:
            unknown = next(iter(event.keys() - _KEYS))
            return "unknown_key", f"unknown key {str(unknown)[:50]!r}; allowed: {', '.join(sorted(_KEYS))}"
        name = event.get("name")
        if type(name) is not str or not _NAME(name):
            return "bad_name", "name is 1 to 100 letters, digits and _ . : / - or spaces, and begins with a letter"
        if self._names and name not in self._names:
            return "unknown_name", "this write key does not take events of that name"
        for key in _TEXTS:
            value = event.get(key)
            if value is not None and (type(value) is not str or not value or len(value) > _LONGEST):
                return f"bad_{key}", f"{key} is a text of 1 to {_LONGEST} characters"
        if (time := event.get("time")) is not None and not _is_time(time):
            return "bad_time", "time is ISO 8601, such as 2026-03-02T09:00:00Z"
        if (properties := event.get("properties")) is not None and (wrong := _wrong_properties(properties)):
            return wrong
        return self._who(event, name)

    def _who(self, event: Json, name: str) -> tuple[str, str] | None:
        """Check who it is about."""
        if (action := event.get("action_id")) is not None and not _is_uuid(action):
            return "bad_action_id", "action_id is the UUID of a message"
        if self._public:
            if not _PERSONAL.isdisjoint(event):
                return "unsigned_identity", "a public write key says who somebody is by a signed identity only"
            if name.startswith(OBSERVED):
                return "reserved_name", f"names that begin with {', '.join(OBSERVED)} are written by Penstock"
        if (identity := event.pop("identity", None)) is not None:
            contact = self._keyring.contact(identity) if type(identity) is str else None
            if contact is None:
                return "bad_identity", "identity is not one that this collector's secret signed"
            event["contact_id"] = contact
        return None


def _wrong_properties(properties: Any) -> tuple[str, str] | None:
    if type(properties) is not dict:
        return "bad_properties", "properties is a JSON object"
    if len(properties) > MOST_PROPERTIES:
        return "too_many_properties", f"at most {MOST_PROPERTIES} properties"
    if not _NESTED.isdisjoint({type(value) for value in properties.values()}) and _deeper(properties, DEEPEST):
        return "too_deep", f"properties are nested at most {DEEPEST} levels"
    return None


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if type(value) is dict else value if type(value) is list else None
    if inner is None:
        return False
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)


def _size_or_nul(event: Json) -> tuple[str, str] | None:
    text = orjson.dumps(event)
    if len(text) > LARGEST:
        return "too_large", f"an event has at most {LARGEST:,} bytes"
    if b"\\u0000" in text:
        return "nul_character", "a text holds the character NUL, which no warehouse stores"
    return None


def _is_time(value: Any) -> bool:
    if type(value) is not str or not 10 <= len(value) <= 40:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_uuid(value: Any) -> bool:
    if type(value) is not str or len(value) != 36:
        return False
    try:
        UUID(value)
    except ValueError:
        return False
    return True
