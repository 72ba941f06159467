"""The contract of a destination: actions in, one verdict per action out, capabilities as data, and the way back."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from destinations.inbound import Inbound, InboundRefused, Received

Role = Literal["email", "sms", "push", "crm", "task", "notify", "webhook", "audience"]
"""What a destination can be asked to do; a step is routed by it."""

Status = Literal["sent", "retry", "failed", "unknown"]
"""`retry`: not performed, try again · `unknown`: may have been performed · `failed`: final."""

Stop = Literal["credentials", "configuration", "tls", "endpoint_gone"]
"""Why the whole destination has to pause instead of failing one action after the other."""

Idempotency = Literal["server_key", "natural_upsert", "event_id", "none"]
OnUnknown = Literal["retry", "hold"]

Clock = Callable[[], datetime]
"""The present, handed in by the caller; a naive value is UTC."""

SecretLookup = Callable[[str], str]
"""Name of an environment variable -> its value; raises KeyError when it is not set."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` requests in a window of `per`."""

    count: int
    per: timedelta

    @property
    def per_second(self) -> float:
        """The even pace that keeps it."""
        return self.count / self.per.total_seconds()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts about a destination that the engine plans with.

    `max_batch` is actions per call, `max_bytes` the size of one request, `concurrency` the calls in flight,
    `retry_after` the pauses before attempt 2, 3, … (so attempts in all = its length + 1). `on_unknown` is the
    default policy for an unknown outcome: `retry` where a second request has no second effect. `objects` are the kinds
    of CRM object that it takes, None for any. `limits` are those of the account, on as many windows as it has.
    `key_lifetime` is how long the other side remembers an idempotency key, None for ever; `refreshes` says that the
    credentials are short-lived and fetched anew by the destination itself. `account` names whose limits they are, where
    several destinations share them; `outside` is False for one that reaches nobody, which never rests.
    """

    roles: frozenset[Role]
    idempotency: Idempotency
    max_batch: int = 1
    max_bytes: int = 10_000_000
    concurrency: int = 1
    retry_after: tuple[timedelta, ...] = (timedelta(minutes=5), timedelta(minutes=10))
    on_unknown: OnUnknown = "hold"
    objects: frozenset[str] | None = None
    limits: tuple[Limit, ...] = ()
    key_lifetime: timedelta | None = None
    refreshes: bool = False
    account: str | None = None
    outside: bool = True


@dataclass(frozen=True, slots=True)
class Action:
    """One rendered action.

    `kind` is the key of the step (email, notify, task, crm, webhook), `what` the word after it in the log (template,
    target, title, object, webhook). `attempt` counts from 1. `action_id` is the idempotency key everywhere.
    The payload by kind:

    email    to, from?, reply_to?, subject, text?, html?, headers?, list_unsubscribe?
    sms      to, text
    push     to, title, text
    notify   target, text
    task     title, owner?, body?, due?, contact {id, email?, phone?}
    crm      object, set {field: value}, contact {id, email?}
    webhook  body {…}
    """

    action_id: str
    kind: str
    what: str
    contact_id: str
    attempt: int
    payload: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one action.

    `code` is what the log shows ("202", "550 5.1.1", "timeout"). `message` is at most 500 characters without secrets,
    addresses or payload values. `retry_after` overrides the schedule of the capabilities. `receipt` holds ids the other
    side gave. `suppress` is set when the answer proves that the address is dead. With `stop` the caller pauses the
    destination; such an action was not performed and should keep its attempts, unless its status is `failed`.
    """

    action_id: str
    status: Status
    code: str
    message: str = ""
    retry_after: timedelta | None = None
    receipt: Mapping[str, str] = field(default_factory=dict)
    suppress: Literal["bounced"] | None = None
    stop: Stop | None = None


class Destination(ABC):
    """One outside system. Use it as an async context manager; `send` may be called many times inside.

    `capabilities` on the class are the defaults of the type; an instance shows what its configuration made of them.
    """

    type: ClassVar[str]
    capabilities: Capabilities
    name: str

    @classmethod
    @abstractmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        """Check `config` and build the destination; no secret is read and nothing is opened yet.

        Raises ConfigurationError naming the key, the allowed ones and the nearest match.
        """

    @classmethod
    def abilities(cls, config: Mapping[str, Any]) -> Capabilities:
        """What a destination of this type can do when it is configured so; the roles and objects of a type that has
        them from its configuration. Never raises: `from_config` says what is wrong.
        """
        return cls.capabilities

    async def __aenter__(self) -> Self:
        """Open what is needed. Raises ConfigurationError when a secret is missing or unusable."""
        return self

    async def __aexit__(
        self, kind: builtins.type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close connections; never raises for a connection that is already gone."""

    @abstractmethod
    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        """Perform the actions: exactly one verdict per action, in the same order; never raises for a failed call."""

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """What the outside system tells us in a request of its own, once its signature is checked; `now` is naive UTC.

        Opens nothing and needs no `async with`. Raises InboundRefused: not signed by it, stale, unreadable, or this
        destination takes nothing back. Raises ConfigurationError when its secret cannot be read.
        """
        raise InboundRefused(404, "D400", f"a destination of type {self.type} takes no requests")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', '?')}>"
