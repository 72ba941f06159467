"""What outside systems report: `POST /v1/inbound/<destination>`, checked by the destination itself, as events.

Signature, age and meaning of a request are the destination's business; its size, and whether it was accepted before,
are ours.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from destinations.base import Destination
from destinations.errors import ConfigurationError, DestinationError
from destinations.inbound import TOLERANCE, Inbound, InboundEvent, InboundRefused
from flows.collector.incoming import Json
from flows.collector.machines import by_machine
from flows.collector.service import Collector, Refusal, body_of

_REMEMBERED = 100_000
_SECONDS = 2 * TOLERANCE.total_seconds()


class Reports:
    """The endpoint of what destinations report.

    Args:
        destinations: by name, not entered.
        url: the collector's address as senders know it; some sign it.
        confirm: fetches an address by which a vendor learns that we want its messages; whether that worked.
    """

    def __init__(
        self, destinations: Mapping[str, Destination], url: str, confirm: Callable[[str], Awaitable[bool]] | None = None
    ) -> None:
        self._destinations, self._url = destinations, url
        self._confirm = confirm or fetched
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()

    def routes(self, collector: Collector) -> list[Route]:
        """The routes of this part."""
        self._collector = collector
        return [Route("/v1/inbound/{name}", self.reported, methods=["POST"])]

    async def reported(self, request: Request) -> Response:
        """One request of an outside system."""
        name = request.path_params["name"]
        destination = self._destinations.get(name)
        if destination is None:
            raise Refusal(404, "unknown_destination", "there is no destination of that name")
        body = await body_of(request)
        query = f"?{request.url.query}" if request.url.query else ""
        address = f"{self._url}{request.url.path}{query}" if self._url else str(request.url)
        asked = Inbound(dict(request.headers), body, address, request.method)
        try:
            # In a thread: a vendor's certificate may have to be fetched, and others must not wait for that.
            found = await asyncio.to_thread(destination.parse_inbound, asked, self._collector.now())
        except InboundRefused as refused:
            raise Refusal(refused.status, refused.code, refused.message) from None
        except ConfigurationError as error:
            raise Refusal(503, error.code, "this destination is not set up to take requests") from None
        if found.confirm is not None and not await self._confirm(found.confirm):
            raise Refusal(503, "not_confirmed", "the address of the confirmation could not be reached", after=60)
        if found.once is None or not self._repeated((name, found.once)):
            events = [_event(event) for event in found.events]
            if events:
                await self._collector.keep("inbound", name, events)
            if found.once is not None:
                self._seen[name, found.once] = self._collector.monotonic()
        return Response(found.answer, media_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})

    def _repeated(self, request: tuple[str, str]) -> bool:
        """Whether it was accepted lately; what is older is refused for its age."""
        now = self._collector.monotonic()
        while self._seen and (len(self._seen) > _REMEMBERED or next(iter(self._seen.values())) < now - _SECONDS):
            self._seen.popitem(last=False)
        return request in self._seen


async def fetched(url: str) -> bool:
    """GET a public https address, with the guard of destinations; whether it answered with 2xx."""
    from destinations.transport import Transport

    transport = Transport()
    try:
        answer = await transport.request("GET", url, b"", {})
    except DestinationError:
        return False
    finally:
        await transport.close()
    return 200 <= answer.status < 300


def _event(event: InboundEvent) -> Json:
    name = by_machine(event.name) if event.machine else event.name
    found: Json = {
        "id": event.event_id, "name": name, "time": event.time, "action_id": _message(event.action_id),
        "email": event.email, "phone": event.phone, "properties": dict(event.data),
    }  # fmt: skip
    if (opt_out := event.opt_out) is not None:
        reason = "resubscribed" if opt_out.lift else opt_out.reason
        found["opt_out"] = {"reason": reason, "scope": opt_out.scope, "channel": opt_out.channel}
    return found


def _message(action_id: str | None) -> str | None:
    """The id of one of our messages; what a sender made up is none."""
    try:
        return str(UUID(action_id)) if action_id else None
    except ValueError:
        return None
