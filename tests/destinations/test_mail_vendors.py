"""What the e-mail vendors send and take back."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from destinations import Inbound, InboundRefused, Received
from destinations.inbound import hmac_hex
from destinations.sendgrid import check_signature
from destinations.sns import verified
from tests.destinations.conftest import LOOPBACK, NOW, SECRETS, email, make, send
from tests.destinations.judge import form_of
from tests.destinations.mail_vendors import UNSUBSCRIBE, mails
from tests.destinations.test_inbound import SECONDS, vectors
from tests.destinations.vendor_server import Recorded, Reply, VendorServer

TOKEN = "{{ env_var('TOKEN') }}"
CONFIG: dict[str, dict[str, Any]] = {
    "sendgrid": {"token": TOKEN},
    "postmark": {"token": TOKEN},
    "mailgun": {"token": TOKEN, "domain": "mg.example.test"},
    "ses": {"region": "eu-west-1", "access_key_id": TOKEN, "secret_access_key": TOKEN},
}


def config(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "allow_hosts": LOOPBACK, **CONFIG[kind], **more}


def sent(kind: str, reply: Reply, *actions: Any, **more: Any) -> tuple[Any, Recorded]:
    """The verdicts under an answer, and the first request."""
    with VendorServer(lambda request: reply) as server:
        verdicts = send(config(kind, base_url=server.url, **more), *(actions or mails(1, False)))
        return verdicts, server.requests[0]


def headers_of(kind: str, request: Recorded) -> dict[str, str]:
    """The mail headers that a request asks for."""
    if kind == "mailgun":
        form = form_of(request)
        return {name[2:]: value for name, value in form.items() if name.startswith("h:")}
    body = json.loads(request.body)
    match kind:
        case "sendgrid":
            found: dict[str, str] = body["personalizations"][0]["headers"]
            return found
        case "postmark":
            return {item["Name"]: item["Value"] for item in body[0]["Headers"]}
        case _:
            return {item["Name"]: item["Value"] for item in body["Content"]["Simple"]["Headers"]}


@pytest.mark.parametrize("kind", CONFIG)
def test_one_click_unsubscribe_reaches_the_vendor(kind: str) -> None:
    """RFC 8058: both headers, in the place where the vendor wants them."""
    _, request = sent(kind, Reply(200, b"[]"))
    found = headers_of(kind, request)
    assert found["List-Unsubscribe"] == f"<{UNSUBSCRIBE}>"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@pytest.mark.parametrize("kind", CONFIG)
@pytest.mark.parametrize("key", ["to", "subject", "reply_to"])
def test_no_header_can_be_smuggled_in(kind: str, key: str) -> None:
    with VendorServer(lambda request: Reply(200)) as server:
        more: dict[str, Any] = {key: "x@example.test\r\nBcc: y@example.test"}
        action = email("a-1", **more)
        (verdict,) = send(config(kind, base_url=server.url), action)
        assert (verdict.status, verdict.code, server.requests) == ("failed", "unsafe_header", [])


def test_postmark_codes() -> None:
    codes = [0, 406, 429, 300]
    answer = [{"ErrorCode": code, "Message": f"about ann@example.test {code}", "MessageID": "m"} for code in codes]
    verdicts, request = sent("postmark", Reply(200, json.dumps(answer).encode()), *mails(4, False))
    assert [(v.status, v.suppress) for v in verdicts] == [
        ("sent", None), ("failed", "bounced"), ("retry", None), ("failed", None),
    ]  # fmt: skip
    assert (verdicts[0].receipt, "ann@" in repr(verdicts)) == ({"message_id": "m"}, False)
    assert json.loads(request.body)[0]["MessageStream"] == "outbound"


def test_postmark_account_trouble_stops() -> None:
    answer = json.dumps([{"ErrorCode": 405, "Message": "not allowed to send"}]).encode()
    (verdict,), _ = sent("postmark", Reply(200, answer))
    assert (verdict.status, verdict.stop) == ("retry", "credentials")


@pytest.mark.parametrize(
    ("name", "status", "stop"),
    [
        ("MessageRejected", "failed", None), ("AccountSuspendedException", "retry", "credentials"),
        ("SendingPausedException", "retry", "credentials"), ("LimitExceededException", "retry", None),
        ("BadRequestException", "failed", None),
    ],
)  # fmt: skip
def test_ses_says_by_name_what_a_400_means(name: str, status: str, stop: str | None) -> None:
    (verdict,), _ = sent("ses", Reply(400, b'{"message":"no"}', {"x-amzn-errortype": f"{name}:http://x/"}))
    assert (verdict.status, verdict.stop, verdict.code) == (status, stop, f"400 {name}")
    (other,), _ = sent("ses", Reply(400, json.dumps({"__type": f"com.amazon#{name}"}).encode()))
    assert (other.status, other.code) == (status, f"400 {name}")


# ---------------------------------------------------------------- reports


def taken(kind: str, request: Inbound, **more: Any) -> Received:
    return make(config(kind, **more)).parse_inbound(request, NOW)


def sendgrid_request(body: bytes, seconds: str = SECONDS) -> tuple[Inbound, dict[str, str]]:
    key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(seconds.encode() + body, ec.ECDSA(hashes.SHA256()))
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    headers = {
        "x-twilio-email-event-webhook-timestamp": seconds,
        "x-twilio-email-event-webhook-signature": base64.b64encode(signature).decode(),
    }
    return Inbound(headers, body), {"inbound_secret": base64.b64encode(public).decode()}


def test_sendgrid_reports() -> None:
    common = {"email": "ann@example.test", "timestamp": 1600112492, "action_id": "a-1"}
    items = [
        {"event": "delivered", "sg_event_id": "1", **common},
        {"event": "bounce", "type": "bounce", "sg_event_id": "2", "reason": "550 no such user", **common},
        {"event": "bounce", "type": "blocked", "sg_event_id": "3", **common},
        {"event": "open", "sg_event_id": "4", "sg_machine_open": True, **common},
        {"event": "group_resubscribe", "sg_event_id": "5", **common},
        {"event": "something new", "sg_event_id": "6", **common},
    ]
    request, more = sendgrid_request(json.dumps(items).encode() + b"\r\n")
    events = taken("sendgrid", request, **more).events
    assert [event.name for event in events] == [
        "email_delivered", "email_bounced", "email_soft_bounced", "email_opened", "email_resubscribed",
    ]  # fmt: skip
    assert {(event.action_id, event.email, event.time) for event in events} == {
        ("a-1", "ann@example.test", datetime(2020, 9, 14, 19, 41, 32))
    }
    opt_outs = [(event.opt_out.reason, event.opt_out.lift) if event.opt_out else None for event in events]
    assert opt_outs == [None, ("bounced", False), None, None, ("unsubscribed", True)]
    assert [event.machine for event in events] == [False, False, False, True, False]
    assert len({event.event_id for event in events}) == 5


def test_sendgrid_refuses_what_is_forged_or_old() -> None:
    request, more = sendgrid_request(b"[]\r\n")
    for forged in (Inbound(request.headers, b"[]"), Inbound({}, request.body)):
        with pytest.raises(InboundRefused, match="D401"):
            taken("sendgrid", forged, **more)
    old, more = sendgrid_request(b"[]", str(int(SECONDS) - 400))
    with pytest.raises(InboundRefused, match="D402"):
        taken("sendgrid", old, **more)


def test_sendgrid_published_vector() -> None:
    known = vectors("sendgrid_event_webhook")
    name = "X-Twilio-Email-Event-Webhook-"
    body = known[name + "Timestamp"].encode() + known["raw_body"].encode()
    check_signature(known["public_key_base64_der"], known[name + "Signature"], body)
    with pytest.raises(InboundRefused):
        check_signature(known["public_key_base64_der"], known[name + "Signature"], body.removesuffix(b"\r\n"))


def postmark_request(item: dict[str, Any], password: str = "pm:demo-token") -> Inbound:
    basic = base64.b64encode(password.encode()).decode()
    return Inbound({"authorization": f"Basic {basic}"}, json.dumps(item).encode())


@pytest.mark.parametrize(
    ("item", "name", "reason"),
    [
        ({"RecordType": "Delivery", "Recipient": "ann@example.test", "DeliveredAt": "2026-03-02T09:00:00Z"},
         "email_delivered", None),
        ({"RecordType": "Bounce", "Type": "HardBounce", "Email": "ann@example.test", "ID": 42},
         "email_bounced", "bounced"),
        ({"RecordType": "Bounce", "Type": "Transient", "Email": "ann@example.test"}, "email_deferred", None),
        ({"RecordType": "SpamComplaint", "Email": "ann@example.test"}, "email_complained", "complained"),
        ({"RecordType": "SubscriptionChange", "SuppressSending": True, "Recipient": "ann@example.test"},
         "email_unsubscribed", "unsubscribed"),
        ({"RecordType": "Click", "OriginalLink": "https://x.test", "Recipient": "ann@example.test"},
         "email_clicked", None),
    ],
)  # fmt: skip
def test_postmark_reports(item: dict[str, Any], name: str, reason: str | None) -> None:
    secret = {"inbound_secret": "{{ env_var('INBOX', 'pm:demo-token') }}"}
    item["Metadata"] = {"action_id": "a-1"}
    (event,) = taken("postmark", postmark_request(item), **secret).events
    assert (event.name, event.action_id, event.email) == (name, "a-1", "ann@example.test")
    assert (event.opt_out.reason if event.opt_out else None) == reason
    (again,) = taken("postmark", postmark_request(item), **secret).events
    assert again.event_id == event.event_id
    with pytest.raises(InboundRefused, match="D401"):
        taken("postmark", postmark_request(item, "pm:wrong"), **secret)


def mailgun_request(item: dict[str, Any], seconds: str = SECONDS, key: str = SECRETS["TOKEN"]) -> Inbound:
    signature = hmac_hex(key.encode(), (seconds + "tok").encode())
    signed = {"timestamp": seconds, "token": "tok", "signature": signature}
    return Inbound({}, json.dumps({"signature": signed, "event-data": item}).encode())


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"event": "failed", "severity": "permanent"}, "email_bounced"),
        ({"event": "failed", "severity": "temporary"}, "email_deferred"),
        ({"event": "complained"}, "email_complained"),
        ({"event": "opened"}, "email_opened"),
    ],
)
def test_mailgun_reports_count_once(item: dict[str, Any], name: str) -> None:
    item |= {"recipient": "ann@example.test", "user-variables": {"action_id": "a-1"}, "timestamp": 1600112492.5}
    got = taken("mailgun", mailgun_request(item), inbound_secret=TOKEN)
    (event,) = got.events
    assert (event.name, event.action_id, got.once) == (name, "a-1", "mailgun:tok")
    with pytest.raises(InboundRefused, match="D401"):
        taken("mailgun", mailgun_request(item, key="other"), inbound_secret=TOKEN)
    with pytest.raises(InboundRefused, match="D402"):
        taken("mailgun", mailgun_request(item, str(int(SECONDS) - 400)), inbound_secret=TOKEN)


def test_mailgun_vector() -> None:
    known = vectors("mailgun")
    content = (known["timestamp"] + known["token"]).encode()
    assert hmac_hex(known["signing_key"].encode(), content) == known["signature"]


TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail"
PLACE = "https://sns.eu-west-1.amazonaws.com/cert.pem"
KEY = rsa.generate_private_key(65537, 2048)


def certificate(url: str) -> bytes:
    assert url == PLACE
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns")])
    made = x509.CertificateBuilder(name, name, KEY.public_key(), 1, NOW - timedelta(1), NOW + timedelta(1))
    return made.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sns_request(message: str, kind: str = "Notification", **more: Any) -> Inbound:
    body = {
        "Type": kind, "MessageId": "n-1", "TopicArn": TOPIC, "Message": message, "SignatureVersion": "2",
        "Timestamp": NOW.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z"), "SigningCertURL": PLACE, **more,
    }  # fmt: skip
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    if kind == "Notification":
        names = [name for name in names if name not in ("SubscribeURL", "Token")]
    text = "".join(f"{name}\n{body[name]}\n" for name in names if name in body)
    body["Signature"] = base64.b64encode(KEY.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()
    return Inbound({"x-amz-sns-message-type": kind}, json.dumps(body).encode())


@pytest.fixture
def _certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's certificate is the tests' own: there is no Amazon here."""
    monkeypatch.setattr("destinations.sns.certificate_at", certificate)


