"""Identities: md5, as a UUID, over parts that are fixed at birth; computed alike in Python and in SQL.

Each part is written `<length in characters>:<text>`, a missing one `-`, so that no two lists of parts look alike.
The order of the parts: architecture, "Identities".
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime

from sqlglot import exp

_INSTANT = "%Y-%m-%dT%H:%M:%S.%f"


def identity(*parts: str | int | None) -> str:
    """The identity of some parts, as UUID text.

    Raises:
        ValueError: a part holds a lone surrogate, which no warehouse can store.
    """
    text = "".join("-" if part is None else f"{len(str(part))}:{part}" for part in parts)
    return str(uuid.UUID(hex=hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()))


def identity_sql(*parts: exp.Expr) -> exp.Cast:
    """The identity of some SQL expressions (text, integer or uuid), as a UUID expression."""
    written = [_part(part) for part in parts]
    joined = written[0]
    for part in written[1:]:
        joined = exp.DPipe(this=joined, expression=part, safe=True)
    return exp.cast(exp.MD5(this=joined), "uuid")


def instant(moment: datetime) -> str:
    """A naive UTC time as the text that identities use."""
    return moment.strftime(_INSTANT)


def instant_sql(moment: exp.Expr) -> exp.Expr:
    """`instant` of a SQL timestamp."""
    return exp.TimeToStr(this=moment, format=exp.Literal.string(_INSTANT))


def _part(part: exp.Expr) -> exp.Expr:
    text = exp.cast(part.copy(), "text")
    length = exp.cast(exp.Length(this=text), "text")
    written = exp.DPipe(
        this=exp.DPipe(this=length, expression=exp.Literal.string(":"), safe=True), expression=text.copy(), safe=True
    )
    return exp.func("coalesce", exp.paren(written), exp.Literal.string("-"))
