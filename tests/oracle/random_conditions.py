"""Random conditions over the columns and events of random cases."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.oracle.conditions import Both, Call, Compare, In, IsNull, Name, Not, Value

ORDER = ["=", "<>", "<", "<=", ">", ">="]
EVENTS = ["x", "y", "visit", "start"]


@dataclass
class Conditions:
    """Makes trees; `earlier` are the steps that `since` may name, `mailed` the sends whose state may be asked."""

    random: Random
    has_entry: bool
    earlier: list[str] = field(default_factory=list)
    mailed: list[str] = field(default_factory=list)

    def condition(self, depth: int = 2) -> Any:
        """Any condition of an enrollment."""
        luck = self.random.random()
        if depth and luck < 0.3:
            word = self.random.choice(["and", "or"])
            return Both(word, self.condition(depth - 1), self.condition(depth - 1))
        if depth and luck < 0.42:
            return Not(self.condition(depth - 1))
        kinds: list[Callable[[], Any]] = [self.column, self.column, self.tag, self.happened, self.happened]
        kinds += [self.count, self.days, self.where]
        if self.mailed:
            kinds.append(self.state)
        return self.random.choice(kinds)()

    def audience(self) -> Any:
        """A condition about the contact alone."""
        kinds: list[Callable[[], Any]] = [self.column, self.column, self.days, lambda: self.happened(enrolled=False)]
        node = self.random.choice(kinds)()
        return Not(node) if self.random.random() < 0.3 else node

    def goal(self) -> Any:
        """A goal: rarely true at once."""
        kinds: list[Callable[[], Any]] = [lambda: self.happened(["y", "visit"]), self.tag, self.column]
        return self.random.choice(kinds[:2] * 2 + kinds)()

    def where(self) -> Any:
        """A condition over what caused the entry, or over the contact."""
        if not self.has_entry:
            return self.column()
        node = Compare(self.random.choice(ORDER), Name(("entry", "v")), Value(self.random.randint(1, 3)))
        return Not(node) if self.random.random() < 0.2 else node

    def column(self) -> Any:
        """A comparison of a contact's column."""
        prefix = self.random.choice([("contact",), ()])
        which = self.random.randint(0, 4)
        if which == 0:
            return IsNull(Name((*prefix, self.random.choice(["plan", "n"]))))
        if which == 1:
            return In(Name((*prefix, "plan")), (Value("pro"), Value("free" if self.random.random() < 0.3 else "basic")))
        if which == 2:
            return Compare(self.random.choice(ORDER), Name((*prefix, "n")), Value(self.random.randint(0, 2)))
        return Compare(self.random.choice(["=", "<>"]), Name((*prefix, "plan")), Value("pro"))

    def tag(self) -> Any:
        """A tag."""
        return Call("has_tag", (Value(self.random.choice(["t1", "t2", "t3"])),))

    def predicate(self) -> Any:
        """A condition over an event."""
        if self.has_entry and self.random.random() < 0.4:
            return Compare("=", Name(("event", "k")), Name(("entry", "k")))
        return Compare(self.random.choice(ORDER), Name(("event", "v")), Value(self.random.randint(1, 3)))

    def _about(self, names: list[str], *, enrolled: bool) -> tuple[tuple[Any, ...], list[tuple[str, Any]]]:
        first: Any = Value(self.random.choice(names))
        if self.random.random() < 0.2:
            first = tuple(Value(each) for each in self.random.sample(EVENTS, 2))
        arguments: tuple[Any, ...] = (first,)
        if self.random.random() < 0.3 and enrolled:
            arguments = (first, self.predicate())
        options: list[tuple[str, Any]] = []
        if enrolled and self.random.random() < 0.5:
            options.append(("since", Value(self.random.choice(["entry", "entry", *self.earlier]))))
        if self.random.random() < 0.25:
            options.append(("within", Value(self.random.choice(["30m", "6h", "1d", "2d"]))))
        return arguments, options

    def happened(self, names: list[str] | None = None, *, enrolled: bool = True) -> Any:
        """`did(…)`."""
        arguments, options = self._about(names or EVENTS, enrolled=enrolled)
        if self.random.random() < 0.2:
            options.append(("at_least", Value(2)))
        return Call("did", arguments, tuple(options))

    def count(self) -> Any:
        """`event_count(…)`."""
        arguments, options = self._about(EVENTS, enrolled=True)
        return Compare(
            self.random.choice(ORDER), Call("event_count", arguments, tuple(options)), Value(self.random.randint(0, 3))
        )

    def days(self) -> Any:
        """`days_since(…)`."""
        call = Call("days_since", (Value(self.random.choice(EVENTS)),))
        return IsNull(call) if self.random.random() < 0.2 else Compare(self.random.choice(["<", ">="]), call, Value(1))

    def state(self) -> Any:
        """The state of an earlier send."""
        step = self.random.choice(self.mailed)
        if self.random.random() < 0.5:
            return Call("failed", (Value(step),))
        return Compare("=", Name(("steps", step, "status")), Value(self.random.choice(["sent", "skipped"])))
