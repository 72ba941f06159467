"""Conditions as trees: written to SQL text by `text`, read back by `parse` (sql.py), evaluated by `Evaluation`."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any


class Unsupported(Exception):
    """The oracle does not know this construct; a case with it is passed over."""


@dataclass(frozen=True)
class Value:
    """A literal; None is NULL."""

    value: Any


@dataclass(frozen=True)
class Name:
    """`contact.plan`, `entry.v`, `event.v`, `steps.m.status`, a bare column."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class Not:
    """Negation; unknown stays unknown."""

    inner: Any


@dataclass(frozen=True)
class Both:
    """`and` / `or`."""

    word: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Compare:
    """`= <> < <= > >= like`."""

    word: str
    left: Any
    right: Any


@dataclass(frozen=True)
class IsNull:
    """`is null`."""

    inner: Any


@dataclass(frozen=True)
class In:
    """`in (…)`."""

    inner: Any
    among: tuple[Any, ...]


@dataclass(frozen=True)
class Math:
    """`+ - * /`."""

    word: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Case:
    """`case when … then … else … end`."""

    arms: tuple[tuple[Any, Any], ...]
    otherwise: Any


@dataclass(frozen=True)
class Call:
    """A function with positional and named arguments; a list argument is a tuple of nodes."""

    name: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = field(default=())

    def option(self, name: str) -> Any:
        """The literal value of an option."""
        found = dict(self.options).get(name)
        return None if found is None else found.value


def text(node: Any) -> str:
    """A tree as SQL."""
    match node:
        case Value(value):
            return _literal(value)
        case Name(path):
            return ".".join(path)
        case Not(inner):
            return f"(not {text(inner)})"
        case Both(word, left, right) | Compare(word, left, right) | Math(word, left, right):
            return f"({text(left)} {word} {text(right)})"
        case IsNull(inner):
            return f"({text(inner)} is null)"
        case In(inner, among):
            return f"({text(inner)} in ({', '.join(map(text, among))}))"
        case tuple():
            return f"[{', '.join(map(text, node))}]"
        case Call(name, arguments, options):
            words = [text(each) for each in arguments] + [f"{key} => {text(each)}" for key, each in options]
            return f"{name}({', '.join(words)})"
        case Case(arms, otherwise):
            middle = " ".join(f"when {text(test)} then {text(value)}" for test, value in arms)
            return f"(case {middle} else {text(otherwise)} end)"
    raise Unsupported(repr(node))


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"timestamp '{value:%Y-%m-%d %H:%M:%S}'"
    if isinstance(value, date):
        return f"date '{value}'"
    if isinstance(value, timedelta):
        return f"interval '{value // timedelta(minutes=1)} minutes'"
    if isinstance(value, str):
        quote = chr(39)
        return quote + value.replace(quote, quote * 2) + quote
    return repr(value)
