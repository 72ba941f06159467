"""Who enters: candidates and the checks of §1."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.oracle.clock import elapsed, moment, zone_of
from tests.oracle.conditions import Name, Unsupported
from tests.oracle.cron import occurrences
from tests.oracle.enrollment import Enrollment
from tests.oracle.evaluation import Evaluation
from tests.oracle.log import Log
from tests.oracle.sql import parse
from tests.oracle.workflow import Workflow
from tests.oracle.world import World

LOGGED = ("paused", "stale_trigger", "entry_cap")


@dataclass
class Candidate:
    """Somebody who may enter."""

    time: datetime
    id: str
    contact: str
    entry: dict[str, Any]
    trigger: str | None = None
    asked: bool = False
    """Made by an `enroll` step of an earlier tick."""
    since: datetime | None = None
    """When it was a candidate first, of one that waits."""

    def order(self) -> tuple[datetime, bool, str, str, str]:
        """The order in which candidates are considered; those that were asked to enter have no event's id."""
        return self.since or self.time, not self.asked, self.contact if self.asked else "", self.id, self.contact


@dataclass
class Admission:
    """Remembers what it has considered, who belonged to which audience, and who waits."""

    world: World
    log: Log
    considered: set[tuple[str, str]] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)
    present: dict[str, set[str]] = field(default_factory=dict)
    """Who belongs to the audience of each workflow in this tick: read once, before exits and entries."""
    waiting: dict[str, list[Candidate]] = field(default_factory=dict)
    seen: dict[str, datetime] = field(default_factory=dict)
    """The last tick that looked at a schedule."""
    admitted: dict[str, list[datetime]] = field(default_factory=dict)
    """The ticks of the entries, for the ramp."""

    def look(self, workflows: list[Workflow]) -> None:
        """Reads the audiences that are triggers, and those of schedules."""
        for workflow in workflows:
            if "audience" in workflow.trigger:
                audience = parse(workflow.trigger["audience"])
                inside = {each for each in self.world.contacts if self._reading(workflow, each, None).true(audience)}
                self.present[workflow.name] = inside

    def admit(self, workflow: Workflow) -> None:
        """Considers the candidates of a tick, in their order; those who have to wait come again."""
        kinds: dict[str, Any] = {
            "schedule": self._occurrences, "event": self._events, "audience": self._edges, "from": self._rows
        }  # fmt: skip
        kind = next(kind for kind in kinds if kind in workflow.trigger)
        found: list[Candidate] = [*kinds[kind](workflow), *self._asked(workflow)]
        before = self.waiting.pop(workflow.name, [])
        for candidate in before:
            candidate.time = self.world.tick if kind == "audience" and not candidate.asked else candidate.time
        for candidate in sorted([*before, *found], key=Candidate.order):
            if self._consider(workflow, candidate):
                candidate.since = candidate.since or candidate.time
                self.waiting.setdefault(workflow.name, []).append(candidate)

    def merge(self, one: str, into: str) -> None:
        """Members and candidates of a contact are the other one's."""
        for members in self.members.values():
            if one in members:
                members.add(into)
        for candidates in self.waiting.values():
            for candidate in candidates:
                candidate.contact = into if candidate.contact == one else candidate.contact

    def _asked(self, workflow: Workflow) -> list[Candidate]:
        mine = [each for name, each in self.world.asked if name == workflow.name]
        self.world.asked = [(name, each) for name, each in self.world.asked if name != workflow.name]
        return [Candidate(time, number, contact, entry, asked=True) for time, number, contact, entry in mine]

    def _reading(self, workflow: Workflow, contact: str, entry: dict[str, Any] | None) -> Evaluation:
        return Evaluation(self.world, contact, workflow.policy.get("default_timezone"), entry)

    def _events(self, workflow: Workflow) -> Iterator[Candidate]:
        names = workflow.trigger["event"]
        names = names if isinstance(names, list) else [names]
        backfill = workflow.entry.get("backfill", False)
        earliest = workflow.activation
        if backfill is True:
            earliest = datetime.min
        elif backfill is not False and earliest > datetime.min:
            earliest -= elapsed(backfill)
        where = parse(workflow.trigger.get("where", "true"))
        for contact in self.world.contacts:
            for event in self.world.events(contact):
                known = (workflow.name, event.id)
                if event.name not in names or known in self.considered:
                    continue
                self.considered.add(known)
                entry = {"event_id": event.id, "name": event.name, "event_time": event.time}
                entry |= {**event.properties, "at": event.time}
                if event.time >= earliest and self._reading(workflow, contact, entry).true(where):
                    yield Candidate(event.time, event.id, contact, entry, event.id)

    def _edges(self, workflow: Workflow) -> Iterator[Candidate]:
        tick, now = self.world.tick, self.present[workflow.name]
        before = self.members.get(workflow.name)
        if before is None:
            before = set() if workflow.entry.get("backfill", False) else now
        self.members[workflow.name] = now
        for contact in now - before:
            yield Candidate(tick, contact, contact, {"at": tick})

    def _rows(self, workflow: Workflow) -> Iterator[Candidate]:
        trigger = workflow.trigger
        if not str(trigger["from"]).startswith("ref('"):
            raise Unsupported(str(trigger["from"]))
        newest: dict[str, dict[str, Any]] = {}
        for row in self.world.rows(str(trigger["from"])[5:-2]):
            newest[str(row[column(trigger["key"])])] = row
        for key, row in newest.items():
            contact, time = self.world.owner(str(row[column(trigger["contact"])])), moment(row[column(trigger["at"])])
            known = (workflow.name, key)
            if known in self.considered or time > self.world.tick or contact not in self.world.contacts:
                continue
            entry = {**row, "at": time}
            if self._reading(workflow, contact, entry).true(parse(trigger.get("where", "true"))):
                self.considered.add(known)
                yield Candidate(time, key, contact, entry)

    def _occurrences(self, workflow: Workflow) -> Iterator[Candidate]:
        trigger, tick = workflow.trigger, self.world.tick
        start = workflow.activation
        backfill = workflow.entry.get("backfill", False)
        if start > datetime.min and not isinstance(backfill, bool):
            start -= elapsed(backfill)
        before = self.seen.get(workflow.name)
        if before is None and start == datetime.min:
            start = tick
        just_before = start - timedelta(microseconds=1) if start > datetime.min else start
        lower = max(before or datetime.min, just_before)
        self.seen[workflow.name] = tick
        default = workflow.policy.get("default_timezone")
        for contact in self.present.get(workflow.name, self.world.contacts):
            zone = trigger.get("timezone", default)
            names = [self.world.column(contact, "timezone"), default] if zone == "contact" else [zone]
            for at in occurrences(trigger["schedule"], zone_of(names), lower, tick):
                known = (workflow.name, f"{contact} {at}")
                if known not in self.considered:
                    self.considered.add(known)
                    yield Candidate(at, "", contact, {"at": at, "scheduled_at": at})

    def _refusal(self, workflow: Workflow, candidate: Candidate, key: Any) -> str | None:
        """Why a candidate is refused, `wait` when it has to come again."""
        tick, rules = self.world.tick, workflow.entry
        if workflow.name in self.world.paused:
            return "wait" if candidate.since or rules.get("on_resume") == "admit" else "paused"
        aged = "event" in workflow.trigger and not candidate.asked
        if aged and "max_age" in rules and tick - candidate.time > elapsed(rules["max_age"]):
            return "stale_trigger"
        mine = [
            each
            for each in self.world.enrollments
            if each.workflow.name == workflow.name and each.contact == candidate.contact
        ]
        same = [each for each in mine if each.key == key]
        reentry = rules.get("reentry", "once")
        if (reentry == "once" and same) or (reentry == "after_exit" and any(each.active for each in same)):
            return "reentry"
        if "min_gap" in rules and same:
            last = max(each.entered for each in same)
            if candidate.time - last < elapsed(rules["min_gap"]):
                return "min_gap"
        most, _, per = str(rules.get("cap", "10 per 24h")).partition(" per ")
        inside = [each for each in mine if candidate.time - elapsed(per) < each.entered <= candidate.time]
        if len(inside) >= int(most):
            return "entry_cap"
        if "ramp" in rules:
            most, _, per = str(rules["ramp"]).partition(" per ")
            entered = [each for each in self.admitted.get(workflow.name, []) if each > tick - elapsed(per)]
            return "wait" if len(entered) >= int(most) else None
        return None

    def _consider(self, workflow: Workflow, candidate: Candidate) -> bool:
        """Lets a candidate in or refuses it; whether it has to come again."""
        key = None
        if "key" in workflow.entry:
            node = parse(workflow.entry["key"])
            if "from" in workflow.trigger and isinstance(node, Name) and len(node.path) == 1:
                node = Name(("entry", *node.path))  # a column of the model
            key = self._reading(workflow, candidate.contact, candidate.entry).value(node)
        reason = self._refusal(workflow, candidate, key)
        if reason in LOGGED:
            self.log.reject(workflow, candidate.contact, key, candidate.time, str(reason))
        if reason is None:
            self._enter(workflow, candidate, key)
        return reason == "wait"

    def _enter(self, workflow: Workflow, candidate: Candidate, key: Any) -> None:
        self.admitted.setdefault(workflow.name, []).append(self.world.tick)
        enrollment = Enrollment(
            number=len(self.world.enrollments) + 1,
            workflow=workflow,
            contact=candidate.contact,
            key=key,
            entry=candidate.entry,
            entered=candidate.time,
            trigger=candidate.trigger,
            at=candidate.time,
            node=workflow.first,
            ref=candidate.id,
            rest=workflow.first.id if workflow.first else "",
        )
        self.world.enrollments.append(enrollment)
        self.log.enter(enrollment)


def column(text: object) -> str:
    """The column of the model that an expression names, `at` or `entry.at`."""
    return str(text).removeprefix("entry.")
