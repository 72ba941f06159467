"""Types of condition expressions: sqlglot checks none, so operands are checked and cast here.

Besides the catalog's data types there are `dynamic` (text of a JSON property without a declared type: it takes the
type of what it is compared with), `null`, `interval`, and `any` (a type the catalog does not know; compared as it is).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlglot import exp

from compiler.allowlist import refuse
from compiler.errors import nearest

_NUMERIC = frozenset({"integer", "number"})
_MOMENTS = frozenset({"timestamp", "date"})
_SQL_TYPES = {"text": "text", "integer": "bigint", "number": "double", "boolean": "boolean", "timestamp": "timestamp",
              "date": "date", "uuid": "uuid"}  # fmt: skip
_TEXT_FUNCTIONS = (exp.Lower, exp.Upper, exp.Trim, exp.Substring, exp.DPipe)
_BOOLEAN_FUNCTIONS = (exp.StartsWith, exp.EndsWith, exp.Contains, exp.ArrayContains, exp.Is)
_INTEGER_FUNCTIONS = (exp.StrPosition, exp.Count)
_PARTS = (
    "year", "quarter", "month", "week", "day", "hour", "minute", "second", "epoch", "dow", "isodow", "doy", "dayofweek",
    "dayofyear", "isoyear",
)  # fmt: skip
_SAME_AS_OPERAND = (exp.Abs, exp.Round, exp.Neg, exp.Floor, exp.Ceil, exp.Min, exp.Max, exp.Sum)


@dataclass(frozen=True)
class Typed:
    """A lowered expression and its type."""

    tree: exp.Expr
    type: str


def literal_type(node: exp.Expr) -> str:
    """The type of a literal node."""
    match node:
        case exp.Null():
            return "null"
        case exp.Boolean():
            return "boolean"
        case exp.Literal() if node.is_string:
            return "text"
        case _:
            return "integer" if node.name.isdigit() else "number"


def sql_type(kind: str) -> exp.DataType:
    """The SQL type of a data type; text for those without one."""
    return exp.DataType.build(_SQL_TYPES.get(kind, "text"))


def cast_to(value: Typed, kind: str) -> Typed:
    """The value as another type where that needs a cast: dynamic text, and text literals compared with moments."""
    if value.type == kind or kind in ("any", "dynamic", "null"):
        return value
    if value.type == "dynamic":
        if kind == "text":
            return Typed(value.tree, "text")
        if kind == "timestamp":
            return Typed(_moment(value.tree), kind)
        # a JSON 5.0 is an integer too, so numbers meet as double
        target = "number" if kind == "integer" else kind
        return Typed(exp.TryCast(this=value.tree, to=sql_type(target)), kind)
    if value.type == "text" and kind in _MOMENTS | {"uuid"}:
        return Typed(exp.TryCast(this=value.tree, to=sql_type(kind)), kind)
    return value


def _moment(text: exp.Expr) -> exp.Expr:
    """A text as naive UTC timestamp, NULL if it is none; a written offset counts."""
    # DuckDB reads no `Z` behind a time without seconds, and no zone means UTC, which is the session's
    bare = exp.Trim(this=text, position="TRAILING", expression=exp.Literal.string("Z"))
    moment = exp.TryCast(this=bare, to=exp.DataType.build("timestamptz"))
    return exp.paren(exp.AtTimeZone(this=moment, zone=exp.Literal.string("UTC")))


def boolean_operand(value: Typed, node: exp.Expr) -> Typed:
    """The value as a boolean.

    Raises:
        ConditionError: E206 when it is another type.
    """
    if value.type in ("boolean", "null", "any"):
        return value
    if value.type == "dynamic":
        return cast_to(value, "boolean")
    raise refuse(node, f"expected true or false, found {value.type}: {node.sql()[:60]}", code="E206")


def common_type(values: Sequence[Typed], node: exp.Expr) -> str:
    """The type in which values meet.

    Raises:
        ConditionError: E206 when two types cannot be compared.
    """
    known = [value.type for value in values if value.type not in ("null", "any", "dynamic")]
    if not known:
        return "text" if all(value.type in ("dynamic", "null") for value in values) else "any"
    meeting = known[0]
    for value in values:
        kind = value.type
        if kind in ("null", "any", "dynamic") or kind == meeting:
            continue
        if kind in _NUMERIC and meeting in _NUMERIC:
            meeting = "number"
        elif kind in _MOMENTS and meeting in _MOMENTS:
            meeting = "timestamp"
        elif {kind, meeting} in ({"text", "timestamp"}, {"text", "date"}, {"text", "uuid"}):
            _check_moment_literal(values, node)
            meeting = kind if kind != "text" else meeting
        else:
            raise refuse(node, f"cannot compare {meeting} with {kind}: {node.sql()[:80]}", code="E206")
    return meeting


def meeting_type(values: Sequence[Typed], node: exp.Expr) -> str:
    """The type of what is one of several values, such as `coalesce`: dynamic where none of them has a type.

    Raises:
        ConditionError: E206 when two types cannot be compared.
    """
    kinds = {value.type for value in values}
    return "dynamic" if "dynamic" in kinds and kinds <= {"dynamic", "null"} else common_type(values, node)


def result_type(node: exp.Expr, operands: Sequence[Typed]) -> str:
    """The type of a function or operator over typed operands.

    Raises:
        ConditionError: E206 for operands it cannot take.
    """
    kinds = [operand.type for operand in operands]
    match node:
        case exp.Cast() | exp.TryCast():
            from compiler.catalog import data_type

            # DuckDB's words: sqlglot's own differ from those of any warehouse (TIMESTAMPNTZ)
            return data_type(node.args["to"].sql(dialect="duckdb"))
        case exp.Add() | exp.Sub():
            return _sum_type(node, kinds)
        case exp.Mul() | exp.Div() | exp.Mod() | exp.Avg():
            _require(node, kinds, _NUMERIC | {"dynamic", "any", "null"}, "a number")
            return "integer" if isinstance(node, exp.Mul) and set(kinds) == {"integer"} else "number"
        case exp.Like() | exp.ILike() | exp.Length():
            _require(node, kinds, {"text", "dynamic", "any", "null"}, "text")
            return "integer" if isinstance(node, exp.Length) else "boolean"
        case exp.Extract() | exp.DateTrunc() | exp.TimestampTrunc() | exp.DateDiff():
            _known_part(node)
            return "integer" if isinstance(node, exp.Extract | exp.DateDiff) else "timestamp"
        case _ if isinstance(node, _BOOLEAN_FUNCTIONS):
            return "boolean"
        case _ if isinstance(node, _TEXT_FUNCTIONS):
            _require(node, kinds[:1], {"text", "dynamic", "any", "null"}, "text")
            return "text"
        case _ if isinstance(node, _INTEGER_FUNCTIONS):
            return "integer"
        case exp.DateAdd() | exp.DateSub():
            return "timestamp"
        case _ if isinstance(node, _SAME_AS_OPERAND):
            if isinstance(node, exp.Abs | exp.Round | exp.Neg | exp.Floor | exp.Ceil | exp.Sum):
                _require(node, kinds[:1], _NUMERIC | {"dynamic", "any", "null"}, "a number")
                return "number" if kinds[:1] == ["dynamic"] else kinds[0]
            return kinds[0] if kinds else "any"
        case _:
            return kinds[0] if len(set(kinds)) == 1 and kinds else "any"


def _known_part(node: exp.Expr) -> None:
    """Refuse a part of a time that no warehouse knows."""
    part = node.this if isinstance(node, exp.Extract) else node.args.get("unit")
    if part is not None and part.name.lower() not in _PARTS:
        raise refuse(node, f"'{part.name}' is no part of a time", code="E206", hint=nearest(part.name.lower(), _PARTS))


def _sum_type(node: exp.Expr, kinds: Sequence[str]) -> str:
    if "interval" in kinds:
        return "timestamp"
    moments = [kind for kind in kinds if kind in _MOMENTS]
    if len(moments) == 2 and isinstance(node, exp.Sub):
        return "interval"
    _require(node, kinds, _NUMERIC | _MOMENTS | {"dynamic", "any", "null"}, "a number")
    if "timestamp" in moments and _NUMERIC & set(kinds):
        raise refuse(node, f"a time takes an interval, as in now() + interval '1 day': {node.sql()[:80]}", code="E206")
    if moments:
        return moments[0]
    return "integer" if set(kinds) == {"integer"} else "number"


def _require(node: exp.Expr, kinds: Sequence[str], allowed: set[str] | frozenset[str], what: str) -> None:
    for kind in kinds:
        if kind not in allowed:
            raise refuse(node, f"expected {what}, found {kind}: {node.sql()[:80]}", code="E206")


def _check_moment_literal(values: Sequence[Typed], node: exp.Expr) -> None:
    for value in values:
        if value.type != "text":
            continue
        if not isinstance(value.tree, exp.Literal):
            raise refuse(node, f"cannot compare text with a time: {node.sql()[:80]}", code="E206")
        try:
            datetime.fromisoformat(value.tree.name)
        except ValueError:
            if not any(other.type == "uuid" for other in values):
                raise refuse(
                    node, f"'{value.tree.name[:40]}' is no time; write '2026-03-01 09:00'", code="E206"
                ) from None
