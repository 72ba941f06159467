"""Values in a configured body: `$contact.email` is the value itself, `${contact.email}` the value inside a text.

`$set?` leaves its key out when there is no such value; without the question mark a missing value fails the action.
`$$` is a dollar sign. Nothing is computed, so a configuration cannot do more than place values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from destinations.answers import at
from destinations.errors import PayloadError

_PATH = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*"
_WHOLE = re.compile(rf"\$({_PATH})(\?)?")
_PART = re.compile(rf"\$\$|\$\{{({_PATH})(\?)?\}}")
_LEFT_OUT = object()


def names_in(template: Any) -> set[str]:
    """The first words of all placeholders of a template."""
    match template:
        case str():
            whole = _WHOLE.fullmatch(template)
            found = [whole[1]] if whole else [part[1] for part in _PART.finditer(template) if part[1]]
            return {path.split(".")[0] for path in found}
        case Mapping():
            return set().union(*(names_in(value) for value in template.values()))
        case list() | tuple():
            return set().union(*(names_in(value) for value in template))
        case _:
            return set()


def stray(template: Any) -> str | None:
    """A text of the template with a `$` that is no placeholder; None when there is none."""
    match template:
        case str():
            return None if _WHOLE.fullmatch(template) or "$" not in _PART.sub("", template) else template
        case Mapping():
            return next((found for value in template.values() if (found := stray(value)) is not None), None)
        case list() | tuple():
            return next((found for value in template if (found := stray(value)) is not None), None)
        case _:
            return None


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with the values in their places. Raises PayloadError for a value that is missing."""
    made = _filled(template, values)
    return None if made is _LEFT_OUT else made


def filled_url(template: str, values: Mapping[str, Any]) -> str:
    """As `filled` for a URL: every value is escaped, so that it stays within its place."""
    return _text(template, values, lambda value: quote(value, safe=""))


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    match template:
        case str():
            whole = _WHOLE.fullmatch(template)
            if whole is None:
                return _text(template, values, str)
            found = at(values, whole[1])
            return found if found is not None else _missing(whole[1], whole[2])
        case Mapping():
            made = {key: _filled(value, values) for key, value in template.items()}
            return {key: value for key, value in made.items() if value is not _LEFT_OUT}
        case list() | tuple():
            return [value for item in template if (value := _filled(item, values)) is not _LEFT_OUT]
        case _:
            return template


def _text(template: str, values: Mapping[str, Any], written: Callable[[str], str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        found = at(values, match[1])
        if found is None:
            return "" if match[2] else str(_missing(match[1], None))
        return written(str(found))

    return _PART.sub(value, template)


def _missing(path: str, optional: str | None) -> object:
    if optional:
        return _LEFT_OUT
    raise PayloadError("missing_value", f"the action has no {path}")
