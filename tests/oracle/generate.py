"""Random cases from a seed, over the constructs that the engine executes."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.oracle.clock import shown
from tests.oracle.conditions import text
from tests.oracle.random_conditions import Conditions
from tests.oracle.random_steps import Steps

# Grows as constructs come to be executed; taking one out makes the cases without it.
EXECUTED = frozenset(
    [
        *("event", "audience", "from", "goals", "exit_when", "quiet_hours", "cap"),
        *(
            "wait",
            "wait_for",
            "if",
            "exit",
            "switch",
            "split",
            "wait_until",
            "tag",
            "untag",
            "set",
            "email",
            "notify",
            "task",
            "crm",
            "webhook",
        ),
    ]
)
STARTS = ["2025-03-29T06:00", "2025-10-25T06:00", "2025-11-01T12:00", "2025-03-08T15:00", "2025-06-02T08:00"]
ZONES = ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC", None, None, "Mars/Base", ""]
NAMES = ["start", "start", "start", "x", "x", "y", "visit"]
STEP_SIZES = [15, 60, 180, 360]


@dataclass
class Generator:
    """One case; everything comes from the seed."""

    seed: int
    executed: frozenset[str] = EXECUTED
    random: Random = field(init=False)
    start: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Fixes the first instant."""
        self.random = Random(self.seed)
        self.start = datetime.fromisoformat(self.random.choice(STARTS))

    def case(self) -> dict[str, Any]:
        """The case in the simulation format."""
        contacts = list("abcdef")[: self.random.randint(2, 6)]
        case: dict[str, Any] = {"id": f"seed_{self.seed}"}
        if config := self._config():
            case["config"] = config
        case["contacts"] = [self._contact(each) for each in contacts]
        case["events"] = self._events(contacts)
        if changes := self._changes(contacts):
            case["changes"] = changes
        case["models"] = {"carts": self._carts(contacts)}
        names = ["w", "v"][: self.random.choice([1, 1, 1, 2])]
        case["workflows"] = [self._workflow(name) for name in names]
        case["destination"] = {
            each: [self.random.choice([202, 202, 503, 429, 500, 400, 404]) for _ in range(self.random.randint(1, 3))]
            for each in contacts
            if self.random.random() < 0.4
        }
        case["ticks"] = self._ticks()
        return case

    def _time(self, low: int = -600, high: int = 3000) -> datetime:
        """A time around the case's, in minutes from its start; often a round one, so that bounds are met exactly."""
        minutes = self.random.randint(low, high)
        if self.random.random() < 0.6:
            minutes -= minutes % 30
        seconds = self.random.choice([0, 0, 0, 1, 59])
        return self.start + timedelta(minutes=minutes, seconds=seconds)

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for key, values in (
            ("default_timezone", ["Europe/Paris", "America/New_York"]),
            ("grace", ["0s", "10m", "2h", "1d"]),
            ("allowed_lateness", ["30m", "2h"]),
            ("max_duration", ["36h", "2d"]),
            ("require", ["contact.ok", {"email": "contact.ok"}]),
        ):
            if self.random.random() < 0.2:
                config[key] = self.random.choice(values)
        return config | self._scarcity()

    def _scarcity(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        if "quiet_hours" in self.executed and self.random.random() < 0.3:
            start, end = self.random.choice([("21:00", "08:00"), ("12:00", "14:00"), ("01:30", "03:30")])
            config["quiet_hours"] = {"from": start, "to": end}
        if "cap" in self.executed and self.random.random() < 0.4:
            per = self.random.choice(["1h", "24h", "1d"])
            config["cap"] = {
                "max": self.random.randint(1, 2),
                "per": per,
                "on_cap": self.random.choice(["skip", "defer"]),
            }
        if "holdout" in self.executed and self.random.random() < 0.2:
            config["holdout"] = {"percent": self.random.choice([30, 50]), "salt": self.random.choice(["h1", "h2"])}
        return config

    def _columns(self) -> dict[str, Any]:
        return {
            "plan": self.random.choice(["free", "pro", None]),
            "n": self.random.choice([0, 1, 2, None]),
            "ok": self.random.choice([True, True, True, False, None]),
            "timezone": self.random.choice(ZONES),
            "unsubscribed": self.random.random() < 0.1,
            "bounced": self.random.random() < 0.05,
            "unsubscribed_groups": self.random.choice([[], [], [], ["news"], ["other"]]),
            "email": self.random.choice(["p@example.test"] * 9 + ["", None]),
        }

    def _contact(self, contact: str) -> dict[str, Any]:
        return {"id": contact, **self._columns(), "tags": self.random.choice([[], [], ["t1"], ["t2", "t1"]])}

    def _changes(self, contacts: list[str]) -> list[dict[str, Any]]:
        changes = []
        for number in range(self.random.randint(0, 5)):
            columns = self._columns()
            names = self.random.sample(sorted(columns), self.random.randint(1, 2))
            at = self._time() + timedelta(seconds=2 + number)
            chosen = {name: columns[name] for name in names}
            changes.append({"contact": self.random.choice(contacts), "at": shown(at), "set": chosen})
        return changes

    def _events(self, contacts: list[str]) -> list[list[Any]]:
        rows = []
        for number in range(self.random.randint(8, 40)):
            time = self._time()
            properties: dict[str, Any] = {"v": self.random.randint(1, 3), "k": self.random.choice(["K1", "K2"])}
            if self.random.random() < 0.1:
                del properties["v"]
            row = [f"e{number:02}", self.random.choice(contacts), self.random.choice(NAMES), shown(time), properties]
            loaded = time
            luck = self.random.random()
            if luck < 0.25:
                loaded += timedelta(minutes=self.random.choice([10, 60, 300, 1500]))
            elif luck < 0.35:
                loaded -= timedelta(minutes=self.random.choice([30, 600]))
            row.append(shown(loaded))
            if self.random.random() < 0.1:
                row.append(shown(loaded + timedelta(minutes=self.random.choice([20, 200]))))
            rows.append(row)
            if self.random.random() < 0.15:
                rows.append([*row[:5], shown(loaded + timedelta(minutes=self.random.choice([0, 45, 1500])))])
        self.random.shuffle(rows)
        return rows

    def _carts(self, contacts: list[str]) -> list[dict[str, Any]]:
        rows = []
        for number in range(self.random.randint(2, 9)):
            time = self._time()
            row = {
                "cart_id": f"C{number}",
                "contact_id": self.random.choice(contacts),
                "v": self.random.randint(1, 3),
                "k": self.random.choice(["K1", "K2"]),
                "created_at": shown(time),
                "visible_at": shown(time + timedelta(minutes=self.random.choice([-60, 0, 0, 30]))),
            }
            rows.append(row)
            if self.random.random() < 0.3:
                rows.append({**row, "v": self.random.randint(1, 3), "visible_at": shown(time + timedelta(hours=2))})
        return sorted(rows, key=lambda each: str(each["visible_at"]))

    def _ticks(self) -> list[str]:
        size = self.random.choice(STEP_SIZES)
        at, found = self.start - timedelta(hours=self.random.choice([0, 12])), []
        for _ in range(self.random.randint(6, 18)):
            found.append(shown(at))
            step = size
            if self.random.random() < 0.15:
                step = self.random.choice([1, size * 3, 1440, 1500])
            elif self.random.random() < 0.3:
                step = self.random.randint(1, size)
            at += timedelta(minutes=step, seconds=self.random.choice([0, 0, 0, 0, 1, -1]))
        return found

    def _workflow(self, name: str) -> dict[str, Any]:
        kind = self.random.choice(
            [each for each in ("event", "event", "event", "audience", "from") if each in self.executed]
        )
        conditions = Conditions(self.random, has_entry=kind != "audience")
        document: dict[str, Any] = {"version": 1, "workflow": name, "trigger": self._trigger(kind, conditions)}
        if kind == "event" and self.random.random() < 0.25:
            document["activated"] = shown(self._time(-300, 1500))
        document["entry"] = self._entry(kind)
        if self.random.random() < 0.4:
            document["goals"] = [{"when": text(conditions.goal())}]
        if self.random.random() < 0.35:
            document["exit_when"] = [text(conditions.goal())]
        if kind == "audience" and self.random.random() < 0.4:
            document["exit_on_leave"] = True
        if self.random.random() < 0.3:
            document["policy"] = {"priority": self.random.randint(-1, 2)}
        document["steps"] = Steps(self.random, conditions, self.executed, name).steps()
        return document

    def _trigger(self, kind: str, conditions: Conditions) -> dict[str, Any]:
        if kind == "audience":
            return {"audience": text(conditions.audience())}
        trigger: dict[str, Any] = {"event": self.random.choice(["start", "start", ["start", "x"]])}
        if kind == "from":
            trigger = {"from": "ref('carts')", "key": "cart_id", "contact": "contact_id", "at": "created_at"}
        if self.random.random() < 0.3:
            trigger["where"] = text(conditions.where())
        return trigger

    def _entry(self, kind: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"reentry": self.random.choice(["once", "after_exit", "after_exit", "always"])}
        if kind != "audience" and self.random.random() < 0.3:
            entry["key"] = "entry.k"
        options: list[tuple[str, list[Any]]] = [
            ("min_gap", ["30m", "6h", "1d"]),
            ("cap", ["1 per 1h", "2 per 12h", "1 per 1d"]),
            ("backfill", [True, "3h", "1d"]),
        ]
        if kind == "event":
            options.append(("max_age", ["30m", "5h"]))
        for key, values in options:
            if self.random.random() < 0.2 and not (kind == "audience" and key == "min_gap"):
                entry[key] = self.random.choice(values)
        return entry


def generate(seed: int, executed: frozenset[str] = EXECUTED) -> dict[str, Any]:
    """The case of a seed."""
    return Generator(seed, executed).case()
