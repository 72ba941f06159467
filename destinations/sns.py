"""Messages of Amazon SNS: who signed them, for which topic, and what they hold.

The certificate that signs is fetched from Amazon once and kept; the collector has no other reason to ask anybody.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from destinations.inbound import Inbound, InboundRefused, decoded, forged, json_map, moment_of

_HOST = re.compile(r"sns\.[a-z0-9-]{3,30}\.amazonaws\.com")
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
MAX_AGE = timedelta(hours=1)
"""SNS delivers the same message again for an hour, with the time it was made."""

Certificates = Callable[[str], bytes]
"""URL of a certificate -> its PEM."""


@dataclass(frozen=True, slots=True)
class SnsMessage:
    """A message whose signature is genuine and whose topic is ours."""

    kind: str
    message_id: str
    message: str = field(repr=False)
    confirm: str | None = field(repr=False)


def verified(
    request: Inbound, topics: Collection[str], now: datetime, certificates: Certificates | None = None
) -> SnsMessage:
    """Check a message: topic, place of the certificate, age, signature. Raises InboundRefused."""
    body = json_map(decoded(request.body))
    kind = str(body.get("Type"))
    if kind not in _SIGNED or request.headers.get("x-amz-sns-message-type", kind) != kind:
        raise InboundRefused(400, "D404", "no message of SNS")
    if body.get("TopicArn") not in topics:
        raise InboundRefused(403, "D406", "the topic is not one of `topics`")
    place = _amazon(body.get("SigningCertURL") or body.get("SigningCertUrl"))
    _check_signature(body, kind, (certificates or certificate_at)(place))
    if abs(moment_of(body.get("Timestamp"), datetime.min) - now) > MAX_AGE:
        raise InboundRefused(401, "D402", "the signed time is not the present")
    confirm = _amazon(body.get("SubscribeURL")) if kind == "SubscriptionConfirmation" else None
    return SnsMessage(kind, str(body.get("MessageId")), str(body.get("Message", "")), confirm)


def _amazon(url: object) -> str:
    """The URL, if it is https at Amazon's own hosts of SNS."""
    parts = urlsplit(str(url))
    if parts.scheme != "https" or not _HOST.fullmatch(parts.netloc):
        raise forged()
    return str(url)


def _check_signature(body: Mapping[str, Any], kind: str, pem: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.x509 import load_pem_x509_certificate

    text = "".join(f"{name}\n{body[name]}\n" for name in _SIGNED[kind] if body.get(name) is not None)
    digest: hashes.HashAlgorithm = hashes.SHA256() if str(body.get("SignatureVersion")) == "2" else hashes.SHA1()
    try:
        key = load_pem_x509_certificate(pem).public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise forged()
        key.verify(
            base64.b64decode(str(body.get("Signature")), validate=True), text.encode(), padding.PKCS1v15(), digest
        )
    except (ValueError, InvalidSignature):
        raise forged() from None


@lru_cache(maxsize=8)
def certificate_at(url: str) -> bytes:
    """The certificate, fetched once. Raises InboundRefused (503) when it cannot be had now."""
    import httpx

    try:
        answer = httpx.get(url, timeout=5.0, follow_redirects=False, trust_env=False)
    except httpx.HTTPError:
        raise InboundRefused(503, "D407", "the certificate of SNS cannot be fetched") from None
    if answer.status_code != 200 or len(answer.content) > 20_000:
        raise InboundRefused(503, "D407", "the certificate of SNS cannot be fetched")
    return answer.content
