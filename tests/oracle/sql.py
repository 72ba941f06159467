"""Reads condition texts into the trees of conditions.py: a small recursive-descent parser of the oracle's own."""

import re
from datetime import date, datetime, timedelta
from typing import Any

from tests.oracle.conditions import Both, Call, Case, Compare, In, IsNull, Math, Name, Not, Unsupported, Value

TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(\d+(?:\.\d+)?)|([A-Za-z_][\w.]*)|(=>|<>|!=|<=|>=|[=<>()\[\],+\-*/]))")
SPANS = {"day": timedelta(days=1), "hour": timedelta(hours=1), "minute": timedelta(minutes=1)}


def parse(source: object) -> Any:
    """The tree of a condition.

    Raises:
        Unsupported: it uses something the oracle does not know.
    """
    reader = _Reader(str(source).lower() if isinstance(source, bool) else str(source))
    node = reader.either()
    if reader.peek() is not None:
        raise Unsupported(str(source))
    return node


class _Reader:
    def __init__(self, source: str) -> None:
        self.source, self.tokens, self.place = source, [], 0
        position = 0
        while source[position:].strip():
            found = TOKEN.match(source, position)
            if found is None:
                raise Unsupported(source)
            self.tokens.append(found.group(0).strip())
            position = found.end()

    def peek(self, ahead: int = 0) -> str | None:
        at = self.place + ahead
        if at >= len(self.tokens):
            return None
        token: str = self.tokens[at]
        return token if token.startswith("'") else token.lower()

    def take(self, word: str | None = None) -> str:
        if self.peek() is None or (word is not None and self.peek() != word):
            raise Unsupported(self.source)
        self.place += 1
        return str(self.tokens[self.place - 1])

    def accept(self, word: str) -> bool:
        if self.peek() == word:
            self.place += 1
            return True
        return False

    def either(self) -> Any:
        node = self.every()
        while self.accept("or"):
            node = Both("or", node, self.every())
        return node

    def every(self) -> Any:
        node = self.negation()
        while self.accept("and"):
            node = Both("and", node, self.negation())
        return node

    def negation(self) -> Any:
        return Not(self.negation()) if self.accept("not") else self.comparison()

    def comparison(self) -> Any:
        node = self.sum()
        while True:
            word = self.peek()
            if word in ("=", "<>", "!=", "<", "<=", ">", ">=", "like"):
                self.take()
                node = Compare("<>" if word == "!=" else word, node, self.sum())
            elif self.accept("is"):
                negated = self.accept("not")
                self.take("null")
                node = Not(IsNull(node)) if negated else IsNull(node)
            elif word in ("in", "between") or (word == "not" and self.peek(1) in ("in", "between", "like")):
                negated = self.accept("not")
                node = Not(self.set_test(node)) if negated else self.set_test(node)
            else:
                return node

    def set_test(self, node: Any) -> Any:
        if self.accept("like"):
            return Compare("like", node, self.sum())
        if self.accept("between"):
            low = self.sum()
            self.take("and")
            return Both("and", Compare(">=", node, low), Compare("<=", node, self.sum()))
        self.take("in")
        self.take("(")
        if self.peek() == "select":
            raise Unsupported(self.source)
        return In(node, self.listed(")"))

    def listed(self, end: str) -> tuple[Any, ...]:
        items = [self.either()]
        while self.accept(","):
            items.append(self.either())
        self.take(end)
        return tuple(items)

    def sum(self) -> Any:
        node = self.product()
        while self.peek() in ("+", "-"):
            node = Math(self.take(), node, self.product())
        return node

    def product(self) -> Any:
        node = self.primary()
        while self.peek() in ("*", "/"):
            node = Math(self.take(), node, self.primary())
        return node

    def primary(self) -> Any:
        word = self.take()
        lower = word.lower()
        if word.startswith("'"):
            return Value(word[1:-1].replace("''", "'"))
        if word[0].isdigit():
            return Value(float(word) if "." in word else int(word))
        if word == "-":
            return Math("-", Value(0), self.primary())
        if word == "(":
            node = self.either()
            self.take(")")
            return node
        if word == "[":
            return self.listed("]")
        if lower in ("true", "false", "null"):
            return Value({"true": True, "false": False, "null": None}[lower])
        if lower in ("timestamp", "date", "interval") and str(self.peek()).startswith("'"):
            return Value(self.typed(lower, self.take()[1:-1]))
        if lower == "case":
            return self.case()
        if self.peek() == "(":
            self.take("(")
            return self.call(lower)
        if lower == "current_timestamp":
            return Call("now")
        return Name(tuple(lower.split(".")))

    def typed(self, kind: str, value: str) -> Any:
        if kind == "interval":
            number, unit = value.split()
            return int(number) * SPANS[unit.rstrip("s")]
        return datetime.fromisoformat(value) if kind == "timestamp" else date.fromisoformat(value)

    def case(self) -> Case:
        arms, otherwise = [], Value(None)
        while self.accept("when"):
            test = self.either()
            self.take("then")
            arms.append((test, self.either()))
        if self.accept("else"):
            otherwise = self.either()
        self.take("end")
        return Case(tuple(arms), otherwise)

    def call(self, name: str) -> Call:
        arguments, options = [], []
        while not self.accept(")"):
            if self.peek() in (",",):
                self.take()
            elif self.peek(1) == "=>":
                key = self.take().lower()
                self.take("=>")
                options.append((key, self.either()))
            else:
                arguments.append(self.either())
        return Call(name, tuple(arguments), tuple(options))
