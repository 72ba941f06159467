"""Walks the contacts of a case through its workflows, one at a time, and writes the log."""

from datetime import datetime
from typing import Any

from tests.oracle.admission import Admission
from tests.oracle.clock import elapsed, later, moment, next_local, wall_time, window, zone_of
from tests.oracle.conditions import Both, Unsupported
from tests.oracle.delivery import Delivery
from tests.oracle.enrollment import Enrollment, Intent
from tests.oracle.evaluation import Evaluation, bucket, midnight, read_as
from tests.oracle.log import EXITS, EXITS_AGAIN, MOVES, STEPS, Log
from tests.oracle.messages import Messages
from tests.oracle.sql import parse
from tests.oracle.workflow import ACTIONS, KEPT, MESSAGES, OUTWARD, Node, Workflow, expired
from tests.oracle.world import World

KNOWN = set("id title config contacts events models changes scores workflows publish control merges".split())
KNOWN |= set("destination templates ticks expect".split())


class Interpreter:
    """One case.

    Raises:
        Unsupported: the case uses what the oracle does not know.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        """Reads the workflows."""
        if set(case) - KNOWN:
            raise Unsupported(str(set(case) - KNOWN))
        self.case, self.world = case, World(case)
        self.config = case.get("config", {})
        self.versions: dict[str, list[Workflow]] = {}
        for document in case["workflows"]:
            if not isinstance(document, dict):
                raise Unsupported("a file name")
            activated = moment(document["activated"]) if "activated" in document else datetime.min
            self._add(Workflow(document, self.config, None, activated))
        for row in sorted(case.get("publish", []), key=lambda row: moment(row["at"])):
            at = moment(row["at"])
            known = self.versions.get(row["workflow"]["workflow"])
            workflow = Workflow(row["workflow"], self.config, at, known[0].activation if known else at)
            if row.get("in_flight", "pin") == "migrate":
                workflow.redirect = {str(old): str(new) for old, new in row.get("redirect", {}).items()}
            self._add(workflow)
        self.log = Log(prefixed=len(self.versions) > 1)
        self.admission = Admission(self.world, self.log)
        self.messages = Messages(self.world)
        steps = [node.step for each in self.versions.values() for workflow in each for node in workflow.nodes.values()]
        self.world.counted = frozenset(name for step in steps for name in step.get("score", ()))
        self.delivery = Delivery(self.world, self.log, self.messages, self.met)

    def _add(self, workflow: Workflow) -> None:
        self.versions.setdefault(workflow.name, []).append(workflow)

    def run(self) -> list[str]:
        """The log of all ticks."""
        for tick in ticks(self.case["ticks"]):
            self.tick(tick)
        return self.log.rows()

    def tick(self, tick: datetime) -> None:
        """One tick, in the order of the language page §4."""
        world = self.world
        world.show(tick)
        self.log.tick = tick
        for row in sorted(self.case.get("merges", []), key=lambda row: moment(row["at"])):
            if moment(row["at"]) <= tick:
                self._merge(str(row["from"]), world.owner(str(row["into"])))
        world.controlled(self.versions)
        current = []
        for versions in self.versions.values():
            live = [each for each in versions if each.published is None or each.published <= tick]
            current += live[-1:]
            for workflow in live[1:]:
                self._migrate(workflow)
        self.admission.look(current)
        self._exits(EXITS)
        for workflow in current:
            self.admission.admit(workflow)
        self._exits(EXITS_AGAIN)
        self._advance()
        self.delivery.deliver()

    def _merge(self, one: str, into: str) -> None:
        """A contact becomes part of another, once; one in a circle, or into nobody, is none."""
        world = self.world
        if one in world.owners or one == into or into not in world.contacts:
            return
        if one not in world.contacts:
            raise Unsupported("a merge of an id that is no contact")
        theirs = {(each.workflow.name, each.key) for each in world.enrollments if each.contact == into}
        for enrollment in world.enrollments:
            if enrollment.contact != one:
                continue
            if enrollment.active and (enrollment.workflow.name, enrollment.key) in theirs:
                self._leave(enrollment, "merged", MOVES)
            elif enrollment.reason != "merged":
                enrollment.contact = into
        self.admission.merge(one, into)
        world.merge(one, into)
        world.show(world.tick)

    def _migrate(self, workflow: Workflow) -> None:
        """Moves who is in flight in an earlier version, by the ids of the steps."""
        versions = self.versions[workflow.name]
        if workflow.redirect is None:
            return
        for enrollment in self.world.enrollments:
            earlier = enrollment.workflow in versions[: versions.index(workflow)]
            if not (earlier and enrollment.active and enrollment.node):
                continue
            place = enrollment.node.id
            place = place if place in workflow.nodes else workflow.redirect.get(place, place)
            if place not in workflow.nodes:
                self._leave(enrollment, "step_removed", MOVES)
                continue
            enrollment.done = set(enrollment.passed)
            enrollment.workflow, enrollment.node, enrollment.rest = workflow, workflow.nodes[place], place

    # -- goals and exits

    def reading(self, enrollment: Enrollment) -> Evaluation:
        """Conditions as this enrollment sees them."""
        zone = enrollment.workflow.policy.get("default_timezone")
        return Evaluation(self.world, enrollment.contact, zone, enrollment.entry, enrollment)

    def met(self, enrollment: Enrollment) -> str | None:
        """Why the enrollment has to leave, None if it has not."""
        reading, workflow = self.reading(enrollment), enrollment.workflow
        if any(reading.true(goal) for goal in workflow.goals):
            return "goal"
        if any(reading.true(each) for each in workflow.exits):
            return "exit_when"
        leaves = workflow.document.get("exit_on_leave") and "audience" in workflow.trigger
        leaves = leaves and "schedule" not in workflow.trigger
        if leaves and enrollment.contact not in self.admission.present[workflow.name]:
            return "left_audience"
        longest = workflow.duration("max_duration")
        if longest is not None and self.world.tick - enrollment.entered > longest:
            return "expired"
        return None

    def _exits(self, phase: int) -> None:
        for enrollment in self.world.enrollments:
            if enrollment.active and (reason := self.met(enrollment)):
                self._leave(enrollment, reason, phase)

    def _leave(self, enrollment: Enrollment, reason: str, phase: int, place: int = 0) -> None:
        enrollment.active, enrollment.reason = False, reason
        self.log.write(phase, enrollment, place, None, "-", f"exit {reason}")

    # -- the walk

    def _advance(self) -> None:
        """Everybody as far as possible, by (priority desc, due, workflow, contact)."""
        free = [each for each in self.world.enrollments if each.workflow.name not in self.world.paused]
        for enrollment in sorted((each for each in free if each.active), key=self._turn):
            while enrollment.active and self._step(enrollment):
                pass
            enrollment.rest = enrollment.node.id if enrollment.node else ""

    def _turn(self, enrollment: Enrollment) -> tuple[Any, ...]:
        priority = int(enrollment.workflow.policy.get("priority", 0))
        same = (enrollment.entered, enrollment.ref, enrollment.number)  # entered first, goes first
        return -priority, self._due(enrollment), enrollment.workflow.name, enrollment.contact, *same

    def _due(self, enrollment: Enrollment) -> datetime:
        """When its next step is due: the end of a wait, the event or the deadline of a wait_for, else its L."""
        node = enrollment.node
        if node is not None and node.kind == "window":
            return max(enrollment.at, self._opening(enrollment) or enrollment.at)
        if node is None or node.kind not in ("wait", "wait_until", "wait_for"):
            return enrollment.at
        if node.kind == "wait_for":
            return min(each or datetime.max for each in self._awaited(enrollment))
        return self._end(enrollment)

    def _zone(self, enrollment: Enrollment) -> Any:
        column = self.world.column(enrollment.contact, "timezone")
        return zone_of([column, enrollment.workflow.policy.get("default_timezone")])

    def _step(self, enrollment: Enrollment) -> bool:
        """One step further; False when it holds or has left."""
        node = enrollment.node
        if node is None:
            self._leave(enrollment, "completed", STEPS, enrollment.place())
            return False
        if node.kind not in KEPT and node.kind in ACTIONS and (reason := self.met(enrollment)):
            self._leave(enrollment, reason, STEPS, enrollment.place())
            return False
        if node.kind == "exit":
            self._leave(enrollment, str(node.step["exit"]), STEPS, enrollment.place())
            return False
        passed: bool = getattr(self, f"_{'action' if node.kind in ACTIONS else node.kind}")(enrollment)
        return passed

    def _pass(self, enrollment: Enrollment, arm: str | None = None, at: datetime | None = None) -> bool:
        node = enrollment.node
        assert node is not None
        if at is not None:
            enrollment.at = at
        enrollment.left_at[node.id] = enrollment.at
        enrollment.node = node.arms[arm] if arm is not None else node.next
        return True

    def _end(self, enrollment: Enrollment) -> datetime:
        """When a wait or wait_until ends; not after L where there is nothing to wait for."""
        step, zone = enrollment.node.step if enrollment.node else {}, self._zone(enrollment)
        if "wait" in step:
            return later(enrollment.at, step["wait"], zone)
        wanted = step["wait_until"]
        if isinstance(wanted, dict):
            return next_local(enrollment.at, wall_time(wanted["at"]), wanted.get("days"), zone)
        value = self.reading(enrollment).value(parse(wanted))
        at = read_as(value, datetime.min) if isinstance(value, str) else midnight(value) if value else None
        return enrollment.at if at is None else max(at, enrollment.at)

    def _wait(self, enrollment: Enrollment) -> bool:
        end = self._end(enrollment)
        return end <= self.world.tick and self._pass(enrollment, at=end)

    def _wait_until(self, enrollment: Enrollment) -> bool:
        end = self._end(enrollment)
        return end <= max(self.world.tick, enrollment.at) and self._pass(enrollment, at=end)

    def _opening(self, enrollment: Enrollment, at: datetime | None = None) -> datetime | None:
        """The start of the opening of its window in which an instant lies, else the tick."""
        assert enrollment.node is not None
        form, zone = enrollment.node.step["window"], self._zone(enrollment)
        start, end = wall_time(form["from"]), wall_time(form["to"])
        return window(at or self.world.tick, start, end, form.get("days"), zone)

    def _window(self, enrollment: Enrollment) -> bool:
        now = self._opening(enrollment)
        if now is None:
            return False
        same = self._opening(enrollment, enrollment.at) == now
        return self._pass(enrollment, at=enrollment.at if same else now)

    def _awaited(self, enrollment: Enrollment) -> tuple[datetime | None, datetime | None]:
        """When a wait_for is over: by the earliest matching event, by its deadline."""
        node, reading = enrollment.node, self.reading(enrollment)
        assert node is not None
        since = node.step.get("since", "entry")
        lower = {"entry": enrollment.entered, "step": enrollment.at}.get(since) or enrollment.left_at.get(since)
        within = node.step.get("within")
        deadline = later(enrollment.at, within, self._zone(enrollment)) if within else None
        times = []
        for call in alternatives(parse(node.step["wait_for"])):
            if call.options or call.name != "did":
                raise Unsupported(str(call))
            times += [each.time for each in reading.events(call)]
        matching = [each for each in times if lower is not None and lower <= each <= (deadline or datetime.max)]
        return max(enrollment.at, min(matching)) if matching else None, deadline

    def _wait_for(self, enrollment: Enrollment) -> bool:
        match, deadline = self._awaited(enrollment)
        if match is not None:
            return self._pass(enrollment, "then", match)
        lateness = enrollment.workflow.duration("allowed_lateness", "0s")
        assert lateness is not None
        if deadline is not None and self.world.tick >= deadline + lateness:
            return self._pass(enrollment, "else", deadline)
        return False

    def _if(self, enrollment: Enrollment) -> bool:
        assert enrollment.node is not None
        held = self.reading(enrollment).true(parse(enrollment.node.step["if"]))
        return self._pass(enrollment, "then" if held else "else")

    def _switch(self, enrollment: Enrollment) -> bool:
        assert enrollment.node is not None
        reading = self.reading(enrollment)
        for place, arm in enumerate(enrollment.node.step["switch"]):
            if reading.true(parse(arm["if"])):
                return self._pass(enrollment, str(place))
        return self._pass(enrollment, "else")

    def _split(self, enrollment: Enrollment) -> bool:
        node = enrollment.node
        assert node is not None
        share = 100 * bucket(node.step.get("salt") or f"{enrollment.workflow.name}:{node.id}", enrollment.contact)
        kept = enrollment.arms.get(node.id)
        if kept in node.arms and node.id in enrollment.done:
            return self._pass(enrollment, kept)
        total, chosen = 0.0, list(node.step["split"])[-1]
        for arm, weight in node.step["split"].items():
            total += weight
            if total > share:
                chosen = arm
                break
        enrollment.arms[node.id] = chosen = kept if kept in node.arms else chosen
        enrollment.passed.add(node.id)
        self.log.write(STEPS, enrollment, enrollment.place(), enrollment.at, node.id, f"split={chosen}")
        return self._pass(enrollment, chosen)

    def _goto(self, enrollment: Enrollment) -> bool:
        node = enrollment.node
        assert node is not None
        done = enrollment.jumps.get(node.id, 0)
        if done >= int(node.step["max"]):
            return self._pass(enrollment)
        enrollment.jumps[node.id] = done + 1
        self._pass(enrollment)
        enrollment.node = enrollment.workflow.nodes[str(node.step["goto"])]
        anew = between(enrollment.node, node)
        enrollment.done -= anew
        enrollment.passed -= anew
        return True

    # -- actions

    def _action(self, enrollment: Enrollment) -> bool:
        node, tick, due = enrollment.node, self.world.tick, enrollment.at
        assert node is not None
        if node.id in enrollment.done:
            return self._pass(enrollment, at=self._anchored(enrollment))
        skip = self._skip(enrollment)
        if skip == "hold":
            return False
        place = enrollment.place()
        if skip is not None:
            enrollment.learn(node.id, tick, {"status": "skipped"})
            self.log.write(STEPS, enrollment, place, due, node.id, f"{node.kind}:{node.what()} skipped({skip})")
        elif node.kind in OUTWARD:
            channel = self.messages.channel(enrollment, node) if node.kind in MESSAGES else ""
            intent = Intent(node, due, tick, place, channel)
            enrollment.intents.append(intent)
            enrollment.learn(node.id, tick, {"intent": intent})
        else:
            self._write(enrollment, place)
        enrollment.passed.add(node.id)
        return self._pass(enrollment, at=self._anchored(enrollment))

    def _anchored(self, enrollment: Enrollment) -> datetime:
        """L behind an action: the tick, where the action was late by more than the grace."""
        grace = enrollment.workflow.duration("grace", "1h")
        assert grace is not None
        return enrollment.at if self.world.tick - enrollment.at <= grace else self.world.tick

    def _skip(self, enrollment: Enrollment) -> str | None:
        """Why the action is not done, `hold` for later, None to do it."""
        node = enrollment.node
        assert node is not None
        if "if" in node.step and not self.reading(enrollment).true(parse(node.step["if"])):
            return "condition"
        if expired(node.step, self.world.tick, enrollment.at):
            return "too_late"
        if node.kind not in MESSAGES:
            return None
        channel = self.messages.channel(enrollment, node)
        return self.messages.suppressed(enrollment, node, channel) or self.messages.scarce(enrollment, node, channel)

    def _write(self, enrollment: Enrollment, place: int) -> None:
        """What the tick does by itself."""
        node, world, contact = enrollment.node, self.world, enrollment.contact
        assert node is not None
        reading, form = self.reading(enrollment), node.step[node.kind]
        given = form if node.kind in ("set", "score") else node.step.get("with", {})
        values = {name: _constant(reading, value) for name, value in given.items()}
        match node.kind:
            case "set":
                for name, value in values.items():
                    world.write_field(contact, name, value)
            case "score":
                for name, value in values.items():
                    world.points[contact, name] = world.points.get((contact, name), 0) + (value or 0)
            case "campaign":
                (world.campaigns.add if "add" in form else world.campaigns.discard)((contact, node.what()))
            case "emit":
                world.emit(contact, node.what(), enrollment.at, values)
            case "enroll":
                world.askings += 1
                asked = (enrollment.at, f"{world.askings:09}", contact, {**values, "at": enrollment.at})
                world.asked.append((node.what(), asked))
            case "unenroll":
                pass
            case _:
                world.tags[contact, node.what()] = node.kind == "tag"
        self.log.write(STEPS, enrollment, place, enrollment.at, node.id, f"{node.kind}:{node.what()} ok")
        enrollment.learn(node.id, world.tick, {"status": "ok"})
        if node.kind == "unenroll":
            for other in world.enrollments:
                if other.active and (other.contact, other.workflow.name) == (contact, node.what()):
                    self._leave(other, "unenrolled", STEPS, other.place())


def _constant(reading: Evaluation, value: Any) -> Any:
    return reading.value(parse(value)) if isinstance(value, str) else value


def alternatives(node: Any) -> list[Any]:
    """The `did(…)` that an `or` joins."""
    return alternatives(node.left) + alternatives(node.right) if isinstance(node, Both) else [node]


def between(first: Node, last: Node) -> set[str]:
    """The steps on the ways from one to another."""
    found: set[str] = set()
    ahead: list[Node | None] = [first]
    while ahead:
        node = ahead.pop()
        if node is not None and node is not last and node.id not in found:
            found.add(node.id)
            ahead += [node.next, *node.arms.values()]
    return found


def ticks(given: list[Any]) -> list[datetime]:
    """The ticks of a case, in time order, each once."""
    found: set[datetime] = set()
    for each in given:
        if isinstance(each, list):
            at, end, step = moment(each[0]), moment(each[1]), elapsed(each[2])
            while at <= end:
                found.add(at)
                at += step
        else:
            found.add(moment(each))
    return sorted(found)


def run(case: dict[str, Any]) -> list[str]:
    """The log of a case.

    Raises:
        Unsupported: the case uses what the oracle does not know.
    """
    return Interpreter(case).run()
