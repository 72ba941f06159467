"""Postmark: up to 500 messages per call, one answer each in the same order; its webhooks, behind HTTP Basic."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from destinations.answers import Row, in_order, json_of, listed, verdict
from destinations.auth import Auth, HeaderAuth, Request
from destinations.base import Action, Capabilities, Verdict
from destinations.http_destination import HttpDestination, json_request
from destinations.inbound import (
    Inbound,
    InboundEvent,
    InboundRefused,
    Received,
    decoded,
    event_id_of,
    forged,
    json_map,
    kept,
    moment_of,
    same,
    text_of,
)
from destinations.mail_vendor import (
    BOUNCED,
    CLICKED,
    COMPLAINED,
    DEFERRED,
    DELIVERED,
    OPENED,
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
    from destinations.transport import Answer

_DEAD = 406
_AGAIN = frozenset({100, 429})
_ACCOUNT = frozenset({10, 400, 401, 405, 412, 413})
_REPORTS: Mapping[str, Report] = {
    "Delivery": DELIVERED, "SpamComplaint": COMPLAINED, "Open": OPENED, "Click": CLICKED,
}  # fmt: skip
_BOUNCES: Mapping[str, Report] = {
    **dict.fromkeys(("HardBounce", "BadEmailAddress", "ManuallyDeactivated"), BOUNCED),
    **dict.fromkeys(("Blocked", "DMARCPolicy", "SoftBounce"), SOFT_BOUNCED),
    **dict.fromkeys(("SpamComplaint", "SpamNotification"), COMPLAINED),
    **dict.fromkeys(("Transient", "DnsError"), DEFERRED),
    "Unsubscribe": UNSUBSCRIBED, "Subscribe": RESUBSCRIBED,
}  # fmt: skip


class PostmarkConfig(MailVendorConfig):
    """`token` is a server token, `stream` the message stream (marketing mail needs a broadcast stream).

    `inbound_secret` is `user:password`, as it stands in the address that Postmark calls.
    """

    token: str
    stream: str = "outbound"
    base_url: str = "https://api.postmarkapp.com"


class Postmark(HttpDestination[PostmarkConfig]):
    """`email` steps. A retry may send twice: there is no key, so an unknown outcome is held."""

    type = "postmark"
    config_model = PostmarkConfig
    capabilities = Capabilities(frozenset({"email"}), "none", max_batch=500, max_bytes=50_000_000, concurrency=2)

    def auth(self) -> Auth:
        """The token in a header of its own."""
        token = secret_field(self.name, "token", self.config.token, self._lookup)
        return HeaderAuth({"x-postmark-server-token": token})

    def row(self, action: Action) -> Row:
        """One message; the action id comes back as metadata."""
        mail = mail_fields(action, self.config.sender)
        body: dict[str, Any] = {
            "From": str(mail.sender), "To": str(mail.recipient), "Subject": mail.subject, "Tag": action.what[:1000],
            "MessageStream": self.config.stream, "Metadata": {"action_id": action.action_id},
            "Headers": [{"Name": name, "Value": value} for name, value in mail.headers.items()],
        }  # fmt: skip
        more = {"TextBody": mail.text, "HtmlBody": mail.html, "ReplyTo": str(mail.reply_to or "")}
        return Row(action, body | {key: value for key, value in more.items() if value})

    def request(self, rows: Sequence[Row]) -> Request:
        """POST /email/batch."""
        body = [row.data for row in rows]
        return json_request(f"{self.config.base_url}/email/batch", body, {"accept": "application/json"})

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """HTTP 200 also when messages failed: each has its own code."""
        return in_order(rows, listed(json_of(answer)), _judge)

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """One event per request. Postmark signs nothing; its address holds user and password."""
        if self.config.inbound_secret is None:
            raise InboundRefused(404, "D400", f"destination {self.name} has no inbound_secret")
        secret = secret_field(self.name, "inbound_secret", self.config.inbound_secret, self._lookup).reveal()
        expected = "Basic " + base64.b64encode(secret.encode()).decode()
        if not same(expected, request.headers.get("authorization", "")):
            raise forged()
        event = _event(json_map(decoded(request.body)), now)
        return Received(() if event is None else (event,))


def _judge(row: Row, item: Any) -> Verdict:
    code = item.get("ErrorCode") if isinstance(item, dict) else None
    message = str(item.get("Message", "")) if isinstance(item, dict) else ""
    if code == 0:
        return verdict(row, "sent", "200", receipt={"message_id": str(item.get("MessageID", ""))})
    if code in _AGAIN:
        return verdict(row, "retry", f"200 {code}", message)
    if code in _ACCOUNT:
        return verdict(row, "retry", f"200 {code}", message, stop="credentials")
    found = verdict(row, "failed", f"200 {code}", message)
    # Postmark keeps addresses that bounced or complained and refuses them.
    return Verdict(found.action_id, "failed", found.code, found.message, suppress="bounced") if code == _DEAD else found


def _event(item: Mapping[str, Any], now: datetime) -> InboundEvent | None:
    kind = str(item.get("RecordType"))
    report = _REPORTS.get(kind)
    if kind == "Bounce":
        report = _BOUNCES.get(str(item.get("Type")))
    elif kind == "SubscriptionChange":
        report = UNSUBSCRIBED if item.get("SuppressSending") else RESUBSCRIBED
    if report is None:
        return None
    names = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")
    when = next((item[name] for name in names if item.get(name)), None)
    email = text_of(item.get("Recipient") or item.get("Email"))
    metadata = item.get("Metadata")
    data = kept(
        type=item.get("Type"), reason=item.get("Description"), url=item.get("OriginalLink"),
        user_agent=item.get("UserAgent"), template=item.get("Tag"), message_id=item.get("MessageID"),
    )  # fmt: skip
    return reported(
        report, event_id_of("postmark", kind, item.get("ID"), item.get("MessageID"), email, when),
        moment_of(when, now), action_id=text_of(metadata.get("action_id")) if isinstance(metadata, dict) else None,
        email=email, data=data,
    )  # fmt: skip
