"""Secrets are references, resolved at the moment of use and masked everywhere else.

A configuration holds `{{ env_var('NAME') }}` or `{{ env_var('NAME', 'default') }}`. The value exists only between
`reveal()` and the request; `scrub` removes it (and personal data) from whatever the other side echoes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from destinations.base import SecretLookup
from destinations.errors import ConfigurationError

_REFERENCE = re.compile(
    r"""\{\{\s*env_var\(\s*(?P<q>['"])(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P=q)\s*"""
    r"""(?:,\s*(?P<d>['"])(?P<default>[^'"]*)(?P=d)\s*)?\)\s*\}\}"""
)
_ADDRESS = re.compile(r"[^\s<>\"'(),;:\[\]{}=]+@[^\s<>\"'(),;:\[\]{}]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LIMIT = 500
# Shorter values would mask ordinary words and digits of a message.
_MIN_HIDDEN = 4


def is_reference(text: str) -> bool:
    """True if the text holds at least one `{{ env_var(…) }}`."""
    return _REFERENCE.search(text) is not None


class Secret:
    """A string of the configuration that may hold references; shows the reference, never the value."""

    __slots__ = ("_lookup", "_template")

    def __init__(self, template: str, lookup: SecretLookup) -> None:
        self._template = template
        self._lookup = lookup

    def reveal(self) -> str:
        """The value now. Raises ConfigurationError naming the variable when it is not set."""
        if "{{" in _REFERENCE.sub("", self._template):
            raise ConfigurationError(
                "D103", "only {{ env_var('NAME') }} may stand in a destination's configuration", "check the quotes"
            )
        return _REFERENCE.sub(self._value, self._template)

    def _value(self, match: re.Match[str]) -> str:
        name = match["name"]
        try:
            return self._lookup(name)
        except KeyError:
            if match["default"] is not None:
                return match["default"]
        raise ConfigurationError("D104", f"environment variable {name} is not set", f"export {name}=…")

    def __repr__(self) -> str:
        names = ", ".join(match["name"] for match in _REFERENCE.finditer(self._template))
        return f"Secret({names or '***'})"

    __str__ = __repr__


def secret_field(destination: str, key: str, text: str, lookup: SecretLookup) -> Secret:
    """A Secret of a field that must be a reference; a literal is refused, because configuration files are shared."""
    if not is_reference(text):
        raise ConfigurationError(
            "D105",
            f"destination {destination}: {key} must be a reference, not the secret itself",
            f"write {key}: \"{{{{ env_var('{destination.upper()}_{key.upper()}') }}}}\"",
        )
    return Secret(text, lookup)


def scrub(text: str, hide: Iterable[str] = ()) -> str:
    """`text` on one line, at most 500 characters, without the values of `hide` and without e-mail addresses."""
    for value in sorted({value for value in hide if len(value) >= _MIN_HIDDEN}, key=len, reverse=True):
        text = text.replace(value, "***")
    text = _ADDRESS.sub("<address>", _CONTROL.sub(" ", text)).strip()
    return text if len(text) <= _LIMIT else text[: _LIMIT - 1] + "…"


def texts_of(payload: Any) -> Iterator[str]:
    """Every string value inside a payload, for `scrub(hide=…)`: an answer may echo personal data."""
    match payload:
        case str():
            yield payload
        case Mapping():
            for value in payload.values():
                yield from texts_of(value)
        case list() | tuple():
            for value in payload:
                yield from texts_of(value)
        case _:
            return
