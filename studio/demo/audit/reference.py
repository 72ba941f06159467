"""The expected log: what every contact should have gone through, worked out one contact and one tick at a time."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from studio.demo.audit.conditions import AuditError, Condition, Facts, Look, duration
from studio.demo.audit.definitions import INTERNAL, Definition, Definitions, Step
from studio.demo.audit.history import Event, History, Person

_ATTEMPTS = 3
_WITHDRAWS = frozenset({"goal"})
_ZONES = available_timezones()


@dataclass(frozen=True)
class Expected:
    """One row of the log, as it should stand there; `contact` with the entry key in brackets."""

    executed_at: datetime
    due: datetime | None
    workflow: str
    contact: str
    step: str | None
    outcome: str


@dataclass
class Intent:
    """An outward action that was decided: who does it for whom, and what has become of it."""

    action_id: str
    enrollment: Enrollment
    step: Step
    due: datetime
    address: str
    facts: Facts
    attempts: int = 0
    state: str = "open"


@dataclass
class Enrollment:
    """One contact in one workflow. `logical` is L, `reached` step id -> L when it was reached, `at` None when over."""

    enrollment_id: str
    workflow: Definition
    person: Person
    key: str | None
    entry: Mapping[str, Any]
    trigger: str | None
    entered_at: datetime
    logical: datetime
    at: Step | None
    reached: dict[str, datetime] = field(default_factory=dict)
    exit: str | None = None
    intents: list[Intent] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The contact as the log writes it."""
        return self.person.contact_id if self.key is None else f"{self.person.contact_id}[{self.key}]"


Answer = Callable[[Intent, datetime], str]
"""What the destination said to an attempt at a tick: `sent`, `retry <code>`, `failed <code>`; `rests`: no attempt."""


@dataclass
class Outcome:
    """Everything expected: the log, the actions that a destination should have accepted, and those ever attempted."""

    rows: list[Expected] = field(default_factory=list)
    sent: list[Intent] = field(default_factory=list)
    attempted: set[str] = field(default_factory=set)


def identity(*parts: str | None) -> str:
    """The id of some parts: md5 over `<length>:<text>` of each, `-` for none."""
    text = "".join("-" if part is None else f"{len(part)}:{part}" for part in parts)
    return str(UUID(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()))


def expected_log(definitions: Definitions, history: History, answer: Answer) -> Outcome:
    """Work out the whole log.

    Raises:
        AuditError: a construct that the audit does not know.
    """
    outcome = Outcome()
    for person in history.people.values():
        _Journey(definitions, history, person, answer, outcome).run()
    return outcome


