"""Who enters: candidates and the checks of §1."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.oracle.clock import elapsed, moment
from tests.oracle.conditions import Unsupported
from tests.oracle.enrollment import Enrollment
from tests.oracle.evaluation import Evaluation
from tests.oracle.log import Log
from tests.oracle.sql import parse
from tests.oracle.workflow import Workflow
from tests.oracle.world import World


@dataclass
class Candidate:
    """Somebody who may enter."""

    time: datetime
    id: str
    contact: str
    entry: dict[str, Any]
    trigger: str | None = None


@dataclass
class Admission:
    """Remembers what it has considered and who belonged to which audience."""

    world: World
    log: Log
    considered: set[tuple[str, str]] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)

    def admit(self, workflow: Workflow) -> None:
        """Considers the candidates of a tick."""
        kinds: dict[str, Any] = {"event": self._events, "audience": self._edges, "from": self._rows}
        kind = next(kind for kind in kinds if kind in workflow.trigger)
        for candidate in sorted(kinds[kind](workflow), key=lambda each: (each.time, each.id)):
            self._consider(workflow, candidate)

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
        audience, tick = parse(workflow.trigger["audience"]), self.world.tick
        now = {each for each in self.world.contacts if self._reading(workflow, each, None).true(audience)}
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
            newest[str(row[trigger["key"]])] = row
        for key, row in newest.items():
            contact, time = str(row[trigger["contact"]]), moment(row[trigger["at"]])
            known = (workflow.name, key)
            if known in self.considered or time > self.world.tick or contact not in self.world.contacts:
                continue
            entry = {**row, "at": time}
            if self._reading(workflow, contact, entry).true(parse(trigger.get("where", "true"))):
                self.considered.add(known)
                yield Candidate(time, key, contact, entry)

    def _consider(self, workflow: Workflow, candidate: Candidate) -> None:
        tick, rules = self.world.tick, workflow.entry
        key = None
        if "key" in rules:
            key = self._reading(workflow, candidate.contact, candidate.entry).value(parse(rules["key"]))
        if candidate.trigger and "max_age" in rules and tick - candidate.time > elapsed(rules["max_age"]):
            self.log.reject(workflow, candidate.contact, key, candidate.time, "stale_trigger")
            return
        mine = [
            each
            for each in self.world.enrollments
            if each.workflow.name == workflow.name and each.contact == candidate.contact
        ]
        same = [each for each in mine if each.key == key]
        reentry = rules.get("reentry", "once")
        if (reentry == "once" and same) or (reentry == "after_exit" and any(each.active for each in same)):
            return
        if "min_gap" in rules and same:
            last = max(each.entered for each in same)
            if candidate.time - last < elapsed(rules["min_gap"]):
                return
        most, _, per = str(rules.get("cap", "10 per 24h")).partition(" per ")
        inside = [each for each in mine if candidate.time - elapsed(per) < each.entered <= candidate.time]
        if len(inside) >= int(most):
            self.log.reject(workflow, candidate.contact, key, candidate.time, "entry_cap")
            return
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
        )
        self.world.enrollments.append(enrollment)
        self.log.enter(enrollment)
