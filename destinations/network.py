"""Which addresses a destination may connect to: public ones, unless its configuration names the host.

The host is resolved once, every address is checked, and the connection goes to an address that was checked, so a name
that changes its answer between check and connect (DNS rebinding) gains nothing. The ranges are written out because
`ipaddress.is_global` differs between Python releases and calls several unroutable or embedded ranges global.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence

from destinations.errors import AddressRefusedError

AddressLookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses; raises OSError when the name does not resolve."""

WEB_PORTS = frozenset({80, 443})
MAIL_PORTS = frozenset({25, 465, 587, 2525})

_SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
        "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    ).split()
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(text) for text in "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split()
)


def is_public(address: str) -> bool:
    """True for an address outside the special-purpose ranges; anything that is no address is not public."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _SPECIAL_V4)
    return parsed in _GLOBAL_V6 and not any(parsed in network for network in _SPECIAL_V6)


def is_allowed(host: str, allow_hosts: Collection[str]) -> bool:
    """True if the configuration names this host."""
    return _canonical(host) in {_canonical(allowed) for allowed in allow_hosts}


def _canonical(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of the host, in the system's order. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def checked_addresses(
    host: str, port: int, allow_hosts: Collection[str], ports: frozenset[int], lookup: AddressLookup = resolve
) -> Sequence[str]:
    """The addresses that may be connected to.

    Raises AddressRefusedError if any of them is not public (one bad answer spoils the name) or the port is not in
    `ports`; hosts of `allow_hosts` may have any address and port. Raises OSError when the name does not resolve.
    """
    if is_allowed(host, allow_hosts):
        return await lookup(_canonical(host), port)
    check_port(host, port, ports)
    addresses = await lookup(_canonical(host), port)
    if not addresses or not all(is_public(address) for address in addresses):
        raise AddressRefusedError(
            "D201", f"{host} is not a public address", f"to reach it on purpose: allow_hosts: [{host}]"
        )
    return addresses


def check_port(host: str, port: int, ports: frozenset[int]) -> None:
    """Raises AddressRefusedError for a port outside `ports`."""
    if port not in ports:
        allowed = ", ".join(str(allowed) for allowed in sorted(ports))
        raise AddressRefusedError(
            "D202", f"port {port} of {host} is not one of {allowed}", f"to use it on purpose: allow_hosts: [{host}]"
        )
