"""Identities as the state tables hold them: UUID text from Python values.

The function itself is `compiler.identity`.
"""

from __future__ import annotations

from datetime import datetime

from compiler.identity import identity as uuid_of

_INSTANT = "%Y-%m-%dT%H:%M:%S.%f"


def identity(*parts: str | int | None) -> str:
    """The identity of some parts, as UUID text.

    Raises:
        ValueError: a part holds a lone surrogate, which no warehouse can store.
    """
    return str(uuid_of([None if part is None else str(part) for part in parts]))


def instant(moment: datetime) -> str:
    """A naive UTC time as the text that identities use."""
    return moment.strftime(_INSTANT)
