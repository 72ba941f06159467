"""One e-mail message from one rendered action: exactly one recipient, no header that was not meant.

Header values with control characters, line separators or encoded words are refused, addresses are one plain addr-spec
with an optional display name, and the Message-ID is the action id, so every copy of a message carries the same one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime
from typing import Any

from destinations.base import Action
from destinations.classification import utc
from destinations.errors import PayloadError

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENCODED_WORD = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+"
_LABEL = r"[^\W_](?:[\w\-]*[^\W_])?"
_ADDR_SPEC = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
_MAILBOX = re.compile(r'\s*(?:"(?P<quoted>[^"\\<>]*)"|(?P<plain>[^"<>@,;:]*?))\s*<(?P<spec>[^<>\s]+)>\s*')
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9\-]{0,60}")
# What this module or the transfer decides; a payload that could set them could add recipients or break the body.
_OWN = re.compile(
    r"(to|cc|bcc|from|sender|reply-to|subject|date|message-id|mime-version|content-.*|return-path|received|resent-.*"
    r"|list-unsubscribe|list-unsubscribe-post|dkim-signature|authentication-results|arc-.*)",
    re.IGNORECASE,
)
_MAX_LINE = 990
_ASCII = bytes(range(128))


class _MailPolicy(EmailPolicy):
    """SMTP rules, but an ASCII header without a folding point is written as it stands: the standard folder would turn
    a long URL into encoded words, which breaks List-Unsubscribe.
    """

    def fold_binary(self, name: str, value: Any) -> bytes:
        """One header as bytes."""
        line = f"{name}: {value}"
        if line.isascii() and len(line) <= _MAX_LINE and (len(line) <= 78 or name.lower().startswith("list-")):
            return line.encode("ascii") + b"\r\n"
        return super().fold_binary(name, value)


_POLICY = _MailPolicy(linesep="\r\n", cte_type="7bit", max_line_length=78)


@dataclass(frozen=True, slots=True)
class Mail:
    """A message ready for SMTP: envelope addresses, Message-ID and the bytes, CRLF, 7 bit."""

    sender: str = field(repr=False)
    recipient: str = field(repr=False)
    message_id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MailFields:
    """What an `email` action says, checked: every vendor's API gets its values from here.

    `headers` are further ones, List-Unsubscribe and its one-click partner (RFC 8058) among them.
    """

    sender: Address = field(repr=False)
    recipient: Address = field(repr=False)
    reply_to: Address | None = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def mail_fields(action: Action, default_sender: str | None) -> MailFields:
    """The fields of an `email` action.

    Raises PayloadError: missing or malformed address, unsafe header, nothing to say.
    """
    payload = action.payload
    text, html = str(payload.get("text") or ""), str(payload.get("html") or "")
    if not text and not html:
        raise PayloadError("empty_message", "the message has neither text nor html")
    return MailFields(
        sender=mailbox("from", payload.get("from") or default_sender),
        recipient=mailbox("to", payload.get("to")),
        reply_to=mailbox("reply_to", payload["reply_to"]) if payload.get("reply_to") else None,
        subject=header_text("subject", payload.get("subject") or ""),
        text=text,
        html=html,
        headers=_unsubscribe(payload.get("list_unsubscribe")) | _extra_headers(payload.get("headers") or {}),
    )


def build_message(action: Action, default_sender: str | None, domain: str | None, now: datetime | None) -> Mail:
    """The message of an `email` action. `domain` is that of the Message-ID (default: the sender's); `now` dates it.

    Raises PayloadError: as `mail_fields`.
    """
    fields = mail_fields(action, default_sender)
    message = EmailMessage(policy=_POLICY)
    message["From"] = fields.sender
    message["To"] = fields.recipient
    message["Subject"] = fields.subject
    if fields.reply_to is not None:
        message["Reply-To"] = fields.reply_to
    if now is not None:
        message["Date"] = format_datetime(utc(now))
    message_id = f"<{header_atom(action.action_id)}@{domain or fields.sender.domain}>"
    message["Message-ID"] = message_id
    for name, value in fields.headers.items():
        message[name] = value
    body = _body(action.action_id, fields.text, fields.html)
    # A message without a body is its headers and the empty line, which belongs after the MIME headers.
    headers = message.as_bytes().removesuffix(b"\r\n")
    return Mail(fields.sender.addr_spec, fields.recipient.addr_spec, message_id, headers + body)


def mailbox(key: str, value: object) -> Address:
    """`a@b` or `Name <a@b>` as one address; the domain in its ASCII form. Raises PayloadError."""
    if not isinstance(value, str) or not value.strip():
        raise PayloadError("no_address", f"{key} is empty")
    text = header_text(key, value.strip())
    match = _MAILBOX.fullmatch(text)
    spec, name = (text, "") if match is None else (match["spec"], match["quoted"] or match["plain"] or "")
    parts = _ADDR_SPEC.fullmatch(spec)
    if parts is None or len(parts[1]) > 64:
        raise PayloadError("bad_address", f"{key} is not one plain address")
    try:
        domain = parts[2] if parts[2].isascii() else parts[2].encode("idna").decode("ascii")
    except UnicodeError:
        raise PayloadError("bad_address", f"{key} has a domain that does not exist in DNS") from None
    if len(domain) > 253 or max(map(len, domain.split("."))) > 63:
        raise PayloadError("bad_address", f"{key} is not one plain address")
    return Address(display_name=name.strip(), username=parts[1], domain=domain)


def header_text(key: str, value: object) -> str:
    """The value as header text. Raises PayloadError for control characters, line separators and encoded words."""
    text = str(value)
    if _UNSAFE.search(text) or _ENCODED_WORD.search(text):
        raise PayloadError("unsafe_header", f"{key} holds a control character, a line break or an encoded word")
    if len(text) > _MAX_LINE:
        raise PayloadError("unsafe_header", f"{key} is longer than {_MAX_LINE} characters")
    return text


def header_atom(value: str) -> str:
    """The value if it may stand in a Message-ID. Raises PayloadError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9._\-]{1,200}", value):
        raise PayloadError("unsafe_header", "the action id cannot stand in a Message-ID")
    return value


