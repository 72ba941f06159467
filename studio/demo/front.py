"""The way back in of the demo: its collector on a loopback port, and the customers who use it.

What a customer does with a message is a request to an address that stood in that message, at the simulated time at
which they do it. Deliveries, bounces and replies are reported by the mail system, which has a write key.
"""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from http.client import HTTPConnection
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import uvicorn

from flows.collecting import collector
from flows.collector.incoming import MOST_EVENTS
from flows.collector.server import configured
from flows.engine.clock import VirtualClock
from flows.project import Project
from studio.demo.customers import Call

_STARTS_WITHIN = 20.0
_PERSON = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
_MACHINE = {"User-Agent": "Mozilla/5.0"}
"""All that a mail program says that fetches every picture beforehand."""
_REPORTED = frozenset({"delivered", "bounced", "replied"})
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Front:
    """Serves the collector of the demo's project while it is open.

    Args:
        project: the demo's.
        listener: a socket that listens.
        start: the simulated time at first.
        write_key: of the mail system.
    """

    def __init__(self, project: Project, listener: socket.socket, start: datetime, write_key: str) -> None:
        self.answered: Counter[str] = Counter()
        self._clock = VirtualClock(start)
        self._listener, self._key = listener, write_key
        self._server = uvicorn.Server(configured(collector(project, self._clock).app))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="collector", daemon=True
        )
        host, port = listener.getsockname()[:2]
        self._connection = HTTPConnection(host, port, timeout=_STARTS_WITHIN)

    def __enter__(self) -> Self:
        self._thread.start()
        # The socket listens already, so the first answer comes when the server is ready.
        self._request("GET", "/health", None, {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._server.should_exit = True
        self._thread.join()

    def perform(self, calls: Sequence[Call]) -> None:
        """Make the requests, in order; those of the mail system come together.

        Raises:
            RuntimeError: one was not answered as it should be.
        """
        reported = [call for call in calls if call.kind in _REPORTED]
        for call in calls:
            if call.kind not in _REPORTED:
                self._clock.advance_to(max(call.when, self._clock.now()))
                self._customer(call)
        for start in range(0, len(reported), MOST_EVENTS):
            self._report(reported[start : start + MOST_EVENTS])
        self.answered.update(call.kind for call in calls)

    def _customer(self, call: Call) -> None:
        message, home = call.message, _home(call.message.contact_id)
        match call.kind:
            case "opened":
                self._request("GET", urlsplit(message.pixel).path, None, _PERSON | home)
            case "machine_opened":
                self._request("GET", urlsplit(message.pixel).path, None, _MACHINE | home)
            case "clicked":
                self._request("GET", urlsplit(message.link).path, None, _PERSON | home, expected=302)
            case "unsubscribed":
                self._request("POST", urlsplit(message.leave).path, b"List-Unsubscribe=One-Click", _FORM | home)
            case kind:
                raise RuntimeError(f"the demo's customers do not know how to do this: {kind}")

    def _report(self, calls: Sequence[Call]) -> None:
        self._clock.advance_to(max(calls[-1].when, self._clock.now()))
        events = [
            {"id": f"{call.message.action_id}-{call.kind}", "name": f"email_{call.kind}", "time": call.when.isoformat(),
             "action_id": call.message.action_id}
            for call in calls
        ]  # fmt: skip
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        self._request("POST", "/v1/events", json.dumps(events).encode(), headers, expected=202)

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], *, expected: int = 200
    ) -> None:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != expected:
            raise RuntimeError(f"the demo's collector answered {answer.status} to {method} {path[:20]}…")


def _home(contact_id: str) -> dict[str, str]:
    """The address a contact has, as the proxy before a collector says it: of one address only so much is taken."""
    number = zlib.crc32(contact_id.encode())
    return {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}
