"""Identities as the state tables hold them: UUID text from Python values, UUID expressions from columns of any type.

The function itself is `compiler.identity`.
"""

from __future__ import annotations

from datetime import datetime

from sqlglot import exp

from compiler.identity import identity as uuid_of
from compiler.identity import identity_tree

_INSTANT = "%Y-%m-%dT%H:%M:%S.%f"


def identity(*parts: str | int | None) -> str:
    """The identity of some parts, as UUID text.

    Raises:
        ValueError: a part holds a lone surrogate, which no warehouse can store.
    """
    return str(uuid_of([None if part is None else str(part) for part in parts]))


def identity_sql(*parts: exp.Expr) -> exp.Expr:
    """The identity of some SQL expressions (text, integer or uuid), as a UUID expression."""
    return identity_tree([exp.cast(part.copy(), "text") for part in parts])


def instant(moment: datetime) -> str:
    """A naive UTC time as the text that identities use."""
    return moment.strftime(_INSTANT)


def instant_sql(moment: exp.Expr) -> exp.Expr:
    """`instant` of a SQL timestamp."""
    return exp.TimeToStr(this=moment, format=exp.Literal.string(_INSTANT))
