"""HubSpot's wire format: property values as text, one verdict per row out of a batch answer, how long to wait."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from destinations.base import Action, Verdict
from destinations.classification import FAILED, HUBSPOT_ROW, Trouble, clamp, retry_after, utc
from destinations.errors import PayloadError
from destinations.secret import scrub, texts_of

if TYPE_CHECKING:
    from destinations.transport import Answer

_ROLLING = timedelta(seconds=10)
_LOCKED = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Row:
    """One input of a batch upsert; `key` is the value of `id_property`."""

    action: Action
    id_property: str
    key: str
    properties: Mapping[str, str]


def text_value(value: object) -> str:
    """A property value as HubSpot wants it: always text, "" clears. Raises PayloadError for nested values."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return utc(value).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case str() | int() | float() | Decimal():
            return str(value)
        case list() | tuple() if all(isinstance(part, str | int | float) for part in value):
            return ";".join(str(part) for part in value)
        case _:
            raise PayloadError("unencodable", "a property holds a value that HubSpot cannot take")


def row_verdicts(rows: Sequence[Row], answer: Answer, token: str) -> list[Verdict]:
    """One verdict per row of an accepted batch: results by trace id or id property (their order means nothing), errors
    by trace id. A row named by neither is a `retry`: such answers have been seen, and an upsert may be repeated.
    """
    data = json_object(answer.body)
    if data is None or not answer.complete:
        return [
            Verdict(row.action.action_id, "unknown", Trouble.ANSWER.value, "the answer is not readable") for row in rows
        ]
    results = [item for item in _items(data, "results") if item.get("id")]
    errors = dict(_errors_by_trace(data))
    # A complete answer without errors says "all inputs succeeded" even if it names none of them.
    complete = len(results) == len(rows) and not _items(data, "errors")
    by_trace = {str(item["objectWriteTraceId"]): item for item in results if item.get("objectWriteTraceId")}
    return [_row_verdict(row, answer.status, errors, by_trace, results, complete, token) for row in rows]


def _row_verdict(
    row: Row,
    status: int,
    errors: Mapping[str, Mapping[str, Any]],
    by_trace: Mapping[str, Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    complete: bool,
    token: str,
) -> Verdict:
    action_id = row.action.action_id
    if action_id in errors:
        error = errors[action_id]
        category = str(error.get("category", "UNKNOWN"))
        message = scrub(_describe(error), [token, *texts_of(row.action.payload), *row.properties.values()])
        return Verdict(action_id, HUBSPOT_ROW.get(category, FAILED).status, f"{status} {category}"[:64], message)
    found = by_trace.get(action_id) or _by_key(row, results)
    if found is not None:
        return Verdict(action_id, "sent", str(status), receipt={"id": str(found["id"])})
    if complete:
        return Verdict(action_id, "sent", str(status))
    return Verdict(action_id, "retry", "no_row_verdict", f"HTTP {status} named neither a result nor an error for it")


def _by_key(row: Row, results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    for item in results:
        if _property(item, row.id_property) == row.key.lower():
            return item
    return None


def _property(item: Mapping[str, Any], name: str) -> str | None:
    properties = item.get("properties")
    value = properties.get(name) if isinstance(properties, Mapping) else None
    return None if value is None else str(value).lower()


def found_ids(answer: Answer, id_property: str) -> Mapping[str, str]:
    """Object ids by lower-case value of the id property."""
    data = json_object(answer.body) or {}
    pairs = ((_property(item, id_property), item.get("id")) for item in _items(data, "results"))
    return {key: str(found) for key, found in pairs if key is not None and found}


def missing_ids(answer: Answer) -> frozenset[str]:
    """The records that a list could not take because they do not exist."""
    data = json_object(answer.body) or {}
    found = data.get("recordIdsMissing")
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()


def _errors_by_trace(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for error in _items(data, "errors"):
        context = error.get("context")
        traces = context.get("objectWriteTraceId") if isinstance(context, Mapping) else None
        for trace in [traces] if isinstance(traces, str) else traces or []:
            yield str(trace), error


def _items(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = data.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _describe(error: Mapping[str, Any]) -> str:
    parts = [str(error.get("message", ""))]
    for detail in _items(error, "errors"):
        context = detail.get("context")
        names = context.get("propertyName") if isinstance(context, Mapping) else None
        parts.append(f"{detail.get('code', '')} {detail.get('message', '')} {names or ''}")
    return "; ".join(part.strip() for part in parts if part.strip())


def error_text(answer: Answer, hide: Sequence[str]) -> str:
    """What an error answer says, in one scrubbed line."""
    data = json_object(answer.body)
    if data is None:
        return ""
    category = data.get("category") or data.get("errorType") or ""
    return scrub(f"{category} {data.get('policyName', '')} {_describe(data)}", hide)


def wait_of(answer: Answer, now: datetime, zone: tzinfo) -> timedelta | None:
    """How long to wait: `Retry-After` if there is one; else the rolling window, or the account's midnight for DAILY."""
    asked = retry_after(answer.headers, now)
    if asked is not None or answer.status not in (423, 429):
        return asked
    if answer.status == 423:
        return _LOCKED
    if str((json_object(answer.body) or {}).get("policyName", "")).upper() == "DAILY":
        return _until_midnight(now, zone)
    interval = answer.headers.get("x-hubspot-ratelimit-interval-milliseconds", "")
    return clamp(timedelta(milliseconds=int(interval))) if interval.isdigit() else _ROLLING


def _until_midnight(now: datetime, zone: tzinfo) -> timedelta:
    today = utc(now).astimezone(zone).date()
    midnight = datetime(today.year, today.month, today.day, tzinfo=zone) + timedelta(days=1)
    return clamp(midnight.astimezone(UTC) - utc(now))


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """The body as a JSON object, or None."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
