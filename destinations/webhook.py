"""Signed requests to one URL, after the Standard Webhooks specification.

`webhook-id` is the action id on every attempt, so a receiver can ignore repetitions; `webhook-timestamp` is the time of
the attempt; `webhook-signature` holds one `v1` signature per configured secret, so that secrets can be rotated.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from destinations import classification
from destinations.base import Action, Capabilities, Clock, Destination, SecretLookup, Verdict
from destinations.classification import http_ruling, retry_after, utc
from destinations.config import DestinationConfig, read_config, required_clock
from destinations.errors import ConfigurationError, DestinationError, PayloadError
from destinations.inbound import (
    Inbound,
    InboundEvent,
    InboundRefused,
    Received,
    check_standard_webhook,
    decoded,
    hmac_base64,
    json_map,
    moment_of,
    standard_webhook_key,
    text_of,
)
from destinations.json_body import encoded
from destinations.pace import Pace
from destinations.secret import Secret, scrub, secret_field, texts_of
from destinations.verdicts import trouble_verdict

if TYPE_CHECKING:
    from destinations.transport import Answer, Transport

_EVENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._\-]*")
_MAX_RESPONSE = 64 * 1024


class WebhookConfig(DestinationConfig):
    """`url` may be or hold a reference; `secrets` are `whsec_…` references, newest first; `headers` are added.

    With `targets`, a `notify` step goes to the URL of its target and no other target is known. `inbound_secrets` are
    references to the `whsec_…` secrets with which others sign what they send to us.
    """

    url: str = Field(min_length=1)
    secret: str | None = None
    secrets: Sequence[str] = ()
    headers: Mapping[str, str] = Field(default_factory=dict)
    targets: Mapping[str, str] = Field(default_factory=dict)
    inbound_secrets: Sequence[str] = ()


class Webhook(Destination):
    """POSTs the body of a `webhook` step, or `{target, text}` of a `notify` step, as JSON."""

    type = "webhook"
    capabilities = Capabilities(
        roles=frozenset({"webhook", "notify"}),
        idempotency="event_id",
        max_batch=1,
        max_bytes=1_000_000,
        concurrency=8,
        retry_after=(timedelta(minutes=5), timedelta(minutes=10)),
        on_unknown="retry",
    )

    def __init__(
        self, name: str, config: WebhookConfig, secrets: SecretLookup, clock: Clock, transport: Transport | None = None
    ) -> None:
        self.name = name
        self.capabilities = config.applied_to(type(self).capabilities)
        self._config = config
        self._clock = clock
        self._url = Secret(config.url, secrets)
        keys = [*([config.secret] if config.secret else []), *config.secrets]
        self._keys = [secret_field(name, "secret", key, secrets) for key in keys]
        self._inbound = [secret_field(name, "inbound_secrets", key, secrets) for key in config.inbound_secrets]
        self._headers = {key: Secret(value, secrets) for key, value in config.headers.items()}
        self._targets = {target: Secret(url, secrets) for target, url in config.targets.items()}
        self._transport = transport
        self._pace = Pace(config.rate)

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        """See `Destination.from_config`; needs a clock for the signed timestamp."""
        return cls(name, read_config(WebhookConfig, name, config), secrets, required_clock(name, cls.type, clock))

    async def __aenter__(self) -> Self:
        """Every secret resolves and has the right form, before the first action is claimed."""
        for secret in (self._url, *self._headers.values(), *self._targets.values()):
            secret.reveal()
        for key in self._keys:
            _key_bytes(key.reveal())
        if self._transport is None:
            # The HTTP libraries take half a second to import; checking definitions needs none of them.
            from destinations.transport import TIMEOUT, Transport

            self._transport = Transport(
                allow_hosts=self._config.allow_hosts,
                timeout=self._config.timeout or TIMEOUT,
                max_response=_MAX_RESPONSE,
                connections=self.capabilities.concurrency,
            )
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        """One request per action, at most `concurrency` at once."""
        limit = asyncio.Semaphore(self.capabilities.concurrency)

        async def one(action: Action) -> Verdict:
            async with limit:
                return await self._send_one(action)

        return await asyncio.gather(*(one(action) for action in batch))

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """One signed event, `{"type": …, "timestamp": …, "data": {…}}`, as the Standard Webhooks specification says."""
        if not self._inbound:
            raise InboundRefused(404, "D400", f"destination {self.name} has no inbound_secrets")
        message, sent = check_standard_webhook(request, [key.reveal() for key in self._inbound], now)
        event = _event(message, json_map(decoded(request.body)), sent)
        return Received((event,), once=f"webhook:{message}")

    async def _send_one(self, action: Action) -> Verdict:
        try:
            body = encoded(self._body(action))
            if len(body) > self.capabilities.max_bytes:
                raise PayloadError("too_large", f"more than {self.capabilities.max_bytes} bytes")
            await self._pace.turn()
            answer = await self._post(action, body)
        except PayloadError as error:
            return Verdict(action.action_id, "failed", error.code, error.message)
        except ConfigurationError as error:
            return Verdict(action.action_id, "retry", error.code, error.message, stop="configuration")
        except DestinationError as error:
            return trouble_verdict(action, error)
        return self._verdict(action, answer)

    async def _post(self, action: Action, body: bytes) -> Answer:
        if self._transport is None:
            raise ConfigurationError("D107", f"destination {self.name} is not open", "use `async with`")
        now = str(int(utc(self._clock()).timestamp()))
        headers = {name.lower(): value.reveal() for name, value in self._headers.items()}
        headers |= {"content-type": "application/json", "user-agent": "penstock"}
        headers |= {"webhook-id": action.action_id, "webhook-timestamp": now}
        if self._keys:
            headers["webhook-signature"] = signature([key.reveal() for key in self._keys], action.action_id, now, body)
        return await self._transport.post(self._url_of(action).reveal(), body, headers)

    def _url_of(self, action: Action) -> Secret:
        if action.kind != "notify" or not self._targets:
            return self._url
        target = str(action.payload.get("target", action.what))
        if target not in self._targets:
            known = ", ".join(sorted(self._targets))
            raise PayloadError("unknown_target", f"targets of {self.name} has no such name; it has: {known}")
        return self._targets[target]

    def _body(self, action: Action) -> object:
        match action.kind:
            case "webhook":
                return action.payload.get("body", {})
            case "notify":
                return {"target": action.payload.get("target", action.what), "text": action.payload.get("text", "")}
            case _:
                raise PayloadError("unsupported_kind", f"a webhook destination cannot perform {action.kind}")

    def _verdict(self, action: Action, answer: Answer) -> Verdict:
        ruling = http_ruling(answer.status, classification.WEBHOOK)
        message = ""
        if ruling.status != "sent":
            secrets = [self._url, *self._keys, *self._headers.values(), *self._targets.values()]
            hide = [*texts_of(action.payload), *(secret.reveal() for secret in secrets)]
            message = scrub(answer.body[:2000].decode("utf-8", "replace"), hide)
        pause = retry_after(answer.headers, self._clock()) if ruling.status == "retry" else None
        return Verdict(action.action_id, ruling.status, str(answer.status), message, pause, stop=ruling.stop)


def _event(message: str, data: Mapping[str, Any], sent: datetime) -> InboundEvent:
    """`{type, timestamp, data}` as an event: who it is about is read from the usual places of `data`."""
    name = text_of(data.get("type"), 100)
    if name is None or not _EVENT_NAME.fullmatch(name):
        raise InboundRefused(400, "D404", "the body has no `type` of letters, digits, `.`, `_` and `-`")
    about = json_map(data.get("data", {}), "`data`")
    return InboundEvent(
        event_id=f"webhook:{message}", name=name.replace(".", "_").replace("-", "_").lower(),
        time=moment_of(data.get("timestamp"), sent), action_id=text_of(about.get("action_id")),
        email=text_of(about.get("email")), phone=text_of(about.get("phone")), data=about,
    )  # fmt: skip


def signature(secrets: Sequence[str], message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` header: one `v1,<base64>` per `whsec_` secret over `id.timestamp.body`."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join("v1," + hmac_base64(_key_bytes(secret), content) for secret in secrets)


def _key_bytes(secret: str) -> bytes:
    key = standard_webhook_key(secret)
    if key is None:
        raise ConfigurationError(
            "D301", "a webhook secret is whsec_ followed by base64 of 24 to 64 bytes",
            "make one: openssl rand -base64 32",
        )  # fmt: skip
    return key
