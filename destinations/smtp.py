"""E-mail over SMTP submission: STARTTLS or TLS from the first byte, one message per recipient, one verdict per message.

SMTP has no idempotency key. A connection lost after the message was handed over and before the reply is `unknown`
(held by default); everything before that is safe to repeat and is `retry`.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from destinations.base import Action, Capabilities, Clock, Destination, SecretLookup, Verdict
from destinations.classification import TROUBLES, Trouble
from destinations.config import DestinationConfig, read_config, required_clock
from destinations.errors import AddressRefusedError, ConfigurationError, NotSentError, PayloadError
from destinations.message import Mail, build_message, mailbox
from destinations.network import MAIL_PORTS, checked_addresses, is_allowed
from destinations.pace import Pace
from destinations.secret import Secret, scrub, secret_field, texts_of
from destinations.smtp_session import SmtpLostError, SmtpRefusedError, SmtpServer, SmtpSession, TlsMode

_PORTS = {"starttls": 587, "implicit": 465, "none": 25}
_TIMEOUT = timedelta(seconds=60)
_HOST_NAME = r"^[A-Za-z0-9.\-]{1,253}$"
# A notify text becomes the subject up to here.
_SUBJECT = 120


class SmtpConfig(DestinationConfig):
    """`tls: starttls` (required, never downgraded), `implicit`, or `none` for a host of `allow_hosts`.

    `host`, `port`, `username` may be references, `password` must be one. `from` is the sender of messages that name
    none; `notify_to` maps the targets of `notify` steps to addresses; `message_id_domain` defaults to the sender's.
    """

    host: str = Field(min_length=1)
    port: int | str | None = None
    tls: TlsMode = "starttls"
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    sender: str | None = Field(default=None, alias="from")
    notify_to: Mapping[str, str] = Field(default_factory=dict)
    message_id_domain: str | None = Field(default=None, pattern=_HOST_NAME)
    ehlo_name: str = Field(default="localhost", pattern=_HOST_NAME)


class Smtp(Destination):
    """Sends `email` and `notify` actions; the connection is kept for the life of the context manager."""

    type = "smtp"
    capabilities = Capabilities(
        roles=frozenset({"email", "notify"}),
        idempotency="none",
        # One message per call and one call at a time: a killed worker leaves at most one message unknown.
        max_batch=1,
        max_bytes=10_000_000,
        concurrency=1,
        retry_after=(timedelta(minutes=5), timedelta(minutes=10)),
        on_unknown="hold",
    )

    def __init__(self, name: str, config: SmtpConfig, secrets: SecretLookup, clock: Clock) -> None:
        self.name = name
        self.capabilities = config.applied_to(type(self).capabilities)
        self._config = config
        self._clock = clock
        self._host = Secret(config.host, secrets)
        self._port = Secret(str(config.port or _PORTS[config.tls]), secrets)
        self._username = None if config.username is None else Secret(config.username, secrets)
        self._password = None if config.password is None else secret_field(name, "password", config.password, secrets)
        if (self._username is None) != (self._password is None):
            raise ConfigurationError("D303", f"destination {name}: username and password belong together")
        self._session: SmtpSession | None = None
        self._lock = asyncio.Lock()
        self._pace = Pace(self.capabilities.limits)
        for key, address in {"from": config.sender, **config.notify_to}.items():
            if address is not None and "{{" not in address:
                _check_address(name, key, address)

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        """See `Destination.from_config`; needs a clock for the Date header."""
        return cls(name, read_config(SmtpConfig, name, config), secrets, required_clock(name, cls.type, clock))

    async def __aenter__(self) -> Self:
        """Secrets resolve and the TLS mode suits the host; the connection opens with the first message."""
        for secret in (self._host, self._port, self._username, self._password):
            if secret is not None:
                secret.reveal()
        if not self._port.reveal().isdigit():
            raise ConfigurationError("D304", f"destination {self.name}: port is not a number")
        if self._config.tls == "none" and not is_allowed(self._host.reveal(), self._config.allow_hosts):
            raise ConfigurationError(
                "D305",
                f"destination {self.name}: tls: none would send messages and credentials in the clear",
                f"use starttls or implicit, or name the host: allow_hosts: [{self._host.reveal()}]",
            )
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        """QUIT if a connection is open."""
        async with self._lock:
            if self._session is not None:
                await asyncio.to_thread(self._session.quit)
                self._session = None

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        """One message after the other on one connection."""
        verdicts: list[Verdict] = []
        async with self._lock:
            for action in batch:
                stopped = next((v for v in verdicts[-1:] if v.stop), None)
                verdicts.append(
                    await self._send_one(action) if stopped is None else replace(stopped, action_id=action.action_id)
                )
        return verdicts

    async def _send_one(self, action: Action) -> Verdict:
        try:
            mail = self._mail(action)
            if len(mail.data) > self.capabilities.max_bytes:
                raise PayloadError("too_large", f"more than {self.capabilities.max_bytes} bytes")
            await self._pace.turn()
            return await self._deliver(action, mail)
        except PayloadError as error:
            return Verdict(action.action_id, "failed", error.code, error.message)
        except ConfigurationError as error:
            return Verdict(action.action_id, "retry", error.code, error.message, stop="configuration")
        except AddressRefusedError as error:
            ruling = TROUBLES[Trouble.ADDRESS]
            text = scrub(f"{error.message}. {error.hint}")
            return Verdict(action.action_id, ruling.status, Trouble.ADDRESS.value, text, stop=ruling.stop)
        except NotSentError as error:
            return Verdict(action.action_id, "retry", error.code, error.message)

    def _mail(self, action: Action) -> Mail:
        match action.kind:
            case "email":
                payload = action.payload
            case "notify":
                payload = self._notification(action)
            case _:
                raise PayloadError("unsupported_kind", f"an SMTP destination cannot perform {action.kind}")
        return build_message(
            replace(action, payload=payload), self._config.sender, self._config.message_id_domain, self._clock()
        )

    def _notification(self, action: Action) -> Mapping[str, Any]:
        target = str(action.payload.get("target", action.what))
        text = str(action.payload.get("text", ""))
        address = self._config.notify_to.get(target, target)
        if "@" not in address:
            known = ", ".join(sorted(self._config.notify_to)) or "none"
            raise PayloadError("unknown_target", f"notify_to of {self.name} has no such target; it has: {known}")
        subject = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()
        return {"to": address, "subject": subject[:_SUBJECT] or "Notification", "text": text or "(no text)"}

    async def _deliver(self, action: Action, mail: Mail) -> Verdict:
        reused = self._session is not None
        try:
            if self._session is None:
                self._session = await asyncio.to_thread(SmtpSession, await self._server())
            code, receipt = await asyncio.to_thread(self._session.transfer, mail)
        except SmtpRefusedError as error:
            if error.closed and reused and error.code == Trouble.RESET:
                # The server had closed the idle connection; nothing of this message was accepted.
                self._drop()
                return await self._deliver(action, mail)
            if self._session is not None and (error.closed or not await asyncio.to_thread(self._session.reset)):
                self._drop()
            return self._refusal(action, error)
        except SmtpLostError as error:
            self._drop()
            text = "the connection was lost after the message was handed over"
            return Verdict(action.action_id, TROUBLES[error.trouble].status, error.trouble.value, text)
        except BaseException:
            # A cancelled call leaves the conversation in the middle of a message.
            self._drop()
            raise
        return Verdict(action.action_id, "sent", code, receipt={"message_id": mail.message_id, **receipt})

    def _refusal(self, action: Action, error: SmtpRefusedError) -> Verdict:
        ruling = error.ruling
        message = scrub(error.text, [*texts_of(action.payload), *self._credentials()])
        return Verdict(action.action_id, ruling.status, error.code, message, suppress=ruling.suppress, stop=ruling.stop)

    def _credentials(self) -> Sequence[str]:
        """What a server may echo, also in the form it was sent in."""
        if self._username is None or self._password is None:
            return []
        username, password = self._username.reveal(), self._password.reveal()
        sent = (username, password, f"\0{username}\0{password}")
        return [username, password, *(base64.b64encode(value.encode()).decode() for value in sent)]

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    async def _server(self) -> SmtpServer:
        config = self._config
        host, port = self._host.reveal(), int(self._port.reveal())
        try:
            addresses = await checked_addresses(host, port, config.allow_hosts, MAIL_PORTS)
        except OSError:
            raise NotSentError(Trouble.DNS, "the host name does not resolve") from None
        return SmtpServer(
            host=host,
            port=port,
            addresses=addresses,
            tls=config.tls,
            context=None if config.tls == "none" else await asyncio.to_thread(_tls_context, self.name, config.ca_file),
            timeout=(config.timeout or _TIMEOUT).total_seconds(),
            ehlo_name=config.ehlo_name,
            allowed_in_clear=is_allowed(host, config.allow_hosts),
            username=None if self._username is None else self._username.reveal(),
            password=None if self._password is None else self._password.reveal(),
        )


def _tls_context(name: str, ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigurationError("D306", f"destination {name}: ca_file cannot be read") from None


def _check_address(name: str, key: str, address: str) -> None:
    try:
        mailbox(key, address)
    except PayloadError as error:
        raise ConfigurationError("D307", f"destination {name}: {error.message}", "Name <name@example.com>") from None
