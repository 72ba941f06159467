"""Nothing but public addresses, whatever the name says and whenever it says it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from pytest_httpserver import HTTPServer

from destinations.errors import AddressRefusedError, NotSentError
from destinations.network import is_public
from destinations.transport import Transport
from tests.destinations.conftest import run

SPECIAL = (
    "0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 "
    "192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 "
    ":: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:db8::1 "
    "2002:7f00:1:: 3fff::1 fc00::1 fd00::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 not-an-address"
).split()


@pytest.mark.parametrize("address", SPECIAL)
def test_special_purpose_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111"])
def test_ordinary_address_is_public(address: str) -> None:
    assert is_public(address)


class Names:
    """A name server under the test's control; each look-up takes the next answer."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0)


def _post(url: str, names: Names, allow_hosts: Sequence[str] = (), timeout: float = 5) -> object:
    from datetime import timedelta

    async def work() -> object:
        transport = Transport(allow_hosts=allow_hosts, lookup=names, timeout=timedelta(seconds=timeout))
        try:
            return (await transport.post(url, b"{}", {})).status
        finally:
            await transport.close()

    return run(work())


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3:443/",
        "https://2130706433/",
        "https://0/",
        "https://127.1/",
        "http://93.184.216.34/",
        "http://example.test/",
        "https://example.test:8443/",
        "https://93.184.216.34:22/",
        "ftp://example.test/",
        "file:///etc/passwd",
        "gopher://example.test/",
        "//example.test/",
        "https:///x",
        "not a url",
    ],
)
def test_refused_before_anything_is_resolved(url: str) -> None:
    names = Names()
    with pytest.raises(AddressRefusedError):
        _post(url, names)
    assert names.asked == []


@pytest.mark.parametrize("url", ["https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://localhost./", "https://intra/"])
def test_names_of_private_addresses_are_refused(url: str) -> None:
    with pytest.raises(AddressRefusedError):
        _post(url, Names(["127.0.0.1"]))


def test_one_private_address_among_public_ones_spoils_the_name() -> None:
    with pytest.raises(AddressRefusedError):
        _post("https://mixed.example.test/", Names(["93.184.216.34", "10.0.0.1"]))


def test_rebinding_cannot_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is public when it is checked and private when asked again: it is not asked again, and the connection
    goes to what was checked.
    """
    connected: list[object] = []

    async def refuse(loop: object, sock: object, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncio.selector_events.BaseSelectorEventLoop.sock_connect", refuse)
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    with pytest.raises(NotSentError) as caught:
        _post("https://rebind.example.test/", names)
    assert (caught.value.code, names.asked) == ("connect", ["rebind.example.test"])
    assert connected == [("93.184.216.34", 443)]


def test_connects_to_the_checked_address_and_checks_each_new_connection(receiver: HTTPServer) -> None:
    """An allowed name is resolved once per connection, and the connection goes to that very address."""
    receiver.expect_request("/in").respond_with_data("", 200)
    names = Names(["127.0.0.1"], ["203.0.113.9"])
    url = f"http://allowed.example.test:{receiver.port}/in"
    assert _post(url, names, ["allowed.example.test"]) == 200
    assert names.asked == ["allowed.example.test"]
    assert receiver.log[0][0].host == f"allowed.example.test:{receiver.port}"


def test_allow_hosts_is_exact() -> None:
    for host in ("evil-allowed.example.test", "allowed.example.test.evil.test", "sub.allowed.example.test"):
        with pytest.raises(AddressRefusedError):
            _post(f"https://{host}/", Names(["127.0.0.1"]), ["allowed.example.test"])


def test_names_that_do_not_resolve_are_not_sent() -> None:
    class Unknown(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(NotSentError) as caught:
        _post("https://nowhere.example.test/", Unknown())
    assert caught.value.code == "dns"


def test_proxy_variables_are_ignored(receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    receiver.expect_request("/in").respond_with_data("", 200)
    assert _post(receiver.url_for("/in"), Names(["127.0.0.1"]), ["localhost", "127.0.0.1"]) == 200
