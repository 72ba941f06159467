"""Vendors described in YAML alone."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from ruamel.yaml import YAML

from destinations import REGISTRY, ConfigurationError
from tests.destinations.conftest import LOOPBACK, crm, email, make, send, webhook
from tests.destinations.vendor_server import Effects, Recorded, Reply, VendorServer

GUIDE = Path(__file__).parents[2] / "docs" / "connect_a_vendor.md"


def blocks() -> list[Any]:
    """The YAML of the guide."""
    return [YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)]


def config(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "roles": ["webhook"], "url": url, "row": "$body", "allow_hosts": LOOPBACK} | more


def loyalty(effects: Effects, seen: list[Recorded]) -> Any:
    """The loyalty program of the guide."""

    def take(request: Recorded) -> Reply:
        seen.append(request)
        if request.headers.get("x-api-key") != "demo-token":
            return Reply(401)
        rows = json.loads(request.body)["members"]
        results = []
        for row in rows:
            bad = row["fields"]["tier"] == "bad"
            if not bad:
                effects.keep(row["email"], row["fields"], row["ref"])
            results.append({"code": "no_tier" if bad else "ok", "text": f"not {row['email']}", "member_id": 7})
        return Reply(200, json.dumps({"results": results}).encode())

    return take


def test_the_vendor_of_the_guide_is_connected_by_its_yaml() -> None:
    effects, seen = Effects(), list[Recorded]()
    with VendorServer(loyalty(effects, seen)) as server:
        (found,) = [block["destinations"]["loyalty"] for block in blocks() if "destinations" in block]
        found |= {"url": server.url + "/v2/members", "allow_hosts": LOOPBACK, "rate": "10000/s", "concurrency": 1}
        actions = [crm(f"a-{n}", f"c{n}", tier="bad" if n == 60 else "gold") for n in range(120)]
        verdicts = send(found, *actions, secrets={"LOYALTY_KEY": "demo-token"})
    assert [json.loads(request.body)["members"].__len__() for request in seen] == [50, 50, 20]
    assert seen[0].path == "/v2/members"
    assert json.loads(seen[0].body)["members"][0] == {
        "ref": "a-0",
        "email": "c0@example.test",
        "fields": {"tier": "gold"},
    }
    failed = [verdict for verdict in verdicts if verdict.status != "sent"]
    assert [(v.action_id, v.status, v.code, v.message) for v in failed] == [
        ("a-60", "failed", "200 no_tier", "not ***")
    ]
    assert verdicts[0].receipt == {"id": "7"}
    assert dict(effects.count) == {f"a-{n}": 1 for n in range(120) if n != 60}


def test_the_guide_lists_what_there_is() -> None:
    text = GUIDE.read_text()
    for block in blocks():
        if isinstance(block, dict) and "auth" in block:
            make(config("https://api.example.test", **block))
        if isinstance(block, dict) and "answer" in block:
            make(config("https://api.example.test", max_batch=5, **block))
    assert REGISTRY["http"].abilities({"roles": ["crm"]}).roles == {"crm"}
    assert "missing_value" in text


def test_one_at_a_time_with_values_in_the_url(receiver: HTTPServer) -> None:
    receiver.expect_request(re.compile(".*"), method="PUT").respond_with_json({"ok": True})
    found = config(
        receiver.url_for("/people/") + "${contact.id}/x", roles=["crm"], method="PUT", idempotency="server_key",
        row={"plan": "$set.plan", "age": "$set.age?", "who": "Contact ${contact.id} $$"},
        headers={"X-Source": "penstock"}, key={"header": "Idempotency-Key", "lifetime": "24h"},
    )  # fmt: skip
    (verdict,) = send(found, crm("a-1", "a/../b?c", plan="pro"))
    ((request, _),) = receiver.log
    assert verdict.status == "sent"
    assert request.environ["RAW_URI"] == "/people/a%2F..%2Fb%3Fc/x"
    assert request.json == {"plan": "pro", "who": "Contact a/../b?c $"}
    assert (request.headers["x-source"], request.headers["idempotency-key"]) == ("penstock", "a-1")
    made = make(found).capabilities
    assert (made.on_unknown, made.key_lifetime) == ("retry", timedelta(hours=24))


def test_form_and_basic(receiver: HTTPServer) -> None:
    receiver.expect_request("/send").respond_with_json({"ok": True})
    found = config(
        receiver.url_for("/send"), roles=["email"], format="form",
        auth={"basic": {"username": "api", "password": "{{ env_var('TOKEN') }}"}},
        row={"to": "$to", "subject": "$subject", "html": "$html?"},
    )  # fmt: skip
    (verdict,) = send(found, email())
    ((request, _),) = receiver.log
    assert verdict.status == "sent"
    assert dict(request.form) == {"to": "ann@example.test", "subject": "Hello"}
    assert request.authorization is not None and request.authorization.password == "demo-token"


def test_a_missing_value_fails_its_row_alone(receiver: HTTPServer) -> None:
    receiver.expect_request("/in").respond_with_json([{}, {}])
    found = config(receiver.url_for("/in"), row={"n": "$body.n"}, max_batch=10)
    verdicts = send(found, webhook("a-1"), webhook("a-2", {"m": 1}), webhook("a-3"))
    assert [(v.status, v.code) for v in verdicts] == [("sent", "200"), ("failed", "missing_value"), ("sent", "200")]


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ({"ok": True}, "sent", "200"),
        ({"ok": False, "error": "channel_not_found"}, "failed", "200 channel_not_found"),
        ({"ok": False, "error": "ratelimited"}, "retry", "200 ratelimited"),
    ],
)
def test_a_success_that_is_none(receiver: HTTPServer, answer: Any, status: str, code: str) -> None:
    receiver.expect_request("/in").respond_with_json(answer, headers={"Retry-After": "3"})
    shape = {"success": {"ok": True}, "call_error": "error", "retry": ["ratelimited"]}
    (verdict,) = send(config(receiver.url_for("/in"), answer=shape), webhook())
    assert (verdict.status, verdict.code) == (status, code)
    assert verdict.retry_after == (timedelta(seconds=3) if status == "retry" else None)


@pytest.mark.parametrize(
    ("unit", "value", "pause"),
    [("seconds", "9", 9), ("milliseconds", "9000", 9), ("epoch", "1772443809", 9), ("seconds", "soon", None)],
)
def test_a_header_that_says_when_to_come_back(receiver: HTTPServer, unit: str, value: str, pause: int | None) -> None:
    """The clock of the tests stands at 2026-03-02 09:30, which is 1772443800."""
    receiver.expect_request("/in").respond_with_data("", 429, headers={"X-Reset": value})
    found = config(receiver.url_for("/in"), wait={"header": "X-Reset", "unit": unit})
    (verdict,) = send(found, webhook())
    assert verdict.retry_after == (None if pause is None else timedelta(seconds=pause))


@pytest.mark.parametrize(
    ("meaning", "status", "stop"),
    [
        ("retry", "retry", None),
        ("failed", "failed", None),
        ("unknown", "unknown", None),
        ("stop", "retry", "credentials"),
    ],
)
def test_statuses_are_overridden(receiver: HTTPServer, meaning: str, status: str, stop: str | None) -> None:
    receiver.expect_request("/in").respond_with_data("", 418)
    found = config(receiver.url_for("/in"), statuses={418: meaning})
    (verdict,) = send(found, webhook())
    assert (verdict.status, verdict.stop) == (status, stop)


def test_client_credentials_are_fetched_once_and_again_after_a_401() -> None:
    """A token is used until it is refused, then one new one is tried; the row is sent once."""
    tokens: list[str] = []
    seen: list[str] = []

    def take(request: Recorded) -> Reply:
        if request.path == "/token":
            assert b"client_secret=demo-token" in request.body
            tokens.append(f"t-{len(tokens)}")
            return Reply(200, json.dumps({"access_token": tokens[-1], "expires_in": 3600}).encode())
        seen.append(request.headers["authorization"])
        return Reply(401 if request.headers["authorization"] == "Bearer t-0" and len(seen) > 2 else 200)

    with VendorServer(take) as server:
        grant = {"token_url": server.url + "/token", "client_id": "p", "client_secret": "{{ env_var('TOKEN') }}"}
        found = config(server.url + "/in", auth={"client_credentials": grant}, concurrency=1)
        verdicts = send(found, *(webhook(f"a-{n}") for n in range(3)))
    assert {verdict.status for verdict in verdicts} == {"sent"}
    assert (tokens, seen) == (["t-0", "t-1"], ["Bearer t-0"] * 3 + ["Bearer t-1"])
    assert make(found).capabilities.refreshes


@pytest.mark.parametrize(("status", "stop"), [(400, "credentials"), (401, "credentials"), (503, None), (429, None)])
def test_a_token_that_is_not_given(status: int, stop: str | None) -> None:
    with VendorServer(lambda request: Reply(status, b"demo-token")) as server:
        grant = {"token_url": server.url + "/token", "client_id": "p", "client_secret": "{{ env_var('TOKEN') }}"}
        verdicts = send(config(server.url, auth={"client_credentials": grant}), webhook(), webhook("a-2"))
    assert {(v.status, v.code, v.stop) for v in verdicts} == {("retry", f"token {status}", stop)}
    assert "demo-token" not in repr(verdicts)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"row": {"n": "$nothing.n"}}, r"row has no \$nothing; there are: action_id"),
        ({"row": {"n": "price: $5"}}, r"row holds a \$ that is no placeholder"),
        ({"body": {"n": "$contact"}, "max_batch": 2}, r"body has no \$contact; there are: row, rows"),
        ({"url": "https://${contact.id}.example.test/"}, "url cannot take its host from an action"),
        ({"url": "https://example.test/${contact.id}", "max_batch": 2}, r"url has no \$contact"),
        ({"auth": {"bearer": "{{ env_var('A') }}", "headers": {}}}, "auth takes one of"),
        ({"auth": {"bearer": "plain"}}, "must be a reference"),
        ({"answer": {"pattern": "in_order"}}, "pattern in_order needs `error`"),
        ({"key": {"header": "Idempotency-Key"}, "max_batch": 2}, "needs max_batch: 1"),
        ({"statuses": {99: "retry"}}, "no HTTP status 99"),
        ({"format": "form", "row": "$body"}, "form needs a map"),
        ({"roles": []}, "roles"),
        ({"roles": ["mail"]}, "roles"),
    ],
)
def test_what_is_wrong_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make(config("https://example.test") | wrong)


def test_a_value_in_a_body_stays_a_value(receiver: HTTPServer) -> None:
    """A contact's own text is never read as a placeholder."""
    receiver.expect_request("/in").respond_with_data("")
    text = "$contact.email ${to} $$"
    found = config(receiver.url_for("/in"), row={"n": "$body.n"}, body={"all": ["$row"]})
    send(found, webhook("a-1", {"n": text}))
    ((request, _),) = receiver.log
    assert request.json == {"all": [{"n": text}]}
