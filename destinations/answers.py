"""What a batch answer says about each row: one function per pattern that vendors use.

| pattern | function | for example |
|---|---|---|
| one verdict for the call | `for_all` | SendGrid, Mailgun, Twilio |
| a list as long as the batch, in its order | `in_order` | Postmark, SES, Salesforce |
| only failures, by index | `failures_by_index` | Customer.io, Braze |
| results and errors that echo an id | `by_echo` | HubSpot |
| failures listed by key | `failures_by_key` | Iterable |
| a job that is asked about later | `poll` | Salesforce Bulk, Klaviyo |

An answer that does not have the expected shape raises `UnreadableAnswer`: the rows were taken or not, nobody knows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from destinations.base import Action, Status, Stop, Verdict
from destinations.secret import scrub, texts_of

if TYPE_CHECKING:
    from destinations.transport import Answer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One action of a request: `data` stands for it in the body.

    Rows with the same `key` never share a request, nor do rows of different `group`.
    """

    action: Action
    data: Any
    key: str = ""
    group: str = ""


class UnreadableAnswer(Exception):
    """An accepted request whose answer cannot be read, so that no row knows what became of it."""


def json_of(answer: Answer) -> Any:
    """The body as JSON. Raises UnreadableAnswer when it is none or was cut."""
    try:
        if not answer.complete:
            raise ValueError
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        raise UnreadableAnswer from None


def object_of(answer: Answer) -> Mapping[str, Any]:
    """The body as a JSON object. Raises UnreadableAnswer."""
    data = json_of(answer)
    if not isinstance(data, dict):
        raise UnreadableAnswer
    return data


def listed(data: Any, key: str | None = None) -> list[Any]:
    """A list, or that of a key (absent is empty). Raises UnreadableAnswer for anything else."""
    found = data if key is None else data.get(key, []) if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise UnreadableAnswer
    return found


def at(data: Any, path: str, default: Any = None) -> Any:
    """The value at `a.b.0.c` of maps and lists; `default` where there is none. An empty path is the whole."""
    for part in path.split(".") if path else []:
        match data:
            case dict() if part in data:
                data = data[part]
            case list() if part.isdigit() and int(part) < len(data):
                data = data[int(part)]
            case _:
                return default
    return data


def verdict(
    row: Row, status: Status, code: str, message: str = "", *, receipt: Mapping[str, str] | None = None,
    pause: timedelta | None = None, stop: Stop | None = None,
) -> Verdict:  # fmt: skip
    """A row's verdict; nothing of the row's own values stays in the message."""
    text = scrub(message, texts_of([row.action.payload, row.data])) if message else ""
    return Verdict(row.action.action_id, status, code[:64], text, pause, receipt or {}, stop=stop)


def for_all(rows: Sequence[Row], code: str, receipt: Mapping[str, str] | None = None) -> list[Verdict]:
    """One verdict for the call: all rows share it."""
    return [verdict(row, "sent", code, receipt=receipt) for row in rows]


def in_order(rows: Sequence[Row], items: Sequence[Any], judge: Callable[[Row, Any], Verdict]) -> list[Verdict]:
    """A list as long as the batch, in its order. Raises UnreadableAnswer when it has another length."""
    if len(items) != len(rows):
        raise UnreadableAnswer
    return [judge(row, item) for row, item in zip(rows, items, strict=True)]


def failures_by_index(
    rows: Sequence[Row], failures: Sequence[Any], index: Callable[[Any], Any], judge: Callable[[Row, Any], Verdict],
    code: str,
) -> list[Verdict]:  # fmt: skip
    """Only failures, by their index in the batch that was sent; all others succeeded.

    Raises UnreadableAnswer when a failure belongs to no row.
    """
    failed: dict[int, Any] = {}
    for failure in failures:
        place = index(failure)
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(rows):
            raise UnreadableAnswer
        failed[place] = failure
    return [
        judge(row, failed[place]) if place in failed else verdict(row, "sent", code) for place, row in enumerate(rows)
    ]


def by_echo(
    rows: Sequence[Row], results: Mapping[str, Any], errors: Mapping[str, Any], judge: Callable[[Row, Any], Verdict],
    code: str, receipt: Callable[[Any], Mapping[str, str]] = lambda item: {},
) -> list[Verdict]:  # fmt: skip
    """Results and errors that echo an id, in any order; keys are lower case.

    A row that neither names is `retry`: such answers have been seen, and nothing says that it was taken.
    """
    made = []
    for row in rows:
        names = (row.action.action_id.lower(), row.key.lower())
        error = next((errors[name] for name in names if name in errors), None)
        found = next((results[name] for name in names if name in results), None)
        if error is not None:
            made.append(judge(row, error))
        elif found is not None:
            made.append(verdict(row, "sent", code, receipt=receipt(found)))
        else:
            made.append(verdict(row, "retry", "no_row_verdict", "the answer names neither a result nor an error"))
    return made


def failures_by_key(
    rows: Sequence[Row], failures: Mapping[str, Any], judge: Callable[[Row, Any], Verdict], code: str
) -> list[Verdict]:
    """Failures listed by the rows' keys (lower case); all others succeeded."""
    return [
        judge(row, failures[row.key.lower()]) if row.key.lower() in failures else verdict(row, "sent", code)
        for row in rows
    ]


async def poll(ask: Callable[[], Awaitable[T | None]], pauses: Sequence[timedelta]) -> T:
    """Ask about a job after each pause until it has an answer. Raises UnreadableAnswer when it never has one."""
    for pause in pauses:
        await asyncio.sleep(pause.total_seconds())
        found = await ask()
        if found is not None:
            return found
    raise UnreadableAnswer
