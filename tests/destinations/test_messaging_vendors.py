"""What Slack, Twilio, FCM and Salesforce are told, what they say, and what Twilio sends back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from destinations import Action, Inbound, InboundRefused, Received
from destinations.inbound import hmac_base64
from tests.destinations.conftest import LOOPBACK, NOW, SECRETS, crm, make, send, task
from tests.destinations.judge import form_of
from tests.destinations.messaging_vendors import ACCOUNT, notes, pushes, texts
from tests.destinations.test_inbound import vectors
from tests.destinations.vendor_server import Recorded, Reply, VendorServer

TOKEN = "{{ env_var('TOKEN') }}"
CONFIG: dict[str, dict[str, Any]] = {
    "slack": {"token": TOKEN, "targets": {"sales": "C1"}, "rate": "10000/s"},
    "twilio": {"token": TOKEN, "account_sid": ACCOUNT, "from": "+15005550006", "rate": "10000/s"},
    "fcm": {"project": "shop", "credentials": "{{ env_var('GOOGLE') }}"},
    "salesforce": {"client_id": "p", "client_secret": TOKEN},
}


def told(kind: str, reply: Reply, *actions: Action, **more: Any) -> tuple[Any, list[Recorded]]:
    """The verdicts under an answer, and the requests without those for a token."""

    def take(request: Recorded) -> Reply:
        return Reply(200, b'{"access_token": "t", "expires_in": 3600}') if request.path.endswith("/token") else reply

    with VendorServer(take) as server:
        token = {"token_url": server.url + "/token"} if kind == "fcm" else {}
        given = {"type": kind, "allow_hosts": LOOPBACK, "base_url": server.url, **token, **CONFIG[kind], **more}
        verdicts = send(given, *actions)
        return verdicts, [one for one in server.requests if not one.path.endswith("/token")]


@pytest.mark.parametrize(
    ("word", "status", "stop"),
    [
        ("channel_not_found", "failed", None), ("ratelimited", "retry", None), ("internal_error", "retry", None),
        ("token_revoked", "retry", "credentials"), ("missing_scope", "retry", "credentials"),
    ],
)  # fmt: skip
def test_slack_says_no_with_a_200(word: str, status: str, stop: str | None) -> None:
    (verdict,), _ = told("slack", Reply(200, json.dumps({"ok": False, "error": word}).encode()), *notes(1, False))
    assert (verdict.status, verdict.stop, verdict.code) == (status, stop, f"200 {word}")


def test_slack_takes_nothing_of_a_contact_as_markup() -> None:
    action = Action("a-1", "notify", "sales", "ann", 1, {"target": "sales", "text": "<!channel> & <http://x|y>"})
    _, (request,) = told("slack", Reply(200, b'{"ok":true}'), action)
    assert json.loads(request.body)["text"] == "&lt;!channel&gt; &amp; &lt;http://x|y&gt;"
    assert json.loads(request.body)["channel"] == "C1"


def test_slack_names_the_targets_it_knows() -> None:
    action = Action("a-1", "notify", "slaes", "ann", 1, {"target": "slaes", "text": "x"})
    (verdict,), requests = told("slack", Reply(200), action)
    assert (verdict.code, requests) == ("unknown_target", [])
    assert "it has: sales" in verdict.message


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (400, 21211, "failed"),
        (400, 21610, "failed"),
        (400, 21611, "retry"),
        (429, 20429, "retry"),
        (400, 14107, "retry"),
    ],
)
def test_twilio_codes(status: int, code: int, verdict: str) -> None:
    answer = Reply(status, json.dumps({"code": code, "message": "about +15005550100", "status": status}).encode())
    (made,), (request,) = told("twilio", answer, *texts(1, False))
    assert (made.status, made.code) == (verdict, f"{status} {code}")
    assert "+15005550100" not in made.message
    assert form_of(request) == {"To": "+15005550100", "Body": "Hi", "From": "+15005550006"}


@pytest.mark.parametrize("text", ["", "x" * 1601])
def test_twilio_refuses_what_is_no_text_message(text: str) -> None:
    (verdict,), requests = told("twilio", Reply(201), Action("a-1", "sms", "x", "ann", 1, {"to": "+1", "text": text}))
    assert (verdict.status, verdict.code, requests) == ("failed", "bad_text", [])


URL = "https://in.example.test/v1/hooks/sms?action_id=a-1"


def twilio_says(form: Mapping[str, str], url: str = URL, token: str = SECRETS["TOKEN"]) -> Received:
    text = url + "".join(name + form[name] for name in sorted(form))
    headers = {"x-twilio-signature": hmac_base64(token.encode(), text.encode(), "sha1")}
    destination = make({"type": "twilio", **CONFIG["twilio"]})
    return destination.parse_inbound(Inbound(headers, urlencode(form).encode(), URL), NOW)


@pytest.mark.parametrize(
    ("state", "name"), [("delivered", "sms_delivered"), ("undelivered", "sms_failed"), ("read", "sms_opened")]
)
def test_twilio_reports_with_the_action_it_was_given(state: str, name: str) -> None:
    (event,) = twilio_says(
        {"MessageSid": "SM1", "MessageStatus": state, "To": "+15005550100", "ErrorCode": "30005"}
    ).events
    assert (event.name, event.action_id, event.phone) == (name, "a-1", "+15005550100")
    assert (event.event_id, event.data["code"]) == (f"twilio:SM1:{state}", "30005")
    assert twilio_says({"MessageSid": "SM1", "MessageStatus": "queued"}).events == ()


@pytest.mark.parametrize(
    ("text", "name", "lift"),
    [(" Stop ", "sms_unsubscribed", False), ("START", "sms_resubscribed", True), ("Thanks!", "sms_replied", None)],
)
def test_twilio_replies_and_opt_outs(text: str, name: str, lift: bool | None) -> None:
    (event,) = twilio_says({"MessageSid": "SM2", "Body": text, "From": "+15005550100", "To": "+1"}).events
    assert (event.name, event.phone) == (name, "+15005550100")
    assert (event.opt_out.lift if event.opt_out else None) is lift


def test_twilio_refuses_what_is_not_signed_for_this_address() -> None:
    form = {"MessageSid": "SM1", "MessageStatus": "delivered"}
    for url, token in ((URL.replace("a-1", "a-2"), SECRETS["TOKEN"]), (URL, "other")):
        with pytest.raises(InboundRefused, match="D401"):
            twilio_says(form, url, token)


def test_twilio_vector() -> None:
    known = vectors("twilio_request")
    text = known["url"] + "".join(name + known["params"][name] for name in sorted(known["params"]))
    assert hmac_base64(known["auth_token"].encode(), text.encode(), "sha1") == known["X-Twilio-Signature"]


@pytest.mark.parametrize(
    ("status", "word", "verdict", "stop", "pause"),
    [
        (404, "UNREGISTERED", "failed", None, None),
        (403, "SENDER_ID_MISMATCH", "failed", None, None),
        (403, "PERMISSION_DENIED", "retry", "credentials", None),
        (401, "THIRD_PARTY_AUTH_ERROR", "retry", "credentials", None),
        (429, "QUOTA_EXCEEDED", "retry", None, timedelta(minutes=1)),
        (503, "UNAVAILABLE", "retry", None, None),
    ],
)
def test_fcm_errors(status: int, word: str, verdict: str, stop: str | None, pause: timedelta | None) -> None:
    body = {"error": {"code": status, "status": "X", "details": [{"@type": "FcmError", "errorCode": word}]}}
    (made,), _ = told("fcm", Reply(status, json.dumps(body).encode()), *pushes(1, False))
    assert (made.status, made.stop, made.code, made.retry_after) == (verdict, stop, f"{status} {word}", pause)


def test_fcm_message() -> None:
    _, (request,) = told("fcm", Reply(200, b"{}"), *pushes(1, False), validate_only=True)
    assert request.path == "/v1/projects/shop/messages:send"
    assert json.loads(request.body) == {
        "message": {
            "token": "device-0", "notification": {"title": "Hi", "body": "There"},
            "data": {"action_id": "a-0", "template": "hello"},
        },
        "validate_only": True,
    }  # fmt: skip


def test_salesforce_upserts_by_external_id_and_sorts_by_kind() -> None:
    answer = Reply(200, json.dumps([{"id": "1", "success": True}] * 2).encode())
    given = {"objects": {"contact": {"sobject": "Contact", "external_id": "Ext__c"}}, "fields": {"stage": "Stage__c"}}
    actions = [crm("a-1", "ann", stage="trial", left=None), task("a-2", owner="kim"), crm("a-3", "bob"), task("a-4")]
    verdicts, requests = told("salesforce", answer, *actions, owners={"kim": "005x"}, **given)
    assert {verdict.status for verdict in verdicts} == {"sent"}
    assert [request.path.split("sobjects/")[1] for request in requests] == [
        "Contact/Ext__c", "Task/Penstock_Action_Id__c",
    ]  # fmt: skip
    first, second = (json.loads(request.body)["records"] for request in requests)
    assert first[0] == {
        "attributes": {"type": "Contact"}, "Ext__c": "ann", "Stage__c": "trial", "left": None,
        "Email": "ann@example.test",
    }  # fmt: skip
    assert second[0] | {"ActivityDate": ""} == {
        "attributes": {"type": "Task"}, "Penstock_Action_Id__c": "a-2", "Subject": "Call", "Status": "Not Started",
        "Priority": "Normal", "ActivityDate": "", "OwnerId": "005x",
        "Who": {"attributes": {"type": "Contact"}, "Ext__c": "ann"},
    }  # fmt: skip


def test_salesforce_same_record_twice_is_two_requests_in_order() -> None:
    answer = Reply(200, json.dumps([{"id": "1", "success": True}]).encode())
    verdicts, requests = told("salesforce", answer, crm("a-1", plan="free"), crm("a-2", plan="pro"))
    assert [json.loads(request.body)["records"][0]["plan"] for request in requests] == ["free", "pro"]
    assert {verdict.status for verdict in verdicts} == {"sent"}


@pytest.mark.parametrize(
    ("code", "status"), [("UNABLE_TO_LOCK_ROW", "retry"), ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "failed")]
)
def test_salesforce_row_errors(code: str, status: str) -> None:
    item = {"success": False, "errors": [{"statusCode": code, "message": "about ann@example.test", "fields": []}]}
    (verdict,), _ = told("salesforce", Reply(200, json.dumps([item]).encode()), crm())
    assert (verdict.status, verdict.code, "ann@" in verdict.message) == (status, f"200 {code}", False)


def test_salesforce_limit_of_the_day_is_no_wrong_permission() -> None:
    limit = Reply(403, json.dumps([{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "x"}]).encode())
    (verdict,), _ = told("salesforce", limit, crm())
    assert (verdict.status, verdict.stop, verdict.retry_after) == ("retry", None, timedelta(minutes=15))
    wrong = Reply(403, json.dumps([{"errorCode": "INSUFFICIENT_ACCESS", "message": "x"}]).encode())
    (verdict,), _ = told("salesforce", wrong, crm())
    assert verdict.stop == "credentials"


def test_salesforce_unknown_object_fails_alone() -> None:
    action = Action("a-1", "crm", "deal", "ann", 1, {"object": "deal", "set": {}, "contact": {"id": "ann"}})
    (verdict,), requests = told("salesforce", Reply(200), action)
    assert (verdict.code, requests) == ("unsupported_object", [])
