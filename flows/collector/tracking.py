"""Opens, clicks and leaving: what the links of a message lead to.

GET never changes what a contact receives, because scanners follow every link: it shows a page, and POST acts, also the
one click of RFC 8058. A click is led on even when it cannot be written down; a wish to leave is acknowledged only when
it is on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.collector import pages
from flows.collector.incoming import Json
from flows.collector.links import counted
from flows.collector.machines import by_machine, is_machine
from flows.collector.pace import Allowances
from flows.collector.service import Collector, Refusal, body_of
from flows.collector.tokens import Keyring, Message
from flows.journal.ids import identity

PER_SECOND = 5.0
"""Opens, clicks and wishes about one message. Not of one address: mailbox providers fetch for everybody from a few."""
_PIXEL = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00"
    b"\x01\x00\x00\x02\x02D\x01\x00;"
)
_FORM = 10_000
_UNSEEN = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
           "X-Robots-Tag": "noindex, nofollow"}  # fmt: skip
_ONE_CLICK = b"List-Unsubscribe=One-Click"


@dataclass
class Tracking:
    """The endpoints of links in messages.

    Attributes:
        keyring: what the links are signed with.
        hosts: where a click may lead.
        groups: message group -> what contacts see, on the page of their choices.
        sender: who writes to them, as they know it.
    """

    keyring: Keyring
    hosts: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    sender: str = ""

    def routes(self, collector: Collector) -> list[Route]:
        """The routes of this part."""
        self._collector = collector
        self._messages = Allowances(PER_SECOND, collector.monotonic)
        return [
            Route("/o/{token}.gif", self.opened, methods=["GET"]),
            Route("/c/{token}", self.clicked, methods=["GET"]),
            Route("/u/{token}", self.leaving, methods=["GET"]),
            Route("/u/{token}", self.left, methods=["POST"]),
        ]

    async def opened(self, request: Request) -> Response:
        """The picture of one point that mail programs fetch when a message is shown."""
        message = self.keyring.opened("open", request.path_params["token"])
        if message is None:
            return Response(status_code=404, headers=_UNSEEN)
        await self._note(request, "email_opened", message)
        return Response(_PIXEL, media_type="image/gif", headers=_UNSEEN)

    async def clicked(self, request: Request) -> Response:
        """Lead on to the signed address."""
        message = self.keyring.opened("click", request.path_params["token"])
        # The signature says that a message held this link; the hosts may have changed since.
        if message is None or not counted(message.text, self.hosts):
            return pages.unknown()
        await self._note(request, "email_clicked", message)
        return RedirectResponse(message.text, 302, _UNSEEN)

    async def leaving(self, request: Request) -> Response:
        """The page on which a contact leaves."""
        message = self.keyring.opened("leave", request.path_params["token"])
        if message is None:
            return pages.unknown()
        return pages.leaving(self.sender, message.text, self.groups)

    async def left(self, request: Request) -> Response:
        """One click, or a button of the page."""
        message = self.keyring.opened("leave", request.path_params["token"])
        if message is None:
            return pages.unknown()
        if self._messages.take(f"leave {message.action_id}"):
            return pages.not_saved()
        body = await body_of(request, _FORM)
        events = self._wishes(body, message)
        if not events:
            return pages.leaving(self.sender, message.text, self.groups)
        try:
            await self._collector.keep("page", "leave", events)
        except Refusal:
            return pages.not_saved()
        return pages.saved()

    def _wishes(self, body: bytes, message: Message) -> list[Json]:
        # Some mailbox providers send the one click as multipart/form-data.
        if body.strip() == _ONE_CLICK or b'name="List-Unsubscribe"' in body and b"One-Click" in body:
            return [_wish("email_unsubscribed", message.action_id, message.text)]
        given = dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=100))
        if (group := given.get("leave")) is not None:
            known = group == pages.EVERYTHING or group == message.text
            return [_wish("email_unsubscribed", message.action_id, group)] if known else []
        names = {"join": "email_resubscribed", "leave": "email_unsubscribed"}
        again = [_wish(names["join"], message.action_id, "")] if given.get(pages.EVERYTHING) == "join" else []
        return again + [
            _wish(names[choice], message.action_id, group)
            for group in self.groups if (choice := given.get(f"group.{group}", "")) in names
        ]  # fmt: skip

    async def _note(self, request: Request, name: str, message: Message) -> None:
        """Write an open or click down, once a minute for each link; HEAD is no person."""
        if request.method != "GET" or self._messages.take(f"{name} {message.action_id}"):
            return
        name = by_machine(name) if is_machine(request.headers) else name
        properties = {"link": message.text} if message.text else {}
        minute = f"{self._collector.now():%Y-%m-%dT%H:%M}"
        event = {"id": identity(message.action_id, name, message.text, minute), "name": name,
                 "action_id": message.action_id, "properties": properties}  # fmt: skip
        try:
            await self._collector.keep("page", "link", [event])
        except Refusal:
            return  # who clicked wants to get there, whether we could write it down or not


def _wish(name: str, action_id: str, group: str) -> Json:
    properties = {"group": group} if group and group != pages.EVERYTHING else {}
    return {"name": name, "action_id": action_id, "properties": properties}
