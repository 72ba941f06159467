"""Mailgun: one message per call as a form; its webhooks, signed over time and token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from destinations.answers import Row, UnreadableAnswer, for_all, object_of
from destinations.auth import Auth, BasicAuth, Request
from destinations.base import Action, Capabilities, Verdict
from destinations.http_destination import HttpDestination
from destinations.inbound import (
    Inbound,
    InboundEvent,
    InboundRefused,
    Received,
    check_time,
    decoded,
    forged,
    hmac_hex,
    json_map,
    kept,
    moment_of,
    same,
    text_of,
)
from destinations.mail_vendor import (
    ACCEPTED,
    BOUNCED,
    CLICKED,
    COMPLAINED,
    DEFERRED,
    DELIVERED,
    OPENED,
    REJECTED,
    UNSUBSCRIBED,
    MailVendorConfig,
    Report,
    reported,
)  # fmt: skip
from destinations.message import mail_fields
from destinations.secret import secret_field

if TYPE_CHECKING:
    from destinations.transport import Answer

_REPORTS: Mapping[str, Report] = {
    "accepted": ACCEPTED, "delivered": DELIVERED, "failed": BOUNCED, "opened": OPENED, "clicked": CLICKED,
    "unsubscribed": UNSUBSCRIBED, "complained": COMPLAINED, "rejected": REJECTED,
}  # fmt: skip


class MailgunConfig(MailVendorConfig):
    """`token` is an API key, `domain` the sending domain, `inbound_secret` the webhook signing key."""

    token: str
    domain: str
    base_url: str = "https://api.mailgun.net"
    test: bool = False


class Mailgun(HttpDestination[MailgunConfig]):
    """`email` steps. A retry may send twice: there is no key, so an unknown outcome is held."""

    type = "mailgun"
    config_model = MailgunConfig
    capabilities = Capabilities(frozenset({"email"}), "none", max_bytes=25_000_000, concurrency=8)

    def auth(self) -> Auth:
        """HTTP Basic as `api`."""
        return BasicAuth(self.secret("api"), secret_field(self.name, "token", self.config.token, self._lookup))

    def row(self, action: Action) -> Row:
        """The fields of the form; the action id comes back as a user variable."""
        mail = mail_fields(action, self.config.sender)
        form = {
            "from": str(mail.sender), "to": str(mail.recipient), "subject": mail.subject, "text": mail.text,
            "html": mail.html, "o:tag": action.what[:128], "o:testmode": "yes" if self.config.test else "",
            "v:action_id": action.action_id, "h:Reply-To": str(mail.reply_to or ""),
            **{f"h:{name}": value for name, value in mail.headers.items()},
        }  # fmt: skip
        return Row(action, {name: value for name, value in form.items() if value})

    def request(self, rows: Sequence[Row]) -> Request:
        """POST /v3/<domain>/messages."""
        (row,) = rows
        body, boundary = _multipart(row.data, row.action.action_id)
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        return Request(f"{self.config.base_url}/v3/{self.config.domain}/messages", body, headers)

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """The id of the message, when the answer can be read: the status has said everything else."""
        try:
            message = text_of(object_of(answer).get("id"))
        except UnreadableAnswer:
            message = None
        return for_all(rows, str(answer.status), {"message_id": message} if message else {})

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """One event per request. The signature covers time and token, not the event, so a token counts once."""
        if self.config.inbound_secret is None:
            raise InboundRefused(404, "D400", f"destination {self.name} has no inbound_secret")
        key = secret_field(self.name, "inbound_secret", self.config.inbound_secret, self._lookup).reveal()
        body = json_map(decoded(request.body))
        signed = json_map(body.get("signature"), "`signature`")
        seconds, token = str(signed.get("timestamp", "")), str(signed.get("token", ""))
        if not token or not same(hmac_hex(key.encode(), (seconds + token).encode()), str(signed.get("signature", ""))):
            raise forged()
        check_time(seconds, now)
        event = _event(json_map(body.get("event-data"), "`event-data`"), token, now)
        return Received(() if event is None else (event,), once=f"mailgun:{token}")


def _event(item: Mapping[str, Any], token: str, now: datetime) -> InboundEvent | None:
    report = _REPORTS.get(str(item.get("event")))
    if report is BOUNCED and item.get("severity") != "permanent":
        report = DEFERRED
    if report is None:
        return None
    variables, status = item.get("user-variables"), item.get("delivery-status")
    told = status if isinstance(status, dict) else {}
    data = kept(
        reason=item.get("reason"), code=told.get("code"), message=told.get("message"), url=item.get("url"),
        severity=item.get("severity"),
    )  # fmt: skip
    return reported(
        report, f"mailgun:{token}", moment_of(item.get("timestamp"), now),
        action_id=text_of(variables.get("action_id")) if isinstance(variables, dict) else None,
        email=text_of(item.get("recipient")), data=data,
    )  # fmt: skip


def _multipart(form: Mapping[str, str], action_id: str) -> tuple[bytes, str]:
    """The form; the boundary comes from the action id and stands nowhere in the values."""
    values = {name: value.encode("utf-8", "replace") for name, value in form.items()}
    boundary = hashlib.sha256(action_id.encode()).hexdigest()[:32]
    while any(boundary.encode() in value for value in values.values()):
        boundary = hashlib.sha256(boundary.encode()).hexdigest()[:32]
    edge = f"--{boundary}\r\n".encode()
    parts = [
        edge + f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in values.items()
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), boundary
