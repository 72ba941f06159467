"""One walk of a contact through a workflow, and the actions it handed over for delivery."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.oracle.workflow import Node, Workflow


@dataclass(eq=False)
class Intent:
    """One outward action that was decided."""

    node: Node
    due: datetime
    decided: datetime
    place: int
    channel: str = ""
    state: str = "open"  # then sent, skipped, failed
    attempts: int = 0
    not_before: datetime = datetime.min
    sent_at: datetime | None = None


@dataclass(eq=False)
class Enrollment:
    """`at` is the logical time L, `reached` the L with which it came to its present step."""

    number: int
    workflow: Workflow
    contact: str
    key: Any
    entry: dict[str, Any]
    entered: datetime
    trigger: str | None
    at: datetime
    node: Node | None
    ref: str = ""
    """The id of its candidate, which puts candidates of one time in order."""
    rest: str = ""
    """The step at which it came to rest, or entered."""
    reached: datetime = datetime.min
    active: bool = True
    reason: str = ""
    places: int = 0
    left_at: dict[str, datetime] = field(default_factory=dict)
    intents: list[Intent] = field(default_factory=list)
    facts: dict[str, list[tuple[datetime, dict[str, Any]]]] = field(default_factory=dict)
    arms: dict[str, str] = field(default_factory=dict)
    jumps: dict[str, int] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    """Actions and splits that it has passed since the last jump to before them."""
    done: set[str] = field(default_factory=set)
    """Those of them that it had passed before a migration."""

    def place(self) -> int:
        """The next place along the path, for the order of rows."""
        self.places += 10
        return self.places

    def learn(self, step: str, tick: datetime, facts: dict[str, Any]) -> None:
        """Keeps what became of a visit."""
        self.facts.setdefault(step, []).append((tick, facts))

    def fact(self, step: str, name: str, tick: datetime) -> Any:
        """`steps.<id>.<name>` of the latest visit, this tick's too."""
        if name == "arm":
            return self.arms.get(step)
        visits = [facts for decided, facts in self.facts.get(step, []) if decided <= tick]
        facts = visits[-1] if visits else {}
        intent = facts.get("intent")
        if intent is not None:
            waiting = "retry" if intent.attempts else "pending"
            return {"status": waiting if intent.state == "open" else intent.state, "sent_at": intent.sent_at}[name]
        return facts.get(name)

    def label(self) -> str:
        """The contact as the log writes it."""
        return label(self.contact, self.key, self.workflow)


def label(contact: str, key: Any, workflow: Workflow) -> str:
    """`ann` or `ann[K1]`."""
    return f"{contact}[{key}]" if "key" in workflow.entry else contact
