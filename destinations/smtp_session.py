"""One SMTP connection, blocking: opening it safely and handing over one message at a time.

Phases matter more than errors: before the message is handed over everything is safe to repeat, after it the outcome is
unknown until the server has answered.
"""

from __future__ import annotations

import base64
import contextlib
import re
import smtplib
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from destinations.classification import RETRY, Ruling, Trouble, smtp_code, smtp_ruling
from destinations.message import Mail

TlsMode = Literal["starttls", "implicit", "none"]

_LEADING_DOT = re.compile(rb"^\.", re.MULTILINE)
_QUEUE_ID = re.compile(r"queued as\s+<?([A-Za-z0-9._\-]{1,100})", re.IGNORECASE)
_TLS_MISSING = Ruling("retry", stop="tls")
# What smtplib reports for an empty reply.
_CLOSED = -1
_NO_AUTH = Ruling("retry", stop="credentials")


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where and how to connect. `addresses` were checked; `host` is the name that the certificate must show."""

    host: str
    port: int
    addresses: Sequence[str]
    tls: TlsMode
    context: ssl.SSLContext | None
    timeout: float
    ehlo_name: str
    allowed_in_clear: bool
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


class SmtpRefusedError(Exception):
    """The server said no, or the connection failed, before it had the message. `text` is the raw reply."""

    def __init__(self, code: str, text: str, ruling: Ruling, *, closed: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.text = text
        self.ruling = ruling
        self.closed = closed


class SmtpLostError(Exception):
    """The connection ended after the message was handed over and before a reply."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.value)
        self.trouble = trouble


