"""The checks of a message, in the order of §4."""

from dataclasses import dataclass
from typing import Any

from tests.oracle.clock import elapsed, opening, wall_time, zone_of
from tests.oracle.enrollment import Enrollment
from tests.oracle.evaluation import Evaluation, bucket
from tests.oracle.sql import parse
from tests.oracle.workflow import Node
from tests.oracle.world import World

ADDRESSES = {"email": "email", "sms": "phone", "push": "push_token"}


@dataclass
class Messages:
    """Reads suppressions and counts what was sent."""

    world: World

    def channel(self, enrollment: Enrollment, node: Node) -> str:
        """The first listed channel that may be used, else just the first."""
        listed = enrollment.workflow.channels(node)
        usable = (each for each in listed if self.suppressed(enrollment, node, each) is None)
        return next(usable, listed[0])

    def suppressed(self, enrollment: Enrollment, node: Node, channel: str) -> str | None:
        """Why the contact must not get it on a channel, at the decision and again at the claim."""
        world, contact = self.world, enrollment.contact
        transactional = node.step.get("transactional", False)
        group = node.step.get("group")
        if channel == "email" and world.column(contact, "bounced"):
            return "bounced"
        if not world.column(contact, ADDRESSES[channel]):
            return "no_address"
        if world.opted_out(contact) and not transactional:
            return "unsubscribed"
        if group and group in world.left_groups(contact) and not transactional:
            return "unsubscribed_group"
        require = enrollment.workflow.policy.get("require")
        if isinstance(require, dict):
            require = require.get(channel)
        if require is not None:
            zone = enrollment.workflow.policy.get("default_timezone")
            if not Evaluation(world, contact, zone).true(parse(require)):
                return "no_consent"
        return None

    def scarce(self, enrollment: Enrollment, node: Node, channel: str) -> str | None:
        """Quiet hours, then the frequency cap, then the holdout."""
        if not node.step.get("transactional", False):
            if self._quiet(enrollment):
                return "hold"
            cap = enrollment.workflow.policy.get("cap")
            if cap and self._full(enrollment, cap, channel):
                return "hold" if cap.get("on_cap", "skip") == "defer" else "frequency_cap"
        holdout = enrollment.workflow.policy.get("holdout")
        if node.step.get("transactional", False):
            return None
        if holdout and 100 * bucket(str(holdout["salt"]), enrollment.contact) < holdout["percent"]:
            return "holdout"
        return None

    def _quiet(self, enrollment: Enrollment) -> bool:
        policy = enrollment.workflow.policy
        hours = policy.get("quiet_hours")
        if not hours:
            return False
        zone = zone_of([self.world.column(enrollment.contact, "timezone"), policy.get("default_timezone")])
        start, end = wall_time(hours["from"]), wall_time(hours["to"])
        return opening(self.world.tick, start, end, None, zone) is not None

    def _full(self, enrollment: Enrollment, cap: dict[str, Any], channel: str) -> bool:
        channels = cap.get("channels") or ADDRESSES
        if channel not in channels:
            return False
        tick = self.world.tick
        counted = [
            intent
            for each in self.world.enrollments
            if self.world.owner(each.contact) == enrollment.contact
            for intent in each.intents
            if intent.channel in channels
            and not intent.node.step.get("transactional", False)
            and intent.state in ("open", "sent")
            and intent.decided > tick - elapsed(cap["per"])
        ]
        return len(counted) >= int(cap["max"])
