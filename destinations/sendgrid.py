"""SendGrid v3: one message per call; its event webhook, signed with ECDSA."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from destinations.answers import Row, for_all
from destinations.auth import Auth, Request, bearer
from destinations.base import Action, Capabilities, Verdict
from destinations.http_destination import HttpDestination, json_request
from destinations.inbound import (
    Inbound,
    InboundEvent,
    InboundRefused,
    Received,
    check_time,
    decoded,
    event_id_of,
    forged,
    json_list,
    json_map,
    kept,
    moment_of,
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
    RESUBSCRIBED,
    SOFT_BOUNCED,
    UNSUBSCRIBED,
    MailVendorConfig,
    Report,
    reported,
)  # fmt: skip
from destinations.message import mail_fields
from destinations.secret import secret_field

if TYPE_CHECKING:
    from email.headerregistry import Address

    from destinations.transport import Answer

_REPORTS: Mapping[str, Report] = {
    "processed": ACCEPTED, "deferred": DEFERRED, "delivered": DELIVERED, "dropped": REJECTED, "bounce": BOUNCED,
    "open": OPENED, "click": CLICKED, "spamreport": COMPLAINED, "unsubscribe": UNSUBSCRIBED,
    "group_unsubscribe": UNSUBSCRIBED, "group_resubscribe": RESUBSCRIBED,
}  # fmt: skip


class SendgridConfig(MailVendorConfig):
    """`token` is an API key; `inbound_secret` the public key of the event webhook; `sandbox` checks without sending."""

    token: str
    base_url: str = "https://api.sendgrid.com"
    sandbox: bool = False


class Sendgrid(HttpDestination[SendgridConfig]):
    """`email` steps. A retry may send twice: there is no key, so an unknown outcome is held."""

    type = "sendgrid"
    config_model = SendgridConfig
    capabilities = Capabilities(frozenset({"email"}), "none", max_bytes=30_000_000, concurrency=8)

    def auth(self) -> Auth:
        """A bearer token."""
        return bearer(secret_field(self.name, "token", self.config.token, self._lookup))

    def row(self, action: Action) -> Row:
        """The body of `mail/send`; the action id comes back in every report."""
        mail = mail_fields(action, self.config.sender)
        person: dict[str, Any] = {"to": [_person(mail.recipient)], "custom_args": {"action_id": action.action_id}}
        parts = [("text/plain", mail.text), ("text/html", mail.html)]
        body = {
            "personalizations": [person | ({"headers": dict(mail.headers)} if mail.headers else {})],
            "from": _person(mail.sender), "subject": mail.subject,
            "content": [{"type": kind, "value": value} for kind, value in parts if value],
            "categories": [action.what[:255]],
        }  # fmt: skip
        if mail.reply_to is not None:
            body["reply_to"] = _person(mail.reply_to)
        if self.config.sandbox:
            body["mail_settings"] = {"sandbox_mode": {"enable": True}}
        return Row(action, body)

    def request(self, rows: Sequence[Row]) -> Request:
        """POST /v3/mail/send."""
        return json_request(f"{self.config.base_url}/v3/mail/send", rows[0].data)

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """202 without a body; the id is in a header."""
        message = answer.headers.get("x-message-id")
        return for_all(rows, str(answer.status), {"message_id": message} if message else {})

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """The event webhook: an array of events, signed over the time and the raw body."""
        if self.config.inbound_secret is None:
            raise InboundRefused(404, "D400", f"destination {self.name} has no inbound_secret")
        seconds = request.headers.get("x-twilio-email-event-webhook-timestamp", "")
        given = request.headers.get("x-twilio-email-event-webhook-signature", "")
        key = self.secret(self.config.inbound_secret).reveal()
        check_signature(key, given, seconds.encode() + request.body)
        check_time(seconds, now)
        events = [_event(json_map(item, "an event"), now) for item in json_list(decoded(request.body))]
        return Received(tuple(event for event in events if event is not None))


def check_signature(public_key: str, given: str, content: bytes) -> None:
    """ECDSA P-256 with SHA-256; the key is base64 DER, the signature base64 DER. Raises InboundRefused."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(base64.b64decode(public_key, validate=True))
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise forged()
        key.verify(base64.b64decode(given, validate=True), content, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        raise forged() from None


def _event(item: Mapping[str, Any], now: datetime) -> InboundEvent | None:
    report = _REPORTS.get(str(item.get("event")))
    if report is None:
        return None
    if report is BOUNCED and item.get("type") == "blocked":
        report = SOFT_BOUNCED
    own = text_of(item.get("sg_event_id")) or event_id_of("x", *sorted(map(str, item.items())))
    data = kept(
        reason=item.get("reason"), status=item.get("status"), url=item.get("url"), user_agent=item.get("useragent"),
        template=item.get("template"), message_id=item.get("sg_message_id"),
    )  # fmt: skip
    return reported(
        report, f"sendgrid:{own}", moment_of(item.get("timestamp"), now), action_id=text_of(item.get("action_id")),
        email=text_of(item.get("email")), data=data, machine=bool(item.get("sg_machine_open")),
    )  # fmt: skip


def _person(address: Address) -> dict[str, str]:
    return {"email": address.addr_spec, **({"name": address.display_name} if address.display_name else {})}
