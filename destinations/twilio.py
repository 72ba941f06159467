"""Twilio: text messages, one per call; its reports and replies, signed over the address and the form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from pydantic import Field

from destinations.answers import Row, UnreadableAnswer, for_all, object_of
from destinations.auth import Auth, BasicAuth, Request
from destinations.base import Action, Capabilities, Limit, Verdict
from destinations.classification import RETRY, Ruling, http_ruling
from destinations.config import DestinationConfig
from destinations.errors import PayloadError
from destinations.http_destination import HttpDestination
from destinations.inbound import (
    Inbound,
    InboundEvent,
    InboundRefused,
    OptOut,
    Received,
    forged,
    hmac_base64,
    kept,
    same,
)
from destinations.secret import secret_field

if TYPE_CHECKING:
    from destinations.transport import Answer

_AGAIN = frozenset({20429, 21611, 14107})
_STOP = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit"})
_START = frozenset({"start", "unstop", "yes"})
_STATES: Mapping[str, str] = {
    "sent": "sms_accepted", "delivered": "sms_delivered", "undelivered": "sms_failed", "failed": "sms_failed",
    "read": "sms_opened",
}  # fmt: skip


class TwilioConfig(DestinationConfig):
    """`from` is a number, or `messaging_service` names a service; `callback` is where Twilio reports to."""

    account_sid: str = Field(pattern=r"^AC[0-9a-fA-F]{32}$")
    token: str
    sender: str | None = Field(default=None, alias="from")
    messaging_service: str | None = None
    callback: str | None = None
    base_url: str = "https://api.twilio.com"


class Twilio(HttpDestination[TwilioConfig]):
    """`sms` steps. A retry may send twice: there is no key, so an unknown outcome is held."""

    type = "twilio"
    config_model = TwilioConfig
    capabilities = Capabilities(frozenset({"sms"}), "none", limits=(Limit(1, timedelta(seconds=1)),))

    def auth(self) -> Auth:
        """HTTP Basic with the account and its token."""
        token = secret_field(self.name, "token", self.config.token, self._lookup)
        return BasicAuth(self.secret(self.config.account_sid), token)

    def row(self, action: Action) -> Row:
        """The form of one message."""
        text, to = str(action.payload.get("text") or ""), str(action.payload.get("to") or "")
        if not to:
            raise PayloadError("no_address", "the contact has no phone number")
        if not text or len(text) > 1600:
            raise PayloadError("bad_text", "a text message has 1 to 1,600 characters")
        form = {
            "To": to,
            "Body": text,
            "From": self.config.sender,
            "MessagingServiceSid": self.config.messaging_service,
        }
        if self.config.callback is not None:
            form["StatusCallback"] = f"{self.config.callback}?action_id={quote(action.action_id, safe='')}"
        return Row(action, {name: value for name, value in form.items() if value})

    def request(self, rows: Sequence[Row]) -> Request:
        """POST Messages.json."""
        url = f"{self.config.base_url}/2010-04-01/Accounts/{self.config.account_sid}/Messages.json"
        return Request(url, urlencode(rows[0].data).encode(), {"content-type": "application/x-www-form-urlencoded"})

    def ruling(self, answer: Answer) -> Ruling:
        """A full queue is a 400 too."""
        return RETRY if _code(answer) in _AGAIN else http_ruling(answer.status)

    def code(self, answer: Answer) -> str:
        """Status and Twilio's own number."""
        number = _code(answer)
        return f"{answer.status} {number}" if number else str(answer.status)

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """The message's id, when the answer can be read: the status has said everything else."""
        try:
            sid = str(object_of(answer).get("sid") or "")
        except UnreadableAnswer:
            sid = ""
        return for_all(rows, str(answer.status), {"sid": sid} if sid else {})

    def parse_inbound(self, request: Inbound, now: datetime) -> Received:
        """A status of a message, or a message of a contact: STOP and START among them."""
        token = secret_field(self.name, "token", self.config.token, self._lookup).reveal()
        try:
            fields = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=200)
        except ValueError:
            raise InboundRefused(400, "D403", "the body is no form") from None
        signed = request.url + "".join(name + value for name, value in sorted(fields))
        if not same(
            hmac_base64(token.encode(), signed.encode(), "sha1"), request.headers.get("x-twilio-signature", "")
        ):
            raise forged()
        form = dict(fields)
        event = _status(form, request.url, now) if "MessageStatus" in form else _reply(form, now)
        return Received(() if event is None else (event,))


def _status(form: Mapping[str, str], url: str, now: datetime) -> InboundEvent | None:
    state, sid = form["MessageStatus"], form.get("MessageSid", "")
    name = _STATES.get(state)
    if name is None:
        return None
    action = parse_qs(urlsplit(url).query).get("action_id", [None])[0]
    data = kept(code=form.get("ErrorCode"), message_id=sid)
    return InboundEvent(f"twilio:{sid}:{state}", name, now, action, None, form.get("To"), data)


def _reply(form: Mapping[str, str], now: datetime) -> InboundEvent | None:
    sid, text = form.get("MessageSid", ""), form.get("Body", "").strip()
    if not sid:
        return None
    word = text.lower()
    opt_out = OptOut("unsubscribed", "sms", lift=word in _START) if word in _STOP | _START else None
    name = "sms_replied" if opt_out is None else "sms_resubscribed" if opt_out.lift else "sms_unsubscribed"
    return InboundEvent(f"twilio:{sid}", name, now, None, None, form.get("From"), kept(text=text), opt_out)


def _code(answer: Answer) -> int:
    if answer.status < 300:
        return 0
    try:
        found = object_of(answer).get("code")
    except UnreadableAnswer:
        return 0
    return found if isinstance(found, int) else 0
