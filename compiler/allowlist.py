"""What a condition may contain: allow-lists of tokens, syntax nodes and functions, in two trust levels.

`expression` is for text that comes from the studio; `sql` is for files of the repository and may also use sub-selects
over `ref()` and `source()`. Everything that is not listed is refused, with the construct's name and the reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from compiler.errors import ConditionError

Trust = Literal["expression", "sql"]

MAX_LENGTH = 4000
_PREFIX = "SELECT 1 FROM t WHERE (\n"
_FORBIDDEN_TOKENS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r";"), "a condition is one expression; ';' is not allowed"),
    (re.compile(r"--|/\*|\*/"), "comments are not allowed in a condition"),
    (re.compile(r"\$"), "'$' parameters and dollar quotes are not allowed"),
    (re.compile(r"\?"), "'?' parameters are not allowed"),
    (re.compile(r"(?<![:\w]):\w"), "':name' parameters are not allowed"),
    (re.compile(r"@"), "'@' is not allowed"),
    (re.compile(r"\{\{|\}\}|\{%|%\}"), "templating is not allowed in a condition"),
    (re.compile(r"->(?!>)|->>"), "arrows are not allowed; a JSON property is a plain name: event.cart_id"),
    (re.compile(r"#"), "'#' is not allowed"),
    (re.compile(r"\.\s+\d"), "a number has no space in it"),
)
_STRING_PREFIX = re.compile(r"(?i)(?<![\w'])(e|u&|x|b|n)'")
_STRINGS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")

SCALAR_NODES: frozenset[type[Any]] = frozenset({
    exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.And, exp.Or, exp.Not, exp.Paren,
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Between, exp.In, exp.Is,
    exp.Like, exp.ILike, exp.Escape, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.DPipe, exp.Case, exp.If,
    exp.Coalesce, exp.Nullif, exp.Lower, exp.Upper, exp.Length, exp.Trim, exp.Substring, exp.StartsWith, exp.EndsWith,
    exp.Contains, exp.StrPosition, exp.Abs, exp.Round, exp.Floor, exp.Ceil, exp.Greatest, exp.Least, exp.Cast,
    exp.TryCast, exp.Extract, exp.DateDiff, exp.DateTrunc, exp.TimestampTrunc, exp.DateAdd, exp.DateSub, exp.Interval,
    exp.Var, exp.ArrayContains, exp.CurrentTimestamp, exp.CurrentDate, exp.DataType,
})  # fmt: skip
SELECT_NODES: frozenset[type[Any]] = frozenset({
    exp.Select, exp.Subquery, exp.Exists, exp.From, exp.Join, exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered,
    exp.Limit, exp.Table, exp.TableAlias, exp.Alias, exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg, exp.Star,
    exp.Distinct, exp.Union,
})  # fmt: skip
CALL_NODES: frozenset[type[Any]] = frozenset({exp.Array, exp.Kwarg})
"""Only as arguments of our own functions."""

PLAIN_TYPES = frozenset({
    "TEXT", "VARCHAR", "CHAR", "NVARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE",
    "DECIMAL", "DATE", "TIMESTAMP", "TIMESTAMPNTZ", "TIMESTAMPTZ", "UUID",
})  # fmt: skip

_REASONS: dict[type[Any], str] = {
    exp.Window: "window functions are not allowed",
    exp.Lambda: "lambdas are not allowed",
    exp.Anonymous: "it is no function of the workflow language",
    exp.Star: "'*' is not allowed outside count(*)",
    exp.With: "WITH is not allowed; use a sub-select",
    exp.Bracket: "subscripts are not allowed",
    exp.Dot: "nested names are not allowed",
    exp.Tuple: "row values are allowed only after IN",
    exp.RegexpLike: "regular expressions are not allowed; use like or ilike",
    exp.AtTimeZone: "use local_hour(), local_dow() or local_date()",
}


def refuse(node: exp.Expr, why: str, *, code: str = "E201", hint: str = "") -> ConditionError:
    """A refusal pointing at a node."""
    offset, length = position(node)
    return ConditionError(why, code=code, offset=offset, length=length, hint=hint)


def position(node: exp.Expr) -> tuple[int, int]:
    """(offset, length) of a node in the condition's text, from the first descendant that knows its place."""
    for candidate in node.walk():
        meta = candidate._meta or {}
        if "start" in meta:
            start = int(meta["start"]) - len(_PREFIX)
            return max(start, 0), max(int(meta["end"]) - int(meta["start"]) + 1, 1)
    return 0, 1