class _Client(smtplib.SMTP):
    """Connects to an address that was checked, under the name that TLS must confirm."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        super().__init__(local_hostname=server.ehlo_name, timeout=server.timeout)
        # The name that STARTTLS checks the certificate against.
        self._host = server.host

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        server = self._server
        problem: OSError | None = None
        for address in server.addresses:
            try:
                plain = socket.create_connection((address, server.port), timeout)
            except OSError as error:
                problem = error
                continue
            # Commands are one small packet each; waiting for more of them costs 40 ms per message.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.tls != "implicit" or server.context is None:
                return plain
            try:
                return server.context.wrap_socket(plain, server_hostname=server.host)
            except OSError:
                plain.close()
                raise
        raise problem or OSError("no address")


class SmtpSession:
    """An open, authenticated connection. Every method blocks; use it from one thread at a time."""

    def __init__(self, server: SmtpServer) -> None:
        """Connect, secure, authenticate. Raises SmtpRefusedError; there is no way back to plaintext."""
        self._client = _Client(server)
        try:
            self._open(server)
        except SmtpRefusedError:
            self.close()
            raise
        except ssl.SSLCertVerificationError:
            self.close()
            raise SmtpRefusedError("certificate", "the certificate was not accepted", _TLS_MISSING) from None
        except ssl.SSLError:
            self.close()
            raise SmtpRefusedError(Trouble.TLS.value, "no TLS connection could be made", RETRY) from None
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            if _timed_out(error):
                raise _no_answer() from None
            raise SmtpRefusedError(Trouble.CONNECT.value, "the connection could not be opened", RETRY) from None
        except BaseException:
            self.close()
            raise

    def _open(self, server: SmtpServer) -> None:
        greeting, text = self._client.connect(server.host, server.port)
        if greeting != 220:
            raise _refused(greeting, text, RETRY)
        self._hello()
        if server.tls == "starttls":
            if not self._client.has_extn("starttls"):
                raise SmtpRefusedError("no_starttls", "the server does not offer STARTTLS", _TLS_MISSING)
            try:
                self._client.starttls(context=server.context)
            except smtplib.SMTPResponseException as error:
                reply = error.smtp_error
                raise _refused(error.smtp_code, reply if isinstance(reply, bytes) else reply.encode(), RETRY) from None
            self._hello()
        if server.username is not None and server.password is not None:
            if server.tls == "none" and not server.allowed_in_clear:
                raise SmtpRefusedError("auth_in_clear", "credentials are only sent over TLS", _TLS_MISSING)
            self._authenticate(server.username, server.password)

    def _hello(self) -> None:
        code, text = self._client.ehlo()
        if not 200 <= code < 300:
            raise _refused(code, text, RETRY)

    def _authenticate(self, username: str, password: str) -> None:
        offered = self._client.esmtp_features.get("auth", "").upper().split()
        plain = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
        if "PLAIN" in offered:
            code, text = self._client.docmd("AUTH", f"PLAIN {plain}")
        elif "LOGIN" in offered:
            code, text = self._client.docmd("AUTH", "LOGIN")
            for value in (username, password):
                if code == 334:
                    code, text = self._client.docmd(base64.b64encode(value.encode()).decode())
        else:
            raise SmtpRefusedError("no_auth", "the server offers neither AUTH PLAIN nor AUTH LOGIN", _NO_AUTH)
        if code != 235:
            raise _refused(code, text, RETRY if 400 <= code < 500 else _NO_AUTH)

    def transfer(self, mail: Mail) -> tuple[str, Mapping[str, str]]:
        """Hand over one message: the reply code and the ids it held.

        Raises SmtpRefusedError (nothing was accepted; `closed` when the connection is gone) or SmtpLostError.
        """
        try:
            size = [f"size={len(mail.data)}"] if self._client.has_extn("size") else []
            _expect(self._client.mail(mail.sender, size), rcpt=False)
            _expect(self._client.rcpt(mail.recipient), rcpt=True)
            code, text = self._client.docmd("DATA")
            if code != 354:
                raise _refused(code, text, smtp_ruling(str(code)))
        except (OSError, smtplib.SMTPServerDisconnected) as error:
            if _timed_out(error):
                raise _no_answer() from None
            raise _refused(_CLOSED, b"", None) from None
        try:
            end = b".\r\n" if mail.data.endswith(b"\r\n") else b"\r\n.\r\n"
            self._client.send(_LEADING_DOT.sub(b"..", mail.data) + end)
            code, text = self._client.getreply()
        except (OSError, smtplib.SMTPException) as error:
            raise SmtpLostError(Trouble.TIMEOUT if _timed_out(error) else Trouble.RESET) from None
        reply = text.decode("utf-8", "replace")
        if code == _CLOSED:
            raise SmtpLostError(Trouble.ANSWER)
        if code != 250:
            raise _refused(code, text, None)
        queued = _QUEUE_ID.search(reply)
        return smtp_code(code, reply), {"queue_id": queued[1]} if queued else {}

    def reset(self) -> bool:
        """RSET after a refusal; False when the connection cannot be used any more."""
        try:
            code, _ = self._client.rset()
        except (OSError, smtplib.SMTPException):
            return False
        return code == 250

    def quit(self) -> None:
        """Say goodbye if the server still listens, then close."""
        with contextlib.suppress(OSError, smtplib.SMTPException):
            self._client.docmd("QUIT")
        self.close()

    def close(self) -> None:
        """Close without a word."""
        with contextlib.suppress(OSError):
            self._client.close()


def _timed_out(error: BaseException) -> bool:
    # smtplib reports a timeout while reading as a lost connection, raised in its handler.
    return isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)


def _no_answer() -> SmtpRefusedError:
    text = "no answer within the deadline"
    return SmtpRefusedError(Trouble.CONNECT_TIMEOUT.value, text, RETRY, closed=True)


def _expect(reply: tuple[int, bytes], *, rcpt: bool) -> None:
    code, text = reply
    if 200 <= code < 300:
        return
    full = smtp_code(code, text.decode("utf-8", "replace"))
    ruling = smtp_ruling(full)
    # 5.1.1 about the sender says nothing about the recipient.
    raise _refused(code, text, ruling if rcpt or not ruling.suppress else Ruling("failed"))


def _refused(code: int, text: bytes, ruling: Ruling | None) -> SmtpRefusedError:
    if code == _CLOSED:
        return SmtpRefusedError(Trouble.RESET.value, "the server closed the connection", RETRY, closed=True)
    reply = text.decode("utf-8", "replace")
    full = smtp_code(code, reply)
    return SmtpRefusedError(full, reply, ruling or smtp_ruling(full), closed=code == 421)
