"""What all HTTP vendors share: open, pace, cut into requests, authorise, ask, halve what a bad row spoiled, rule.

A vendor says how an action becomes a row, how rows become a request, and what an accepted answer says about each row.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from destinations.answers import Row, UnreadableAnswer, for_all, verdict
from destinations.auth import Auth, Request, TokenRefused
from destinations.base import Action, Clock, Destination, SecretLookup, Stop, Verdict
from destinations.classification import Ruling, Trouble, http_ruling, retry_after
from destinations.config import DestinationConfig, read_config, required_clock
from destinations.errors import ConfigurationError, DestinationError, PayloadError
from destinations.json_body import encoded
from destinations.pace import Pace
from destinations.secret import Secret, scrub, texts_of
from destinations.verdicts import trouble_verdict

if TYPE_CHECKING:
    from destinations.transport import Answer, Transport

C = TypeVar("C", bound=DestinationConfig)


class HttpDestination(Destination, Generic[C]):
    """One vendor over HTTP. A subclass sets `type`, `capabilities`, `config_model` and writes `auth`, `row`,
    `request`, and `verdicts` where an accepted answer says more than its status.
    """

    config_model: ClassVar[type[DestinationConfig]]
    rulings: ClassVar[Mapping[int, Ruling]] = {}
    max_response: ClassVar[int] = 4 * 1024 * 1024

    def __init__(
        self, name: str, config: C, secrets: SecretLookup, clock: Clock, transport: Transport | None = None
    ) -> None:
        self.name = name
        self.config = config
        self.clock = clock
        self.capabilities = config.applied_to(type(self).capabilities)
        self._lookup = secrets
        self._transport = transport
        self._pace = Pace(self.capabilities.limits)
        self._auth = self.auth()

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        """See `Destination.from_config`; needs a clock for `Retry-After` and for signatures."""
        read: Any = read_config(cls.config_model, name, config)
        return cls(name, read, secrets, required_clock(name, cls.type, clock))

    # ------------------------------------------------------------ what a vendor writes

    @abstractmethod
    def auth(self) -> Auth:
        """How requests are authorised. Raises ConfigurationError."""

    @abstractmethod
    def row(self, action: Action) -> Row:
        """The action as a row. Raises PayloadError when it cannot be expressed; only its own verdict is `failed`."""

    @abstractmethod
    def request(self, rows: Sequence[Row]) -> Request:
        """The request for rows, without the headers of `auth`."""

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """One verdict per row of an accepted request, in order. Raises UnreadableAnswer."""
        return for_all(rows, str(answer.status))

    async def read(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """As `verdicts`, for vendors that have to be asked again (`ask`) before they say what became of the rows."""
        return self.verdicts(rows, answer)

    def ruling(self, answer: Answer) -> Ruling:
        """What an answer means for the whole request; a vendor that hides errors in a 200 reads it here."""
        return http_ruling(answer.status, self.rulings)

    def pause(self, answer: Answer) -> timedelta | None:
        """How long the answer asks to wait, None when it does not say."""
        return retry_after(answer.headers, self.clock())

    def opened(self) -> Sequence[Secret]:
        """Secrets outside `auth` that must resolve before anything is claimed and may stand in no message."""
        return ()

    # ------------------------------------------------------------ what all share

    def secret(self, text: str) -> Secret:
        """A value of the configuration that may hold references."""
        return Secret(text, self._lookup)

    async def __aenter__(self) -> Self:
        """Every secret resolves before the first action is claimed."""
        list(self._hidden())
        if self._transport is None:
            # The HTTP libraries take half a second to import; checking definitions needs none of them.
            from destinations.transport import TIMEOUT, Transport

            self._transport = Transport(
                allow_hosts=self.config.allow_hosts,
                timeout=self.config.timeout or TIMEOUT,
                max_response=self.max_response,
                connections=self.capabilities.concurrency,
            )
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        """As many requests as count, bytes and equal keys ask for, at most `concurrency` at once."""
        made: dict[str, Verdict] = {}
        rows: list[Row] = []
        for action in batch:
            try:
                if action.kind not in self.capabilities.roles:
                    raise PayloadError("unsupported_kind", f"destination {self.name} cannot perform {action.kind}")
                rows.append(self.row(action))
            except PayloadError as error:
                made[action.action_id] = Verdict(action.action_id, "failed", error.code, error.message)
        gate = asyncio.Semaphore(self.capabilities.concurrency)
        stopped: list[Verdict] = []

        async def one(chunk: Sequence[Row]) -> None:
            async with gate:
                if stopped:
                    found = _same(stopped[0], chunk)
                else:
                    found = await self._perform(chunk)
                    stopped.extend(answer for answer in found if answer.stop is not None)
            made.update((answer.action_id, answer) for answer in found)

        await asyncio.gather(*map(one, self._chunks(rows)))
        return [made[action.action_id] for action in batch]

    def _chunks(self, rows: Sequence[Row]) -> list[list[Row]]:
        """In order within a group, within `max_batch`, and no key twice in a request."""
        chunks: list[list[Row]] = []
        filling: dict[str, tuple[list[Row], set[str]]] = {}
        for row in rows:
            chunk, keys = filling.get(row.group, ([], set()))
            if not chunk or len(chunk) >= self.capabilities.max_batch or (row.key and row.key in keys):
                chunk, keys = [], set()
                chunks.append(chunk)
                filling[row.group] = chunk, keys
            chunk.append(row)
            keys.add(row.key)
        return chunks

    async def _perform(self, rows: Sequence[Row]) -> list[Verdict]:
        """One request, or halves of it when it is too large or one row spoils the whole.

        A bad row costs at most 2·log2(n)+1 more requests.
        """
        try:
            request = self.request(rows)
            if len(request.body) > self.capabilities.max_bytes:
                raise PayloadError("too_large", f"more than {self.capabilities.max_bytes} bytes")
        except PayloadError as error:
            if len(rows) > 1:
                return await self._halved(rows)
            return [self._troubled(row, error) for row in rows]
        try:
            answer = await self.ask(request)
        except DestinationError as error:
            return [self._troubled(row, error) for row in rows]
        except TokenRefused as refused:
            stop: Stop | None = None if refused.passing else "credentials"
            return [verdict(row, "retry", f"token {refused.status}", stop=stop) for row in rows]
        ruling = self.ruling(answer)
        if ruling.split and len(rows) > 1:
            return await self._halved(rows)
        if ruling.status != "sent":
            return [self._refused(row, answer, ruling) for row in rows]
        try:
            return await self.read(rows, answer)
        except (UnreadableAnswer, DestinationError, TokenRefused):
            text = "the request was accepted, but its answer cannot be read"
            return [verdict(row, "unknown", Trouble.ANSWER.value, text) for row in rows]

    async def _halved(self, rows: Sequence[Row]) -> list[Verdict]:
        half = len(rows) // 2
        first = await self._perform(rows[:half])
        stopped = next((answer for answer in first if answer.stop), None)
        return first + (await self._perform(rows[half:]) if stopped is None else _same(stopped, rows[half:]))

    async def ask(self, request: Request) -> Answer:
        """One authorised request; after a 401 once more with credentials fetched anew.

        Raises DestinationError, TokenRefused.
        """
        if self._transport is None:
            raise ConfigurationError("D107", f"destination {self.name} is not open", "use `async with`")
        for last in (False, True):
            await self._pace.turn()
            # What a vendor's request says wins over headers of the configuration.
            headers = {"user-agent": "penstock", **await self._auth.headers(request, self._transport)}
            headers |= request.headers
            answer = await self._transport.request(request.method, request.url, request.body, headers)
            if answer.status != 401 or last or not self._auth.expired():
                return answer
        raise AssertionError("unreachable")

    def _troubled(self, row: Row, error: DestinationError) -> Verdict:
        match error:
            case PayloadError():
                return verdict(row, "failed", error.code, error.message)
            case ConfigurationError():
                return Verdict(row.action.action_id, "retry", error.code, error.message, stop="configuration")
            case _:
                return trouble_verdict(row.action, error)

    def _refused(self, row: Row, answer: Answer, ruling: Ruling) -> Verdict:
        pause = self.pause(answer) if ruling.status == "retry" else None
        hide = [*texts_of([row.action.payload, row.data]), *self._hidden()]
        return Verdict(
            row.action.action_id, ruling.status, self.code(answer)[:64],
            scrub(answer.body[:2000].decode("utf-8", "replace"), hide), pause, suppress=ruling.suppress,
            stop=ruling.stop,
        )  # fmt: skip

    def code(self, answer: Answer) -> str:
        """What the log shows of a refusal."""
        return str(answer.status)

    def _hidden(self) -> list[str]:
        return [*self._auth.secrets(), *(secret.reveal() for secret in self.opened())]


def json_request(url: str, body: object, headers: Mapping[str, str] | None = None, method: str = "POST") -> Request:
    """A request with a JSON body. Raises PayloadError for a value that JSON cannot hold."""
    return Request(url, encoded(body), {"content-type": "application/json", **(headers or {})}, method)


def _same(stopped: Verdict, rows: Sequence[Row]) -> list[Verdict]:
    """What stopped the destination, said of rows that were not sent because of it."""
    return [Verdict(row.action.action_id, "retry", stopped.code, stopped.message, stop=stopped.stop) for row in rows]
