"""The e-mail vendors of the conformance suite, each with a fake that takes what the real one takes."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Any

from destinations import Action
from tests.destinations.conftest import email
from tests.destinations.judge import form_of
from tests.destinations.vendor_server import Effects, Recorded, Reply, Take

REFUSED = "refused@example.test"
"""An address that every vendor refuses."""
UNSUBSCRIBE = "https://news.example.test/u/abc"


def mails(number: int, poisoned: bool) -> list[Action]:
    """Messages; the second one goes to an address that the vendor refuses."""
    return [
        email(f"a-{n}", REFUSED if poisoned and n == 1 else f"c{n}@example.test", html="<p>Hi</p>",
              list_unsubscribe=UNSUBSCRIBE, reply_to="Help <help@example.test>")
        for n in range(number)
    ]  # fmt: skip


def _json(status: int, data: Any, **headers: str) -> Reply:
    return Reply(status, json.dumps(data).encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def sendgrid(effects: Effects) -> Take:
    """mail/send: 202 without a body."""

    def take(request: Recorded) -> Reply:
        if request.headers.get("authorization") != "Bearer demo-token":
            return _json(401, {"errors": [{"message": "authorization required"}]})
        body = json.loads(request.body)
        (person,) = body["personalizations"]
        assert [part["type"] for part in body["content"]] == ["text/plain", "text/html"]
        if person["to"][0]["email"] == REFUSED:
            return _json(400, {"errors": [{"message": f"no such address {REFUSED}", "field": "to"}]})
        effects.act(person["custom_args"]["action_id"])
        return Reply(202, b"", {"x-message-id": "m-1"})

    return take


def postmark(effects: Effects) -> Take:
    """email/batch: 200 with one answer per message."""

    def take(request: Recorded) -> Reply:
        if request.headers.get("x-postmark-server-token") != "demo-token":
            return _json(401, {"ErrorCode": 10, "Message": "bad token"})
        results = []
        for number, mail in enumerate(json.loads(request.body)):
            if mail["To"] == REFUSED:
                results.append({"ErrorCode": 406, "Message": f"{REFUSED} is inactive"})
                continue
            effects.act(mail["Metadata"]["action_id"])
            results.append({"ErrorCode": 0, "Message": "OK", "MessageID": f"m-{number}", "To": mail["To"]})
        return _json(200, results)

    return take


def mailgun(effects: Effects) -> Take:
    """messages: a form."""

    def take(request: Recorded) -> Reply:
        form = form_of(request)
        if form["to"] == REFUSED:
            return _json(400, {"message": f"to parameter is not a valid address: {REFUSED}"})
        effects.act(form["v:action_id"])
        return _json(200, {"id": "<m-1@mg.example.test>", "message": "Queued. Thank you."})

    return take


def ses(effects: Effects) -> Take:
    """SendEmail, with a signature that it checks like the real one."""

    def take(request: Recorded) -> Reply:
        if not genuine(request):
            return _json(403, {"message": "wrong signature"}, x_amzn_errortype="SignatureDoesNotMatch")
        body = json.loads(request.body)
        if body["Destination"]["ToAddresses"] == [REFUSED]:
            return _json(400, {"message": f"no {REFUSED}"}, x_amzn_errortype="MessageRejected:http://x")
        tags = {tag["Name"]: tag["Value"] for tag in body["EmailTags"]}
        effects.act(tags["action_id"])
        return _json(200, {"MessageId": "m-1"})

    return take


def genuine(request: Recorded) -> bool:
    """Whether a Signature Version 4 is right, worked out from what the request says it covers."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+), "
        r"Signature=([0-9a-f]{64})",
        request.headers.get("authorization", ""),
    )
    if found is None or found[1] != "demo-token":
        return False
    names = found[5].split(";")
    lines = [f"{name}:{request.headers[name]}" for name in names]
    body = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join([request.method, request.path, "", *lines, "", found[5], body])
    scope = f"{found[2]}/{found[3]}/{found[4]}/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = b"AWS4pa55-of-the-mail"
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest() == found[6]
