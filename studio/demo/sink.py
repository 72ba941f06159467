"""A receiver of webhooks on the loopback: checks signatures, keeps what arrives, fails on request.

It does what the specification asks of a receiver: the `webhook-id` makes a repeated request harmless, so a request that
was kept before its answer got lost is counted as a repetition, not as a second effect.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

SinkFault = Literal["429", "503", "500 after", "hang after"]
"""An error before anything was kept, or `… after` it: `hang` never answers."""

SinkFaults = Callable[[str, int], SinkFault | None]
"""(webhook-id, how often it was seen before) -> what to do; None takes the request."""


@dataclass(frozen=True)
class ReceivedHook:
    """One request that was kept for the first time: its id, the path it came to, and the body."""

    webhook_id: str
    path: str
    body: Any = field(repr=False)


class WebhookSink:
    """A context manager around a server thread on a free port.

    Args:
        secret: `whsec_…`, as the sender has it.
        faults: what goes wrong; called in a server thread.
        on_request: called with (webhook-id, path, status, fault) when the answer is decided.
    """

    def __init__(
        self, *, secret: str, host: str = "127.0.0.1", faults: SinkFaults | None = None,
        on_request: Callable[[str, str, int, SinkFault | None], None] | None = None,
    ) -> None:  # fmt: skip
        self.host = host
        self.port = 0
        self.kept: dict[str, ReceivedHook] = {}
        self.repeats = 0
        self.unsigned = 0
        self.stopping = threading.Event()
        self._key = base64.b64decode(secret.removeprefix("whsec_"))
        self._faults = faults
        self._on_request = on_request
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        self._server = _Server((self.host, 0), self)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="webhook-sink", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._thread.join()

    def take(self, headers: dict[str, str], path: str, body: bytes) -> tuple[int, SinkFault | None]:
        """Decide about one request; gives the status of the answer and the fault that spoils it."""
        webhook_id = headers.get("webhook-id", "")
        with self._lock:
            if not self._signed(headers, webhook_id, body):
                self.unsigned += 1
                status, fault = 401, None
            else:
                fault = self._faults(webhook_id, self._seen[webhook_id]) if self._faults is not None else None
                self._seen[webhook_id] += 1
                status = self._keep(webhook_id, path, body, fault)
            if self._on_request is not None:
                self._on_request(webhook_id, path, status, fault)
            return status, fault

    def _keep(self, webhook_id: str, path: str, body: bytes, fault: SinkFault | None) -> int:
        if fault in ("429", "503"):
            return int(fault)
        if webhook_id in self.kept:
            self.repeats += 1
        else:
            self.kept[webhook_id] = ReceivedHook(webhook_id, path, json.loads(body))
        return 500 if fault == "500 after" else 204

    def _signed(self, headers: dict[str, str], webhook_id: str, body: bytes) -> bool:
        content = f"{webhook_id}.{headers.get('webhook-timestamp', '')}.".encode() + body
        mine = "v1," + base64.b64encode(hmac.digest(self._key, content, hashlib.sha256)).decode()
        return any(hmac.compare_digest(mine, given) for given in headers.get("webhook-signature", "").split())


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: WebhookSink) -> None:
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

    def do_POST(self) -> None:
        """Every request is a POST."""
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, fault = owner.take(headers, self.path, body)
        if fault == "hang after":
            owner.stopping.wait()
            self.close_connection = True
            return
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "60")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the counters tell."""