@pytest.mark.usefixtures("_certificate")
def test_ses_reports_of_every_recipient() -> None:
    bounce = {
        "bounceType": "Permanent", "timestamp": "2026-03-02T09:00:00Z",
        "bouncedRecipients": [{"emailAddress": "ann@example.test"}, {"emailAddress": "bob@example.test"}],
    }  # fmt: skip
    mail = {"messageId": "m-1", "tags": {"action_id": ["a-1"]}, "destination": ["ann@example.test"]}
    told = json.dumps({"eventType": "Bounce", "bounce": bounce, "mail": mail})
    events = taken("ses", sns_request(told), topics=[TOPIC]).events
    assert [(event.name, event.email, event.action_id) for event in events] == [
        ("email_bounced", "ann@example.test", "a-1"), ("email_bounced", "bob@example.test", "a-1"),
    ]  # fmt: skip
    soft = json.dumps({"eventType": "Bounce", "bounce": bounce | {"bounceType": "Transient"}, "mail": mail})
    assert {e.name for e in taken("ses", sns_request(soft), topics=[TOPIC]).events} == {"email_soft_bounced"}
    assert taken("ses", sns_request("Successfully validated SNS topic"), topics=[TOPIC]) == Received()


@pytest.mark.usefixtures("_certificate")
def test_ses_topic_is_confirmed_at_amazon_only() -> None:
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"
    asked = sns_request("You have chosen", "SubscriptionConfirmation", SubscribeURL=url, Token="t")
    assert taken("ses", asked, topics=[TOPIC]).confirm == url
    elsewhere = sns_request("x", "SubscriptionConfirmation", SubscribeURL="https://evil.test/", Token="t")
    with pytest.raises(InboundRefused, match="D401"):
        taken("ses", elsewhere, topics=[TOPIC])


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"TopicArn": "arn:aws:sns:eu-west-1:1:other"}, "D406"),
        ({"SigningCertURL": "http://sns.eu-west-1.amazonaws.com/cert.pem"}, "D401"),
        ({"SigningCertURL": "https://sns.eu-west-1.amazonaws.com.evil.test/cert.pem"}, "D401"),
        ({"SigningCertURL": "https://evil.test@sns.eu-west-1.amazonaws.com/cert.pem"}, "D401"),
        ({"Timestamp": "2026-03-02T08:00:00Z"}, "D402"),
        ({"Timestamp": "never"}, "D402"),
    ],
)
def test_sns_refuses(more: dict[str, str], code: str) -> None:
    with pytest.raises(InboundRefused, match=code):
        verified(sns_request("{}", **more), [TOPIC], NOW, certificate)


def test_sns_signature_covers_the_message() -> None:
    genuine = sns_request('{"a":1}')
    assert verified(genuine, [TOPIC], NOW, certificate).message == '{"a":1}'
    with pytest.raises(InboundRefused, match="D401"):
        verified(Inbound(genuine.headers, genuine.body.replace(b"1}", b"2}")), [TOPIC], NOW, certificate)


@pytest.mark.parametrize("kind", CONFIG)
def test_without_a_secret_no_report_is_taken(kind: str) -> None:
    with pytest.raises(InboundRefused, match="D400"):
        taken(kind, Inbound({}, b"{}"))
