"""Signed webhooks against a real receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from destinations import Action, ConfigurationError, create
from destinations.webhook import signature
from studio.demo.certificate import server_context, write_certificate
from studio.demo.fake_crm import CrmFault, FakeCrm
from tests.destinations.conftest import LOOPBACK, NOW, SECRETS, make, run, send, spec, webhook

OLD_KEY = "whsec_" + base64.b64encode(b"o" * 32).decode()


def config(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": url, "allow_hosts": LOOPBACK + ["localhost"], "timeout": "5s"} | more


def test_signature_of_the_published_vector() -> None:
    vector: Mapping[str, str] = spec("webhooks", "signature_vectors.json")["standard_webhooks_v1"]
    made = signature([vector["secret"]], vector["webhook-id"], vector["webhook-timestamp"], vector["payload"].encode())
    assert made == vector["webhook-signature"]


def test_signature_known_answer() -> None:
    """The example of the Standard Webhooks libraries."""
    made = signature(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_webhook_receiver_can_verify_with_either_key(receiver: HTTPServer) -> None:
    seen: list[Request] = []

    def take(request: Request) -> Response:
        seen.append(request)
        return Response(status=202)

    receiver.expect_request("/in", method="POST").respond_with_handler(take)
    keys = ["{{ env_var('SIGNING') }}", "{{ env_var('OLD') }}"]
    body = {"type": "order", "price": Decimal("9.50"), "day": date(2026, 3, 1), "when": NOW, "name": "Zoë"}
    (verdict,) = send(
        config(receiver.url_for("/in"), secrets=keys), webhook("a-9", body), secrets=SECRETS | {"OLD": OLD_KEY}
    )
    (request,) = seen
    assert (verdict.status, verdict.code) == ("sent", "202")
    assert json.loads(request.data) == {
        "type": "order",
        "price": 9.5,
        "day": "2026-03-01",
        "when": "2026-03-02T09:30:00",
        "name": "Zoë",
    }
    assert request.headers["webhook-id"] == "a-9"
    stamp = request.headers["webhook-timestamp"]
    assert int(stamp) == int(NOW.replace(tzinfo=UTC).timestamp())
    signatures = request.headers["webhook-signature"].split(" ")
    for key, given in zip((SECRETS["SIGNING"], OLD_KEY), signatures, strict=True):
        raw = base64.b64decode(key.removeprefix("whsec_"))
        expected = hmac.new(raw, f"a-9.{stamp}.".encode() + request.data, hashlib.sha256).digest()
        assert hmac.compare_digest(given, "v1," + base64.b64encode(expected).decode())


@pytest.mark.parametrize(
    ("status", "verdict", "stop"),
    [
        (200, "sent", None),
        (204, "sent", None),
        (301, "failed", None),
        (400, "failed", None),
        (401, "retry", "credentials"),
        (403, "retry", "credentials"),
        (404, "failed", None),
        (408, "retry", None),
        (410, "failed", "endpoint_gone"),
        (422, "failed", None),
        (425, "retry", None),
        (429, "retry", None),
        (500, "retry", None),
        (502, "unknown", None),
        (503, "retry", None),
        (504, "unknown", None),
        (599, "retry", None),
    ],
)
def test_webhook_statuses(receiver: HTTPServer, status: int, verdict: str, stop: str | None) -> None:
    receiver.expect_request("/in").respond_with_data("", status)
    (made,) = send(config(receiver.url_for("/in")), webhook())
    assert (made.status, made.code, made.stop) == (verdict, str(status), stop)


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("120", timedelta(minutes=2)),
        ("Mon, 02 Mar 2026 09:31:30 GMT", timedelta(seconds=90)),
        ("Mon, 02 Mar 2020 09:31:30 GMT", timedelta(0)),
        ("-5", timedelta(0)),
        ("99999999", timedelta(hours=24)),
        ("soon", None),
        ("", None),
    ],
)
def test_webhook_honours_retry_after_within_reason(receiver: HTTPServer, header: str, pause: timedelta | None) -> None:
    receiver.expect_request("/in").respond_with_data("", 429, headers={"Retry-After": header})
    (made,) = send(config(receiver.url_for("/in")), webhook())
    assert (made.status, made.retry_after) == ("retry", pause)


def test_webhook_redirect_is_never_followed(receiver: HTTPServer) -> None:
    """F50."""
    receiver.expect_request("/in").respond_with_data("", 307, headers={"Location": receiver.url_for("/trap")})
    receiver.expect_request("/trap").respond_with_data("", 200)
    (made,) = send(config(receiver.url_for("/in")), webhook())
    assert (made.status, made.code, len(receiver.log)) == ("failed", "307", 1)


@pytest.mark.parametrize(("fault", "code"), [("huge", "200"), ("trickle", "200")])
def test_webhook_endless_answer_frees_the_worker(fault: CrmFault, code: str) -> None:
    """F47: the status has been read, so the action is sent; the rest of the answer is not waited for."""
    with FakeCrm(token="x", script=[fault]) as fake:
        found = config(fake.url, headers={"authorization": "Bearer x"}, timeout="300ms")
        (made,) = send(found, webhook())
    assert (made.status, made.code) == ("sent", code)


@pytest.mark.parametrize(("fault", "code"), [("hang after", "timeout"), ("drop after", "reset"), ("drop", "reset")])
def test_webhook_lost_answer_is_unknown(fault: CrmFault, code: str) -> None:
    """F44."""
    with FakeCrm(token="x", script=[fault]) as fake:
        found = config(fake.url, headers={"authorization": "Bearer x"}, timeout="200ms")
        (made,) = send(found, webhook())
    assert (made.status, made.code, made.stop) == ("unknown", code, None)


def test_webhook_answer_text_is_scrubbed(receiver: HTTPServer) -> None:
    echo = f"bad: Zoë Zander <zoe@example.test>\n{SECRETS['SIGNING']} {SECRETS['TOKEN']} " + "x" * 1000
    receiver.expect_request("/in").respond_with_data(echo, 400)
    found = config(
        receiver.url_for("/in"),
        secret="{{ env_var('SIGNING') }}",
        headers={"x-api-key": "{{ env_var('TOKEN') }}"},
    )
    (made,) = send(found, webhook(body={"person": {"name": "Zoë Zander"}}))
    assert made.message.startswith("bad: *** <<address>> *** *** xxx")
    assert len(made.message) == 500


def test_webhook_payload_that_json_cannot_hold(receiver: HTTPServer) -> None:
    verdicts = send(config(receiver.url_for("/in")), webhook(body={"x": float("nan")}), webhook(body={"x": object()}))
    assert {(made.status, made.code) for made in verdicts} == {("failed", "unencodable")}
    assert receiver.log == []


@pytest.mark.parametrize("key", ["whsec_", "whsec_!!", "plain", "whsec_" + base64.b64encode(b"short").decode()])
def test_webhook_weak_or_broken_key_is_refused_when_opened(key: str) -> None:
    async def work() -> None:
        async with make(config("https://example.test", secret="{{ env_var('KEY') }}"), {"KEY": key}.__getitem__):
            pass

    with pytest.raises(ConfigurationError, match="D301") as caught:
        run(work())
    assert key not in str(caught.value).replace("whsec_ followed", "") or key == "whsec_"


def test_webhook_secret_with_a_line_break_stops_instead_of_splitting_headers(receiver: HTTPServer) -> None:
    receiver.expect_request("/in").respond_with_data("", 200)
    found = config(receiver.url_for("/in"), headers={"x-key": "{{ env_var('TOKEN') }}"})
    (made,) = send(found, webhook(), secrets={"TOKEN": "a\r\nx-admin: 1"})
    assert (made.status, made.code, made.stop, receiver.log) == ("retry", "D205", "configuration", [])


def test_webhook_headers_of_the_configuration_cannot_forge_the_signed_ones(receiver: HTTPServer) -> None:
    receiver.expect_request("/in").respond_with_data("", 200)
    send(config(receiver.url_for("/in"), headers={"Webhook-Id": "forged", "X-Team": "shop"}), webhook("a-7"))
    headers = receiver.log[0][0].headers
    assert (headers.getlist("webhook-id"), headers["x-team"]) == (["a-7"], "shop")


def test_webhook_notify_goes_to_the_url_of_its_target(receiver: HTTPServer) -> None:
    receiver.expect_request("/sales").respond_with_data("", 200)
    found = config(receiver.url_for("/in"), targets={"sales": receiver.url_for("/sales")})
    known = Action("n-1", "notify", "sales", "ann", 1, {"target": "sales", "text": "Hi"})
    verdicts = send(found, known, Action("n-2", "notify", "ops", "ann", 1, {"target": "ops", "text": "Hi"}))
    assert [(made.status, made.code) for made in verdicts] == [("sent", "200"), ("failed", "unknown_target")]
    assert json.loads(receiver.log[0][0].data) == {"target": "sales", "text": "Hi"}


def test_webhook_untrusted_certificate_stops(tmp_path: Path) -> None:
    with HTTPServer(host="127.0.0.1", port=0, ssl_context=server_context(write_certificate(tmp_path))) as server:
        (made,) = send(config(server.url_for("/in")), webhook())
        assert (made.status, made.code, made.stop, server.log) == ("retry", "certificate", "tls", [])


def test_webhook_silent_tls_server_is_not_sent() -> None:
    """No handshake, so no byte of the request: safe to repeat even where an unknown outcome is held."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (made,) = send(config(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout="100ms"), webhook())
    assert (made.status, made.code) == ("retry", "connect_timeout")


def test_webhook_timestamp_follows_the_clock_of_the_attempt(receiver: HTTPServer) -> None:
    times = iter([datetime(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC)])
    receiver.expect_request("/in").respond_with_data("", 200)

    async def work() -> None:
        destination = create("out", config(receiver.url_for("/in")), SECRETS.__getitem__, lambda: next(times))
        async with destination:
            await destination.send([webhook("a-1")])
            await destination.send([webhook("a-1")])

    run(work())
    stamps = [request.headers["webhook-timestamp"] for request, _ in receiver.log]
    assert stamps[0] == str(int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()))
    assert [request.headers["webhook-id"] for request, _ in receiver.log] == ["a-1", "a-1"]


def test_webhook_many_at_once_keep_their_order(receiver: HTTPServer) -> None:
    receiver.expect_request("/in").respond_with_data("", 202)
    actions = [webhook(f"a-{n}", {"n": n}) for n in range(40)]
    verdicts = send(config(receiver.url_for("/in")), *actions)
    assert [verdict.action_id for verdict in verdicts] == [action.action_id for action in actions]
    assert sorted(json.loads(request.data)["n"] for request, _ in receiver.log) == list(range(40))
