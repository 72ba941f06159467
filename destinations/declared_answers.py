"""What an answer looks like, as configuration, and the verdicts that it gives (`destinations.answers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from destinations.answers import (
    Row,
    UnreadableAnswer,
    at,
    by_echo,
    failures_by_index,
    failures_by_key,
    for_all,
    in_order,
    json_of,
    listed,
    verdict,
)
from destinations.base import Verdict
from destinations.config import Duration

if TYPE_CHECKING:
    from destinations.transport import Answer

Pattern = Literal["one", "in_order", "failures_by_index", "by_echo", "failures_by_key"]
Scalar = str | int | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class JobShape(_Strict):
    """An answer that only names a job: where its id stands, where to ask, and which words say that it is over.

    The pattern of the answer then belongs to the job's last answer. `${job}` in `url` is the id.
    """

    id: str
    url: str
    status: str = "status"
    done: Sequence[str]
    failed: Sequence[str] = ()
    every: Duration = timedelta(seconds=2)
    within: Duration = timedelta(minutes=1)


class AnswerShape(_Strict):
    """How an accepted answer tells what became of the rows. Paths are `a.b.0`, of the body or of an item.

    `items`: the list of the pattern (results for `in_order` and `by_echo`, failures for the others) · `errors`: the
    failures of `by_echo` · `error`, `message`, `id`: inside an item; an `error` that is missing or one of `fine` is no
    error · `index`, `echo`, `key`: what an item says about its row · `retry`: error codes that mean "again" ·
    `success`: a path and the value it has when the call as a whole was a success, `call_error`: where its code stands.
    """

    pattern: Pattern = "one"
    items: str = ""
    errors: str | None = None
    error: str | None = None
    fine: Sequence[Scalar] = (None, 0, "", False)
    message: str | None = None
    id: str | None = None
    index: str | None = None
    echo: str | None = None
    key: str | None = None
    retry: Sequence[str] = ()
    success: Mapping[str, Scalar] = Field(default_factory=dict)
    call_error: str | None = None
    job: JobShape | None = None

    @model_validator(mode="after")
    def _complete(self) -> AnswerShape:
        needed = {"in_order": "error", "failures_by_index": "index", "by_echo": "echo", "failures_by_key": "key"}
        name = needed.get(self.pattern)
        if name is not None and getattr(self, name) is None:
            raise ValueError(f"pattern {self.pattern} needs `{name}`")
        return self


def says_error(shape: AnswerShape, answer: Answer) -> str | None:
    """The code of an error that a 2xx hides, None when there is none or nobody looks for one."""
    if not shape.success:
        return None
    try:
        data = json_of(answer)
    except UnreadableAnswer:
        return None
    if all(at(data, path) == value for path, value in shape.success.items()):
        return None
    return str(at(data, shape.call_error or "", "error"))[:40] if shape.call_error else "error"


def rows_of(shape: AnswerShape, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
    """One verdict per row. Raises UnreadableAnswer."""
    code = str(answer.status)
    if shape.pattern == "one":
        receipt = _receipt(shape, json_of(answer)) if shape.id is not None else {}
        return for_all(rows, code, receipt)
    data = json_of(answer)
    items = listed(at(data, shape.items, []))

    def judge(row: Row, item: Any) -> Verdict:
        found = at(item, shape.error) if shape.error else "error"
        if shape.error and any(found is fine or (found == fine and type(found) is type(fine)) for fine in shape.fine):
            if shape.pattern == "in_order":
                return verdict(row, "sent", code, receipt=_receipt(shape, item))
            found = "error"
        message = str(at(item, shape.message, "")) if shape.message else ""
        status: Literal["retry", "failed"] = "retry" if str(found) in shape.retry else "failed"
        return verdict(row, status, f"{code} {found}", message)

    match shape.pattern:
        case "in_order":
            return in_order(rows, items, judge)
        case "failures_by_index":
            return failures_by_index(rows, items, lambda item: at(item, shape.index or ""), judge, code)
        case "by_echo":
            errors = listed(at(data, shape.errors, [])) if shape.errors else []
            return by_echo(
                rows, _by(items, shape.echo), _by(errors, shape.echo), judge, code, lambda item: _receipt(shape, item)
            )
        case _:
            return failures_by_key(rows, _by(items, shape.key), judge, code)


def _by(items: Sequence[Any], path: str | None) -> Mapping[str, Any]:
    """Items by the lower-case value at a path; an item that is a bare value is its own key."""
    found = {}
    for item in items:
        value = at(item, path or "")
        if value is not None:
            found[str(value).lower()] = item
    return found


def _receipt(shape: AnswerShape, item: Any) -> Mapping[str, str]:
    found = at(item, shape.id) if shape.id is not None else None
    return {} if found is None else {"id": str(found)[:200]}
