"""Signed tokens: what a link in a message, or a visitor's identity, says and nobody else can say.

A token is URL-safe base64 of one byte that names the secret, 16 bytes of HMAC-SHA-256 over purpose and content, and the
content. Several secrets may be known, the first one signs, so that they can be replaced while old links still work. A
token for one purpose is none for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Purpose = Literal["identity", "open", "click", "leave"]
_MAC = 16
_LONGEST = 4_000
SHORTEST_SECRET = 24


@dataclass(frozen=True)
class Message:
    """What a link in a message says: the action that sent it, and a text (a URL, a group, or nothing)."""

    action_id: str
    text: str


class Keyring:
    """Signs and checks tokens.

    Args:
        secrets: newest first, each of at least 24 characters; without one nothing is signed or accepted.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [hashlib.sha256(b"penstock links " + secret.encode()).digest() for secret in secrets]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._keys)}>"

    def sign(self, purpose: Purpose, content: bytes) -> str:
        """The token of a content.

        Raises:
            ValueError: there is no secret, or the content is too long for a link.
        """
        if not self._keys or len(content) > _LONGEST:
            raise ValueError("no secret to sign with" if not self._keys else "too long for a signed link")
        key = self._keys[0]
        return base64.urlsafe_b64encode(key[:1] + _mac(key, purpose, content) + content).rstrip(b"=").decode()

    def read(self, purpose: Purpose, token: str) -> bytes | None:
        """The content of a token; None when it was not signed here for this purpose."""
        if len(token) > 2 * _LONGEST:
            return None
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return None
        named, mac, content = raw[:1], raw[1 : 1 + _MAC], raw[1 + _MAC :]
        for key in self._keys:
            if key[:1] == named and hmac.compare_digest(mac, _mac(key, purpose, content)):
                return content
        return None

    # ------------------------------------------------------------ what is said

    def identity(self, contact_id: str) -> str:
        """A token that says who a visitor is, for a page that its server made."""
        return self.sign("identity", contact_id.encode())

    def contact(self, token: str) -> str | None:
        """The contact of an `identity`; None when it is not genuine."""
        content = self.read("identity", token)
        return None if content is None else content.decode()

    def message(self, purpose: Literal["open", "click", "leave"], action_id: str, text: str = "") -> str:
        """A token that stands in the link of a message."""
        return self.sign(purpose, UUID(action_id).bytes + text.encode())

    def opened(self, purpose: Literal["open", "click", "leave"], token: str) -> Message | None:
        """What a message's link says; None when it is not genuine."""
        content = self.read(purpose, token)
        if content is None or len(content) < 16:
            return None
        return Message(str(UUID(bytes=content[:16])), content[16:].decode())


def _mac(key: bytes, purpose: str, content: bytes) -> bytes:
    return hmac.digest(key, f"{purpose}\0".encode() + content, hashlib.sha256)[:_MAC]
