"""Random conditions over the columns and events of random cases."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.oracle.conditions import Both, Call, Case, Compare, In, IsNull, Math, Name, Not, Value

ORDER = ["=", "<>", "<", "<=", ">", ">="]
EVENTS = ["x", "y", "visit", "start", "ping"]


@dataclass
class Conditions:
    """Makes trees; `earlier` are the steps that `since` may name, `mailed` the sends whose state may be asked."""

    random: Random
    has_entry: bool
    earlier: list[str] = field(default_factory=list)
    mailed: list[str] = field(default_factory=list)
    written: list[Any] = field(default_factory=list)
    """Questions about what earlier steps wrote."""
    splits: list[str] = field(default_factory=list)
    scores: tuple[str, ...] = ()
    names: tuple[str, ...] = ("w",)
    goals: bool = False
    start: datetime = datetime(2025, 1, 1)

    def condition(self, depth: int = 2) -> Any:
        """Any condition of an enrollment."""
        luck = self.random.random()
        if depth and luck < 0.3:
            word = self.random.choice(["and", "or"])
            return Both(word, self.condition(depth - 1), self.condition(depth - 1))
        if depth and luck < 0.42:
            return Not(self.condition(depth - 1))
        kinds: list[Callable[[], Any]] = [self.column, self.column, self.tag, self.tag, self.happened, self.happened]
        kinds += [self.count, self.days, self.where]
        kinds += [self.elsewhere, self.clock, self.times, self.shape, self.numbers]
        if self.mailed or self.splits:
            kinds.append(self.state)
        return self.random.choice(kinds)()

    def audience(self) -> Any:
        """A condition about the contact alone."""
        kinds: list[Callable[[], Any]] = [self.column, self.column, self.days, lambda: self.happened(enrolled=False)]
        kinds += [self.elsewhere, self.clock, self.tag]
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
        """A tag, or a campaign."""
        if self.written and self.random.random() < 0.7:
            return self.random.choice(self.written)
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
        """The state of an earlier action, or the arm of a split."""
        if self.splits and (not self.mailed or self.random.random() < 0.3):
            return Compare("=", Name(("steps", self.random.choice(self.splits), "arm")), Value("A"))
        step, luck = self.random.choice(self.mailed), self.random.random()
        if luck < 0.4:
            return Call("failed", (Value(step),))
        if luck < 0.6:
            return IsNull(Name(("steps", step, "sent_at")))
        return Compare("=", Name(("steps", step, "status")), Value(self.random.choice(["sent", "skipped", "failed"])))

    def elsewhere(self) -> Any:
        """Campaigns, scores, other workflows, goals."""
        name = Value(self.random.choice(self.names))
        kinds: list[Callable[[], Any]] = [
            lambda: Call("in_campaign", (Value("spring"),)),
            lambda: Call(self.random.choice(["in_workflow", "was_in_workflow"]), (name,)),
            lambda: Compare("=", Call("position_in", (name,)), Value(f"s{self.random.randint(1, 4)}")),
        ]
        if self.scores:
            kinds += [self.points] * 2
        return self.random.choice(kinds)()

    def points(self) -> Any:
        """A score."""
        score = Call("score", (Value(self.random.choice(self.scores)),))
        return Compare(self.random.choice(ORDER), score, Value(self.random.randint(0, 2)))

    def clock(self) -> Any:
        """The contact's wall clock, or chance."""
        which = self.random.randint(0, 3)
        if which == 0:
            return Compare(self.random.choice(ORDER), Call("local_hour"), Value(self.random.choice([2, 3, 9, 12, 20])))
        if which == 1:
            return In(Call("local_dow"), (Value(6), Value(7)))
        if which == 2:
            return Compare(
                self.random.choice(ORDER), Call("local_date"), Value((self.start + timedelta(days=1)).date())
            )
        return Compare("<", Call("bucket", (Value("b"),)), Value(0.5))

    def times(self) -> Any:
        """When events were."""
        call = Call(self.random.choice(["first_event", "last_event"]), *self._parts())
        others: list[Any] = [Value(self.start + timedelta(hours=self.random.randint(0, 9))), Call("now")]
        if self.has_entry:
            others.append(Name(("entry", "at")))
        if self.random.random() < 0.3:
            return IsNull(call)
        if self.random.random() < 0.4:
            return Compare(self.random.choice(["<", ">="]), Math("+", call, Value(timedelta(hours=6))), Call("now"))
        return Compare(self.random.choice(ORDER), call, self.random.choice(others))

    def _parts(self) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
        arguments, options = self._about(EVENTS, enrolled=True)
        return arguments, tuple(options)

    def numbers(self) -> Any:
        """Sums and ratios of events."""
        limits = {key: value for key, value in self._parts()[1] if key != "since" or value.value == "entry"}
        if self.random.random() < 0.5:
            pair = tuple(Value(each) for each in self.random.sample(EVENTS, 2))
            return Compare(self.random.choice(["<", ">="]), Call("rate", pair, tuple(limits.items())), Value(0.5))
        call = Call("event_sum", (Value(self.random.choice(EVENTS)), Name(("event", "v"))), tuple(limits.items()))
        return Compare(self.random.choice(ORDER), call, Value(self.random.randint(1, 5)))

    def shape(self) -> Any:
        """SQL around columns."""
        number, plan = Name(("contact", "n")), Name(("contact", "plan"))
        which = self.random.randint(0, 3)
        if which == 0:
            return Compare("like", plan, Value(self.random.choice(["p%", "%e_", "_ro"])))
        if which == 1:
            filled = Call("coalesce", (number, Value(1)))
            return Compare(self.random.choice(ORDER), Math("+", filled, Value(1)), Value(2))
        if which == 2:
            case = Case(((Compare("=", plan, Value("pro")), number), (IsNull(plan), Value(1))), Value(None))
            return Compare(self.random.choice(ORDER), case, Value(1))
        return Name(("goal", "met")) if self.goals else Name(("contact", "ok"))

    def moment(self) -> Any:
        """A time that a wait_until waits for."""
        kinds: list[Any] = [Name(("contact", "renewal")), Call("last_event", (Value("x"),))]
        if self.has_entry:
            kinds += [Name(("entry", "u"))] * 2 + [Math("+", Name(("entry", "at")), Value(timedelta(hours=2)))]
        return self.random.choice(kinds)
