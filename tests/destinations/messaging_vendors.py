"""Slack, Twilio, FCM and Salesforce of the conformance suite, each with a fake that takes what the real one takes."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from typing import Any

from destinations import Action
from tests.destinations.conftest import crm, task
from tests.destinations.judge import form_of
from tests.destinations.vendor_server import Effects, Recorded, Reply, Take

BAD = "bad"
ACCOUNT = "AC" + "0" * 32


def _json(status: int, data: Any) -> Reply:
    return Reply(status, json.dumps(data).encode())


# ---------------------------------------------------------------- Slack


def notes(number: int, poisoned: bool) -> list[Action]:
    """Notifications; the text of the second one is refused."""
    texts = [f"a-{n}" if not (poisoned and n == 1) else BAD for n in range(number)]
    return [Action(f"a-{n}", "notify", "sales", "ann", 1, {"target": "sales", "text": t}) for n, t in enumerate(texts)]


def slack(effects: Effects) -> Take:
    """chat.postMessage: 200 whatever happens."""

    def take(request: Recorded) -> Reply:
        if request.headers.get("authorization") != "Bearer demo-token":
            return _json(200, {"ok": False, "error": "invalid_auth"})
        body = json.loads(request.body)
        if body["text"] == BAD:
            return _json(200, {"ok": False, "error": "msg_blocked"})
        effects.act(body["text"])
        return _json(200, {"ok": True, "ts": "1.2", "channel": body["channel"]})

    return take


# ---------------------------------------------------------------- Twilio


def texts(number: int, poisoned: bool) -> list[Action]:
    """Text messages; the second one goes to a number that Twilio refuses."""
    numbers = ["+15005550001" if poisoned and n == 1 else f"+1500555010{n}" for n in range(number)]
    return [Action(f"a-{n}", "sms", "hello", "ann", 1, {"to": to, "text": "Hi"}) for n, to in enumerate(numbers)]


def twilio(effects: Effects) -> Take:
    """Messages.json: a form."""

    def take(request: Recorded) -> Reply:
        form = form_of(request)
        if form["To"] == "+15005550001":
            return _json(400, {"code": 21211, "message": f"{form['To']} is not a valid number", "status": 400})
        effects.act(form["StatusCallback"].rsplit("=")[-1])
        return _json(201, {"sid": "SM1", "status": "queued"})

    return take


# ---------------------------------------------------------------- FCM


def pushes(number: int, poisoned: bool) -> list[Action]:
    """Push messages; the second device is not registered any more."""
    tokens = [BAD if poisoned and n == 1 else f"device-{n}" for n in range(number)]
    return [
        Action(f"a-{n}", "push", "hello", "ann", 1, {"to": to, "title": "Hi", "text": "There"})
        for n, to in enumerate(tokens)
    ]


def fcm(effects: Effects) -> Take:
    """messages:send."""

    def take(request: Recorded) -> Reply:
        if request.path == "/token":
            claims = form_of(request)["assertion"].split(".")[1]
            known = json.loads(base64.urlsafe_b64decode(claims + "==="))["iss"] == "p@x.iam"
            return (
                _json(200, {"access_token": "g-1", "expires_in": 3599}) if known else _json(400, {"error": "invalid"})
            )
        if request.headers.get("authorization") != "Bearer g-1":
            return _json(401, {"error": {"status": "UNAUTHENTICATED"}})
        message = json.loads(request.body)["message"]
        if message["token"] == BAD:
            details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]
            return _json(404, {"error": {"code": 404, "status": "NOT_FOUND", "details": details}})
        effects.act(message["data"]["action_id"])
        return _json(200, {"name": "projects/shop/messages/1"})

    return take


# ---------------------------------------------------------------- Salesforce


def records(number: int, poisoned: bool) -> list[Action]:
    """Two contacts and a task; the contact of the second one is refused."""
    made = [crm(f"a-{n}", f"c{n}", plan=BAD if poisoned and n == 1 else "pro") for n in range(number - 1)]
    return [*made, task(f"a-{number - 1}", "c0", due="2026-03-04T15:00:00Z")]


def contacts(number: int, poisoned: bool) -> list[Action]:
    """Contacts; the second one is refused."""
    return [crm(f"a-{n}", f"c{n}", plan=BAD if poisoned and n == 1 else "pro") for n in range(number)]


def salesforce(effects: Effects) -> Take:
    """Tokens, collections, and jobs of Bulk API 2.0."""
    uploads: dict[str, bytes] = {}

    def keep(sobject: str, record: dict[str, Any]) -> bool:
        if record.get("plan") == BAD:
            return False
        key = record.get("Penstock_Id__c") or record.get("Penstock_Action_Id__c") or ""
        action = str(key) if sobject == "Task" else f"a-{str(key).removeprefix('c')}"
        effects.keep(f"{sobject}/{key}", {n: v for n, v in record.items() if n != "attributes"}, action)
        return True

    def take(request: Recorded) -> Reply:
        if request.path == "/services/oauth2/token":
            if form_of(request)["client_secret"] != "demo-token":
                return _json(400, {"error": "invalid_client"})
            return _json(200, {"access_token": "s-1", "instance_url": "x", "token_type": "Bearer"})
        if request.headers.get("authorization") != "Bearer s-1":
            return _json(401, [{"errorCode": "INVALID_SESSION_ID", "message": "expired"}])
        if match := re.fullmatch(r"/services/data/v62.0/composite/sobjects/(\w+)/\w+", request.path):
            return _json(200, [_result(keep(match[1], one), one) for one in json.loads(request.body)["records"]])
        return job(request)

    def job(request: Recorded) -> Reply:
        last = request.path.rsplit("/", 1)[-1]
        match request.method, last:
            case "POST", "ingest":
                return _json(200, {"id": "750x", "state": "Open"})
            case "PUT", "batches":
                uploads["750x"] = request.body
                return Reply(201)
            case "PATCH", _:
                return _json(200, {"id": "750x", "state": "UploadComplete"})
            case "GET", "successfulResults" | "failedResults":
                return Reply(200, results(last == "successfulResults"), {"content-type": "text/csv"})
            case _:
                return _json(200, {"id": "750x", "state": "JobComplete", "numberRecordsFailed": 0})

    def results(taken: bool) -> bytes:
        out = io.StringIO()
        rows = list(csv.DictReader(io.StringIO(uploads["750x"].decode())))
        head = ["sf__Id", "sf__Created"] if taken else ["sf__Id", "sf__Error"]
        writer = csv.DictWriter(out, [*head, *rows[0]], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            if (row["plan"] != BAD) == taken:
                keep("Contact", dict(row))
                own = ("003x", "true") if taken else ("", "BAD_PLAN:no:plan --")
                writer.writerow({**dict(zip(head, own, strict=True)), **row})
        return out.getvalue().encode()

    return take


def _result(taken: bool, record: dict[str, Any]) -> dict[str, Any]:
    if taken:
        return {"id": "003x", "success": True, "created": True, "errors": []}
    message = f"no such plan for {record.get('Email')}"
    return {"success": False, "errors": [{"statusCode": "INVALID_FIELD", "message": message, "fields": ["plan"]}]}
