"""The demo's servers do what they promise: same seed, same faults; what is kept is what was sent."""

from __future__ import annotations

import smtplib
from collections.abc import Mapping

import httpx
import pytest

from studio.demo.fake_crm import CrmFault, FakeCrm
from studio.demo.mail_server import MailServer, ReceivedMail

UPSERT = "/crm/v3/objects/contacts/batch/upsert"


def _post(fake: FakeCrm, *rows: Mapping[str, object], token: str = "demo-token", path: str = UPSERT) -> httpx.Response:
    with httpx.Client(trust_env=False, verify=False) as client:
        headers = {"authorization": f"Bearer {token}"}
        return client.post(fake.url + path, json={"inputs": list(rows)}, headers=headers)


def _row(email: str, **properties: object) -> Mapping[str, object]:
    return {"idProperty": "email", "id": email, "properties": properties, "objectWriteTraceId": f"trace-{email}"}


def test_fake_crm_faults_depend_on_seed_and_request_not_on_order() -> None:
    shares: dict[CrmFault, float] = {"429": 0.3, "500": 0.3}

    def statuses(seed: int, order: list[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        with FakeCrm(seed=seed, shares=shares) as fake:
            for n in order:
                found.setdefault(n, []).append(_post(fake, _row(f"c{n}@example.test")).status_code)
        return found

    forward = statuses(7, [*range(12), *range(12)])
    backward = statuses(7, [*range(12)][::-1] + [*range(12)][::-1])
    assert forward == backward
    assert {status for row in forward.values() for status in row} == {200, 429, 500}
    assert statuses(8, [*range(12)]) != {n: row[:1] for n, row in forward.items()}


def test_fake_crm_counts_effects_repeats_and_duplicates() -> None:
    with FakeCrm() as fake:
        for properties in ({"plan": "free"}, {"plan": "free"}, {"plan": "pro"}):
            assert _post(fake, _row("ann@example.test", **properties)).status_code == 200
        counters = fake.counters
    assert (counters.requests, counters.effects, counters.repeats, counters.duplicates) == (3, 2, 1, 1)


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([_row("a@example.test", n=1)], 400),
        ([_row("a@example.test"), _row("A@example.test")], 400),
        ([], 400),
        ([_row(f"c{n}@example.test") for n in range(101)], 400),
        ([{**_row("a@example.test"), "idProperty": "shoe_size"}], 400),
        ([{**_row("a@example.test"), "associations": []}], 400),
        ([_row("nonsense")], 207),
    ],
)
def test_fake_crm_refuses_what_the_vendor_refuses(rows: list[Mapping[str, object]], status: int) -> None:
    with FakeCrm() as fake:
        assert _post(fake, *rows).status_code == status
        assert fake.contacts == []


def test_fake_crm_wants_the_token_and_known_paths() -> None:
    with FakeCrm() as fake:
        assert _post(fake, _row("a@example.test"), token="other").status_code == 401
        assert _post(fake, _row("a@example.test"), path="/crm/v3/objects/deals/batch/upsert").status_code == 404
        assert fake.contacts == []


def test_mail_server_calls_back_with_what_arrived() -> None:
    seen: list[ReceivedMail] = []
    with MailServer(on_message=seen.append) as server, smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@example.test", ["b@example.test"], "Subject: Hi\r\n\r\n.one\r\n..two\r\n")
    assert (seen[0].recipients, seen[0].header("subject"), seen[0].text) == (
        ("b@example.test",),
        "Hi",
        ".one\r\n..two\r\n",
    )
    assert server.messages == seen


def test_mail_server_keeps_nothing_when_the_callback_fails() -> None:
    def broken(mail: ReceivedMail) -> None:
        raise RuntimeError("no disk")

    with MailServer(on_message=broken) as server, smtplib.SMTP(server.host, server.port) as client:
        with pytest.raises(smtplib.SMTPDataError, match="451"):
            client.sendmail("a@example.test", ["b@example.test"], "Subject: Hi\r\n\r\nHi\r\n")
        assert (server.messages, [str(error) for error in server.errors]) == ([], ["no disk"])


def test_mail_server_demands_tls_and_login() -> None:
    with MailServer(tls="starttls", auth=("u", "p")) as server, smtplib.SMTP(server.host, server.port) as client:
        client.ehlo()
        assert client.mail("a@example.test")[0] == 530
        assert not client.has_extn("auth")


def test_mail_server_function_decides_faults() -> None:
    with (
        MailServer(faults=lambda recipient, tries: "450 4.2.0" if tries == 0 else None) as server,
        smtplib.SMTP(server.host, server.port) as client,
    ):
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@example.test", ["b@example.test"], "Subject: 1\r\n\r\n")
        client.sendmail("a@example.test", ["b@example.test"], "Subject: 2\r\n\r\n")
        assert [mail.header("subject") for mail in server.messages] == ["2"]
