"""HTTP for destinations: one bounded, guarded request at a time.

httpx over its aiohttp transport, used below `httpx.AsyncClient` on purpose: the client would log every URL (which may
be a secret), keep cookies and read proxy variables. A request is never redirected, ends within a total deadline, reads
at most `max_response` bytes and connects only to addresses that `network` has checked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from destinations.classification import Trouble
from destinations.errors import AddressRefusedError, ConfigurationError, NotSentError, OutcomeUnknownError
from destinations.network import WEB_PORTS, AddressLookup, checked_addresses, is_allowed, resolve

MAX_RESPONSE = 4 * 1024 * 1024
CONNECT_TIMEOUT = timedelta(seconds=10)
# Below the 5 s after which common servers drop an idle connection: a POST must not meet one that is just closing.
_KEEP_ALIVE = 4.0
TIMEOUT = timedelta(seconds=30)

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. Header names are lower case; `complete` is False when the body was cut at a limit."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    complete: bool = True


class _GuardedResolver(AbstractResolver):
    """Every name aiohttp connects to passes here, and it connects to nothing but what comes back."""

    def __init__(self, allow_hosts: Collection[str], lookup: AddressLookup) -> None:
        self._allow_hosts = allow_hosts
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await checked_addresses(host, port, self._allow_hosts, WEB_PORTS, self._lookup)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        return


class Transport:
    """Requests of one destination; open it inside a running event loop, `close` it there."""

    def __init__(
        self,
        *,
        allow_hosts: Collection[str] = (),
        timeout: timedelta = TIMEOUT,
        max_response: int = MAX_RESPONSE,
        connections: int = 8,
        tls: ssl.SSLContext | None = None,
        lookup: AddressLookup = resolve,
    ) -> None:
        self._allow_hosts = tuple(allow_hosts)
        self._timeout = timeout.total_seconds()
        # Well before the total deadline, so that "not connected" is never mistaken for "no answer".
        self._connect = min(CONNECT_TIMEOUT, timeout / 2).total_seconds()
        self._max_response = max_response
        self._lookup = lookup
        self._connections = connections
        self._tls = tls or _default_tls()
        self._http = AiohttpTransport(verify=self._tls, trust_env=False, client=self._session)

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_GuardedResolver(self._allow_hosts, self._lookup),
            use_dns_cache=False,
            ssl=self._tls,
            limit=self._connections,
            keepalive_timeout=_KEEP_ALIVE,
        )
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        # One call is one request: a PUT or DELETE whose connection was lost is ours to judge, not to be sent once more.
        session._retry_connection = False
        return session

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST once; see `request`."""
        return await self.request("POST", url, body, headers)

    async def request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Ask once.

        Raises AddressRefusedError, ConfigurationError, NotSentError (nothing was written) or OutcomeUnknownError (it
        was, or may have been). The code of the latter two is a `Trouble`.
        """
        try:
            request = httpx.Request(method, url, content=body, headers={**headers, "accept-encoding": "identity"})
        except httpx.InvalidURL:
            raise AddressRefusedError("D203", "the URL cannot be read") from None
        except ValueError:
            raise _unsendable() from None
        await self._check(request.url)
        request.extensions["timeout"] = {"connect": self._connect, "pool": self._connect, "read": self._timeout}
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                response = await self._http.handle_async_request(request)
                return await self._read(response, deadline)
        except TimeoutError:
            raise OutcomeUnknownError(Trouble.TIMEOUT, "no answer within the deadline") from None
        except Exception as error:
            raise _translated(error) from None

    async def _check(self, url: httpx.URL) -> None:
        """A literal address never reaches the resolver, and a wrong scheme or port needs no look-up."""
        if url.scheme not in _DEFAULT_PORTS or not url.host:
            raise AddressRefusedError("D203", "the URL must start with https:// and name a host")
        if url.scheme == "http" and not is_allowed(url.host, self._allow_hosts):
            raise AddressRefusedError("D204", f"{url.host} must be reached by https", "or name it in allow_hosts")
        port = url.port or _DEFAULT_PORTS[url.scheme]
        if url.host.replace(".", "").isdigit() or ":" in url.host:
            await checked_addresses(url.host, port, self._allow_hosts, WEB_PORTS, _itself)

    async def _read(self, response: httpx.Response, deadline: asyncio.Timeout) -> Answer:
        """The status is known by now, so a body that is too long or too slow is cut, not an error."""
        body = bytearray()
        complete = True
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._max_response:
                    complete = False
                    break
        except (httpx.HTTPError, aiohttp.ClientError, asyncio.CancelledError) as error:
            complete = False
            if isinstance(error, asyncio.CancelledError) and not deadline.expired():
                raise
        if not complete:
            _abort(response)
        await response.aclose()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, bytes(body[: self._max_response]), complete)


def _abort(response: httpx.Response) -> None:
    """Drop the connection instead of draining it back into the pool."""
    inner: Any = getattr(response.stream, "_aiohttp_response", None)
    if inner is not None:
        inner.close()


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """Reading the system's certificates takes 30 ms; connections share them and change nothing in them."""
    return ssl.create_default_context()


async def _itself(host: str, port: int) -> list[str]:
    return [host]


def _translated(error: Exception) -> Exception:
    """The transport folds several aiohttp errors into ConnectTimeout; its cause tells whether anything was written."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    match cause:
        case AddressRefusedError():
            return cause
        case aiohttp.ClientConnectorCertificateError():
            return NotSentError(Trouble.CERTIFICATE, "the certificate of the host was not accepted")
        case aiohttp.ClientSSLError():
            return NotSentError(Trouble.TLS, "no TLS connection could be made")
        case aiohttp.ClientConnectorDNSError():
            return NotSentError(Trouble.DNS, "the host name does not resolve")
        case aiohttp.ClientConnectorError():
            return NotSentError(Trouble.CONNECT, "the connection was refused or unreachable")
        case aiohttp.ConnectionTimeoutError():
            return NotSentError(Trouble.CONNECT_TIMEOUT, "no connection within the deadline")
        case aiohttp.InvalidURL():
            return AddressRefusedError("D203", "the URL cannot be read")
        case aiohttp.ServerTimeoutError():
            return OutcomeUnknownError(Trouble.TIMEOUT, "no answer within the deadline")
        case aiohttp.ClientError() | OSError() | httpx.HTTPError():
            return OutcomeUnknownError(Trouble.RESET, "the connection was lost before an answer")
        case ValueError():
            return _unsendable()
        case _:
            return error


def _unsendable() -> ConfigurationError:
    return ConfigurationError("D205", "a header or the URL holds characters that HTTP cannot carry")