def _unsubscribe(value: object) -> dict[str, str]:
    if value is None:
        return {}
    url = header_text("list_unsubscribe", value).strip().strip("<>")
    if not re.fullmatch(r"(https?://|mailto:)[!-;=?-~]+", url):
        raise PayloadError("unsafe_header", "list_unsubscribe is not one http, https or mailto URL")
    one_click = {"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"} if url.startswith("https://") else {}
    return {"List-Unsubscribe": f"<{url}>", **one_click}


def _extra_headers(headers: Mapping[str, object]) -> dict[str, str]:
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or _OWN.fullmatch(name) or name.lower() in map(str.lower, checked):
            raise PayloadError("unsafe_header", "headers may only add names that the message does not set itself")
        checked[name] = header_text(name, value)
    return checked


def _body(action_id: str, text: str, html: str) -> bytes:
    """MIME headers and body. Nothing but constants and encoded content stands here, so it is written directly: the
    standard classes parse each of these headers several times, half of what a message costs.
    """
    match bool(text), bool(html):
        case True, True:
            parts = _part("plain", text), _part("html", html)
            boundary = _boundary(action_id, *parts)
            edge = b"--" + boundary.encode()
            head = f'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n'
            return head.encode() + b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts) + edge + b"--\r\n"
        case True, False:
            return b"MIME-Version: 1.0\r\n" + _part("plain", text)
        case _:
            return b"MIME-Version: 1.0\r\n" + _part("html", html)


def _part(subtype: str, content: str) -> bytes:
    """One text part with its headers, CRLF, 7 bit, lines of at most 998 characters."""
    # NUL and lone surrogates cannot be sent at all; everything else is encoded.
    lines = re.split(r"\r\n|\r|\n", re.sub(r"[\x00\ud800-\udfff]", "\ufffd", content).rstrip("\r\n"))
    data = ("\n".join(lines) + "\n").encode()
    if data.isascii() and max(map(len, lines)) <= _MAX_LINE:
        encoding, body = "7bit", data
    elif len(data[:4096].translate(None, _ASCII)) * 5 > min(len(data), 4096):
        encoding, body = "base64", base64.encodebytes(data.replace(b"\n", b"\r\n"))
    else:
        encoding, body = "quoted-printable", binascii.b2a_qp(data, istext=True)
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + body.replace(b"\n", b"\r\n")


def _boundary(action_id: str, *parts: bytes) -> str:
    """From the action id, so that every copy of a message is the same; never one that the content holds."""
    boundary = f"=_{hashlib.sha256(action_id.encode()).hexdigest()[:32]}"
    while any(boundary.encode() in part for part in parts):
        boundary = f"=_{hashlib.sha256(boundary.encode()).hexdigest()[:32]}"
    return boundary
