"""The values that delivery moves between claim, sending and receipts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from destinations.base import Capabilities, Verdict
from flows.warehouse.base import Warehouse

MESSAGES = ("email", "sms", "push")
"""Kinds of action that are messages to a contact."""

LONGEST_PAUSE = timedelta(hours=24)
"""A destination that asks for more patience than this gets this much."""

State = Literal["sent", "skipped", "failed", "dead", "expired", "cancelled", "pending", "retry", "unknown"]
FINAL: frozenset[State] = frozenset({"sent", "skipped", "failed", "dead", "expired", "cancelled"})


@dataclass(frozen=True)
class Intent:
    """One claimed row of the outbox; `attempt` is the one about to be made, `fence` the token of the claim."""

    action_id: str
    enrollment_id: str
    workflow: str
    version: int
    contact_id: str
    key: str | None
    step: str
    visit: int
    kind: str
    what: str
    destination: str
    template_hash: str | None
    payload: Mapping[str, Any] = field(repr=False)
    due: datetime | None
    expires_at: datetime | None
    transactional: bool
    attempt: int
    fence: int

    @property
    def address(self) -> str:
        """The address it goes to, empty when it has none."""
        return str(self.payload.get("address") or "")

    @property
    def group(self) -> str | None:
        """The message group that a contact can unsubscribe from."""
        group = (self.payload.get("step") or {}).get("group") or self.payload.get("group")
        return None if group is None else str(group)


@dataclass(frozen=True)
class Outcome:
    """What becomes of a claimed row.

    `word` is the outcome in the log (`sent`, `retry(503)`, `skipped(goal)` …), empty when the row only goes back.
    `attempted`: an attempt was made and counts.
    """

    action_id: str
    fence: int
    attempt: int
    state: State
    word: str = ""
    code: str | None = None
    reason: str | None = None
    next_attempt_at: datetime | None = None
    attempted: bool = False
    ambiguous: bool = False
    suppress: str | None = None
    receipt: Mapping[str, Any] = field(default_factory=dict)
    started_at: datetime | None = None


class Recheck(Protocol):
    """Reads goals, consent and the model's own columns again, inside the claim."""

    def __call__(self, warehouse: Warehouse, action_ids: Sequence[str], now: datetime) -> Mapping[str, str]:
        """The reason per action that must not be performed any more; an action without an answer may be.

        Whatever it raises holds every message back for this pass.
        """
        ...


class Render(Protocol):
    """Makes an intent's payload for its destination."""

    def __call__(self, intent: Intent) -> Mapping[str, Any]:
        """The payload.

        Raises:
            RenderError: it cannot be rendered for this contact; the action is skipped with the reason.
        """
        ...


def skipped(intent: Intent, reason: str) -> Outcome:
    """The outcome of an intent that is withdrawn before it is sent."""
    state: State = "expired" if reason == "too_late" else "cancelled"
    return Outcome(intent.action_id, intent.fence, intent.attempt, state, f"skipped({reason})", reason=reason)


def held(intent: Intent, reason: str) -> Outcome:
    """The outcome of an intent that waits for a person instead of another attempt."""
    return Outcome(intent.action_id, intent.fence, intent.attempt, "unknown", "unknown", reason=reason)


def unrenderable(intent: Intent, reason: str) -> Outcome:
    """The outcome of an intent whose template cannot be rendered."""
    said = f"render_error: {reason}"
    return Outcome(intent.action_id, intent.fence, intent.attempt, "skipped", f"skipped({said})", reason=said)


def returned(intent: Intent) -> Outcome:
    """The outcome of a claimed intent that was not attempted: it waits as before."""
    state: State = "retry" if intent.attempt > 1 else "pending"
    return Outcome(intent.action_id, intent.fence, intent.attempt, state)


def ruled(intent: Intent, verdict: Verdict, capabilities: Capabilities | None, now: datetime) -> Outcome:
    """What a destination's verdict means for the intent.

    Args:
        intent: the claimed intent.
        verdict: the answer.
        capabilities: of the destination; None when it is not configured any more, then nothing is repeated.
        now: naive UTC, from where pauses count.
    """
    if verdict.stop is not None and verdict.status != "failed":
        return returned(intent)
    base = Outcome(
        intent.action_id, intent.fence, intent.attempt, "sent", "sent", verdict.code, verdict.message or None,
        attempted=True, ambiguous=verdict.status == "unknown", suppress=verdict.suppress, receipt=dict(verdict.receipt),
    )  # fmt: skip
    match verdict.status:
        case "sent":
            return base
        case "failed":
            return _changed(base, "failed", f"failed({verdict.code})")
        case "unknown" if not _repeats_unknown(intent, capabilities):
            return _changed(base, "unknown", "unknown")
        case _:
            return _repeated(base, intent, verdict, capabilities, now)


def _repeats_unknown(intent: Intent, capabilities: Capabilities | None) -> bool:
    message = intent.kind in MESSAGES and intent.transactional
    return capabilities is not None and (capabilities.on_unknown == "retry" or message)


def _repeated(
    base: Outcome, intent: Intent, verdict: Verdict, capabilities: Capabilities | None, now: datetime
) -> Outcome:
    pauses = capabilities.retry_after if capabilities is not None else ()
    if intent.attempt > len(pauses):
        return _changed(base, "dead", f"failed({verdict.code})")
    pause = verdict.retry_after if verdict.retry_after is not None else pauses[intent.attempt - 1]
    later = now + min(max(pause, timedelta()), LONGEST_PAUSE)
    return _changed(base, "retry", f"retry({verdict.code})", later)


def _changed(base: Outcome, state: State, word: str, later: datetime | None = None) -> Outcome:
    return replace(base, state=state, word=word, next_attempt_at=later)
