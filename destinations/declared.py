"""A vendor described in YAML alone: where to send, how to sign in, what rows and bodies are, what answers mean.

loyalty:
  type: http
  roles: [crm]
  url: https://api.loyalty.example/v2/members
  auth: {bearer: "{{ env_var('LOYALTY_TOKEN') }}"}
  row: {email: $contact.email, fields: $set}
  body: {members: $rows}
  max_batch: 50
  answer: {pattern: in_order, items: results, error: code}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from destinations.answers import Row, at, json_of, poll
from destinations.auth import Auth, BasicAuth, HeaderAuth, Request, bearer
from destinations.base import Action, Capabilities, Idempotency, Role, Status, Verdict
from destinations.classification import CREDENTIALS, FAILED, RETRY, UNKNOWN, Ruling, clamp, http_ruling, utc
from destinations.config import DestinationConfig, Duration
from destinations.declared_answers import AnswerShape, rows_of, says_error
from destinations.errors import ConfigurationError
from destinations.http_destination import HttpDestination, json_request
from destinations.oauth import ClientCredentials, ClientCredentialsConfig
from destinations.placeholders import filled, filled_url, names_in, stray
from destinations.secret import Secret, secret_field

if TYPE_CHECKING:
    from destinations.transport import Answer

_NAMES = frozenset({
    "action_id", "kind", "what", "contact_id", "attempt", "to", "from", "reply_to", "subject", "text", "html", "title",
    "headers", "list_unsubscribe", "target", "owner", "body", "due", "contact", "object", "set",
})  # fmt: skip
_RULINGS: Mapping[str, Ruling] = {
    "sent": Ruling("sent"), "retry": RETRY, "unknown": UNKNOWN, "failed": FAILED,
    "split": Ruling("failed", split=True), "stop": CREDENTIALS,
}  # fmt: skip

Meaning = Literal["sent", "retry", "unknown", "failed", "split", "stop"]
"""`split`: the verdict holds for the request, halve it to find the bad row · `stop`: the destination rests."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class BasicConfig(_Strict):
    """User name and password; the password is a reference."""

    username: str
    password: str


class AuthConfig(_Strict):
    """One of: a bearer token, HTTP Basic, headers with references in them, OAuth client credentials."""

    bearer: str | None = None
    basic: BasicConfig | None = None
    headers: Mapping[str, str] | None = None
    client_credentials: ClientCredentialsConfig | None = None


class KeyConfig(_Strict):
    """How the other side knows a repetition: a header with the action id, and for how long it remembers it."""

    header: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9-]{0,60}$")
    lifetime: Duration | None = None


class WaitConfig(_Strict):
    """A header that says when to come back, besides `Retry-After`, and in what it counts."""

    header: str
    unit: Literal["seconds", "milliseconds", "epoch"] = "seconds"


class DeclaredConfig(DestinationConfig):
    """The whole vendor. `row` is one action, `body` the request around `$rows` (or `$row`, for one at a time); without
    `body` the request is the list of rows, or the row itself when `max_batch` is 1.
    """

    roles: Annotated[Sequence[Role], Field(min_length=1)]
    objects: Sequence[str] | None = None
    url: str = Field(min_length=1)
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: Mapping[str, str] = Field(default_factory=dict)
    auth: AuthConfig = AuthConfig()
    row: Any
    body: Any = None
    format: Literal["json", "form"] = "json"
    max_bytes: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    unique: str | None = None
    idempotency: Idempotency = "none"
    key: KeyConfig = KeyConfig()
    answer: AnswerShape = AnswerShape()
    statuses: Mapping[int, Meaning] = Field(default_factory=dict)
    wait: WaitConfig | None = None


