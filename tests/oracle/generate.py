"""Random cases from a seed, over the constructs that the engine executes."""

import copy
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.oracle.clock import shown
from tests.oracle.conditions import text
from tests.oracle.random_conditions import Conditions
from tests.oracle.random_steps import Steps
from tests.oracle.random_stories import NIGHTS, Stories, moves

# Grows as constructs come to be executed; taking one out makes the cases without it.
EXECUTED = frozenset(
    "event audience from schedule goals exit_when quiet_hours cap holdout ramp on_resume control publish migrate "
    "merges scores wait wait_for if exit switch split wait_until window goto tag untag set score campaign emit enroll "
    "unenroll email sms push channel notify task crm webhook".split()
)
STARTS = {
    "2025-03-29T06:00": "Europe/Paris",
    "2025-10-25T06:00": "Europe/Paris",
    "2025-11-01T12:00": "America/New_York",
    "2025-03-08T15:00": "America/New_York",
    "2025-10-04T06:00": "Australia/Lord_Howe",
    "2025-06-02T08:00": "UTC",
}
"""First instants, each with a zone whose clock changes in the day after (but for the last)."""
ZONES = ["Europe/Paris", "America/New_York", "Asia/Kolkata", "UTC", None, None, "Mars/Base", ""]
NAMES = ["start", "start", "start", "x", "x", "y", "visit"]
LINES = ["0 9 * * *", "30 2 * * *", "0 */6 * * *", "0 * * * sat,sun", "15,45 8-10 * * *"]
STEP_SIZES = [5, 15, 30, 60, 60, 180, 360]


