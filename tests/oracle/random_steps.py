"""Random lists of steps."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.oracle.conditions import Both, Call, Value, text
from tests.oracle.random_conditions import EVENTS, Conditions

WAITS = ["30s", "10m", "30m", "1h", "1h", "6h", "24h", "1d", "1d", "2d", "1w"]
ACTIONS = "email email email tag tag untag untag set set notify task crm webhook sms push channel score".split()
ACTIONS += "campaign campaign emit emit enroll unenroll".split()
OUTWARD = ("email", "sms", "push", "channel", "notify", "task", "crm", "webhook")
MESSAGES = OUTWARD[:4]


@dataclass
class Steps:
    """Makes the steps of one workflow; ids are unique in it."""

    random: Random
    conditions: Conditions
    executed: frozenset[str]
    workflow: str
    names: tuple[str, ...] = ()
    count: int = 0
    jumps: int = 0
    top: list[str] = field(default_factory=list)

    def steps(self) -> list[dict[str, Any]]:
        """The steps of a workflow."""
        return self._list(2, self.random.randint(2, 6), top=True)

    def _id(self) -> str:
        self.count += 1
        return f"s{self.count}"

    def _list(self, depth: int, length: int, *, top: bool = False) -> list[dict[str, Any]]:
        steps = []
        for _ in range(length):
            step = self._step(depth, top=top)
            steps.append(step)
            self.conditions.earlier.append(str(step["id"]))
        if not top and self.random.random() < 0.15:
            steps.append({"id": self._id(), "exit": self.random.choice(["done", "gave_up"])})
        return steps

    def _step(self, depth: int, *, top: bool) -> dict[str, Any]:
        control = ["wait", "wait", "wait", "wait_until", "window"]
        if depth:
            control += ["if", "if", "wait_for", "wait_for", "switch", "split"]
        kinds = [each for each in control + ACTIONS if each in self.executed]
        if top and self.top and self.jumps < 2 and "goto" in self.executed and self.random.random() < 0.35:
            self.jumps += 1
            return {"id": self._id(), "goto": self.random.choice(self.top), "max": self.random.randint(1, 2)}
        kind = self.random.choice(kinds)
        step = {"id": self._id(), **getattr(self, f"_{kind}" if kind not in ACTIONS else "_action")(kind, depth)}
        if top and kind == "wait":
            self.top.append(str(step["id"]))
        return step

    def _wait(self, _: str, __: int) -> dict[str, Any]:
        return {"wait": self.random.choice(WAITS)}

    def _wait_until(self, _: str, __: int) -> dict[str, Any]:
        if self.random.random() < 0.3:
            return {"wait_until": text(self.conditions.moment())}
        form: dict[str, Any] = {"at": self.random.choice(["09:00", "02:30", "02:15", "01:30", "00:00"])}
        if self.random.random() < 0.4:
            form["days"] = self.random.choice([["mon", "sun"], ["sat", "tue", "thu"]])
        return {"wait_until": form}

    def _window(self, _: str, __: int) -> dict[str, Any]:
        start, end = self.random.choice([("09:00", "17:00"), ("22:00", "06:00"), ("02:00", "02:45")])
        form: dict[str, Any] = {"from": start, "to": end}
        if self.random.random() < 0.4:
            form["days"] = self.random.choice([["mon", "sun", "sat"], ["sat", "tue", "thu"]])
        return {"window": form}

    def _arms(self, depth: int, names: list[str]) -> dict[str, list[dict[str, Any]]]:
        return {name: self._list(depth - 1, self.random.randint(1, 2)) for name in names}

    def _if(self, _: str, depth: int) -> dict[str, Any]:
        condition = text(self.conditions.condition())
        return {"if": condition, **self._arms(depth, ["then", *(["else"] * (self.random.random() < 0.7))])}

    def _switch(self, _: str, depth: int) -> dict[str, Any]:
        arms = []
        for _number in range(2):
            arms.append({"if": text(self.conditions.condition()), "then": self._list(depth - 1, 1)})
        return {"switch": arms, "else": self._list(depth - 1, 1)}

    def _split(self, _: str, depth: int) -> dict[str, Any]:
        weights = self.random.choice([{"A": 50, "B": 50}, {"A": 10, "B": 20, "C": 70}, {"A": 0, "B": 100}])
        salt = {"salt": "s"} if self.random.random() < 0.3 else {}
        self.conditions.splits.append(f"s{self.count}")
        return {"split": weights, **salt, "arms": self._arms(depth, list(weights))}

    def _wait_for(self, _: str, depth: int) -> dict[str, Any]:
        calls: list[Any] = []
        for _number in range(self.random.choice([1, 1, 1, 2])):
            first: Any = Value(self.random.choice(EVENTS))
            calls.append(Call("did", (first, self.conditions.predicate()) if self.random.random() < 0.3 else (first,)))
        node = calls[0] if len(calls) == 1 else Both("or", calls[0], calls[1])
        step: dict[str, Any] = {"wait_for": text(node)}
        if self.random.random() < 0.6:
            step["since"] = self.random.choice(["entry", "step", "step", *self.conditions.earlier])
        step["within"] = self.random.choice(["30m", "1h", "6h", "1d", "24h", "2d"])
        return step | self._arms(depth, ["then", "else"])

    def _action(self, kind: str, _: int) -> dict[str, Any]:
        number, tag = self.count, self.random.choice(["t1", "t2", "t3"])
        forms: dict[str, dict[str, Any]] = {
            "email": {"email": f"m{number}"},
            "notify": {"notify": "sales", "text": "hello"},
            "task": {"task": {"title": f"call {number}"}},
            "crm": {"crm": {"object": "contact", "set": {"stage": "'won'"}}},
            "webhook": {"webhook": "hook", "body": {"kind": "'x'"}},
            "sms": {"sms": f"t{number}"},
            "push": {"push": f"p{number}"},
            "channel": {"channel": self.random.choice([["email", "sms"], ["push", "email"], ["sms", "push", "email"]])},
            "score": {"score": self.random.choice([{"fit": 1}, {"fit": "contact.n"}, {"churn": 2, "fit": -1}])},
            "campaign": {"campaign": {self.random.choice(["add", "remove"]): "spring"}},
            "emit": {"emit": self.random.choice(["ping", "pong"]), "with": self._given()},
            "enroll": {"enroll": self.random.choice(self.names or (self.workflow,)), "with": self._given()},
            "unenroll": {"unenroll": self.random.choice(self.names or (self.workflow,))},
            "tag": {"tag": tag},
            "untag": {"untag": tag},
            "set": {"set": self.random.choice([{"plan": "'pro'"}, {"n": "contact.n + 1"}, {"n": 2, "plan": "null"}])},
        }
        step = forms[kind]
        if self.random.random() < 0.2:
            step["if"] = text(self.conditions.condition(1))
        if self.random.random() < 0.15:
            step["expires_after"] = self.random.choice(["0s", "20m", "2h"])
        if kind in MESSAGES and self.random.random() < 0.3:
            step["group"] = "news"
        if kind in MESSAGES and self.random.random() < 0.1:
            step["transactional"] = True
        if kind in OUTWARD and self.random.random() < 0.15:
            step["on_error"] = "exit"
        if kind in ("tag", "untag"):
            self.conditions.written.append(Call("has_tag", (Value(tag),)))
        if kind == "campaign":
            self.conditions.written.append(Call("in_campaign", (Value("spring"),)))
        if kind == "score":
            self.conditions.scores = tuple({*self.conditions.scores, *step["score"]})
        if kind in OUTWARD:
            self.conditions.mailed.append(f"s{number}")
        return step

    def _given(self) -> dict[str, Any]:
        """Values that an event or an entry is given."""
        return {"v": self.random.choice([1, 2, 3, "contact.n"]), "k": self.random.choice(["'K1'", "'K2'"])}
