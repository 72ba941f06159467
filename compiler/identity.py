"""Identities: md5 as uuid over length-prefixed parts, computed alike in SQL and in Python (architecture §7)."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from sqlglot import exp

BUCKETS = 2**32


def identity(parts: Sequence[str | None]) -> uuid.UUID:
    """The id of a tuple of parts; each part is written `<length in characters>:<text>`, NULL as `-`."""
    text = "".join("-" if part is None else f"{len(part)}:{part}" for part in parts)
    return uuid.UUID(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())


def identity_tree(parts: Sequence[exp.Expr | str | None]) -> exp.Expr:
    """The same function as a SQL expression of type UUID; plain strings are literals, trees must be of type text."""
    pieces: list[exp.Expr] = []
    literal = ""
    for part in parts:
        match part:
            case None:
                literal += "-"
            case str():
                literal += f"{len(part)}:{part}"
            case _:
                if literal:
                    pieces.append(exp.Literal.string(literal))
                    literal = ""
                pieces.append(exp.Coalesce(this=_prefixed(part), expressions=[exp.Literal.string("-")]))
    if literal:
        pieces.append(exp.Literal.string(literal))
    return _hashed(pieces)


def action_identity(enrollment: exp.Expr, step: str, visit: exp.Expr | None) -> exp.Expr:
    """The id of an action, `identity` of (enrollment, step, visit), as a SQL expression; without `visit` the first.

    None of the three is NULL, and a UUID has 36 characters, so that little is left to do for each row.
    """
    text = exp.cast(enrollment.copy(), "text")
    fixed = f"{len(step)}:{step}"
    last: list[exp.Expr] = [exp.Literal.string(f"{fixed}1:1")]
    if visit is not None:
        last = [exp.Literal.string(fixed), _prefixed(exp.cast(visit.copy(), "text"))]
    return _hashed([exp.Literal.string("36:"), text, *last])


def _prefixed(part: exp.Expr) -> exp.Expr:
    length = exp.cast(exp.Length(this=part.copy()), "text")
    return exp.DPipe(this=exp.DPipe(this=length, expression=exp.Literal.string(":")), expression=part.copy())


def _hashed(pieces: Sequence[exp.Expr]) -> exp.Expr:
    joined = pieces[0]
    for piece in pieces[1:]:
        joined = exp.DPipe(this=joined, expression=piece)
    return exp.cast(exp.MD5(this=joined), "uuid")


def bucket(salt: str, contact_id: str) -> float:
    """A stable number in [0, 1): the first 8 hex digits of md5('<salt>:<contact_id>') / 2^32 (language §5)."""
    digest = hashlib.md5(f"{salt}:{contact_id}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / BUCKETS


def bucket_tree(salt: str, contact_id: exp.Expr) -> exp.Expr:
    """The same number as a SQL expression of type double; no hex cast, because warehouses differ there."""
    text = exp.DPipe(this=exp.Literal.string(f"{salt}:"), expression=contact_id.copy())
    digits = "0123456789abcdef"
    total: exp.Expr | None = None
    for position in range(8):
        digit = exp.Substring(this=exp.MD5(this=text.copy()), start=exp.Literal.number(position + 1),
                              length=exp.Literal.number(1))  # fmt: skip
        found = exp.StrPosition(this=exp.Literal.string(digits), substr=digit)
        value = exp.Mul(this=exp.Paren(this=exp.Sub(this=found, expression=exp.Literal.number(1))),
                        expression=exp.Literal.number(16 ** (7 - position)))  # fmt: skip
        total = value if total is None else exp.Add(this=total, expression=value)
    return exp.Div(
        this=exp.cast(exp.Paren(this=total), "double"), expression=exp.cast(exp.Literal.number(BUCKETS), "double")
    )