class _Facts:
    """A contact, perhaps in an enrollment, at a tick."""

    def __init__(
        self, history: History, person: Person, tick: int, enrollment: Enrollment | None = None,
        entry: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._history, self._person, self._tick, self._enrollment = history, person, tick, enrollment
        self.contact: Mapping[str, Any] = person.at(tick)
        self.entry: Mapping[str, Any] = enrollment.entry if enrollment is not None else entry or {}

    def times(self, look: Look) -> Iterator[datetime]:
        now = self._history.ticks[self._tick]
        lower = now - look.within if look.within is not None else None
        if look.since is not None:
            since = self._since(look.since)
            if since is None:
                return
            lower = since if lower is None else max(lower, since)
        trigger = self._enrollment.trigger if self._enrollment is not None else None
        for event in self._person.events:
            if event.seen > self._tick or event.name not in look.names or event.event_id == trigger:
                continue
            if lower is not None and event.happened_at < lower:
                continue
            if look.predicate is None or look.predicate(self, {"event": event.row}) is True:
                yield event.happened_at

    def rows(self, relation: str) -> Iterable[Mapping[str, Any]]:
        return self._history.rows(relation, self._tick)

    def _since(self, name: str) -> datetime | None:
        if self._enrollment is None:
            raise AuditError(f"since => '{name}' outside of an enrollment")
        return self._enrollment.entered_at if name == "entry" else self._enrollment.reached.get(name)


class _Journey:
    """One contact through all workflows."""

    def __init__(
        self, definitions: Definitions, history: History, person: Person, answer: Answer, outcome: Outcome
    ) -> None:  # fmt: skip
        self.definitions, self.history, self.person = definitions, history, person
        self.answer, self.outcome = answer, outcome
        self.ticks = history.ticks
        self.enrollments: list[Enrollment] = []
        self.member: dict[str, tuple[bool, int]] = {}
        self.undeliverable = False
        self.moments: set[int] = set()

    def run(self) -> None:
        """All ticks at which anything can change for this contact."""
        self.moments = self._moments()
        while self.moments:
            tick = min(self.moments)
            self.moments.discard(tick)
            self._tick(tick)

    def _moments(self) -> set[int]:
        """Ticks that see something new about the contact, or for which something becomes too old to count."""
        person, last = self.person, len(self.ticks)
        found = {0, person.known} | {seen for seen, _ in (*person.versions, *person.forbidden, *person.left)}
        looks = [look for d in self.definitions.workflows for c in d.conditions for look in c.looks]
        for event in person.events:
            found.add(event.seen)
            for look in looks:
                if look.within is not None and event.name in look.names:
                    found.add(bisect_right(self.ticks, event.happened_at + look.within))
        return {tick for tick in found if tick < last}

    def _tick(self, tick: int) -> None:
        now = self.ticks[tick]
        for enrollment in self._active():
            self._leave(enrollment, tick)
        for definition in self.definitions.workflows:
            for enrollment in self._admit(definition, tick):
                self._leave(enrollment, tick)
        for enrollment in self._active():
            self._advance(enrollment, tick)
        self._deliver(tick, now)

    def _active(self) -> list[Enrollment]:
        return [enrollment for enrollment in self.enrollments if enrollment.exit is None]

    def _wake(self, moment: datetime) -> None:
        tick = bisect_left(self.ticks, moment)
        if tick < len(self.ticks):
            self.moments.add(tick)

    def _log(
        self, tick: int, enrollment: Enrollment, outcome: str, due: datetime | None = None, step: str | None = None
    ) -> None:  # fmt: skip
        name = enrollment.workflow.name
        self.outcome.rows.append(Expected(self.ticks[tick], due, name, enrollment.label, step, outcome))

    # ------------------------------------------------------------ entering and leaving

    def _goal(self, enrollment: Enrollment, tick: int) -> bool:
        facts = _Facts(self.history, self.person, tick, enrollment)
        return any(goal.holds(facts) for goal in enrollment.workflow.goals)

    def _leave(self, enrollment: Enrollment, tick: int) -> None:
        if self._goal(enrollment, tick):
            self._exit(enrollment, tick, "goal")

    def _exit(self, enrollment: Enrollment, tick: int, reason: str) -> None:
        enrollment.exit, enrollment.at = reason, None
        self._log(tick, enrollment, f"exit {reason}")

    def _admit(self, definition: Definition, tick: int) -> Iterator[Enrollment]:
        if tick < self.person.known:
            return
        if definition.audience is not None:
            candidates = self._edge(definition, definition.audience, tick)
        else:
            candidates = self._arrivals(definition, tick)
        for candidate in candidates:
            if self._admissible(candidate, tick):
                self.enrollments.append(candidate)
                self._log(tick, candidate, "enter", candidate.entered_at)
                yield candidate

    def _edge(self, definition: Definition, audience: Condition, tick: int) -> list[Enrollment]:
        inside = audience.holds(_Facts(self.history, self.person, tick))
        before, edges = self.member.get(definition.name, (False, 0))
        rises = inside and not before and tick > 0
        edges += rises
        self.member[definition.name] = (inside, edges)
        return [self._candidate(definition, None, self.ticks[tick], {}, str(edges), None)] if rises else []

    def _arrivals(self, definition: Definition, tick: int) -> list[Enrollment]:
        found = []
        for event in self.person.events:
            if event.seen != tick or event.name not in definition.events or event.happened_at < self.ticks[0]:
                continue
            facts = _Facts(self.history, self.person, tick, entry=event.row)
            if definition.where is None or definition.where.holds(facts):
                found.append(self._from_event(definition, event, facts))
        return found

    def _from_event(self, definition: Definition, event: Event, facts: _Facts) -> Enrollment:
        key = definition.key.value(facts, {}) if definition.key is not None else None
        text = None if key is None else str(key)
        return self._candidate(definition, text, event.happened_at, event.row, event.event_id, event.event_id)

    def _candidate(
        self, definition: Definition, key: str | None, moment: datetime, entry: Mapping[str, Any], cause: str,
        trigger: str | None,
    ) -> Enrollment:  # fmt: skip
        workspace, contact = self.definitions.workspace, self.person.contact_id
        enrollment_id = identity(workspace, definition.name, contact, key, cause)
        return Enrollment(
            enrollment_id, definition, self.person, key, entry, trigger, moment, moment, definition.first,
            {definition.first.id: moment},
        )  # fmt: skip

    def _admissible(self, candidate: Enrollment, tick: int) -> bool:
        definition, moment = candidate.workflow, candidate.entered_at
        if definition.max_age is not None and self.ticks[tick] - moment > definition.max_age:
            self._log(tick, candidate, "rejected stale_trigger", moment)
            return False
        same = [e for e in self.enrollments if e.workflow is definition and e.key == candidate.key]
        if same and (definition.reentry == "once" or
                     definition.reentry == "after_exit" and any(e.exit is None for e in same)):  # fmt: skip
            return False
        last = max((e.entered_at for e in same), default=None)
        if last is not None and definition.min_gap is not None and moment - last < definition.min_gap:
            return False
        number, window = definition.cap
        mine = [e for e in self.enrollments if e.workflow is definition and moment - window < e.entered_at <= moment]
        if len(mine) >= number:
            self._log(tick, candidate, "rejected entry_cap", moment)
            return False
        return True

    # ------------------------------------------------------------ moving on

    def _advance(self, enrollment: Enrollment, tick: int) -> None:
        while enrollment.exit is None:
            step = enrollment.at
            if step is None:
                self._exit(enrollment, tick, "completed")
                return
            enrollment.reached.setdefault(step.id, enrollment.logical)
            passed, after = self._pass(enrollment, step, tick)
            if not passed:
                return
            enrollment.at = after

    def _pass(self, enrollment: Enrollment, step: Step, tick: int) -> tuple[bool, Step | None]:
        """Whether the step lets the enrollment pass at this tick, and where to."""
        match step.kind:
            case "wait":
                end = self._later(enrollment.logical, str(step.raw["wait"]), tick)
                if self.ticks[tick] < end:
                    self._wake(end)
                    return False, None
                enrollment.logical = end
                return True, step.following
            case "wait_for":
                return self._wait_for(enrollment, step, tick)
            case "if" if step.test is not None:
                holds = step.test.holds(_Facts(self.history, self.person, tick, enrollment))
                return True, step.then if holds else step.otherwise
            case "exit":
                self._exit(enrollment, tick, str(step.raw["exit"]))
                return False, None
            case _:
                self._act(enrollment, step, tick)
                return True, step.following

    def _wait_for(self, enrollment: Enrollment, step: Step, tick: int) -> tuple[bool, Step | None]:
        if step.test is None or len(step.test.looks) != 1:
            raise AuditError(f"the audit does not know what {step.id} waits for")
        deadline = self._later(enrollment.logical, str(step.raw["within"]), tick)
        since = str(step.raw.get("since", "entry"))
        lower = enrollment.logical if since == "step" else (
            enrollment.entered_at if since == "entry" else enrollment.reached[since])  # fmt: skip
        facts = _Facts(self.history, self.person, tick, enrollment)
        met = [moment for moment in facts.times(step.test.looks[0]) if lower <= moment <= deadline]
        if met:
            enrollment.logical = max(enrollment.logical, min(met))
            return True, step.then
        if self.ticks[tick] < deadline:
            self._wake(deadline)
            return False, None
        enrollment.logical = deadline
        return True, step.otherwise

    def _act(self, enrollment: Enrollment, step: Step, tick: int) -> None:
        now, due = self.ticks[tick], enrollment.logical
        facts = _Facts(self.history, self.person, tick, enrollment)
        reason = None
        if step.test is not None and not step.test.holds(facts):
            reason = "condition"
        elif step.kind == "email":
            reason = self._forbidden(enrollment, step, tick)
        word = f"{step.kind}:{step.what}"
        if reason is not None:
            self._log(tick, enrollment, f"{word} skipped({reason})", due, step.id)
        elif step.kind in INTERNAL:
            self._log(tick, enrollment, f"{word} ok", due, step.id)
        else:
            action_id = identity(enrollment.enrollment_id, step.id, "1")
            address = str(facts.contact["email"] or "")
            enrollment.intents.append(Intent(action_id, enrollment, step, due, address, facts))
        if now - enrollment.logical > enrollment.workflow.grace:
            enrollment.logical = now

    def _forbidden(self, enrollment: Enrollment, step: Step, tick: int) -> str | None:
        """Why a message must not be sent to the contact at this tick."""
        facts = _Facts(self.history, self.person, tick, enrollment)
        if self.undeliverable or facts.contact["is_bounced"]:
            return "bounced"
        if not str(facts.contact["email"] or "").strip():
            return "no_address"
        if facts.contact["is_unsubscribed"] and not step.raw.get("transactional"):
            return "unsubscribed"
        group = self.history.groups.get(step.what)
        if group in self.person.groups_left(tick) and not step.raw.get("transactional"):
            return "unsubscribed_group"
        require = enrollment.workflow.require
        return "no_consent" if require is not None and not require.holds(facts) else None

    # ------------------------------------------------------------ delivery

    def _deliver(self, tick: int, now: datetime) -> None:
        """Pass after pass the first open action of each enrollment, until nothing more can be attempted now."""
        tried: set[str] = set()
        while True:
            heads = [next((i for i in e.intents if i.state == "open"), None) for e in self.enrollments]
            ready = [intent for intent in heads if intent is not None and intent.action_id not in tried]
            if not ready:
                break
            reasons = [self._withdrawn(intent, tick) for intent in ready]
            refused = False
            for intent, reason in zip(ready, reasons, strict=True):
                tried.add(intent.action_id)
                word = f"skipped({reason})" if reason is not None else self._attempt(intent, now)
                if word == "rests":
                    continue
                refused |= word == "failed(550 5.1.1)"
                step = intent.step
                self._log(tick, intent.enrollment, f"{step.kind}:{step.what} {word}", intent.due, step.id)
                if not word.startswith("retry"):
                    intent.state = word
            self.undeliverable |= refused
        if any(intent.state == "open" for e in self.enrollments for intent in e.intents) and tick + 1 < len(self.ticks):
            self.moments.add(tick + 1)

    def _withdrawn(self, intent: Intent, tick: int) -> str | None:
        enrollment = intent.enrollment
        if enrollment.exit in _WITHDRAWS or self._goal(enrollment, tick):
            return "goal"
        return self._forbidden(enrollment, intent.step, tick) if intent.step.kind == "email" else None

    def _attempt(self, intent: Intent, now: datetime) -> str:
        status, _, code = self.answer(intent, now).partition(" ")
        if status == "rests":
            return status
        intent.attempts += 1
        self.outcome.attempted.add(intent.action_id)
        if status == "sent":
            self.outcome.sent.append(intent)
            return "sent"
        final = status == "failed" or intent.attempts >= _ATTEMPTS
        return f"failed({code})" if final else f"retry({code})"

    # ------------------------------------------------------------ time

    def _later(self, moment: datetime, text: str, tick: int) -> datetime:
        """A moment and a length; days and weeks count on the contact's wall clock."""
        if text[-1] not in "dw":
            return moment + duration(text)
        name = self.person.at(tick).get("timezone")
        zone = ZoneInfo(name if name in _ZONES else self.definitions.default_zone)
        wall = moment.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None) + duration(text)
        return _instant(wall, zone)


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a wall-clock time: the first of two, and after a gap moved on by the gap (as fold=0 does)."""
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC).replace(tzinfo=None)
