"""The collector as an ASGI application: it checks what comes, and answers when it is on the disk.

It knows no warehouse. What it takes goes into the buffer, and from there `penstock run` or the flow `ingest` takes it
into the warehouse. Every limit is answered with a status and a reason: 400, 401, 403, 413, 415, 429 with Retry-After,
and 503 when the disk does not take it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from flows.collector.buffer import Buffer, Busy, Unwritable
from flows.collector.incoming import MOST_EVENTS, Intake, Json, Refused, Who
from flows.collector.pace import Allowance
from flows.collector.tokens import Keyring

LARGEST_BODY = 1_000_000
BODY_SECONDS = 10.0
"""How long a client may take to send a body."""
_KEPT_OF_REFUSED = 2_000
_HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip
_PREFLIGHT_SECONDS = "600"


@dataclass(frozen=True)
class WriteKey:
    """A key that may write events, and nothing else.

    Attributes:
        name: as in penstock.yaml; the source of its events.
        who: a `browser` key is public.
        rate: events a second.
        origins: of web pages that may use it; requests without an Origin are no business of browsers.
        names: the only event names it takes; empty for any.
    """

    name: str
    who: Who
    rate: int
    origins: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Configuration:
    """What a collector works with; `keys` are known by `digest` of the key, so that no secret lies about."""

    keys: Mapping[str, WriteKey] = field(repr=False)
    keyring: Keyring


@dataclass
class Door:
    """A write key at work: its check and what is left of its allowance."""

    key: WriteKey
    intake: Intake
    allowance: Allowance


class Refusal(HTTPException):
    """An answer that says no: status, a stable word, a sentence, and after how many seconds to come back."""

    def __init__(self, status: int, reason: str, message: str, *, after: int | None = None) -> None:
        super().__init__(status, message, None if after is None else {"Retry-After": str(after)})
        self.reason = reason


class Part(Protocol):
    """Further endpoints over the same buffer."""

    def routes(self, collector: Collector) -> Sequence[BaseRoute]:
        """The routes of this part, which writes with `collector.keep`."""
        ...


class Collector:
    """The endpoints over one buffer.

    Args:
        configuration: keys and secrets.
        buffer: where everything goes, not yet entered.
        now: the time, naive UTC.
        monotonic: seconds that only grow, for limits.
        parts: further endpoints.
    """

    def __init__(
        self, configuration: Configuration, buffer: Buffer, now: Callable[[], datetime],
        monotonic: Callable[[], float], parts: Sequence[Part] = (),
    ) -> None:  # fmt: skip
        self.buffer, self.now, self.monotonic = buffer, now, monotonic
        self._parts = parts
        self._doors = {
            hashed: Door(key, Intake(key.who, configuration.keyring, key.names), Allowance(key.rate, monotonic))
            for hashed, key in configuration.keys.items()
        }
        self._origins = frozenset[str]().union(*(key.origins for key in configuration.keys.values()))
        self._line_prefix, self._line = uuid4().hex, count()

    @property
    def app(self) -> Starlette:
        """The application; it opens the buffer when it starts."""
        return Starlette(routes=self._routes(), lifespan=self._lifespan,
                         exception_handlers={HTTPException: _said, ClientDisconnect: _gone})  # fmt: skip

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/events", self.events, methods=["POST"]),
            Route("/v1/events", self.preflight, methods=["OPTIONS"]),
            Route("/health", self.health, methods=["GET"]),
            *(route for part in self._parts for route in part.routes(self)),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.buffer:
            yield

    # ------------------------------------------------------------ endpoints

    async def health(self, request: Request) -> Response:
        """`ok`, for whoever watches."""
        return Response("ok", media_type="text/plain", headers=_HEADERS)

    async def preflight(self, request: Request) -> Response:
        """What a browser asks before it posts from another origin."""
        origin = request.headers.get("origin", "")
        if origin not in self._origins:
            raise Refusal(403, "unknown_origin", "no write key may be used from this origin")
        return Response(status_code=204, headers={
            "Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": "POST", "Vary": "Origin",
            "Access-Control-Allow-Headers": "authorization, content-type",
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        })  # fmt: skip

    async def events(self, request: Request) -> Response:
        """One event, or up to 500: `[…]` or `{"events": […]}`."""
        door = self._door(request)
        allowed = _cross_origin(request, door.key)
        _json_only(request, door.key.who)
        body = await body_of(request)
        found = _parsed(body)
        if wait := door.allowance.take(len(found)):
            raise Refusal(429, "too_many", f"this write key may send {door.key.rate:,} events a second", after=wait)
        taken, refused = door.intake.split(found, len(body), odd=b"\\u0000" in body)
        if not taken and refused and len(found) == 1:
            raise Refusal(400, refused[0].reason, refused[0].message)
        await self.keep(door.key.who, door.key.name, taken, [(each, found[each.index]) for each in refused])
        answer: Json = {"accepted": len(taken)}
        if refused:
            answer["refused"] = [
                {"index": each.index, "error": each.reason, "message": each.message} for each in refused
            ]
        return Response(
            orjson.dumps(answer), 202 if taken else 400, media_type="application/json", headers=_HEADERS | allowed
        )

    async def keep(
        self, source: str, name: str, events: list[Json], refused: list[tuple[Refused, Any]] | None = None
    ) -> None:
        """Write one line and wait until it is durable.

        Args:
            source: `server`, `browser`, or the part of the collector that observed them.
            name: of the write key, form or destination.
            events: as `flows.collector.incoming` describes them.
            refused: for the table of refused events.
        """
        line: Json = {
            "id": f"{self._line_prefix}-{next(self._line)}", "at": self.now(), "source": source, "name": name,
            "events": events,
        }  # fmt: skip
        if refused:
            line["refused"] = [
                {"reason": each.reason, "event": orjson.dumps(event).decode()[:_KEPT_OF_REFUSED]}
                for each, event in refused
            ]
        try:
            text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            raise Refusal(400, "not_text", "a text holds half a character") from None
        try:
            # No warehouse stores NUL; of clients' events it was refused, vendors send it as they like.
            await self.buffer.append(text.replace(b"\\u0000", b"\\ufffd"))
        except Busy:
            raise Refusal(429, "busy", "more arrives than the disk takes", after=1) from None
        except Unwritable as error:
            raise Refusal(503, "not_durable", f"nothing was taken: {error}", after=5) from None

    # ------------------------------------------------------------ checks

    def _door(self, request: Request) -> Door:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        by_header = scheme.lower() == "bearer" and bool(given)
        key = given.strip() if by_header else request.query_params.get("key", "")
        door = self._doors.get(digest(key))
        # Addresses stand in the logs of proxies, so only a key that is public anyway may stand there.
        if door is None or not by_header and door.key.who == "server":
            raise Refusal(401, "unknown_key", "send `Authorization: Bearer <write key>`")
        return door


def digest(key: str) -> str:
    """The digest by which a write key is known."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


