"""A mail server on the loopback that keeps what arrives: real SMTP over real sockets, faults on request.

It speaks what a submission server speaks (EHLO, STARTTLS, AUTH PLAIN and LOGIN, MAIL, RCPT, DATA, RSET, NOOP, QUIT),
relays nothing, and is quick enough not to be what a measurement measures.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self, cast

from studio.demo.certificate import server_context, write_certificate

MailFault = Literal[
    "421",
    "450 4.2.0",
    "451 4.7.1",
    "550 5.1.1",
    "554 5.7.1",
    "late 451",
    "late 552",
    "drop",
    "drop kept",
    "close after",
]
"""Answers at RCPT by their code (`421` also closes). After the message: `late …` refuses it, `drop` closes without
keeping it, `drop kept` keeps it and closes without a reply, `close after` keeps it, says 250 and closes."""

Faults = Callable[[str, int], MailFault | None]
"""(recipient, how often this recipient was tried before) -> what to do; None takes the message."""

_MAX_MESSAGE = 20_000_000
_TEXTS = {
    "421": "4.3.2 closing",
    "450 4.2.0": "mailbox busy",
    "451 4.7.1": "greylisted, try again later",
    "550 5.1.1": "no such user here",
    "554 5.7.1": "rejected by policy",
}


@dataclass(frozen=True)
class ReceivedMail:
    """One accepted message as it came over the wire. Parsed when asked for."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes = field(repr=False)

    @cached_property
    def message(self) -> EmailMessage:
        """The parsed message."""
        return message_from_bytes(self.data, policy=policy.default)

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """All headers in order, decoded."""
        return [(name, str(value)) for name, value in self.message.items()]

    def header(self, name: str) -> str | None:
        """The first header of that name, decoded."""
        value = self.message[name]
        return None if value is None else str(value)

    @cached_property
    def text(self) -> str | None:
        """The plain text part."""
        return self._part("plain")

    @cached_property
    def html(self) -> str | None:
        """The HTML part."""
        return self._part("html")

    def _part(self, kind: Literal["plain", "html"]) -> str | None:
        part = self.message.get_body((kind,))
        return None if part is None else str(cast(EmailMessage, part).get_content())


class MailServer:
    """A context manager around a server thread on a free port.

    `on_message` is called in the server's thread before the 250; what it raises becomes a 451 and is kept in `errors`.
    `faults` is a function, or per recipient the answers to its first, second, … attempt (then it is taken).
    `tls="starttls"` requires STARTTLS before MAIL, `implicit` speaks TLS at once; clients trust `ca_file`.
    `auth=(user, password)` is demanded before MAIL.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_message: Callable[[ReceivedMail], None] | None = None,
        faults: Faults | Mapping[str, Sequence[MailFault]] | None = None,
        tls: Literal["none", "starttls", "implicit"] = "none",
        auth: tuple[str, str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.messages: list[ReceivedMail] = []
        self.errors: list[Exception] = []
        self.connections = 0
        self.ca_file: Path | None = None
        self.tls = tls
        self.auth = auth
        self.context: ssl.SSLContext | None = None
        self._on_message = on_message
        self._faults = faults
        self._tries: dict[str, int] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._folder = contextlib.ExitStack()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.tls != "none":
            folder = Path(self._folder.enter_context(tempfile.TemporaryDirectory(prefix="penstock-mail-")))
            self.ca_file = write_certificate(folder, self.host)
            self.context = server_context(self.ca_file)
        self._server = _Server((self.host, self.port), self)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="mail-server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self.close_connections()
            # Waits for the connection threads, so that no callback runs after the block.
            self._server.server_close()
            self._thread.join()
        self._folder.close()

    def close_connections(self) -> None:
        """Cut every open connection, as a restart of the server would."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def fault_for(self, recipient: str) -> MailFault | None:
        """The fault of this attempt; counts it."""
        with self._lock:
            tries = self._tries.get(recipient, 0)
            self._tries[recipient] = tries + 1
        match self._faults:
            case None:
                return None
            case Mapping():
                script = self._faults.get(recipient, ())
                return script[tries] if tries < len(script) else None
            case _:
                return self._faults(recipient, tries)

    def keep(self, mail: ReceivedMail) -> bool:
        """Store a message and call back; False if the callback raised (the message is not stored then)."""
        try:
            if self._on_message is not None:
                self._on_message(mail)
        except Exception as error:
            self.errors.append(error)
            return False
        with self._lock:
            self.messages.append(mail)
        return True

    def opened(self, connection: socket.socket) -> None:
        """A connection began."""
        with self._lock:
            self.connections += 1
            self._open.add(connection)

    def replaced(self, connection: socket.socket, by: socket.socket) -> None:
        """A connection became a secure one."""
        with self._lock:
            self._open.discard(connection)
            self._open.add(by)

    def closed(self, connection: socket.socket) -> None:
        """A connection ended."""
        with self._lock:
            self._open.discard(connection)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: MailServer) -> None:
        self.owner = owner
        super().__init__(address, _Conversation)


class _Close(Exception):
    """End the connection now."""


