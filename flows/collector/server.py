"""The process that serves a collector: uvicorn, with a limit on connections and on how long a request may begin."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from types import FrameType
from typing import cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from compiler.errors import ProjectError

MOST_CONNECTIONS = 1_000
"""Open connections and requests under way; more are told to come back (503)."""
HEADER_SECONDS = 10.0
"""How long a client may take to send the head of a request."""
MESSAGE_SECONDS = 15.0
"""How long it may take for all the rest, also when the request was answered already."""
_BACKLOG = 2048


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that hangs up on who does not finish a request: slow clients keep no connection."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; now its request has to come."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._expect(HEADER_SECONDS)

    def on_message_begin(self) -> None:
        """A request began, maybe not the first one of the connection."""
        super().on_message_begin()
        self._expect(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """The head is there; now its body."""
        self._expect(MESSAGE_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._relax()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._relax()
        super().connection_lost(exc)

    def _expect(self, seconds: float) -> None:
        self._relax()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def configured(app: Starlette | str, trusted: str = "127.0.0.1", workers: int = 1) -> uvicorn.Config:
    """How a collector is served; `app` is one, or `module:function` that makes one in each worker process."""
    return uvicorn.Config(
        app, factory=isinstance(app, str), workers=workers, http=PatientProtocol, loop="uvloop", ws="none",
        lifespan="on", log_level="warning", access_log=False, server_header=False, proxy_headers=True,
        forwarded_allow_ips=trusted, limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=20,
        timeout_graceful_shutdown=10,
    )  # fmt: skip


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one.

    Raises:
        ProjectError: E542.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        raise ProjectError(f"port {port} on {host} {why}", code="E542", hint="--port takes another one") from error
    found.listen(_BACKLOG)
    return found


def serve(app: Starlette | str, opened: socket.socket, trusted: str, workers: int) -> None:
    """Serve on a socket that listens, until SIGINT or SIGTERM; what is under way is finished.

    Several workers are processes of their own, and a worker that dies is replaced.
    """
    config = configured(app, trusted, workers)
    if workers > 1:
        Multiprocess(config, [opened]).run()
        return
    server = uvicorn.Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn ends gracefully and then raises the signal again, for whom it interrupted; that is nobody but us.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[opened])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
