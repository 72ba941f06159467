"""Signed requests that come in: taken when they are genuine, refused without a word too many otherwise."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from destinations import Inbound, InboundRefused, Received
from destinations.inbound import check_standard_webhook, json_list, moment_of
from destinations.webhook import signature
from tests.destinations.conftest import NOW, SECRETS, make

KEY = SECRETS["SIGNING"]
SECONDS = str(int(NOW.replace(tzinfo=UTC).timestamp()))


def vectors(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[2].parent / "shared" / "vendor_specs" / "webhooks" / "signature_vectors.json"
    if not path.is_file():
        pytest.skip("the vendor descriptions are not beside this repository")
    found: dict[str, Any] = json.loads(path.read_text())[name]
    return found


def signed(body: bytes, message: str = "m-1", seconds: str = SECONDS, key: str = KEY) -> Inbound:
    headers = {
        "webhook-id": message,
        "webhook-timestamp": seconds,
        "webhook-signature": signature([key], message, seconds, body),
    }
    return Inbound(headers, body)


def received(request: Inbound, **more: Any) -> Received:
    config = {"type": "webhook", "url": "https://example.test", "inbound_secrets": ["{{ env_var('SIGNING') }}"]}
    return make(config | more).parse_inbound(request, NOW)


def test_signed_event_is_taken() -> None:
    data = {"type": "order.paid", "timestamp": "2026-03-02T10:00:00+01:00", "data": {"email": "ann@example.test"}}
    got = received(signed(json.dumps(data).encode()))
    (event,) = got.events
    assert (event.event_id, event.name, event.time) == ("webhook:m-1", "order_paid", datetime(2026, 3, 2, 9))
    assert (event.email, event.data, got.once) == ("ann@example.test", data["data"], "webhook:m-1")
    assert "ann@" not in repr(event)


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "webhook-signature", "body"])
def test_anything_changed_is_refused(part: str) -> None:
    request = signed(b'{"type":"a","data":{}}')
    if part == "body":
        forged = Inbound(request.headers, request.body + b" ")
    else:
        forged = Inbound({**request.headers, part: request.headers[part] + "1"}, request.body)
    with pytest.raises(InboundRefused) as caught:
        received(forged)
    assert (caught.value.status, caught.value.code) == (401, "D401")


def test_missing_headers_are_refused() -> None:
    with pytest.raises(InboundRefused, match="D401"):
        received(Inbound({}, b"{}"))


@pytest.mark.parametrize("offset", [timedelta(minutes=-6), timedelta(minutes=6)])
def test_stale_and_future_requests_are_refused(offset: timedelta) -> None:
    seconds = str(int((NOW + offset).replace(tzinfo=UTC).timestamp()))
    with pytest.raises(InboundRefused, match="D402"):
        received(signed(b'{"type":"a"}', seconds=seconds))


@pytest.mark.parametrize("body", [b"not json", b"[]", b"{}", b'{"type":"a","data":[]}', b'{"type":"a b"}', b"[" * 9999])
def test_unreadable_bodies_are_refused_and_not_repeated(body: bytes) -> None:
    with pytest.raises(InboundRefused) as caught:
        received(signed(body))
    assert caught.value.status == 400
    assert body.decode() not in str(caught.value) or body in (b"[]", b"{}")


def test_secrets_can_be_rotated() -> None:
    old = "whsec_" + "b2xk" * 8
    got = received(
        signed(b'{"type":"a"}', key=KEY),
        inbound_secrets=[
            "{{ env_var('TOKEN', 'x') }}",
            "{{ env_var('SIGNING') }}",
            f"{{{{ env_var('OLD', '{old}') }}}}",
        ],
    )
    assert got.events[0].name == "a"


def test_without_a_secret_nothing_is_taken() -> None:
    with pytest.raises(InboundRefused, match="has no inbound_secrets"):
        received(signed(b'{"type":"a"}'), inbound_secrets=[])


def test_a_destination_that_takes_nothing_back_says_so() -> None:
    with pytest.raises(InboundRefused, match="takes no requests") as caught:
        make({"type": "recorder"}).parse_inbound(Inbound({}, b""), NOW)
    assert caught.value.status == 404


def test_standard_webhooks_vector() -> None:
    known = vectors("standard_webhooks_v1")
    request = Inbound(
        {name: known[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature")},
        known["payload"].encode(),
    )
    sent = datetime.fromtimestamp(int(known["webhook-timestamp"]), UTC).replace(tzinfo=None)
    assert check_standard_webhook(request, [known["secret"]], sent) == (known["webhook-id"], sent)


def test_too_many_events_are_refused() -> None:
    with pytest.raises(InboundRefused) as caught:
        json_list([{}] * 1001)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1600112492, datetime(2020, 9, 14, 19, 41, 32)),
        ("1600112492.5", datetime(2020, 9, 14, 19, 41, 32, 500000)),
        (1600112492000, datetime(2020, 9, 14, 19, 41, 32)),
        ("2020-09-14T19:41:32Z", datetime(2020, 9, 14, 19, 41, 32)),
        ("yesterday", NOW),
        (None, NOW),
        ("9" * 400, NOW),
    ],
)
def test_times_of_every_kind(value: object, moment: datetime) -> None:
    assert moment_of(value, NOW) == moment