class _Conversation(socketserver.BaseRequestHandler):
    """One client, from greeting to close."""

    server: _Server
    request: socket.socket

    def handle(self) -> None:
        self.owner = self.server.owner
        self._sock = self.request
        self._secure = False
        self._authenticated = self.owner.auth is None
        self._reset()
        self.owner.opened(self._sock)
        with contextlib.suppress(OSError, _Close):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.owner.tls == "implicit":
                self._upgrade()
            self._file: BinaryIO = self._sock.makefile("rb")
            self._say("220 mail.demo.invalid ESMTP")
            while self._command():
                pass
        self.owner.closed(self.request)
        if hasattr(self, "_file"):
            self._file.close()
        self._sock.close()

    def _reset(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._fault: MailFault | None = None

    def _say(self, line: str) -> None:
        self._sock.sendall(line.encode() + b"\r\n")

    def _upgrade(self) -> None:
        if self.owner.context is None:
            raise _Close
        # From here on the wrapped socket is the connection; the plain one is detached by wrapping. The handshake comes
        # after the exchange, so that closing all connections also ends one that hangs in it.
        wrapped = self.owner.context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self.owner.replaced(self._sock, wrapped)
        self.request = self._sock = wrapped
        wrapped.do_handshake()
        self._secure = True

    def _command(self) -> bool:
        line = self._file.readline(4096)
        if not line:
            return False
        verb, _, rest = line.decode("utf-8", "replace").rstrip("\r\n").partition(" ")
        match verb.upper():
            case "EHLO" | "HELO":
                self._hello()
            case "STARTTLS" if self.owner.tls == "starttls" and not self._secure:
                self._say("220 2.0.0 go ahead")
                self._file.close()
                self._upgrade()
                self._file = self._sock.makefile("rb")
                self._reset()
            case "AUTH":
                self._auth(rest)
            case "MAIL":
                self._mail(rest)
            case "RCPT":
                self._rcpt(rest)
            case "DATA":
                self._data()
            case "RSET":
                self._reset()
                self._say("250 2.0.0 ok")
            case "NOOP":
                self._say("250 2.0.0 ok")
            case "QUIT":
                self._say("221 2.0.0 bye")
                return False
            case _:
                self._say("502 5.5.2 command not recognised")
        return True

    def _hello(self) -> None:
        lines = ["mail.demo.invalid", f"SIZE {_MAX_MESSAGE}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        if self.owner.tls == "starttls" and not self._secure:
            lines.append("STARTTLS")
        elif self.owner.auth is not None:
            lines.append("AUTH PLAIN LOGIN")
        for line in lines[:-1]:
            self._say(f"250-{line}")
        self._say(f"250 {lines[-1]}")

    def _auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        try:
            if mechanism.upper() == "PLAIN":
                parts = base64.b64decode(initial or self._ask("")).decode().split("\0")
                given = (parts[-2], parts[-1])
            elif mechanism.upper() == "LOGIN":
                user = base64.b64decode(initial or self._ask("VXNlcm5hbWU6")).decode()
                given = (user, base64.b64decode(self._ask("UGFzc3dvcmQ6")).decode())
            else:
                self._say("504 5.5.4 mechanism not supported")
                return
        except (binascii.Error, UnicodeDecodeError, IndexError):
            self._say("501 5.5.2 cannot decode")
            return
        self._authenticated = given == self.owner.auth
        self._say("235 2.7.0 welcome" if self._authenticated else "535 5.7.8 credentials invalid")

    def _ask(self, challenge: str) -> str:
        self._say(f"334 {challenge}")
        return self._file.readline(4096).decode("ascii", "replace").strip()

    def _mail(self, rest: str) -> None:
        if self.owner.tls == "starttls" and not self._secure:
            self._say("530 5.7.0 must issue STARTTLS first")
        elif not self._authenticated:
            self._say("530 5.7.0 authentication required")
        else:
            self._reset()
            self._sender = _path(rest)
            self._say("250 2.1.0 ok")

    def _rcpt(self, rest: str) -> None:
        recipient = _path(rest)
        if self._sender is None:
            self._say("503 5.5.1 MAIL first")
            return
        fault = self.owner.fault_for(recipient)
        text = _TEXTS.get(fault or "")
        if fault is not None and text is not None:
            self._say(f"{fault} {text}")
            if fault == "421":
                raise _Close
            return
        self._fault = fault
        self._recipients.append(recipient)
        self._say("250 2.1.5 ok")

    def _data(self) -> None:
        if self._sender is None or not self._recipients:
            self._say("503 5.5.1 RCPT first")
            return
        self._say("354 end with a dot")
        data = self._content()
        mail = ReceivedMail(self._sender, tuple(self._recipients), data)
        fault = self._fault
        self._reset()
        match fault:
            case "drop":
                raise _Close
            case "late 451":
                self._say("451 4.3.0 try again later")
                return
            case "late 552":
                self._say("552 5.3.4 too big")
                return
        kept = self.owner.keep(mail)
        if fault == "drop kept":
            raise _Close
        self._say(f"250 2.0.0 queued as {len(self.owner.messages):08d}" if kept else "451 4.3.0 local error")
        if fault == "close after":
            raise _Close

    def _content(self) -> bytes:
        lines: list[bytes] = []
        size = 0
        while (line := self._file.readline(_MAX_MESSAGE)) != b".\r\n":
            size += len(line)
            if not line or size > _MAX_MESSAGE:
                raise _Close
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)


def _path(argument: str) -> str:
    """`FROM:<a@b> SIZE=1` -> `a@b`."""
    return argument.partition("<")[2].partition(">")[0]
