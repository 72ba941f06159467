"""The Liquid that templates may use: allow-lists of tags and filters, bounded work, no value that is silently empty.

There is no deadline by the clock: loops, memory and output are bounded, so the time is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, NoReturn

from liquid import Environment, Token
from liquid.exceptions import (
    LiquidError,
    LocalNamespaceLimitError,
    LoopIterationLimitError,
    OutputStreamLimitError,
    UndefinedError,
)
from liquid.undefined import UNDEFINED, Undefined

from compiler.errors import PenstockError

MAX_OUTPUT_BYTES = 256 * 1024
MAX_LOOPS = 1_000
MAX_LOCALS_BYTES = 64 * 1024

TAGS = frozenset({
    "if", "elsif", "else", "endif", "unless", "endunless", "case", "when", "endcase", "for", "endfor", "break",
    "continue", "assign", "capture", "endcapture", "comment", "endcomment",
})  # fmt: skip
FILTERS = frozenset({
    "abs", "at_least", "at_most", "ceil", "divided_by", "floor", "minus", "plus", "round", "times", "modulo",
    "capitalize", "append", "downcase", "escape", "escape_once", "lstrip", "newline_to_br", "prepend", "remove",
    "remove_first", "remove_last", "replace", "replace_first", "replace_last", "slice", "split", "upcase", "strip",
    "rstrip", "strip_html", "strip_newlines", "truncate", "truncatewords", "url_encode", "squish", "join", "first",
    "last", "map", "where", "sort", "reverse", "uniq", "compact", "sum", "size", "default", "date",
})  # fmt: skip
URL_FILTER = "penstock_url"
"""Applied by the compiler to what an author puts at the start of a link; refuses all but http, https and mailto."""

_INTERNAL_TAGS = frozenset({"content", "output", "illegal"})
_URL = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_DATE_FORMAT = re.compile(r"(?:[^%]|%[-_0^#]?[a-zA-Z%])*")


class RenderError(PenstockError):
    """A template cannot be rendered for this contact; `reason` names variables, never values."""

    code = "E410"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Missing(Undefined):
    """A value nobody gave: false in an `if`, replaceable by `default`, an error wherever it would be printed."""

    __slots__ = ()

    def __init__(
        self, name: str, *, token: Token | None = None, obj: object = UNDEFINED, hint: str | None = None
    ) -> None:
        label = hint.removesuffix(" is undefined") if hint else name
        super().__init__(label.strip("'"), token=token, obj=obj, hint=hint)

    def _refuse(self) -> NoReturn:
        raise UndefinedError(f"'{self.name}' is missing", token=self.token)

    def __str__(self) -> str:
        self._refuse()

    def __iter__(self) -> Iterator[Any]:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __int__(self) -> int:
        self._refuse()

    def __bool__(self) -> bool:
        return False

    def __html__(self) -> str:
        self._refuse()

    def poke(self) -> bool:
        """Called before a value is printed or looped over."""
        self._refuse()


def failure(error: LiquidError) -> RenderError:
    """What went wrong while rendering, without the values that Liquid's own messages may quote."""
    match error:
        case UndefinedError():
            return RenderError(str(error.message))
        case OutputStreamLimitError():
            return RenderError(f"longer than {MAX_OUTPUT_BYTES // 1024} KB")
        case LoopIterationLimitError():
            return RenderError(f"loops run more than {MAX_LOOPS:,} times")
        case LocalNamespaceLimitError():
            return RenderError(f"variables hold more than {MAX_LOCALS_BYTES // 1024} KB")
    where = error.context()
    return RenderError("a filter cannot take its value" + (f" in line {where[0]}" if where else ""))


# ---------------------------------------------------------------- filters


def _bounded(value: Any, other: Any) -> None:
    """Refuses to build a text that could not be sent anyway, before it is built."""
    if (len(str(value)) + 1) * max(len(str(other)), 1) > 4 * MAX_OUTPUT_BYTES:
        raise RenderError(f"a filter makes a text longer than {4 * MAX_OUTPUT_BYTES // 1024} KB")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing missing values (the stock ones take them for '' or 0) and results beyond bounds."""
    quadratic = name in ("replace", "join")

    @functools.wraps(function)
    def guarded(value: Any, *arguments: Any, **options: Any) -> Any:
        for given in (value, *arguments):
            if isinstance(given, Missing):
                str(given)
        if quadratic and arguments:
            _bounded(value, arguments[-1])
        return function(value, *arguments, **options)

    return guarded


def _date(value: Any, layout: str) -> str:
    """A date in a strftime layout. Text is read as ISO 8601; 'now' does not exist, time belongs to the engine."""
    if not _DATE_FORMAT.fullmatch(str(layout)) or len(str(layout)) > 200:
        raise RenderError("a date format holds something else than strftime letters")
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise RenderError("the date filter got a text that is no ISO 8601 date") from None
    if not isinstance(moment, date):
        raise RenderError("the date filter got something that is no date")
    return moment.strftime(str(layout))


def _url(value: Any) -> Any:
    """The value when it is a link that may stand in a mail."""
    if isinstance(value, Missing):
        str(value)
    if not _URL.match(str(value)):
        raise RenderError("a link does not start with http://, https:// or mailto:")
    return value


class _Language(Environment):
    loop_iteration_limit = MAX_LOOPS
    local_namespace_limit = MAX_LOCALS_BYTES
    output_stream_limit = MAX_OUTPUT_BYTES


def _environment(*, autoescape: bool) -> Environment:
    language = _Language(undefined=Missing, autoescape=autoescape)
    language.tags = {name: tag for name, tag in language.tags.items() if name in TAGS or name in _INTERNAL_TAGS}
    stock = language.filters
    language.filters = {name: stock[name] if name == "default" else _guarded(name, stock[name]) for name in FILTERS}
    language.filters["date"] = _guarded("date", _date)
    language.filters[URL_FILTER] = _url
    return language


HTML = _environment(autoescape=True)
"""For bodies that are HTML: every value is escaped."""

TEXT = _environment(autoescape=False)
"""For subjects, plain text and headers."""


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that are None, at any depth: None means missing."""
    return {key: _present(value) for key, value in values.items() if value is not None}


def _present(value: Any) -> Any:
    match value:
        case Mapping():
            return present(value)
        case list() | tuple():
            return [_present(item) for item in value]
        case _:
            return value
