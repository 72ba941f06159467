"""A workflow file as nodes that know where to go next."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.oracle.clock import elapsed
from tests.oracle.conditions import Unsupported
from tests.oracle.sql import parse

MESSAGES = {"email", "sms", "push", "channel"}
OUTWARD = MESSAGES | {"notify", "task", "crm", "webhook"}
INTERNAL = ("tag", "untag", "set", "score", "campaign", "emit", "enroll", "unenroll")
KEPT = {"tag", "untag", "set", "score", "campaign"}
"""What the tick writes about the contact; before all other actions goals and exits are read again."""
ACTIONS = OUTWARD | set(INTERNAL)
KINDS = [*"wait_until wait_for wait window if switch split".split(), *sorted(OUTWARD), *INTERNAL, "goto", "exit"]
KNOWN_ENTRY = {"key", "reentry", "min_gap", "backfill", "max_age", "cap", "ramp", "on_resume"}
KNOWN_POLICY = {
    *("priority", "quiet_hours", "cap", "require", "holdout", "allowed_lateness", "grace", "max_duration"),
    "default_timezone",
}


@dataclass(eq=False)
class Node:
    """One step; `arms` are the first nodes of its arms by name, `next` the step after it."""

    id: str
    kind: str
    step: dict[str, Any]
    next: "Node | None" = None
    arms: dict[str, "Node | None"] = field(default_factory=dict)

    def what(self) -> str:
        """The word after the kind in the log."""
        value = self.step[self.kind]
        if self.kind == "task":
            return str(value["title"])
        if self.kind in ("set", "score"):
            return ",".join(value)
        if self.kind == "campaign":
            return str(next(iter(value.values())))
        if self.kind == "channel":
            return str(self.step.get("template", self.id))
        return str(value.get("object", "contact") if self.kind == "crm" else value)


@dataclass(eq=False)
class Workflow:
    """One version of a workflow, with the case's policy under its own."""

    document: dict[str, Any]
    config: dict[str, Any]
    published: datetime | None
    activation: datetime
    first: Node | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    redirect: dict[str, str] | None = None
    """Where removed steps lead, of a version that takes those in flight along."""

    def __post_init__(self) -> None:
        """Reads the steps.

        Raises:
            Unsupported: a construct that the oracle does not know.
        """
        self.name = str(self.document["workflow"])
        self.policy = {**self.config, **self.document.get("policy", {})}
        self.entry = self.document.get("entry", {})
        self.trigger = self.document["trigger"]
        if set(self.entry) - KNOWN_ENTRY or set(self.policy) - KNOWN_POLICY:
            raise Unsupported(f"{self.entry} {self.policy} {self.trigger}")
        self.first = self._chain(self.document["steps"], None, "")
        self.goals = [parse(goal["when"]) for goal in self.document.get("goals", [])]
        self.exits = [parse(each) for each in self.document.get("exit_when", [])]
        for node in self.nodes.values():
            if "if" in node.step:
                parse(node.step["if"])

    def _chain(self, steps: list[dict[str, Any]], after: Node | None, prefix: str) -> Node | None:
        """The first node of a list of steps that goes on with `after`."""
        first = after
        for number in range(len(steps), 0, -1):
            step = steps[number - 1]
            kind = next((kind for kind in KINDS if kind in step and not (kind == "if" and _acts(step))), None)
            if kind is None:
                raise Unsupported(str(step))
            node = Node(str(step.get("id") or f"{prefix}{kind}_{number}"), kind, step, first)
            if kind in ("if", "wait_for"):
                arms = {"then": step.get("then", []), "else": step.get("else", [])}
            elif kind == "switch":
                arms = {str(place): arm.get("then", []) for place, arm in enumerate(step["switch"])}
                arms["else"] = step.get("else", [])
            else:
                arms = step.get("arms", {}) if kind == "split" else {}
                arms = {name: arms.get(name, []) for name in step["split"]} if kind == "split" else arms
            for name, inner in arms.items():
                node.arms[name] = self._chain(inner or [], first, f"{node.id}_{name}_")
            self.nodes[node.id] = first = node
        return first

    def channels(self, node: Node) -> list[str]:
        """The channels that a message may go out on, the preferred one first."""
        return list(node.step["channel"]) if node.kind == "channel" else [node.kind]

    def duration(self, key: str, default: str | None = None) -> timedelta | None:
        """A duration of the policy."""
        value = self.policy.get(key, default)
        return None if value is None else elapsed(value)


def _acts(step: dict[str, Any]) -> bool:
    """Whether `if` on this step only guards an action."""
    return any(kind in step for kind in ACTIONS)


def expired(step: dict[str, Any], tick: datetime, due: datetime) -> bool:
    """Whether `expires_after` has passed."""
    return "expires_after" in step and tick - due > elapsed(step["expires_after"])
