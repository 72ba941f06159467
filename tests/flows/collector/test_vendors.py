"""What each e-mail vendor reports over HTTP keeps back the next message, and a forged report does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from destinations import Inbound
from flows.runner import Runner
from tests.destinations.test_mail_vendors import mailgun_request, postmark_request, sendgrid_request, sns_request
from tests.flows.collector.kiosk import SECRETS, SETTINGS, collecting, with_collector
from tests.flows.killing import ENVIRONMENT, Kiosk

ADDRESS = "p0000@mail.example"
SECRET = "{{ env_var('VENDOR') }}"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail"
Report = tuple[Inbound, dict[str, Any]]
"""A request, and what the destination needs to check it; texts are values of the secret."""


def sendgrid(action: str) -> Report:
    events = [{"event": "bounce", "type": "bounce", "sg_event_id": "1", "email": ADDRESS, "timestamp": int(time.time()),
               "action_id": action}]  # fmt: skip
    request, more = sendgrid_request(json.dumps(events).encode() + b"\r\n", str(int(time.time())))
    return request, {"token": SECRET, **more}


def postmark(action: str) -> Report:
    item = {"RecordType": "SpamComplaint", "Email": ADDRESS, "Metadata": {"action_id": action}}
    return postmark_request(item, "vendor-secret"), {"token": SECRET, "inbound_secret": SECRET}


def mailgun(action: str) -> Report:
    item = {"event": "unsubscribed", "recipient": ADDRESS, "user-variables": {"action_id": action},
            "timestamp": time.time()}  # fmt: skip
    request = mailgun_request(item, str(int(time.time())), "vendor-secret")
    return request, {"token": SECRET, "domain": "mg.example.test", "inbound_secret": SECRET}


VENDORS: list[tuple[str, Callable[[str], Report], str]] = [
    ("sendgrid", sendgrid, "skipped(bounced)"), ("postmark", postmark, "skipped(unsubscribed)"),
    ("mailgun", mailgun, "skipped(unsubscribed)"),
]  # fmt: skip


@pytest.fixture
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kiosk]:
    for name, value in {**ENVIRONMENT, **SECRETS, "VENDOR": "vendor-secret"}.items():
        monkeypatch.setenv(name, value)
    with Kiosk(tmp_path) as opened:
        yield opened


def decided(kiosk: Kiosk, config: dict[str, Any]) -> tuple[Runner, str]:
    """A decided message of p0000 and one of p0001, with the vendor among the destinations; gives p0000's action."""
    file = kiosk.folder / "penstock.yaml"
    vendor = f"destinations:\n  vendor: {json.dumps(config)}\n"
    file.write_text(file.read_text(encoding="utf-8").replace("destinations:\n", vendor), encoding="utf-8")
    runner = with_collector(kiosk, SETTINGS + "  url: https://events.shop.example\n")
    kiosk.add(2, "letter")
    runner.tick()
    with kiosk.open() as warehouse:
        [row] = warehouse.rows("select action_id from penstock.outbox where contact_id = 'p0000' and step = 'confirm'")
    return runner, row["action_id"]


def confirmations(kiosk: Kiosk) -> list[tuple[str, str]]:
    with kiosk.open() as warehouse:
        found = warehouse.rows(
            "select contact_id, outcome from penstock.journal where kind = 'delivery' and step = 'confirm' "
            "order by contact_id"
        )
    return [(row["contact_id"], row["outcome"]) for row in found]


@pytest.mark.parametrize(("kind", "report", "outcome"), VENDORS, ids=[kind for kind, _, _ in VENDORS])
def test_a_vendors_report_keeps_the_next_message_back(
    kiosk: Kiosk, kind: str, report: Callable[[str], Report], outcome: str
) -> None:
    _, more = report("6f1c6b1e-0000-4000-8000-000000000001")
    request: Inbound | None = None
    if kind == "sendgrid":  # its key is made with its request
        request, more = report("6f1c6b1e-0000-4000-8000-000000000001")
    runner, action = decided(kiosk, {"type": kind, **more})
    genuine = request or report(action)[0]
    with collecting(kiosk) as url:

        def post(body: bytes, headers: dict[str, str]) -> int:
            return httpx.post(f"{url}/v1/inbound/vendor", content=body, headers=headers, trust_env=False).status_code

        # Mailgun signs a token in the body, the others the request.
        assert post(genuine.body.replace(b"p0000", b"p0001").replace(b'"tok"', b'"other"'), {}) == 401
        assert [post(genuine.body, dict(genuine.headers)) for _ in range(2)] == [200, 200]
    runner.deliver()
    assert confirmations(kiosk) == [("p0000", outcome), ("p0001", "sent")]
    with kiosk.open() as warehouse:
        [row] = warehouse.rows("select count(*) as n from penstock.events where source = 'inbound:vendor'")
    assert row == {"n": 1}, "a report that comes again is one event"


def test_a_slow_certificate_keeps_nobody_waiting(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(url: str) -> bytes:
        asked.set()
        go.wait(60)
        return b""

    monkeypatch.setattr("destinations.sns.certificate_at", slow)
    decided(kiosk, {"type": "ses", "region": "eu-west-1", "access_key_id": SECRET, "secret_access_key": SECRET,
                    "topics": [TOPIC]})  # fmt: skip
    answers: list[int] = []
    with collecting(kiosk) as url:
        request = sns_request("{}")

        def report() -> None:
            address = f"{url}/v1/inbound/vendor"
            answer = httpx.post(
                address, content=request.body, headers=dict(request.headers), trust_env=False, timeout=90
            )
            answers.append(answer.status_code)

        reporting = threading.Thread(target=report)
        reporting.start()
        try:
            assert asked.wait(60)
            assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        finally:
            go.set()
            reporting.join()
    assert answers == [401]