class Declared(HttpDestination[DeclaredConfig]):
    """See the module."""

    type = "http"
    config_model = DeclaredConfig
    capabilities = Capabilities(
        roles=frozenset(get_args(Role)), idempotency="none", concurrency=4, max_bytes=1_000_000, on_unknown="hold"
    )

    @classmethod
    def abilities(cls, config: Mapping[str, Any]) -> Capabilities:
        """Roles and objects are those of the configuration."""
        roles, objects = config.get("roles"), config.get("objects")
        known: Any = frozenset(role for role in roles if role in get_args(Role)) if isinstance(roles, list) else None
        named = frozenset(map(str, objects)) if isinstance(objects, list) else None
        base = cls.capabilities
        return Capabilities(known if known is not None else base.roles, base.idempotency, objects=named)

    def auth(self) -> Auth:
        """As `auth` says; also checks the rest of the configuration, before anything is opened."""
        config = self.config
        self._check()
        safe = config.idempotency != "none"
        objects = None if config.objects is None else frozenset(config.objects)
        self.capabilities = config.applied_to(
            Capabilities(
                frozenset(config.roles), config.idempotency, max_bytes=config.max_bytes, concurrency=4,
                on_unknown="retry" if safe else "hold", objects=objects,
                key_lifetime=config.key.lifetime, refreshes=config.auth.client_credentials is not None,
            )
        )  # fmt: skip
        self._rulings = {status: _RULINGS[meaning] for status, meaning in config.statuses.items()}
        self._url = self.secret(config.url)
        self._headers = {name.lower(): self.secret(value) for name, value in config.headers.items()}
        given = config.auth
        match [one for one in (given.bearer, given.basic, given.headers, given.client_credentials) if one is not None]:
            case []:
                return HeaderAuth({})
            case [str() as token]:
                return bearer(secret_field(self.name, "bearer", token, self._lookup))
            case [BasicConfig() as basic]:
                password = secret_field(self.name, "password", basic.password, self._lookup)
                return BasicAuth(self.secret(basic.username), password)
            case [ClientCredentialsConfig() as grant]:
                return ClientCredentials(self.name, grant, self._lookup, self.clock)
            case [Mapping() as headers]:
                return HeaderAuth({name: secret_field(self.name, name, v, self._lookup) for name, v in headers.items()})
            case _:
                raise self._wrong("auth", "takes one of bearer, basic, headers, client_credentials")

    def opened(self) -> Sequence[Secret]:
        """URL and headers may hold references."""
        return [self._url, *self._headers.values()]

    def row(self, action: Action) -> Row:
        """`row` with the values of the action."""
        values = _values(action)
        key = filled(self.config.unique, values) if self.config.unique is not None else ""
        return Row(action, filled(self.config.row, values), str(key or ""))

    def request(self, rows: Sequence[Row]) -> Request:
        """`body` around the rows."""
        config = self.config
        data = [row.data for row in rows]
        alone = self.capabilities.max_batch == 1
        if config.body is not None:
            body = filled(config.body, {**(_values(rows[0].action) if alone else {}), "rows": data, "row": data[0]})
        else:
            body = data[0] if alone else data
        url = filled_url(self._url.reveal(), _values(rows[0].action)) if alone else self._url.reveal()
        headers = {name: value.reveal() for name, value in self._headers.items()}
        if config.key.header is not None:
            headers[config.key.header.lower()] = rows[0].action.action_id
        if config.format == "json":
            return json_request(url, body, headers, config.method)
        form = urlencode([(name, "" if value is None else value) for name, value in body.items()]).encode()
        return Request(url, form, {"content-type": "application/x-www-form-urlencoded", **headers}, config.method)

    def ruling(self, answer: Answer) -> Ruling:
        """A 2xx may still be an error: `answer.success` and `answer.call_error` are looked for in it."""
        ruling = http_ruling(answer.status, self._rulings)
        code = says_error(self.config.answer, answer) if ruling.status == "sent" else None
        if code is None:
            return ruling
        return RETRY if code in self.config.answer.retry else Ruling("failed", split=True)

    def code(self, answer: Answer) -> str:
        """The status, and the vendor's own word inside a 2xx."""
        found = says_error(self.config.answer, answer) if answer.status < 300 else None
        return f"{answer.status} {found}" if found else str(answer.status)

    def pause(self, answer: Answer) -> timedelta | None:
        """`Retry-After`, else the header of `wait`."""
        asked, wait = super().pause(answer), self.config.wait
        value = answer.headers.get(wait.header.lower(), "") if wait is not None else ""
        if asked is not None or wait is None or not value.replace(".", "", 1).isdigit():
            return asked
        match wait.unit:
            case "epoch":
                return clamp(timedelta(seconds=float(value) - utc(self.clock()).timestamp()))
            case "milliseconds":
                return clamp(timedelta(milliseconds=float(value)))
            case _:
                return clamp(timedelta(seconds=float(value)))

    async def read(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """By the pattern of `answer`; a job is asked about until it is done."""
        shape = self.config.answer
        if shape.job is None:
            return rows_of(shape, rows, answer)
        job = shape.job
        found = at(json_of(answer), job.id)
        url = filled_url(self.secret(job.url).reveal(), {"job": found})

        async def done() -> Answer | None:
            told = await self.ask(Request(url, headers={"accept": "application/json"}, method="GET"))
            state = at(json_of(told), job.status) if told.status < 300 else None
            return told if str(state) in (*job.done, *job.failed) else None

        last = await poll(done, [job.every] * max(1, int(job.within / job.every)))
        if str(at(json_of(last), job.status)) in job.failed:
            return [_said(row, "failed", "job_failed") for row in rows]
        return rows_of(shape, rows, last)

    def _check(self) -> None:
        config = self.config
        alone = (config.max_batch or 1) == 1
        for key, template, names in (
            ("row", config.row, _NAMES),
            ("unique", config.unique, _NAMES),
            ("body", config.body, {"rows", "row", *(_NAMES if alone else ())}),
            ("url", config.url, _NAMES if alone else frozenset()),
        ):
            if (odd := stray(template)) is not None:
                raise self._wrong(key, f"holds a $ that is no placeholder: {odd[:60]!r}")
            if unknown := names_in(template) - names:
                raise self._wrong(key, f"has no ${min(unknown)}; there are: {', '.join(sorted(names)) or 'none'}")
        if "$" in urlsplit(config.url).netloc:
            raise self._wrong("url", "cannot take its host from an action")
        if config.format == "form" and not isinstance(config.body if config.body is not None else config.row, Mapping):
            raise self._wrong("format", "form needs a map")
        if config.key.header is not None and not alone:
            raise self._wrong("key", "a header with the action id needs max_batch: 1")
        if wrong := [status for status in config.statuses if not 200 <= status <= 599]:
            raise self._wrong("statuses", f"has no HTTP status {wrong[0]}")

    def _wrong(self, key: str, text: str) -> ConfigurationError:
        return ConfigurationError("D310", f"destination {self.name}: {key} {text}", "see docs/connect_a_vendor.md")


def _values(action: Action) -> Mapping[str, Any]:
    return {
        "action_id": action.action_id, "kind": action.kind, "what": action.what, "contact_id": action.contact_id,
        "attempt": action.attempt, **action.payload,
    }  # fmt: skip


def _said(row: Row, status: Status, code: str) -> Verdict:
    return Verdict(row.action.action_id, status, code)
