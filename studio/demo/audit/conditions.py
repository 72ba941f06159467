"""Conditions for the audit: the SQL of a workflow file, parsed by descent and evaluated for one contact.

Three-valued: None is unknown. Only what is written here is understood; anything else is an `AuditError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

_TOKEN = re.compile(r"""\s*(?:
    (?P<text>'(?:[^']|'')*')
  | (?P<number>\d+(?:\.\d+)?)
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>=>|<=|>=|<>|!=|[=<>()\[\],.])
)""", re.VERBOSE)  # fmt: skip
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d+)([smhdw])")
_KEYWORDS = frozenset("and or not in is null true false select from where as exists case between like".split())
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b), "<>": lambda a, b: bool(a != b), "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b), "<=": lambda a, b: bool(a <= b), ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}  # fmt: skip


class AuditError(Exception):
    """The audit meets something that it cannot work out; the message says what."""


@dataclass(frozen=True)
class Look:
    """What a `did(…)` asks for: event names, a predicate over the event, and from when on.

    `since` is None, `entry` or the id of a step; `within` counts back from the tick.
    """

    names: frozenset[str]
    predicate: Value | None = None
    since: str | None = None
    within: timedelta | None = None
    at_least: int = 1


class Facts(Protocol):
    """One contact (and enrollment) as it can be seen at a tick."""

    @property
    def contact(self) -> Mapping[str, Any]:
        """The contact's columns."""
        ...

    @property
    def entry(self) -> Mapping[str, Any]:
        """The row that the enrollment began with."""
        ...

    def times(self, look: Look) -> Iterable[datetime]:
        """Event times of the matching events."""
        ...

    def rows(self, relation: str) -> Iterable[Mapping[str, Any]]:
        """The visible rows of a model."""
        ...


Names = Mapping[str, Mapping[str, Any]]
"""Other rows in sight by alias: `event` inside a predicate, the alias of a sub-select."""

Value = Callable[[Facts, Names], Any]


@dataclass(frozen=True)
class Condition:
    """A parsed condition: `value` evaluates it, `looks` are the questions about events that it contains."""

    text: str
    value: Value
    looks: tuple[Look, ...] = field(default=())

    def holds(self, facts: Facts, names: Names | None = None) -> bool:
        """True only if it is true; unknown counts as false."""
        return self.value(facts, names or {}) is True


