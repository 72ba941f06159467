"""Signed requests to one URL, after the Standard Webhooks specification.

`webhook-id` is the action id on every attempt, so a receiver can ignore repetitions; `webhook-timestamp` is the time of
the attempt; `webhook-signature` holds one `v1` signature per configured secret, so that secrets can be rotated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from pydantic import Field

from destinations import classification
from destinations.answers import Row
from destinations.auth import Auth, HeaderAuth, Request
from destinations.base import Action, Capabilities
from destinations.classification import utc
from destinations.config import DestinationConfig
from destinations.errors import ConfigurationError, PayloadError
from destinations.http_destination import HttpDestination, json_request
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
from destinations.secret import Secret, secret_field

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


class Webhook(HttpDestination[WebhookConfig]):
    """POSTs the body of a `webhook` step, or `{target, text}` of a `notify` step, as JSON."""

    type = "webhook"
    config_model = WebhookConfig
    rulings = classification.WEBHOOK
    max_response = 64 * 1024
    capabilities = Capabilities(
        roles=frozenset({"webhook", "notify"}),
        idempotency="event_id",
        max_batch=1,
        max_bytes=1_000_000,
        concurrency=8,
        retry_after=(timedelta(minutes=5), timedelta(minutes=10)),
        on_unknown="retry",
    )

    def auth(self) -> Auth:
        """The configured headers; what signs a request is made with its body."""
        config = self.config
        keys = [*([config.secret] if config.secret else []), *config.secrets]
        self._keys = [secret_field(self.name, "secret", key, self._lookup) for key in keys]
        self._inbound = [
            secret_field(self.name, "inbound_secrets", key, self._lookup) for key in config.inbound_secrets
        ]
        self._url = self.secret(config.url)
        self._targets = {target: self.secret(url) for target, url in config.targets.items()}
        return HeaderAuth({key: self.secret(value) for key, value in config.headers.items()})

    def opened(self) -> Sequence[Secret]:
        """URLs may be secrets; those that sign have a form."""
        return [self._url, *self._targets.values(), *self._keys]

    async def __aenter__(self) -> Self:
        """Every secret resolves and has the right form, before the first action is claimed."""
        for key in self._keys:
            _key_bytes(key.reveal())
        return await super().__aenter__()

    def row(self, action: Action) -> Row:
        """The body."""
        if action.kind == "webhook":
            return Row(action, action.payload.get("body", {}))
        self._url_of(action)
        target, text = action.payload.get("target", action.what), action.payload.get("text", "")
        return Row(action, {"target": target, "text": text})

    def request(self, rows: Sequence[Row]) -> Request:
        """One signed request for one action."""
        (row,) = rows
        message = row.action.action_id
        now = str(int(utc(self.clock()).timestamp()))
        made = json_request(
            self._url_of(row.action).reveal(), row.data, {"webhook-id": message, "webhook-timestamp": now}
        )
        if not self._keys:
            return made
        signed = signature([key.reveal() for key in self._keys], message, now, made.body)
        return Request(made.url, made.body, {**made.headers, "webhook-signature": signed})

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """One signed event, `{"type": …, "timestamp": …, "data": {…}}`, as the Standard Webhooks specification says."""
        if not self._inbound:
            raise InboundRefused(404, "D400", f"destination {self.name} has no inbound_secrets")
        message, sent = check_standard_webhook(request, [key.reveal() for key in self._inbound], now)
        event = _event(message, json_map(decoded(request.body)), sent)
        return Received((event,), once=f"webhook:{message}")

    def _url_of(self, action: Action) -> Secret:
        if action.kind != "notify" or not self._targets:
            return self._url
        target = str(action.payload.get("target", action.what))
        if target not in self._targets:
            known = ", ".join(sorted(self._targets))
            raise PayloadError("unknown_target", f"targets of {self.name} has no such name; it has: {known}")
        return self._targets[target]


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