@dataclass
class Generator:
    """One case; everything comes from the seed."""

    seed: int
    executed: frozenset[str] = EXECUTED
    random: Random = field(init=False)
    start: datetime = field(init=False)
    span: int = 3000
    """Minutes until the last tick."""
    names: tuple[str, ...] = ("w",)
    scored: tuple[str, ...] = ()
    round: bool = field(init=False)
    """Whether nearly all times are round ones, so that bounds are met exactly."""

    def __post_init__(self) -> None:
        """Fixes the first instant."""
        self.random = Random(self.seed)
        self.start = datetime.fromisoformat(self.random.choice(list(NIGHTS if self.told else STARTS)))
        self.round = self.random.random() < 0.6

    @property
    def told(self) -> bool:
        """Whether the case has stories."""
        return self.seed % 10 == 3

    def case(self) -> dict[str, Any]:
        """The case in the simulation format."""
        contacts = [f"c{number}" for number in range(self.random.randint(4, 14))]
        ticks = self._ticks()
        case: dict[str, Any] = {"id": f"seed_{self.seed}"}
        if config := self._config():
            case["config"] = config
        case["contacts"] = [self._contact(each) for each in contacts]
        case["events"] = self._events(contacts)
        if changes := self._changes(contacts):
            case["changes"] = changes
        case["models"] = {"carts": self._carts(contacts)}
        if "scores" in self.executed and self.random.random() < 0.3:
            case["scores"] = self._scores(contacts)
            self.scored = ("churn",)
        self.names = ("w", "v", "u")[: self.random.choice([1, 1, 1, 1, 2, 2, 3])]
        case["workflows"] = [self._workflow(name) for name in self.names]
        if "control" in self.executed and self.random.random() < 0.3:
            case["control"] = self._control()
        if "publish" in self.executed and not self.told and self.random.random() < 0.3:
            case["publish"] = [self._publication(self.random.choice(case["workflows"]))]
        if self.told:
            self._tell(case, contacts)
        if "merges" in self.executed and self.seed % 10 == 8:
            case["merges"] = self._merges(contacts)
        case["destination"] = {
            each: [self.random.choice([202, 202, 503, 429, 500, 400, 404]) for _ in range(self.random.randint(1, 3))]
            for each in contacts
            if self.random.random() < 0.4
        }
        case["ticks"] = [shown(each) for each in ticks]
        return case

    def _time(self, low: int = -600, high: int | None = None) -> datetime:
        """A time around the ticks, in minutes from the start; often a round one."""
        minutes = self.random.randint(low, self.span if high is None else high)
        if self.random.random() < (0.95 if self.round else 0.4):
            minutes -= minutes % 30
        seconds = 0 if self.round else self.random.choice([0, 0, 0, 1, 59])
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
            "timezone": self.random.choice([*ZONES, *[(STARTS | NIGHTS)[f"{self.start:%Y-%m-%dT%H:%M}"]] * 5]),
            "unsubscribed": self.random.random() < 0.1,
            "bounced": self.random.random() < 0.1,
            "unsubscribed_groups": self.random.choice([[], [], [], ["news"], ["other"]]),
            "email": self.random.choice(["p@example.test"] * 9 + ["", None]),
            "phone": self.random.choice(["+1", "+2", None]),
            "push_token": self.random.choice(["t", "", None]),
            "renewal": self.random.choice([shown(self._time(-60)), None]),
        }

    def _contact(self, contact: str) -> dict[str, Any]:
        return {"id": contact, **self._columns(), "tags": self.random.choice([[], [], ["t1"], ["t2", "t1"]])}

    def _changes(self, contacts: list[str]) -> list[dict[str, Any]]:
        changes = []
        for number in range(self.random.randint(0, 16)):
            columns = self._columns()
            often = ["timezone", "plan", "plan", "n", "n", "ok"]
            names = (
                [self.random.choice(often)] if self.random.random() < 0.7 else self.random.sample(sorted(columns), 2)
            )
            at = self._time() + timedelta(seconds=2 + number)
            chosen = {name: columns[name] for name in names}
            changes.append({"contact": self.random.choice(contacts), "at": shown(at), "set": chosen})
        return changes

    def _events(self, contacts: list[str]) -> list[list[Any]]:
        rows = []
        for number in range(self.random.randint(5, 9) * len(contacts)):
            time = self._time()
            properties: dict[str, Any] = {"v": self.random.randint(1, 3), "k": self.random.choice(["K1", "K2"])}
            properties["u"] = self.random.choice([shown(self._time(-60)), "soon", None])
            if self.random.random() < 0.1:
                del properties["v"]
            row = [f"e{number:03}", self.random.choice(contacts), self.random.choice(NAMES), shown(time), properties]
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
                copy = {**properties, "v": self.random.randint(1, 3)}
                rows.append([*row[:4], copy, shown(loaded + timedelta(minutes=self.random.choice([1, 45, 1500])))])
        self.random.shuffle(rows)
        return rows

    def _carts(self, contacts: list[str]) -> list[dict[str, Any]]:
        rows = []
        for number in range(self.random.randint(2, 3) * len(contacts)):
            time = self._time()
            row = {
                "cart_id": f"C{number}",
                "contact_id": self.random.choice(contacts),
                "v": self.random.randint(1, 3),
                "k": self.random.choice(["K1", "K2"]),
                "u": shown(self._time(-60)),
                "created_at": shown(time),
                "visible_at": shown(time + timedelta(minutes=self.random.choice([-60, 0, 0, 30]))),
            }
            rows.append(row)
            if self.random.random() < 0.3:
                rows.append({**row, "v": self.random.randint(1, 3), "visible_at": shown(time + timedelta(hours=2))})
        return sorted(rows, key=lambda each: str(each["visible_at"]))

    def _ticks(self) -> list[datetime]:
        size = self.random.choice([30, 60] if self.told else STEP_SIZES)
        at, found = self.start - timedelta(hours=0 if self.told else self.random.choice([0, 12])), []
        for _ in range(self.random.randint(9, 13) if self.told else self.random.randint(5, 10)):
            found.append(at)
            step = size
            if self.random.random() < 0.15:
                step = self.random.choice([size * 3, 1440, 1500])
            elif self.random.random() < 0.3 and not self.round:
                step = self.random.randint(1, size)
            at += timedelta(minutes=step, seconds=0 if self.round else self.random.choice([0, 0, 0, 0, 1, -1]))
        self.span = max(30, (found[-1] - self.start) // timedelta(minutes=1))
        return found

    def _workflow(self, name: str) -> dict[str, Any]:
        kinds = (*["event"] * 5, *["audience"] * 2, "from", "schedule")
        kind = self.random.choice([each for each in kinds if each in self.executed])
        conditions = Conditions(
            self.random, kind in ("event", "from"), scores=self.scored, names=self.names, start=self.start
        )
        document: dict[str, Any] = {"version": 1, "workflow": name, "trigger": self._trigger(kind, conditions)}
        if kind in ("event", "schedule") and self.random.random() < 0.25:
            document["activated"] = shown(self._time(-300, self.span // 2))
        document["entry"] = self._entry(kind)
        if self.random.random() < 0.4:
            document["goals"] = [{"when": text(conditions.goal())}]
            conditions.goals = True
        if self.random.random() < 0.35:
            document["exit_when"] = [text(conditions.goal())]
        if kind == "audience" and self.random.random() < 0.6:
            document["exit_on_leave"] = True
        if self.random.random() < 0.3:
            document["policy"] = {"priority": self.random.randint(-1, 2)}
        if self.random.random() < 0.15:
            ruled = [(key, self.random.choice([value, None])) for key, value in self._scarcity().items()]
            key, value = self.random.choice(ruled or [("grace", "30m")])
            document["policy"] = document.get("policy", {}) | {key: value}
        document["steps"] = Steps(self.random, conditions, self.executed, name, self.names).steps()
        return document

    def _trigger(self, kind: str, conditions: Conditions) -> dict[str, Any]:
        if kind == "audience":
            return {"audience": text(conditions.audience())}
        if kind == "schedule":
            schedule: dict[str, Any] = {"schedule": self.random.choice(LINES)}
            if self.random.random() < 0.6:
                schedule["timezone"] = self.random.choice(["contact", "contact", "Europe/Paris", "Asia/Kolkata"])
            return schedule | ({"audience": text(conditions.audience())} if self.random.random() < 0.5 else {})
        trigger: dict[str, Any] = {"event": self.random.choice(["start", "start", ["start", "x"], ["start", "ping"]])}
        if kind == "from":
            trigger = {"from": "ref('carts')", "key": "cart_id", "contact": "contact_id", "at": "created_at"}
        if self.random.random() < 0.3:
            trigger["where"] = text(conditions.where())
        return trigger

    def _entry(self, kind: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"reentry": self.random.choice(["once", "after_exit", "after_exit", "always"])}
        if kind in ("event", "from") and self.random.random() < 0.3:
            entry["key"] = "entry.k"
        options: list[tuple[str, list[Any]]] = [
            ("min_gap", ["30m", "6h", "1d"]),
            ("cap", ["1 per 1h", "2 per 12h", "1 per 1d"]),
            ("backfill", [True, "3h", "1d"]),
        ]
        if kind == "event":
            options.append(("max_age", ["30m", "5h"]))
        if "ramp" in self.executed and kind != "audience":
            options.append(("ramp", ["2 per 1h", "3 per 6h", "1 per 30m"]))
        if "on_resume" in self.executed:
            options.append(("on_resume", ["admit"]))
        for key, values in options:
            if self.random.random() < 0.2 and not (kind == "audience" and key == "min_gap"):
                entry[key] = self.random.choice(values)
        return entry

    def _tell(self, case: dict[str, Any], contacts: list[str]) -> None:
        """Adds stories to the workflows, and what they are about: moves into other zones, and a pause that ends."""
        for workflow in case["workflows"]:
            workflow["steps"] = Stories(self.random, self.executed).before(workflow["steps"])
        case["changes"] = case.get("changes", []) + moves(self.random, contacts, self.start, self.span)
        if "control" in self.executed and self.random.random() < 0.5:
            scope, at = self.random.choice([*self.names, "all"]), self._time(0, self.span // 2)
            end = at + timedelta(minutes=self.random.choice([60, 90, 150]))
            case["control"] = [{"at": shown(at), "pause": scope}, {"at": shown(end), "resume": scope}]

    def _scores(self, contacts: list[str]) -> list[dict[str, Any]]:
        rows = []
        for number in range(2 * len(contacts)):
            at = shown(self._time() + timedelta(seconds=number))
            value = self.random.choice([0, 0.5, 1, 2])
            rows.append({"contact": self.random.choice(contacts), "name": "churn", "value": value, "at": at})
        return rows

    def _merges(self, contacts: list[str]) -> list[dict[str, Any]]:
        """Some of the first contacts become part of others, which may become part of others again."""
        rows = []
        for number in range(self.random.randint(1, 3)):
            into = self.random.choice(contacts[number + 1 :])
            at = self._time(-60) + timedelta(seconds=number)
            rows.append({"from": contacts[number], "into": into, "at": shown(at)})
        return rows

    def _control(self) -> list[dict[str, Any]]:
        scope = self.random.choice([*self.names, "all"])
        start = self._time(-60)
        rows = [{"at": shown(start), "pause": scope}]
        if self.random.random() < 0.8:
            end = start + timedelta(minutes=self.random.choice([30, 90, 360, 1500]))
            rows.append({"at": shown(end), "resume": scope})
        return rows

    def _publication(self, document: dict[str, Any]) -> dict[str, Any]:
        changed = {key: value for key, value in copy.deepcopy(document).items() if key != "activated"}
        removed = edit(self.random, changed["steps"], json.dumps(document))
        row: dict[str, Any] = {"at": shown(self._time(-60)), "workflow": changed}
        if "migrate" in self.executed and '"goto"' not in json.dumps(document) and self.random.random() < 0.7:
            row["in_flight"] = "migrate"
            targets = [str(step["id"]) for step in changed["steps"]]
            row["redirect"] = {old: self.random.choice(targets) for old in removed if self.random.random() < 0.5}
        return row


def edit(random: Random, steps: list[dict[str, Any]], whole: str) -> list[str]:
    """Changes waits, removes steps that nothing refers to, and adds some; gives the ids of those removed."""
    removed = []
    for step in list(steps):
        inner = [step.get("then"), step.get("else"), *step.get("arms", {}).values()]
        inner += [arm.get("then") for arm in step.get("switch", [])]
        removed += [gone for arm in inner if arm for gone in edit(random, arm, whole)]
        name = str(step["id"])
        named = (
            any(form in whole for form in (f"'{name}'", f".{name}.", f': "{name}"')) and whole.count(f'"{name}"') > 1
        )
        gone = not any(inner) and not named and len(steps) > 1
        if gone and random.random() < (
            0.35 if any(kind in step for kind in ("wait", "wait_until", "window")) else 0.15
        ):
            if f"'{name}'" not in whole and f".{name}." not in whole:
                steps.remove(step)
                removed.append(name)
        elif "wait" in step and random.random() < 0.5:
            step["wait"] = random.choice(["10m", "1h", "6h", "1d"])
        elif gone and random.random() < 0.3:
            steps.remove(step)
            steps.insert(random.randint(0, len(steps)), step)
    if random.random() < 0.4:
        place = random.randint(0, len(steps) - 1)
        kind = random.choice([{"tag": "t3"}, {"email": "added"}, {"wait": "30m"}])
        steps.insert(place, {"id": f"added_{steps[0]['id']}", **kind})
    return removed


def generate(seed: int, executed: frozenset[str] = EXECUTED) -> dict[str, Any]:
    """The case of a seed."""
    return Generator(seed, executed).case()
