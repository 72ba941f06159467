"""Firebase Cloud Messaging (HTTP v1): push messages, one per call, signed in with a service account."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from destinations.answers import Row, UnreadableAnswer, at, for_all, object_of
from destinations.auth import Auth, Request, TokenAuth
from destinations.base import Action, Capabilities, Clock, Verdict
from destinations.classification import FAILED, Ruling, http_ruling, utc
from destinations.config import DestinationConfig
from destinations.errors import ConfigurationError, PayloadError
from destinations.http_destination import HttpDestination, json_request
from destinations.secret import Secret, secret_field

if TYPE_CHECKING:
    from destinations.transport import Answer

_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_MINUTE = timedelta(minutes=1)
_MAX_PAYLOAD = 4096


class FcmConfig(DestinationConfig):
    """`credentials` refers to the JSON of a service account; `validate_only` checks without sending.

    `token_url` is where tokens come from, when it is not what the service account says.
    """

    project: str
    credentials: str
    token_url: str | None = None
    base_url: str = "https://fcm.googleapis.com"
    validate_only: bool = False


class ServiceAccount(TokenAuth):
    """A token for a JWT that the service account's key has signed."""

    def __init__(self, credentials: Secret, token_url: str | None, clock: Clock) -> None:
        super().__init__(clock)
        self._credentials = credentials
        self._token_url = token_url

    def secrets(self) -> Iterable[str]:
        """Key and token. Raises ConfigurationError when the credentials are no service account."""
        return [self._account()["private_key"], *self.known()]

    def _account(self) -> Mapping[str, str]:
        try:
            data = json.loads(self._credentials.reveal())
        except ValueError:
            data = None
        needed = ("client_email", "private_key", "token_uri")
        if not isinstance(data, dict) or not all(isinstance(data.get(name), str) for name in needed):
            raise ConfigurationError("D320", "credentials are not the JSON of a service account", "download its key")
        return data

    def _grant(self) -> Request:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        account = self._account()
        now = int(utc(self._clock()).timestamp())
        claims = {
            "iss": account["client_email"], "scope": _SCOPE, "aud": account["token_uri"], "iat": now, "exp": now + 3600,
        }  # fmt: skip
        text = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        try:
            key = load_pem_private_key(account["private_key"].encode(), None)
        except ValueError:
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ConfigurationError(
                "D320", "the private key of the service account cannot be read", "download it anew"
            )
        signature = _base64(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        form = urlencode({"grant_type": grant, "assertion": f"{text}.{signature}"}).encode()
        return Request(
            self._token_url or account["token_uri"], form, {"content-type": "application/x-www-form-urlencoded"}
        )


class Fcm(HttpDestination[FcmConfig]):
    """`push` steps. A retry may show a message twice: there is no key, so an unknown outcome is held."""

    type = "fcm"
    config_model = FcmConfig
    capabilities = Capabilities(frozenset({"push"}), "none", max_bytes=100_000, concurrency=8, refreshes=True)

    def auth(self) -> Auth:
        """A service account's token."""
        credentials = secret_field(self.name, "credentials", self.config.credentials, self._lookup)
        return ServiceAccount(credentials, self.config.token_url, self.clock)

    def row(self, action: Action) -> Row:
        """A notification for one device; the app finds the action id in its data."""
        token = str(action.payload.get("to") or "")
        if not token:
            raise PayloadError("no_address", "the contact has no push token")
        shown = {"title": action.payload.get("title"), "body": action.payload.get("text")}
        message = {
            "token": token, "notification": {name: str(value) for name, value in shown.items() if value},
            "data": {"action_id": action.action_id, "template": action.what},
        }  # fmt: skip
        if len(json.dumps(message["notification"]).encode()) > _MAX_PAYLOAD:
            raise PayloadError("too_large", f"more than {_MAX_PAYLOAD} bytes")
        body: dict[str, Any] = {"message": message}
        return Row(action, body | ({"validate_only": True} if self.config.validate_only else {}))

    def request(self, rows: Sequence[Row]) -> Request:
        """POST messages:send."""
        return json_request(f"{self.config.base_url}/v1/projects/{self.config.project}/messages:send", rows[0].data)

    def ruling(self, answer: Answer) -> Ruling:
        """A token of another sender is that contact's trouble, every other 403 the account's."""
        return FAILED if _word(answer) == "SENDER_ID_MISMATCH" else http_ruling(answer.status)

    def code(self, answer: Answer) -> str:
        """Status and Google's word."""
        return f"{answer.status} {_word(answer)}".strip()

    def pause(self, answer: Answer) -> timedelta | None:
        """`Retry-After`; at least a minute when the quota is used up."""
        asked = super().pause(answer)
        return asked if asked is not None or answer.status != 429 else _MINUTE

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """The message's name, when the answer can be read: the status has said everything else."""
        try:
            name = str(object_of(answer).get("name") or "")
        except UnreadableAnswer:
            name = ""
        return for_all(rows, str(answer.status), {"name": name} if name else {})


def _word(answer: Answer) -> str:
    if answer.status < 300:
        return ""
    try:
        data = object_of(answer)
    except UnreadableAnswer:
        return ""
    details = at(data, "error.details", [])
    words = [one.get("errorCode") for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    return str(next((word for word in words if word), at(data, "error.status", "")))[:60]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
