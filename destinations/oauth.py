"""OAuth 2.0 grants that need no person: client credentials."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict

from destinations.auth import Request, TokenAuth
from destinations.base import Clock, SecretLookup
from destinations.secret import Secret, secret_field


class ClientCredentialsConfig(BaseModel):
    """`client_secret` is a reference; `client_id` and `token_url` may be."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    token_url: str
    client_id: str
    client_secret: str
    scope: str | None = None


class ClientCredentials(TokenAuth):
    """`grant_type=client_credentials`, the credentials in the form."""

    def __init__(self, name: str, config: ClientCredentialsConfig, secrets: SecretLookup, clock: Clock) -> None:
        super().__init__(clock)
        self._url = Secret(config.token_url, secrets)
        self._client = Secret(config.client_id, secrets)
        self._secret = secret_field(name, "client_secret", config.client_secret, secrets)
        self._scope = config.scope

    def secrets(self) -> Iterable[str]:
        """Secret and token."""
        self._url.reveal()
        return [self._secret.reveal(), self._client.reveal(), *self.known()]

    def _grant(self) -> Request:
        form = {
            "grant_type": "client_credentials", "client_id": self._client.reveal(),
            "client_secret": self._secret.reveal(), **({"scope": self._scope} if self._scope else {}),
        }  # fmt: skip
        return Request(
            self._url.reveal(), urlencode(form).encode(), {"content-type": "application/x-www-form-urlencoded"}
        )
