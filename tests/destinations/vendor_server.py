"""A vendor on the loopback: a stateful fake answers, and a fault spoils the way there or back.

A fault is decided per request, from a script: before the fake saw the request (nothing happened) or after it has acted.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

Spoil = Literal[
    "hang", "hang after", "reset", "reset mid-body", "garbage", "cut off", "drip", "huge", "empty body", "redirect"
]
"""`hang` and `reset` happen before the vendor acts, all others after it has."""

BEFORE = frozenset({"hang", "reset", "redirect"})


@dataclass(frozen=True)
class Recorded:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What the vendor answers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Fault = Spoil | Reply
"""A reply instead of the vendor's own (nothing happened), or a spoiled connection."""

Take = Callable[[Recorded], Reply]
"""The vendor: acts and answers."""


class Effects:
    """What happened at the vendor, by action id: more than once is what nobody wants."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self._kept: dict[str, Any] = {}

    def act(self, action: str) -> None:
        """Something happened; again if it is repeated."""
        self.count[action] += 1

    def keep(self, key: str, value: Any, action: str) -> None:
        """Something is as it should be: an effect only where that changes something."""
        if self._kept.get(key) != value:
            self._kept[key] = value
            self.count[action] += 1


class VendorServer:
    """A context manager around a server thread on a free port; `script` holds the faults of the next requests."""

    def __init__(self, take: Take, script: Iterable[Fault | None] = ()) -> None:
        self.take = take
        self.script: deque[Fault | None] = deque(script)
        self.requests: list[Recorded] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="vendor", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.cut()
        self._server.server_close()
        self._thread.join()

    def answered(self, request: Recorded) -> tuple[Reply, Spoil | None]:
        """One request: recorded, and acted upon unless a fault comes first."""
        with self.lock:
            self.requests.append(request)
            if request.path.endswith("/token"):
                # Faults are those of the requests that act.
                return self.take(request), None
            fault = self.script.popleft() if self.script else None
            if isinstance(fault, Reply):
                return fault, None
            if fault in BEFORE:
                return Reply(302, b"", {"location": self.url + "/elsewhere"}), fault
            return self.take(request), fault


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: VendorServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Close what clients keep alive, so that the connection threads end."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply, spoil = self.server.owner.answered(Recorded(self.command, self.path, headers, body))
        match spoil:
            case "hang" | "hang after":
                self.server.owner.stopping.wait()
                self.close_connection = True
            case "reset":
                self._reset()
            case "garbage":
                self._whole(Reply(reply.status, b"<html>\xff\x00 not what you think", reply.headers))
            case "empty body":
                self._whole(Reply(reply.status, b"", reply.headers))
            case "reset mid-body" | "cut off" | "drip" | "huge":
                self._partly(reply, spoil)
            case _:
                self._whole(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _whole(self, reply: Reply) -> None:
        self._head(reply, len(reply.body))
        if reply.status != 204:
            self.wfile.write(reply.body)

    def _head(self, reply: Reply, length: int | None) -> None:
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        if length is not None and reply.status != 204:
            self.send_header("content-length", str(length))
        self.end_headers()

    def _partly(self, reply: Reply, spoil: Spoil) -> None:
        self.close_connection = True
        owner = self.server.owner
        status = reply.status if reply.status != 204 else 200
        with contextlib.suppress(OSError):
            self._head(Reply(status, b"", reply.headers), 10_000_000_000 if spoil == "huge" else len(reply.body) + 1000)
            self.wfile.write(reply.body[: max(1, len(reply.body) // 2)] or b" ")
            self.wfile.flush()
            if spoil == "reset mid-body":
                self._reset()
            while spoil in ("drip", "huge") and not owner.stopping.is_set():
                self.wfile.write(b" " * (65536 if spoil == "huge" else 1))
                self.wfile.flush()
                if spoil == "drip":
                    owner.stopping.wait(0.02)

    def _reset(self) -> None:
        """RST instead of FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.shutdown_request(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the requests are recorded."""


def replies(*statuses: int) -> Sequence[Reply]:
    """Bare answers."""
    return [Reply(status) for status in statuses]
