"""Delivery: attempts, retries and what is read again at the claim."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from tests.oracle.enrollment import Enrollment, Intent
from tests.oracle.log import STEPS, Log
from tests.oracle.messages import Messages
from tests.oracle.workflow import expired
from tests.oracle.world import World

PAUSES = (timedelta(minutes=5), timedelta(minutes=10))
ENDED_BY_ITSELF = {"completed"}
AT_THE_END = 10**6


@dataclass
class Delivery:
    """One pass after each tick; `met` asks for goals and exits."""

    world: World
    log: Log
    messages: Messages
    met: Callable[[Enrollment], str | None]

    def deliver(self) -> None:
        """Claims whatever may be claimed, in the order of each enrollment."""
        for enrollment in self.world.enrollments:
            if enrollment.workflow.name in self.world.paused:
                continue
            for intent in enrollment.intents:
                if intent.state == "open":
                    self._claim(enrollment, intent)
                if intent.state == "open":
                    break

    def _claim(self, enrollment: Enrollment, intent: Intent) -> None:
        if self.world.tick < intent.not_before:
            return
        reason = self._withdrawn(enrollment, intent)
        if reason is not None:
            intent.state = "skipped"
            self._row(enrollment, intent, f"skipped({reason})")
            return
        answers = self.world.case.get("destination", {}).get(enrollment.contact, [])
        code = answers[intent.attempts] if intent.attempts < len(answers) else 202
        intent.attempts += 1
        if 200 <= code < 300:
            intent.state, intent.sent_at = "sent", self.world.tick
            self._row(enrollment, intent, "sent")
        elif (code == 429 or code >= 500) and intent.attempts <= len(PAUSES):
            intent.not_before = self.world.tick + PAUSES[intent.attempts - 1]
            self._row(enrollment, intent, f"retry({code})")
        else:
            intent.state = "failed"
            self._row(enrollment, intent, f"failed({code})")
            if intent.node.step.get("on_error") == "exit" and enrollment.active:
                enrollment.active, enrollment.reason = False, "error"
                self.log.write(STEPS, enrollment, AT_THE_END, None, "-", "exit error")

    def _withdrawn(self, enrollment: Enrollment, intent: Intent) -> str | None:
        """Goals, other exits, expiry and suppression, as they are now."""
        if not enrollment.active and enrollment.reason not in ENDED_BY_ITSELF | own_exits(enrollment):
            return enrollment.reason
        if reason := self.met(enrollment):
            return reason
        if expired(intent.node.step, self.world.tick, intent.due):
            return "too_late"
        return self.messages.suppressed(enrollment, intent.node, intent.channel) if intent.channel else None

    def _row(self, enrollment: Enrollment, intent: Intent, outcome: str) -> None:
        what = f"{intent.node.kind}:{intent.node.what()} {outcome}"
        self.log.write(STEPS, enrollment, intent.place, intent.due, intent.node.id, what)


def own_exits(enrollment: Enrollment) -> set[str]:
    """The reasons of the workflow's own `exit:` steps."""
    return {str(each.step["exit"]) for each in enrollment.workflow.nodes.values() if each.kind == "exit"}
