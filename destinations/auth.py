"""How a request shows who sends it. Values are resolved for the one request and kept nowhere else."""

from __future__ import annotations

import asyncio
import base64
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from destinations.answers import UnreadableAnswer, object_of
from destinations.base import Clock
from destinations.classification import http_ruling
from destinations.errors import NotSentError, OutcomeUnknownError
from destinations.secret import Secret

if TYPE_CHECKING:
    from destinations.transport import Transport


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, before it is authorised. The URL may be a secret."""

    url: str = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    method: str = "POST"


class Auth(ABC):
    """Makes the headers that authorise a request."""

    @abstractmethod
    def secrets(self) -> Iterable[str]:
        """What an answer may echo and no message may hold. Raises ConfigurationError when one is not set."""

    @abstractmethod
    async def headers(self, request: Request, transport: Transport) -> Mapping[str, str]:
        """The headers to add. Raises DestinationError when credentials cannot be had."""

    def expired(self) -> bool:
        """Called after a 401: forget a token that was fetched; True when another attempt makes sense."""
        return False


class HeaderAuth(Auth):
    """Fixed headers with secrets in them: `{"authorization": "Bearer {{ env_var('TOKEN') }}"}`."""

    def __init__(self, values: Mapping[str, Secret], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def secrets(self) -> Iterable[str]:
        """The values."""
        return [secret.reveal() for secret in self._values.values()]

    async def headers(self, request: Request, transport: Transport) -> Mapping[str, str]:
        """The values under their names."""
        return {name.lower(): self._prefix + secret.reveal() for name, secret in self._values.items()}


def bearer(token: Secret) -> Auth:
    """`Authorization: Bearer …`."""
    return HeaderAuth({"authorization": token}, "Bearer ")


class BasicAuth(Auth):
    """HTTP Basic."""

    def __init__(self, username: Secret, password: Secret) -> None:
        self._username, self._password = username, password

    def secrets(self) -> Iterable[str]:
        """The password, as it is and as it is sent; the user name may be a key too."""
        return [self._username.reveal(), self._password.reveal(), self._encoded()]

    async def headers(self, request: Request, transport: Transport) -> Mapping[str, str]:
        """The `Authorization` header."""
        return {"authorization": f"Basic {self._encoded()}"}

    def _encoded(self) -> str:
        return base64.b64encode(f"{self._username.reveal()}:{self._password.reveal()}".encode()).decode()


class TokenAuth(Auth, ABC):
    """`Authorization: Bearer …` with a token that is fetched, kept in memory for its life, and fetched anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._token = ""
        self._until: datetime | None = None
        self._fetching = asyncio.Lock()

    @abstractmethod
    def _grant(self) -> Request:
        """The request for a token. Raises ConfigurationError."""

    def _granted(self, answer: Mapping[str, object]) -> None:
        """What else the answer says."""

    async def headers(self, request: Request, transport: Transport) -> Mapping[str, str]:
        """The header; fetches the token when there is none that lives."""
        async with self._fetching:
            if not self._token or (self._until is not None and self._clock() >= self._until):
                await self._fetch(transport)
        return {"authorization": f"Bearer {self._token}"}

    def expired(self) -> bool:
        """Another token is worth one more attempt."""
        self._token = ""
        return True

    def known(self) -> Iterable[str]:
        """The token in use."""
        return [self._token] if self._token else []

    async def _fetch(self, transport: Transport) -> None:
        grant = self._grant()
        try:
            answer = await transport.request(grant.method, grant.url, grant.body, grant.headers)
        except OutcomeUnknownError as error:
            # Fetching a token changes nothing, so the action itself was not sent.
            raise NotSentError(error.code, "no token: " + error.message) from None
        if answer.status >= 300:
            raise TokenRefused(answer.status, http_ruling(answer.status).status == "retry" and answer.status >= 429)
        try:
            data = object_of(answer)
        except UnreadableAnswer:
            raise TokenRefused(answer.status, passing=True) from None
        token, seconds = data.get("access_token"), data.get("expires_in", 1800)
        if not isinstance(token, str) or not token.isascii():
            raise TokenRefused(answer.status, passing=True)
        self._granted(data)
        # A minute early, so that it does not end on the way.
        life = timedelta(seconds=max(0.0, float(seconds) - 60)) if str(seconds).isdigit() else timedelta(minutes=30)
        self._token, self._until = token, self._clock() + life


class TokenRefused(Exception):
    """No token was given; `passing` when it may be given later."""

    def __init__(self, status: int, passing: bool) -> None:
        super().__init__(str(status))
        self.status = status
        self.passing = passing