def parse(text: str, dialect: str) -> exp.Expr:
    """Parse exactly one SQL expression.

    Raises:
        ConditionError: E201 for what is never allowed, E202 for what is no SQL expression.
    """
    _check_text(text)
    try:
        statements = sqlglot.parse(f"{_PREFIX}{text}\n)", dialect=dialect)
    except (ParseError, TokenError) as error:
        raise _syntax_error(error, text) from None
    statement = statements[0] if len(statements) == 1 else None
    if not isinstance(statement, exp.Select) or set(_set_args(statement)) != {"expressions", "from_", "where"}:
        raise ConditionError("a condition is exactly one SQL expression", code="E201")
    where = statement.args["where"].this
    if not isinstance(where, exp.Paren):
        raise ConditionError("a condition is exactly one SQL expression", code="E201")
    return where.this.copy() if not isinstance(where.this, exp.Expr) else where.this.pop()


def check(tree: exp.Expr, trust: Trust, functions: frozenset[str]) -> None:
    """Refuse every node that is not on the allow-list of the trust level.

    Args:
        tree: the parsed expression.
        trust: `expression` or `sql`.
        functions: lower-case names of the workflow language's own functions that are known.

    Raises:
        ConditionError: E201, naming the construct and the reason.
    """
    for node in tree.walk():
        if node.comments:
            raise refuse(node, "comments are not allowed in a condition")
        _check_node(node, trust, functions)


def _set_args(node: exp.Expr) -> Iterator[str]:
    return (key for key, value in node.args.items() if value not in (None, [], False))


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"a condition has at most {MAX_LENGTH} characters", code="E201")
    for index, char in enumerate(text):
        if char not in "\n\t\r" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co"):
            raise ConditionError(f"control or format character U+{ord(char):04X}", code="E201", offset=index)
    prefixed = _STRING_PREFIX.search(_blank_strings(text, keep_quotes=True))
    if prefixed:
        raise ConditionError("only plain 'strings' are allowed", code="E201", offset=prefixed.start())
    if "\\" in text:  # in a string too: some dialects read it as an escape
        raise ConditionError("a backslash is not allowed", code="E201", offset=text.index("\\"))
    blanked = _blank_strings(text)
    for pattern, why in _FORBIDDEN_TOKENS:
        found = pattern.search(blanked)
        if found:
            raise ConditionError(why, code="E201", offset=found.start(), length=found.end() - found.start())


def _blank_strings(text: str, *, keep_quotes: bool = False) -> str:
    def blank(found: re.Match[str]) -> str:
        size = found.end() - found.start()
        return f"{found.group()[0]}{' ' * (size - 2)}{found.group()[0]}" if keep_quotes else " " * size

    return _STRINGS.sub(blank, text)


def _syntax_error(error: Exception, text: str) -> ConditionError:
    details = getattr(error, "errors", None) or [{}]
    line, column = details[0].get("line") or 2, details[0].get("col") or 1
    lines = text.splitlines(keepends=True) or [""]
    row = min(max(line - 2, 0), len(lines) - 1)
    highlight = details[0].get("highlight") or ""
    offset = sum(map(len, lines[:row])) + max(min(column, len(lines[row])) - max(len(highlight), 1), 0)
    what = (details[0].get("description") or str(error).splitlines()[0]).rstrip(".")
    return ConditionError(f"not a SQL expression: {what}", code="E202", offset=min(offset, max(len(text) - 1, 0)),
                          length=max(len(highlight), 1))  # fmt: skip


def _check_node(node: exp.Expr, trust: Trust, functions: frozenset[str]) -> None:
    kind = type(node)
    if isinstance(node, exp.Anonymous):
        _check_call(node, trust, functions)
    elif kind in CALL_NODES:
        _check_argument(node, functions)
    elif kind in SELECT_NODES:
        if trust == "expression":
            raise refuse(node, f"{_name(node)} is not allowed here: sub-selects need trust level 'sql' (files)")
        _check_select_part(node)
    elif kind is exp.Tuple and isinstance(node.parent, exp.In):
        return
    elif kind not in SCALAR_NODES:
        raise refuse(node, f"{_name(node)} is not allowed: {_reason(node)}")
    else:
        _check_scalar(node, trust)


