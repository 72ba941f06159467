"""Reports of outside systems: forged, stale and replayed ones are turned away, and what they say becomes events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx
import orjson
import pytest

from destinations import create
from destinations.base import Action, Capabilities, Clock, Destination, SecretLookup, Verdict
from destinations.inbound import Inbound, InboundEvent, OptOut, Received
from destinations.webhook import signature
from flows.collector.inbound import Reports
from tests.flows.collector.serving import NOW, Served, served
from tests.flows.engine.deliveries import no_secrets
from tests.flows.killing import SECRET

ACTION = "6f1c6b1e-0000-4000-8000-000000000001"
BODY = {"type": "order.paid", "timestamp": "2026-03-02T08:59:00Z", "data": {"email": "ann@mail.example", "total": 5}}


class Vendor(Destination):
    """A vendor that reports a bounce, says who was bounced, and wants its address confirmed."""

    type: ClassVar[str] = "vendor"
    capabilities = Capabilities(roles=frozenset({"email"}), idempotency="none")

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        return cls()

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        return []

    def parse_inbound(self, request: Inbound, now: Any) -> Received:
        event = InboundEvent(
            "v1", "email_bounced", now, ACTION, "ann@mail.example", data={"url": request.url, "x": "a\0b"},
            opt_out=OptOut("bounced", "email"),
        )  # fmt: skip
        odd = InboundEvent(
            "v2", "email_unsubscribed", now, "not ours", opt_out=OptOut("unsubscribed", "email", "g", True)
        )
        scanned = InboundEvent("v3", "email_clicked", now, ACTION, machine=True)
        confirm = "https://vendor.example/confirm" if b"confirm" in request.body else None
        return Received((event, odd, scanned), answer="got it", confirm=confirm)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    config = {"type": "webhook", "url": "https://x.example", "inbound_secrets": ["{{ env_var('S') }}"]}
    made = {
        "shop": create("shop", config, {"S": SECRET}.__getitem__, lambda: NOW),
        "unset": create("unset", config, no_secrets, lambda: NOW), "vendor": Vendor(),
        "silent": create("silent", {"type": "recorder"}, no_secrets, lambda: NOW),
    }  # fmt: skip
    with served(tmp_path / "buffer", parts=[Reports(made, "https://events.shop.example", _confirm)]) as found:
        yield found


async def _confirm(url: str) -> bool:
    return url != "https://vendor.example/confirm"


def report(
    here: Served, body: bytes = orjson.dumps(BODY), message: str = "m1", age: int = 0, secret: str = SECRET,
    signed: bytes | None = None,
) -> httpx.Response:  # fmt: skip
    stamp = str(int((NOW.replace(tzinfo=UTC) - timedelta(seconds=age)).timestamp()))
    headers = {"webhook-id": message, "webhook-timestamp": stamp, "content-type": "application/json",
               "webhook-signature": signature([secret], message, stamp, signed or body)}  # fmt: skip
    return here.client.post("/v1/inbound/shop", content=body, headers=headers)


def test_a_signed_report_becomes_an_event_once(here: Served) -> None:
    assert [report(here).status_code for _ in range(3)] == [200, 200, 200]
    [line] = here.lines()
    assert (line["source"], line["name"]) == ("inbound", "shop")
    assert line["events"] == [{
        "id": "webhook:m1", "name": "order_paid", "time": "2026-03-02T08:59:00", "action_id": None,
        "email": "ann@mail.example", "phone": None, "properties": BODY["data"],
    }]  # fmt: skip
    here.watch.seconds += 601
    assert report(here).status_code == 200
    assert len(here.lines()) == 2, "by then it would be refused for its age; the id counts once anyway"


def test_forged_and_stale_reports_are_turned_away(here: Served) -> None:
    other = "whsec_" + "QUFB" * 10
    answers = [
        report(here, secret=other), report(here, body=b"{}", signed=orjson.dumps(BODY)), report(here, age=301),
        report(here, age=-301), here.client.post("/v1/inbound/shop", content=orjson.dumps(BODY)),
    ]  # fmt: skip
    assert [(each.status_code, each.json()["error"]) for each in answers] == [
        (401, "D401"), (401, "D401"), (401, "D402"), (401, "D402"), (401, "D401"),
    ]  # fmt: skip
    assert here.lines() == []
    assert report(here, age=299).status_code == 200


def test_what_is_not_taken_back_is_not_there(here: Served) -> None:
    assert here.client.post("/v1/inbound/nobody", content=b"{}").status_code == 404
    assert here.client.post("/v1/inbound/silent", content=b"{}").status_code == 404
    unset = here.client.post("/v1/inbound/unset", content=b"{}")
    assert (unset.status_code, SECRET in unset.text) == (503, False)
    assert report(here, body=b" " * 1_000_001).status_code == 413
    assert report(here, body=b"[" * 500_000).status_code == 400


def test_a_vendors_words_keep_their_meaning(here: Served) -> None:
    answer = here.client.post("/v1/inbound/vendor?a=b", content=b"hello")
    assert (answer.status_code, answer.text) == (200, "got it")
    bounced, left, scanned = here.events()
    assert scanned["name"] == "email_machine_clicked"
    assert bounced["opt_out"] == {"reason": "bounced", "scope": "all", "channel": "email"}
    assert bounced["properties"] == {
        "url": "https://events.shop.example/v1/inbound/vendor?a=b", "x": "a\ufffdb",
    }  # fmt: skip
    assert (left["opt_out"], left["action_id"]) == (
        {"reason": "resubscribed", "scope": "g", "channel": "email"}, None,
    )  # fmt: skip


def test_an_address_that_cannot_be_confirmed_is_asked_for_again(here: Served) -> None:
    answer = here.client.post("/v1/inbound/vendor", content=b"confirm")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert here.lines() == []