async def body_of(request: Request, largest: int = LARGEST_BODY) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413, it is larger than `largest`; 408, the client is too slow.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > largest:
        raise Refusal(413, "too_large", f"a body has at most {largest:,} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > largest:
                    raise Refusal(413, "too_large", f"a body has at most {largest:,} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, "too_slow", f"a body arrives within {BODY_SECONDS:.0f} seconds") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _parsed(body: bytes) -> list[Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(
            400, "not_json", f"the body is not JSON in UTF-8: line {error.lineno}, column {error.colno}"
        ) from None
    match found:
        case list():
            events = found
        case {"events": list(events)} if len(found) == 1:
            pass
        case _:
            events = [found]
    if not events or len(events) > MOST_EVENTS:
        raise Refusal(413 if events else 400, "bad_batch", f"a batch has 1 to {MOST_EVENTS} events")
    return events


def _json_only(request: Request, who: Who) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A browser's beacon may send plain text only, unless it asks first.
    if kind != "application/json" and not (kind == "text/plain" and who == "browser"):
        raise Refusal(415, "not_json", "the content type is application/json")


def _cross_origin(request: Request, key: WriteKey) -> dict[str, str]:
    """The headers that let the page read the answer; a page that may not use the key is refused."""
    origin = request.headers.get("origin")
    if origin is None:
        return {}
    if origin not in key.origins:
        raise Refusal(403, "unknown_origin", "this write key may not be used from this origin")
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


async def _said(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    reason = error.reason if isinstance(error, Refusal) else "http"
    # Who did not read the whole body before it answers cannot use the connection again.
    ended = {"Connection": "close"} if error.status_code in (408, 413) else {}
    return JSONResponse(
        {"error": reason, "message": error.detail}, error.status_code,
        headers={**_HEADERS, **ended, **(error.headers or {})},
    )  # fmt: skip


async def _gone(request: Request, error: Exception) -> Response:
    """The client hung up before it had sent everything; nobody reads this answer."""
    return Response(status_code=400)
