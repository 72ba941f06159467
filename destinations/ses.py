"""Amazon SES v2: one message per call, signed with Signature Version 4; its events through SNS, signed with RSA."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from destinations.answers import Row, UnreadableAnswer, for_all, object_of
from destinations.auth import Auth, Request
from destinations.base import Action, Capabilities, Clock, Verdict
from destinations.classification import CREDENTIALS, RETRY, Ruling, http_ruling
from destinations.http_destination import HttpDestination, json_request
from destinations.inbound import (
    Inbound,
    InboundEvent,
    InboundRefused,
    Received,
    event_id_of,
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
    SOFT_BOUNCED,
    UNSUBSCRIBED,
    MailVendorConfig,
    Report,
    reported,
)  # fmt: skip
from destinations.message import mail_fields
from destinations.secret import Secret, secret_field
from destinations.sns import verified

if TYPE_CHECKING:
    from destinations.transport import Answer, Transport

_REPORTS: Mapping[str, Report] = {
    "Send": ACCEPTED, "Delivery": DELIVERED, "DeliveryDelay": DEFERRED, "Bounce": BOUNCED, "Complaint": COMPLAINED,
    "Reject": REJECTED, "Rendering Failure": REJECTED, "Open": OPENED, "Click": CLICKED, "Subscription": UNSUBSCRIBED,
}  # fmt: skip
_PEOPLE = {"Bounce": "bouncedRecipients", "Complaint": "complainedRecipients", "DeliveryDelay": "delayedRecipients"}
# What is wrong with the account; no message of anybody would be taken.
_ACCOUNT = frozenset({
    "AccountSuspendedException", "SendingPausedException", "MailFromDomainNotVerifiedException",
    "UnrecognizedClientException", "InvalidClientTokenId", "SignatureDoesNotMatch", "AccessDeniedException",
})  # fmt: skip
_AGAIN = frozenset({"TooManyRequestsException", "LimitExceededException", "ThrottlingException", "Throttling"})


class SesConfig(MailVendorConfig):
    """`access_key_id` and `secret_access_key` are references; `configuration_set` is needed for events.

    `topics` are the ARNs of the SNS topics whose messages are taken; anything else is refused.
    """

    region: str
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    configuration_set: str | None = None
    base_url: str | None = None
    topics: Sequence[str] = ()


class SigV4(Auth):
    """AWS Signature Version 4 over host, date, content type and body."""

    def __init__(
        self, service: str, region: str, access_key: Secret, secret_key: Secret, session: Secret | None, clock: Clock
    ) -> None:
        self._service, self._region, self._clock = service, region, clock
        self._access_key, self._secret_key, self._session = access_key, secret_key, session

    def secrets(self) -> Iterable[str]:
        """The keys."""
        found = [self._secret_key.reveal(), self._access_key.reveal()]
        return [*found, self._session.reveal()] if self._session is not None else found

    async def headers(self, request: Request, transport: Transport) -> Mapping[str, str]:
        """`authorization` and what it covers."""
        url = urlsplit(request.url)
        stamp = f"{self._clock():%Y%m%dT%H%M%SZ}"
        signed = {"content-type": request.headers["content-type"], "host": url.netloc, "x-amz-date": stamp}
        if self._session is not None:
            signed["x-amz-security-token"] = self._session.reveal()
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        path = quote(url.path or "/", safe="/-_.~")
        canonical = "\n".join((request.method, path, url.query, lines, names, _sha256(request.body)))
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, _sha256(canonical.encode())))
        key = f"AWS4{self._secret_key.reveal()}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"Credential={self._access_key.reveal()}/{scope}"
        authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return {**signed, "authorization": authorization}


class Ses(HttpDestination[SesConfig]):
    """`email` steps. A retry may send twice: there is no key, so an unknown outcome is held."""

    type = "ses"
    config_model = SesConfig
    capabilities = Capabilities(frozenset({"email"}), "none", max_bytes=40_000_000, concurrency=8)

    def auth(self) -> Auth:
        """Signature Version 4."""
        config = self.config
        access = secret_field(self.name, "access_key_id", config.access_key_id, self._lookup)
        secret = secret_field(self.name, "secret_access_key", config.secret_access_key, self._lookup)
        token = config.session_token
        session = None if token is None else secret_field(self.name, "session_token", token, self._lookup)
        return SigV4("ses", config.region, access, secret, session, self.clock)

    def row(self, action: Action) -> Row:
        """SendEmail with simple content; the action id comes back as a tag."""
        mail = mail_fields(action, self.config.sender)
        parts = {"Text": mail.text, "Html": mail.html}
        simple: dict[str, Any] = {
            "Subject": {"Data": mail.subject, "Charset": "UTF-8"},
            "Body": {name: {"Data": text, "Charset": "UTF-8"} for name, text in parts.items() if text},
        }
        if mail.headers:
            simple["Headers"] = [{"Name": name, "Value": value} for name, value in mail.headers.items()]
        tags = {"action_id": action.action_id, "template": action.what}
        body: dict[str, Any] = {
            "FromEmailAddress": str(mail.sender), "Destination": {"ToAddresses": [str(mail.recipient)]},
            "Content": {"Simple": simple},
            "EmailTags": [{"Name": name, "Value": re.sub(r"[^A-Za-z0-9_-]", "_", v)[:256]} for name, v in tags.items()],
        }  # fmt: skip
        if mail.reply_to is not None:
            body["ReplyToAddresses"] = [str(mail.reply_to)]
        if self.config.configuration_set is not None:
            body["ConfigurationSetName"] = self.config.configuration_set
        return Row(action, body)

    def request(self, rows: Sequence[Row]) -> Request:
        """POST /v2/email/outbound-emails."""
        base = self.config.base_url or f"https://email.{self.config.region}.amazonaws.com"
        return json_request(f"{base}/v2/email/outbound-emails", rows[0].data)

    def ruling(self, answer: Answer) -> Ruling:
        """By the name of the error: 400 stands for a bad row and for a suspended account alike."""
        name = _error_name(answer)
        if name in _ACCOUNT:
            return CREDENTIALS
        return RETRY if name in _AGAIN else http_ruling(answer.status)

    def code(self, answer: Answer) -> str:
        """Status and name of the error."""
        return f"{answer.status} {_error_name(answer)}".strip()

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """The id of the message, when the answer can be read: the status has said everything else."""
        try:
            message = text_of(object_of(answer).get("MessageId"))
        except UnreadableAnswer:
            message = None
        return for_all(rows, str(answer.status), {"message_id": message} if message else {})

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """One SNS message: a report of SES, or the question whether we want them."""
        if not self.config.topics:
            raise InboundRefused(404, "D400", f"destination {self.name} has no topics")
        envelope = verified(request, self.config.topics, now)
        if envelope.kind == "SubscriptionConfirmation":
            return Received(confirm=envelope.confirm)
        try:
            data = json_map(json.loads(envelope.message))
        except ValueError:
            return Received()  # the first message of a topic is a sentence
        return Received(tuple(_events(data, envelope.message_id, now)))


def _events(data: Mapping[str, Any], message_id: str, now: datetime) -> Iterator[InboundEvent]:
    kind = str(data.get("eventType") or data.get("notificationType"))
    report = _REPORTS.get(kind)
    if report is None:
        return
    detail = data.get(kind.lower() if kind != "DeliveryDelay" else "deliveryDelay")
    told = detail if isinstance(detail, dict) else {}
    if kind == "Bounce" and told.get("bounceType") != "Permanent":
        report = SOFT_BOUNCED
    mail = json_map(data.get("mail", {}), "`mail`")
    tags = mail.get("tags")
    ids = tags.get("action_id") if isinstance(tags, dict) else None
    people = told.get(_PEOPLE.get(kind, "recipients")) or mail.get("destination") or [None]
    for person in json_list(people, "recipients"):
        email = text_of(person.get("emailAddress") if isinstance(person, dict) else person)
        when = moment_of(told.get("timestamp") or mail.get("timestamp"), now)
        yield reported(
            report, event_id_of("ses", message_id, email), when,
            action_id=text_of(ids[0]) if isinstance(ids, list) and ids else None, email=email,
            data=kept(
                type=told.get("bounceType"), sub_type=told.get("bounceSubType"), url=told.get("link"),
                user_agent=told.get("userAgent"), reason=told.get("reason"), message_id=mail.get("messageId"),
            ),
        )  # fmt: skip


def _error_name(answer: Answer) -> str:
    if answer.status < 300:
        return ""
    name = answer.headers.get("x-amzn-errortype", "").split(":")[0]
    if not name:
        try:
            name = str(object_of(answer).get("__type", "")).split("#")[-1]
        except UnreadableAnswer:
            name = ""
    return re.sub(r"[^A-Za-z]", "", name)[:60]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