def _check_scalar(node: exp.Expr, trust: Trust) -> None:
    match node:
        case exp.DataType() if node.this.name not in PLAIN_TYPES or (node.args.get("nested")):
            raise refuse(node.parent or node, f"cast to {node.sql()} is not allowed: only plain scalar types are")
        case exp.Interval() if not isinstance(node.this, exp.Literal):
            raise refuse(node, "an interval needs a literal amount: interval '3 days'")
        case exp.Is() if not isinstance(node.expression, (exp.Null, exp.Boolean)):
            raise refuse(node, "IS takes null, true or false")
        case exp.Between() if node.args.get("symmetric"):
            raise refuse(node, "between symmetric is not allowed: write the smaller bound first")
        case exp.In() if trust == "expression" and node.args.get("query"):
            raise refuse(node, "IN (select …) needs trust level 'sql' (files)")
        case exp.In() if not (node.args.get("query") or node.expressions):
            raise refuse(node, "IN takes a list of values")
        case exp.Identifier() if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ ]{0,127}", node.name):
            raise refuse(node, f"name {node.name[:40]!r} is not allowed")
        case _:
            return


def _check_call(node: exp.Anonymous, trust: Trust, functions: frozenset[str]) -> None:
    name = str(node.this).lower()
    if name in ("ref", "source"):
        if trust == "expression" or not isinstance(node.parent, exp.Table):
            raise refuse(node, f"{name}() stands only in the FROM of a sub-select in files (trust level 'sql')")
        if not all(isinstance(argument, exp.Literal) and argument.is_string for argument in node.expressions):
            raise refuse(node, f"{name}() takes quoted names")
    elif name not in functions:
        from compiler.errors import nearest

        raise refuse(node, f"function {name}() is not allowed: it is no function of the workflow language",
                     code="E204", hint=nearest(name, functions))  # fmt: skip


def _check_argument(node: exp.Expr, functions: frozenset[str]) -> None:
    parent = node.parent
    if not isinstance(parent, exp.Anonymous) or str(parent.this).lower() not in functions:
        raise refuse(node, f"{_name(node)} is not allowed: it stands only as an argument of did(), event_count(), …")


def _check_select_part(node: exp.Expr) -> None:
    match node:
        case exp.Table() if not isinstance(node.this, exp.Anonymous):
            raise refuse(node, f"relation {node.sql()} is not allowed", code="E205",
                         hint="name a model: ref('model') or source('a', 'b')")  # fmt: skip
        case exp.AggFunc() if node.find_ancestor(exp.Select) is None:
            raise refuse(node, f"{_name(node)} is not allowed: aggregates stand only inside a sub-select",
                         hint="over events: event_count('…'), event_sum('…', event.amount)")  # fmt: skip
        case exp.Alias() if not isinstance(node.parent, exp.Select):
            raise refuse(node, "a name for a value stands only in a sub-select's columns")
        case exp.Distinct() if not isinstance(node.parent, exp.Select | exp.AggFunc):
            raise refuse(node, "distinct stands only in a sub-select or an aggregate")
        case exp.Select() if not node.expressions:
            raise refuse(node, "a sub-select needs at least one column")
        case exp.Select() if node.args.get("from_") is None:
            raise refuse(node, "a sub-select needs FROM", hint="name a model: ref('model') or source('a', 'b')")
        case exp.Star() if not isinstance(node.parent, exp.Count):
            raise refuse(node.parent or node, "'*' is not allowed outside count(*)")
        case exp.Join() if node.args.get("using") or node.args.get("kind") == "LATERAL":
            raise refuse(node, "a join in a condition needs ON")
        case exp.Select() if set(_set_args(node)) - {
            "expressions", "from_", "joins", "where", "group", "having", "order", "limit", "distinct", "kind",
        }:  # fmt: skip
            raise refuse(node, "this SELECT has a clause that is not allowed")
        case _:
            return


def _name(node: exp.Expr) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).lower()
    return f"{words}" if not isinstance(node, exp.Func) else f"function {node.sql_name().lower()}()"


def _reason(node: exp.Expr) -> str:
    for kind, why in _REASONS.items():
        if isinstance(node, kind):
            return why
    return "it is not on the allow-list of conditions"
