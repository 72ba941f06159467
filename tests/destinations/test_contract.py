"""What every destination promises, whatever system it speaks to."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from destinations import REGISTRY, Action, ConfigurationError, Verdict, create
from studio.demo.fake_crm import FakeCrm
from studio.demo.mail_server import MailServer
from tests.destinations.conftest import (
    LOOPBACK,
    SECRETS,
    clock,
    crm,
    email,
    make,
    run,
    send,
    service_account,
    task,
    webhook,
)
from tests.destinations.vendor_server import Effects, Recorded, Reply, VendorServer
from tests.destinations.vendors import VENDORS, settings

SENTINEL = "s3ntinel-0f-a-secret"


@dataclass
class Case:
    """A destination, its configuration against a working server, and what it can be asked to do."""

    type: str
    config: dict[str, Any]
    actions: list[Action]
    wrong_credentials: dict[str, Any]


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _case(type_: str, stack: ExitStack, receiver: HTTPServer) -> Case:
    common: dict[str, Any] = {"type": type_, "allow_hosts": LOOPBACK}
    match type_:
        case "recorder":
            return Case(type_, {"type": type_}, [email("a-1"), task("a-2"), webhook("a-3")], {})
        case "smtp":
            mail = stack.enter_context(MailServer(auth=("shop", SECRETS["PASSWORD"])))
            config = common | {
                "host": "127.0.0.1",
                "port": mail.port,
                "tls": "none",
                "username": "shop",
                "password": "{{ env_var('PASSWORD') }}",
                "notify_to": {"sales": "sales@example.test"},
            }
            notify = Action("a-3", "notify", "sales", "ann", 1, {"target": "sales", "text": "A big order"})
            actions = [email("a-1"), email("a-2", "bob@example.test"), notify]
            return Case(type_, config | {"from": "Shop <shop@example.test>"}, actions, {"PASSWORD": SENTINEL})
        case "webhook":
            receiver.expect_request("/in", headers={"authorization": "Bearer demo-token"}).respond_with_data("", 202)
            receiver.expect_request("/in").respond_with_data(f"not you: Bearer {SENTINEL}", 401)
            config = common | {
                "url": receiver.url_for("/in"),
                "secret": "{{ env_var('SIGNING') }}",
                "headers": {"authorization": "Bearer {{ env_var('TOKEN') }}"},
            }
            notify = Action("a-2", "notify", "sales", "ann", 1, {"target": "sales", "text": "Hi"})
            return Case(type_, config, [webhook("a-1"), notify], {"TOKEN": SENTINEL})
        case "http":
            receiver.expect_request("/in", headers={"x-key": "demo-token"}).respond_with_data("", 202)
            receiver.expect_request("/in").respond_with_data(f"not you: {SENTINEL}", 401)
            config = common | {
                "url": receiver.url_for("/in"),
                "roles": ["webhook"],
                "row": {"n": "$body.n"},
                "auth": {"headers": {"x-key": "{{ env_var('TOKEN') }}"}},
            }
            return Case(type_, config, [webhook("a-1"), webhook("a-2")], {"TOKEN": SENTINEL})
        case "hubspot":
            fake = stack.enter_context(FakeCrm())
            config = common | {"base_url": fake.url, "token": "{{ env_var('TOKEN') }}", "rate": "1000/s"}
            return Case(
                type_, config, [task("a-1"), crm("a-2", stage="trial"), task("a-3", "bob")], {"TOKEN": SENTINEL}
            )
        case _:
            vendor = VENDORS[type_]
            take = vendor.fake(Effects())
            server = stack.enter_context(VendorServer(lambda request: take(request) if _known(request) else _refusal()))
            wrong = {"TOKEN": SENTINEL, "PASSWORD": SENTINEL, "GOOGLE": service_account(f"{SENTINEL}@x.iam")}
            return Case(type_, settings(vendor, server.url), vendor.actions(3, False), wrong)


def _known(request: Recorded) -> bool:
    """Whether the request shows the token of these tests, or one that the fake has given for it."""
    given = request.headers.get("authorization", "")
    if given.startswith("Basic "):
        given = base64.b64decode(given.removeprefix("Basic ")).decode()
    given += request.headers.get("x-postmark-server-token", "")
    return SECRETS["TOKEN"] in given or given in ("Bearer s-1", "Bearer g-1") or request.path.endswith("/token")


def _refusal() -> Reply:
    return Reply(401, f"not you: {SENTINEL}".encode())


@pytest.fixture(params=sorted(REGISTRY))
def case(request: pytest.FixtureRequest, receiver: HTTPServer) -> Iterator[Case]:
    with ExitStack() as stack:
        yield _case(request.param, stack, receiver)


@pytest.fixture(params=sorted(set(REGISTRY) - {"recorder"}))
def speaking(request: pytest.FixtureRequest, receiver: HTTPServer) -> Iterator[Case]:
    """A destination that speaks over a socket."""
    with ExitStack() as stack:
        yield _case(request.param, stack, receiver)


def test_contract_one_verdict_per_action_in_order(case: Case) -> None:
    verdicts = send(case.config, *case.actions)
    assert [verdict.action_id for verdict in verdicts] == [action.action_id for action in case.actions]
    assert {verdict.status for verdict in verdicts} == {"sent"}


def test_contract_empty_batch(case: Case) -> None:
    assert list(send(case.config)) == []


def test_contract_unknown_kind_fails_only_its_row(speaking: Case) -> None:
    odd = Action("odd", "audience", "hello", "ann", 1, {})
    verdicts = send(speaking.config, speaking.actions[0], odd)
    assert [(verdict.status, verdict.code) for verdict in verdicts][1] == ("failed", "unsupported_kind")
    assert verdicts[0].status == "sent"


def test_contract_wrong_credentials_stop_the_destination(speaking: Case) -> None:
    """F48: one failure, not one per contact; rows keep."""
    verdicts = send(speaking.config, *speaking.actions, secrets=SECRETS | speaking.wrong_credentials)
    assert {(verdict.status, verdict.stop) for verdict in verdicts} == {("retry", "credentials")}


def test_contract_secret_never_shows(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """Wrong credentials that the server even echoes: neither verdicts, repr nor logs hold them."""
    caplog.set_level(logging.DEBUG)
    secrets = SECRETS | case.wrong_credentials
    verdicts = send(case.config, *case.actions, secrets=secrets)
    shown = repr(verdicts) + repr(make(case.config, secrets.__getitem__)) + caplog.text + repr(vars(make(case.config)))
    assert SENTINEL not in shown
    assert not [value for value in SECRETS.values() if value in shown]


def test_contract_nobody_listens_is_a_retry(speaking: Case) -> None:
    port = _unused_port()
    url = f"http://127.0.0.1:{port}"
    closed: dict[str, dict[str, Any]] = {"smtp": {"port": port}, "webhook": {"url": url}, "http": {"url": url}}
    verdicts = send(speaking.config | closed.get(speaking.type, {"base_url": url}), *speaking.actions)
    assert {(verdict.status, verdict.code, verdict.stop) for verdict in verdicts} == {("retry", "connect", None)}


def test_contract_loopback_needs_allow_hosts(speaking: Case) -> None:
    config = {**speaking.config, "allow_hosts": []}
    if speaking.type == "smtp":
        config |= {"tls": "starttls", "port": 587}
    verdicts = send(config, *speaking.actions)
    assert {(v.status, v.code, v.stop) for v in verdicts} == {("retry", "address_refused", "configuration")}


def test_contract_unknown_key_names_the_nearest(case: Case) -> None:
    with pytest.raises(ConfigurationError, match="did you mean allow_hosts"):
        make(case.config | {"allow_host": ["x"]})


def test_contract_overrides_reach_the_capabilities(case: Case) -> None:
    more: dict[str, Any] = {"retry_after": ["30s", "2h"], "on_unknown": "hold", "max_batch": 7, "concurrency": 2}
    made = make(case.config | more).capabilities
    assert [pause.total_seconds() for pause in made.retry_after] == [30, 7200]
    assert (made.on_unknown, made.max_batch, made.concurrency) == ("hold", 7, 2)
    assert REGISTRY[case.type].capabilities.max_batch != 7


def test_contract_missing_variable_is_named_when_opened(speaking: Case) -> None:
    empty: dict[str, str] = {}

    async def work() -> None:
        async with make(speaking.config, empty.__getitem__):
            pass

    with pytest.raises(ConfigurationError, match=r"environment variable \w+ is not set"):
        run(work())


@pytest.mark.parametrize(
    ("type_", "config"),
    [
        ("hubspot", {"token": SENTINEL}),
        ("webhook", {"url": "https://example.test", "secret": SENTINEL}),
        ("smtp", {"host": "mail.example.test", "username": "u", "password": SENTINEL}),
    ],
)
def test_literal_secrets_are_refused_and_not_repeated(type_: str, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be a reference") as caught:
        make({"type": type_, **config})
    assert SENTINEL not in str(caught.value)


def test_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="http, hubspot, .*recorder, .*webhook.*did you mean webhook"):
        create("out", {"type": "webhok"}, SECRETS.__getitem__, clock)


def test_a_type_that_writes_times_asks_for_a_clock() -> None:
    with pytest.raises(ConfigurationError, match="needs a clock"):
        create("out", {"type": "webhook", "url": "https://example.test"}, SECRETS.__getitem__)


def test_wrong_values_are_named_but_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="concurrency") as caught:
        make({"type": "webhook", "url": "https://example.test", "concurrency": SENTINEL})
    assert SENTINEL not in str(caught.value)


def test_verdicts_compare_as_values() -> None:
    assert Verdict("a", "sent", "202") == Verdict("a", "sent", "202")
