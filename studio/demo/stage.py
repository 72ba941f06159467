"""The outside world of the demo: a mail server, a CRM and a webhook receiver on free loopback ports, with faults.

Whether something fails is a function of the seed, of what is asked and of the simulated time, never of the order in
which threads run. What was answered is written down, because an audit has to know it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.header import decode_header, make_header
from types import TracebackType
from typing import Any, Self, TypeVar

from flows.collector.server import listening
from studio.demo.customers import CART_TEMPLATES, Customers, Message, draw
from studio.demo.fake_crm import CrmFault, CrmRequest, FakeCrm
from studio.demo.mail_server import MailFault, MailServer, ReceivedMail
from studio.demo.sink import SinkFault, WebhookSink

HOST = "127.0.0.1"
TIMEOUT = "2s"
"""How long the demo's HTTP destinations wait for an answer that never comes."""
_MAIL_FAULTS: Mapping[MailFault, float] = {
    "451 4.7.1": 0.004, "450 4.2.0": 0.002, "421": 0.001, "late 451": 0.001, "close after": 0.002,
}  # fmt: skip
_CRM_FAULTS: Mapping[CrmFault, float] = {
    "429": 0.015, "500 after": 0.006, "502 after": 0.004, "drop after": 0.004, "hang after": 0.003,
}  # fmt: skip
_HOOK_FAULTS: Mapping[SinkFault, float] = {"429": 0.012, "503": 0.008, "500 after": 0.003, "hang after": 0.0008}
F = TypeVar("F")
_CART_LINK = re.compile(rb"/cart/(K-\d+)")
_PIXEL = re.compile(rb'<img src="(http://[^"]+/o/[^"]+)"')
_CLICK = re.compile(rb'href="(http://[^"]+/c/[^"]+)"')
_LEAVE = re.compile(rb"^List-Unsubscribe: <([^>\r\n]+)>", re.IGNORECASE | re.MULTILINE)
_SUBJECT = re.compile(rb"^Subject: ((?:[^\r\n]|\r\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^Message-ID: <([^@\r\n]+)@", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Arrival:
    """An e-mail that reached a mailbox: when, with which action id, for whom, what it is, and its links."""

    arrived_at: datetime
    action_id: str
    address: str
    template: str
    cart_id: str | None
    pixel: str
    link: str
    leave: str


@dataclass(frozen=True)
class Answer:
    """What an HTTP server answered at a simulated time.

    `outcome` is a status, or `timeout` or `reset` when no answer came; `ids` are the action ids that were named.
    """

    answered_at: datetime
    path: str
    ids: tuple[str, ...]
    outcome: str


class Stage:
    """The servers, as a context manager; while it is open the secrets of the destinations are in the environment.

    Args:
        customers: who has a mailbox, and which addresses are refused.
        addresses: address -> contact id.
        subjects: template -> its subject, with `{{ … }}` where a value stands.
        seed: of the faults.
        now: the simulated time.
    """

    def __init__(
        self, customers: Customers, addresses: Mapping[str, str], subjects: Mapping[str, str], seed: int,
        now: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self.arrivals: list[Arrival] = []
        self.refusals: dict[tuple[str, datetime], MailFault] = {}
        self.crm_answers: list[Answer] = []
        self.hook_answers: list[Answer] = []
        self._customers, self._addresses, self._seed, self._now = customers, addresses, seed, now
        self._subjects = [(_pattern(subject), template) for template, subject in subjects.items()]
        self._unread = 0
        self._stack = ExitStack()
        secret = "whsec_" + base64.b64encode(f"penstock demo {seed}".ljust(32, ".").encode()).decode()
        self._secrets = {
            "PENSTOCK_SMTP_USER": "demo", "PENSTOCK_SMTP_PASSWORD": "demo-password",
            "PENSTOCK_HUBSPOT_TOKEN": "demo-token", "PENSTOCK_ALERTS_SECRET": secret,
            "PENSTOCK_ORDER_DESK_SECRET": secret, "PENSTOCK_LINK_SECRET": secret,
            "PENSTOCK_WRITE_KEY": f"write_{secret}",
        }  # fmt: skip
        self.mail = MailServer(on_message=self._received, faults=self._mail_fault, auth=("demo", "demo-password"))
        self.crm = _RecordingCrm(self._crm_answered, token="demo-token", seed=seed, shares=_CRM_FAULTS)
        self.hooks = WebhookSink(secret=secret, faults=self._hook_fault, on_request=self._hook_answered)

    def __enter__(self) -> Self:
        for server in (self.mail, self.crm, self.hooks):
            self._stack.enter_context(server)
        self.front = self._stack.enter_context(listening(HOST, 0))
        self._stack.enter_context(_environment(self._secrets))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def destinations(self) -> dict[str, dict[str, Any]]:
        """What the demo's target overrides in the destinations of penstock.yaml."""
        web = {"allow_hosts": [HOST], "timeout": TIMEOUT}
        return {
            "email": {"host": HOST, "port": self.mail.port, "tls": "none", "allow_hosts": [HOST]},
            "crm": {"base_url": self.crm.url, "owners": {"dana@acme.example": "7001"}, **web},
            "alerts": {"url": f"{self.hooks.url}/alerts", **web},
            "order_desk": {"url": f"{self.hooks.url}/orders", **web},
        }

    @property
    def collector(self) -> dict[str, Any]:
        """What the demo's target overrides in the collector of penstock.yaml."""
        return {"url": f"http://{HOST}:{self.front.getsockname()[1]}"}

    @property
    def write_key(self) -> str:
        """The key with which the mail system reports bounces and replies."""
        return self._secrets["PENSTOCK_WRITE_KEY"]

    def new_messages(self) -> list[Message]:
        """What arrived since the last call, as the customers find it, in a fixed order.

        Raises:
            RuntimeError: the mail server could not make sense of a message.
        """
        if self.mail.errors:
            raise RuntimeError("the demo's mail server refused a message") from self.mail.errors[0]
        fresh, self._unread = self.arrivals[self._unread :], len(self.arrivals)
        return self._read(fresh)

    def messages(self) -> list[Message]:
        """Everything that arrived so far, each message once."""
        return self._read(self.arrivals)

    def _read(self, arrivals: Sequence[Arrival]) -> list[Message]:
        unique = {arrival.action_id: arrival for arrival in reversed(arrivals)}
        return [
            Message(
                a.action_id, self._addresses[a.address], a.template, a.arrived_at, a.cart_id, a.pixel, a.link, a.leave
            )
            for a in sorted(unique.values(), key=lambda arrival: (arrival.arrived_at, arrival.action_id))
        ]

    def _received(self, mail: ReceivedMail) -> None:
        head, _, _ = mail.data.partition(b"\r\n\r\n")
        action = _MESSAGE_ID.search(head)
        subject = _subject(head)
        template = next((template for pattern, template in self._subjects if pattern.fullmatch(subject)), None)
        if action is None or template is None:
            raise ValueError(f"no template has the subject {subject!r}")
        cart = _CART_LINK.search(mail.data.replace(b"=\r\n", b"")) if template in CART_TEMPLATES else None
        if cart is None and template in CART_TEMPLATES:
            cart = _CART_LINK.search((mail.html or "").encode())
        [address] = mail.recipients
        cart_id = cart[1].decode() if cart else None
        links = _links(mail, head)
        self.arrivals.append(Arrival(self._now(), action[1].decode(), address, template, cart_id, *links))

    def _mail_fault(self, recipient: str, tries: int) -> MailFault | None:
        now = self._now()
        fault: MailFault | None = "550 5.1.1" if self._customers.refuses(recipient) else None
        if fault is None:
            fault = _drawn(_MAIL_FAULTS, draw(self._seed, recipient, now.isoformat(), "mail fault"))
        if fault is not None:
            self.refusals[recipient, now] = fault
        return fault

    def _hook_fault(self, webhook_id: str, seen: int) -> SinkFault | None:
        return _drawn(_HOOK_FAULTS, draw(self._seed, webhook_id, str(seen), "hook fault"))

    def _hook_answered(self, webhook_id: str, path: str, status: int, fault: SinkFault | None) -> None:
        outcome = "timeout" if fault == "hang after" else str(status)
        self.hook_answers.append(Answer(self._now(), path, (webhook_id,), outcome))

    def _crm_answered(self, request: CrmRequest, status: int, fault: CrmFault | None) -> None:
        outcome = {"hang after": "timeout", "drop after": "reset", "drop": "reset"}.get(fault or "", str(status))
        inputs = json.loads(request.body).get("inputs", [])
        ids = tuple(str(item["objectWriteTraceId"]) for item in inputs if "objectWriteTraceId" in item)
        self.crm_answers.append(Answer(self._now(), request.path, ids, outcome))


class _RecordingCrm(FakeCrm):
    """The fake CRM, which also tells what it answered."""

    def __init__(self, answered: Callable[[CrmRequest, int, CrmFault | None], None], **settings: Any) -> None:
        super().__init__(**settings)
        self._answered = answered

    def answer(self, request: CrmRequest) -> tuple[Any, CrmFault | None]:
        """See `FakeCrm.answer`."""
        reply, fault = super().answer(request)
        self._answered(request, reply.status, fault)
        return reply, fault


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; afterwards they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _subject(head: bytes) -> str:
    """The subject, from the header alone: parsing whole messages is most of what receiving one costs."""
    match = _SUBJECT.search(head)
    text = re.sub(rb"\r\n(?=[ \t])", b"", match[1]).decode("ascii", "replace") if match else ""
    return str(make_header(decode_header(text))) if "=?" in text else text


def _links(mail: ReceivedMail, head: bytes) -> tuple[str, str, str]:
    """Addresses in a message: of its picture, of its first link to the collector, for leaving. Nothing is parsed."""
    body = mail.data[len(head) :].replace(b"=\r\n", b"").replace(b"=3D", b"=")
    if b"base64" in body[:2000]:
        body = (mail.html or "").encode()
    leave = _LEAVE.search(head)
    found = [_PIXEL.search(body), _CLICK.search(body), leave]
    pixel, link, address = (match[1].decode() if match is not None else "" for match in found)
    return pixel, link, address


def _drawn(shares: Mapping[F, float], u: float) -> F | None:
    for fault, share in shares.items():
        if u < share:
            return fault
        u -= share
    return None


def _pattern(subject: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if part.startswith("{{") else re.escape(part)
                              for part in re.split(r"(\{\{.*?\}\})", subject)))  # fmt: skip