def duration(text: str) -> timedelta:
    """`90s`, `5m`, `2h`, `1d`, `2w` as elapsed time."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise AuditError(f"the audit does not know the duration {text!r}")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def parse(text: str) -> Condition:
    """Parse one expression.

    Raises:
        AuditError: a construct that is not written here.
    """
    parser = _Parser(text)
    value = parser.disjunction()
    parser.expect_end()
    return Condition(text, value, tuple(parser.looks))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.place = 0
        self.looks: list[Look] = []

    # ------------------------------------------------------------ tokens

    def _peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        token = self.tokens[place] if place < len(self.tokens) else ""
        return token.lower() if token.lower() in _KEYWORDS else token

    def _next(self) -> str:
        token = self._peek()
        self.place += 1
        return token

    def _accept(self, *words: str) -> bool:
        if all(self._peek(ahead) == word for ahead, word in enumerate(words)):
            self.place += len(words)
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise AuditError(f"the audit expects {word!r} and finds {self._peek()!r} in: {self.text}")

    def expect_end(self) -> None:
        if self._peek():
            raise AuditError(f"the audit cannot read {self._peek()!r} in: {self.text}")

    # ------------------------------------------------------------ logic

    def disjunction(self) -> Value:
        parts = [self._conjunction()]
        while self._accept("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else _logic(parts, decisive=True)

    def _conjunction(self) -> Value:
        parts = [self._negation()]
        while self._accept("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else _logic(parts, decisive=False)

    def _negation(self) -> Value:
        return _not(self._negation()) if self._accept("not") else self._comparison()

    def _comparison(self) -> Value:
        left = self._operand()
        if self._peek() in _COMPARE:
            return _compared(_COMPARE[self._next()], left, self._operand())
        if self._accept("is", "not", "null"):
            return lambda facts, names: left(facts, names) is not None
        if self._accept("is", "null"):
            return lambda facts, names: left(facts, names) is None
        if self._accept("not", "in"):
            return _not(self._member(left))
        if self._accept("in"):
            return self._member(left)
        return left

    def _member(self, left: Value) -> Value:
        self._expect("(")
        values = self._sub_select() if self._peek() == "select" else _listed(self._items(")"))
        self._expect(")")
        return _inside(left, values)

    def _sub_select(self) -> Callable[[Facts, Names], Iterable[Any]]:
        """`select <column> from ref('model') [as] alias [where …]`."""
        self._expect("select")
        column = self._operand()
        self._expect("from")
        self._expect("ref")
        self._expect("(")
        relation = _unquoted(self._next())
        self._expect(")")
        self._accept("as")
        alias = self._next()
        where = self.disjunction() if self._accept("where") else None

        def values(facts: Facts, names: Names) -> Iterable[Any]:
            for row in facts.rows(relation):
                inner = {**names, alias: row}
                if where is None or where(facts, inner) is True:
                    yield column(facts, inner)

        return values

    # ------------------------------------------------------------ operands

    def _operand(self) -> Value:
        token = self._next()
        if token == "(":
            inside = self.disjunction()
            self._expect(")")
            return inside
        if token in ("true", "false", "null"):
            return _constant({"true": True, "false": False, "null": None}[token])
        if token.startswith("'"):
            return _constant(_unquoted(token))
        if token[:1].isdigit():
            return _constant(float(token) if "." in token else int(token))
        if not re.fullmatch(r"[A-Za-z_]\w*", token) or token in _KEYWORDS:
            raise AuditError(f"the audit cannot read {token!r} in: {self.text}")
        if self._peek() == "(":
            return self._call(token)
        if self._accept("."):
            return _column(token, self._next())
        return _column("contact", token)

    def _call(self, name: str) -> Value:
        if name.lower() != "did":
            raise AuditError(f"the audit does not know the function {name}() in: {self.text}")
        self._expect("(")
        names = self._names()
        predicate: Value | None = None
        options: dict[str, Any] = {}
        while self._accept(","):
            if self._peek(1) == "=>":
                option = self._next()
                self._expect("=>")
                options[option] = _literal(self._next())
            else:
                predicate = self.disjunction()
        self._expect(")")
        within = options.pop("within", None)
        look = Look(names, predicate, options.pop("since", None), duration(within) if within else None,
                    options.pop("at_least", 1))  # fmt: skip
        if options:
            raise AuditError(f"the audit does not know the option {next(iter(options))} in: {self.text}")
        self.looks.append(look)
        return lambda facts, names: sum(1 for _ in facts.times(look)) >= look.at_least

    def _names(self) -> frozenset[str]:
        if self._accept("["):
            names = frozenset(_unquoted(item) for item in self._words("]"))
            self._expect("]")
            return names
        return frozenset([_unquoted(self._next())])

    def _words(self, end: str) -> Sequence[str]:
        words = [self._next()]
        while self._accept(","):
            words.append(self._next())
        if self._peek() != end:
            raise AuditError(f"the audit expects {end!r} in: {self.text}")
        return words

    def _items(self, end: str) -> Sequence[Value]:
        items = [self._operand()]
        while self._accept(","):
            items.append(self._operand())
        if self._peek() != end:
            raise AuditError(f"the audit expects {end!r} in: {self.text}")
        return items


def _tokens(text: str) -> Iterable[str]:
    place, text = 0, text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise AuditError(f"the audit cannot read {text[place : place + 10]!r} in: {text}")
        yield match[0].strip()
        place = match.end()


def _unquoted(token: str) -> str:
    if not token.startswith("'"):
        raise AuditError(f"the audit expects a quoted word and finds {token!r}")
    return token[1:-1].replace("''", "'")


def _literal(token: str) -> Any:
    return _unquoted(token) if token.startswith("'") else int(token)


def _constant(value: Any) -> Value:
    return lambda facts, names: value


def _column(table: str, name: str) -> Value:
    match table:
        case "contact":
            return lambda facts, names: facts.contact[name]
        case "entry":
            return lambda facts, names: facts.entry.get(name)
        case _:
            return lambda facts, names: names[table].get(name)


def _compared(compare: Callable[[Any, Any], bool], left: Value, right: Value) -> Value:
    def value(facts: Facts, names: Names) -> bool | None:
        a, b = left(facts, names), right(facts, names)
        return None if a is None or b is None else compare(a, b)

    return value


def _not(inside: Value) -> Value:
    def value(facts: Facts, names: Names) -> bool | None:
        found = inside(facts, names)
        return None if found is None else not found

    return value


def _logic(parts: Sequence[Value], *, decisive: bool) -> Value:
    """`or` (one true decides) and `and` (one false decides); otherwise one unknown makes it unknown."""

    def value(facts: Facts, names: Names) -> bool | None:
        found = [part(facts, names) for part in parts]
        if any(one is decisive for one in found):
            return decisive
        return None if None in found else not decisive

    return value


def _listed(items: Sequence[Value]) -> Callable[[Facts, Names], Iterable[Any]]:
    return lambda facts, names: [item(facts, names) for item in items]


def _inside(left: Value, values: Callable[[Facts, Names], Iterable[Any]]) -> Value:
    def value(facts: Facts, names: Names) -> bool | None:
        wanted, found = left(facts, names), list(values(facts, names))
        if not found:
            return False
        if wanted is None:
            return None
        if wanted in found:
            return True
        return None if None in found else False

    return value
