"""The vendors of the conformance suite: per destination a configuration, actions, and a fake that acts like it.

The fake checks what the real system checks and counts effects per action. A new destination gets one entry here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from destinations import Action
from studio.demo.fake_crm import CrmRequest, FakeCrm
from tests.destinations import mail_vendors, messaging_vendors
from tests.destinations.conftest import LOOPBACK, crm, webhook
from tests.destinations.vendor_server import Effects, Recorded, Reply, Take

MakeActions = Callable[[int, bool], list[Action]]
"""(how many, whether the second of them is one that the vendor does not take)."""


@dataclass(frozen=True)
class Vendor:
    """One column of the table.

    `errors` makes the vendor's body of an error status; `partial` says that a bad row inside a batch fails alone;
    `spec` is folder and file of its API description.
    """

    config: Callable[[str], dict[str, Any]]
    actions: MakeActions
    fake: Callable[[Effects], Take]
    error: Callable[[int], bytes] = lambda status: b'{"message":"no"}'
    spec: tuple[str, str] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def reply(status: int, data: Any = None) -> Reply:
    """A JSON reply."""
    return Reply(status, b"" if data is None else json.dumps(data).encode())


BAD = "bad"
"""A contact whose row no vendor takes."""


def crm_actions(number: int, poisoned: bool) -> list[Action]:
    """Upserts of contacts; the fakes refuse a `plan` of `bad`."""
    return [crm(f"a-{n}", f"c{n}", plan=BAD if poisoned and n == 1 else "pro") for n in range(number)]


def webhook_actions(number: int, poisoned: bool) -> list[Action]:
    """Bodies; the fakes refuse a `plan` of `bad`."""
    return [webhook(f"a-{n}", {"plan": BAD if poisoned and n == 1 else "pro"}) for n in range(number)]


# ---------------------------------------------------------------- the signed webhook


def _receiver(effects: Effects) -> Take:
    def take(request: Recorded) -> Reply:
        message = request.headers["webhook-id"]
        if json.loads(request.body)["plan"] == BAD:
            return reply(400, {"message": "no such plan"})
        effects.keep(message, True, message)
        return Reply(202)

    return take


# ---------------------------------------------------------------- HubSpot


def _hubspot(effects: Effects) -> Take:
    fake = FakeCrm(on_effect=lambda kind, after: effects.act(_action_of(after)))

    def take(request: Recorded) -> Reply:
        answer, _ = fake.answer(CrmRequest(request.method, request.path, request.headers, request.body))
        return Reply(answer.status, json.dumps(answer.body).encode(), answer.headers)

    return take


def _action_of(properties: Mapping[str, str]) -> str:
    return "a-" + properties["email"].split("@")[0].removeprefix("c")


def _hubspot_actions(number: int, poisoned: bool) -> list[Action]:
    actions = crm_actions(number, False)
    if poisoned:
        who = {"id": "c1", "email": "not an address"}
        actions[1] = Action("a-1", "crm", "contact", "c1", 1, {"object": "contact", "set": {}, "contact": who})
    return actions


# ---------------------------------------------------------------- one declared vendor per answer pattern


def _declared(url: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "http", "roles": ["crm"], "url": f"{url}/members", "auth": {"bearer": "{{ env_var('TOKEN') }}"},
        "row": {"id": "$action_id", "email": "$contact.email", "plan": "$set.plan"}, "body": {"members": "$rows"},
        "max_batch": 10, "idempotency": "natural_upsert", **more,
    }  # fmt: skip


def _members(effects: Effects, said: Callable[[Sequence[Any], Sequence[int]], Reply]) -> Take:
    """Keeps members by e-mail; `said` answers with the rows and the indexes of the bad ones."""

    def take(request: Recorded) -> Reply:
        rows = json.loads(request.body)["members"]
        bad = [place for place, row in enumerate(rows) if row["plan"] == BAD]
        for place, row in enumerate(rows):
            if place not in bad:
                effects.keep(row["email"], row["plan"], row["id"])
        return said(rows, bad)

    return take


def _one(effects: Effects) -> Take:
    def take(request: Recorded) -> Reply:
        rows = json.loads(request.body)["members"]
        if any(row["plan"] == BAD for row in rows):
            return reply(422, {"message": "a member has no such plan"})
        for row in rows:
            effects.act(row["id"])
        return reply(202, {"batch": "b-1"})

    return take


def _in_order(rows: Sequence[Any], bad: Sequence[int]) -> Reply:
    return reply(200, [{"code": 406 if n in bad else 0, "id": f"m-{n}"} for n in range(len(rows))])


def _by_index(rows: Sequence[Any], bad: Sequence[int]) -> Reply:
    return reply(207 if bad else 200, {"errors": [{"batch_index": n, "reason": "plan"} for n in bad]} if bad else {})


def _by_echo(rows: Sequence[Any], bad: Sequence[int]) -> Reply:
    done = [{"member": row["id"]} for n, row in enumerate(rows) if n not in bad]
    return reply(200, {"done": done[::-1], "failed": [{"member": rows[n]["id"], "why": "plan"} for n in bad]})


def _by_key(rows: Sequence[Any], bad: Sequence[int]) -> Reply:
    return reply(200, {"invalid": [rows[n]["email"].upper() for n in bad]})


def _job(effects: Effects) -> Take:
    last: list[Reply] = []
    members = _members(effects, _by_index)

    def take(request: Recorded) -> Reply:
        if request.method == "GET":
            return reply(200, {"state": "done", **json.loads(last[-1].body)})
        last.append(members(request))
        return reply(202, {"job": {"id": "j-1"}})

    return take


TOKEN = "{{ env_var('TOKEN') }}"

VENDORS: Mapping[str, Vendor] = {
    "sendgrid": Vendor(
        lambda url: {"type": "sendgrid", "base_url": url, "token": TOKEN},
        mail_vendors.mails,
        mail_vendors.sendgrid,
        lambda status: b'{"errors":[{"message":"no","field":null,"help":null}]}',
        ("sendgrid", "tsg_mail_v3.json"),
    ),
    "postmark": Vendor(
        lambda url: {"type": "postmark", "base_url": url, "token": TOKEN},
        mail_vendors.mails,
        mail_vendors.postmark,
        lambda status: b'{"ErrorCode":300,"Message":"no"}',
        ("postmark", "authored_postmark.openapi.json"),
    ),
    "ses": Vendor(
        lambda url: {
            "type": "ses", "base_url": url, "region": "eu-west-1", "access_key_id": TOKEN, "configuration_set": "main",
            "secret_access_key": "{{ env_var('PASSWORD') }}",
        },
        mail_vendors.mails,
        mail_vendors.ses,
        spec=("amazon_ses", "sesv2_2019-09-27_service-2.trimmed.json"),
    ),
    "mailgun": Vendor(
        lambda url: {"type": "mailgun", "base_url": url, "token": TOKEN, "domain": "mg.example.test"},
        mail_vendors.mails,
        mail_vendors.mailgun,
        spec=("mailgun", "mailgun_openapi.trimmed.json"),
    ),
    "webhook": Vendor(
        lambda url: {"type": "webhook", "url": f"{url}/in", "secret": "{{ env_var('SIGNING') }}"},
        webhook_actions,
        _receiver,
    ),
    "hubspot": Vendor(
        lambda url: {"type": "hubspot", "base_url": url, "token": "{{ env_var('TOKEN') }}", "rate": "10000/s"},
        _hubspot_actions,
        _hubspot,
        lambda status: json.dumps({"status": "error", "message": "no", "category": "X"}).encode(),
        ("hubspot", "authored_hubspot_crm.openapi.json"),
    ),
    "slack": Vendor(
        lambda url: {
            "type": "slack", "base_url": url + "/api", "token": TOKEN, "targets": {"sales": "C1"}, "rate": "10000/s",
        },
        messaging_vendors.notes,
        messaging_vendors.slack,
        spec=("slack", "slack_web_openapi_v2.trimmed.json"),
    ),
    "twilio": Vendor(
        lambda url: {
            "type": "twilio", "base_url": url, "account_sid": messaging_vendors.ACCOUNT, "token": TOKEN,
            "from": "+15005550006", "callback": "https://in.example.test/twilio", "rate": "10000/s",
        },
        messaging_vendors.texts,
        messaging_vendors.twilio,
        lambda status: json.dumps({"code": 20000 + status, "message": "no", "status": status}).encode(),
        ("twilio", "twilio_api_v2010.messages.json"),
    ),
    "fcm": Vendor(
        lambda url: {
            "type": "fcm", "base_url": url, "project": "shop", "credentials": "{{ env_var('GOOGLE') }}",
            "token_url": f"{url}/token",
        },
        messaging_vendors.pushes,
        messaging_vendors.fcm,
        lambda status: json.dumps({"error": {"code": status, "status": "X"}}).encode(),
    ),
    "salesforce": Vendor(
        lambda url: {"type": "salesforce", "base_url": url, "client_id": "p", "client_secret": TOKEN},
        messaging_vendors.records,
        messaging_vendors.salesforce,
        lambda status: json.dumps([{"errorCode": "X", "message": "no"}]).encode(),
        ("salesforce", "authored_salesforce_rest.openapi.json"),
    ),
    "salesforce: bulk": Vendor(
        lambda url: {
            "type": "salesforce", "base_url": url, "client_id": "p", "client_secret": TOKEN, "bulk": True,
            "every": "1ms", "within": "1s",
        },
        messaging_vendors.contacts,
        messaging_vendors.salesforce,
        lambda status: json.dumps([{"errorCode": "X", "message": "no"}]).encode(),
        ("salesforce", "authored_salesforce_rest.openapi.json"),
    ),
    "http: one": Vendor(lambda url: _declared(url, idempotency="none"), crm_actions, _one),
    "http: in_order": Vendor(
        lambda url: _declared(url, answer={"pattern": "in_order", "error": "code", "id": "id"}),
        crm_actions,
        lambda effects: _members(effects, _in_order),
    ),
    "http: failures_by_index": Vendor(
        lambda url: _declared(
            url, answer={"pattern": "failures_by_index", "items": "errors", "index": "batch_index", "error": "reason"}
        ),
        crm_actions,
        lambda effects: _members(effects, _by_index),
    ),
    "http: by_echo": Vendor(
        lambda url: _declared(
            url, answer={"pattern": "by_echo", "items": "done", "errors": "failed", "echo": "member", "error": "why"}
        ),
        crm_actions,
        lambda effects: _members(effects, _by_echo),
    ),
    "http: failures_by_key": Vendor(
        lambda url: _declared(
            url, unique="$contact.email", answer={"pattern": "failures_by_key", "items": "invalid", "key": ""}
        ),
        crm_actions,
        lambda effects: _members(effects, _by_key),
    ),
    "http: job": Vendor(
        lambda url: _declared(
            url,
            answer={
                "pattern": "failures_by_index", "items": "errors", "index": "batch_index", "error": "reason",
                "job": {"id": "job.id", "url": url + "/jobs/${job}", "status": "state", "done": ["done"],
                        "every": "1ms"},
            },
        ),
        crm_actions,
        _job,
    ),
}  # fmt: skip


def settings(vendor: Vendor, url: str, timeout: str = "5s") -> dict[str, Any]:
    """The configuration against a server on the loopback."""
    return {"allow_hosts": LOOPBACK, **vendor.config(url), "timeout": timeout}
