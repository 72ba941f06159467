"""One message, one recipient, no header that was not meant."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from destinations.errors import PayloadError
from destinations.message import build_message
from studio.demo.mail_server import MailServer
from tests.destinations.conftest import NOW, email, send
from tests.destinations.test_smtp import config

INJECTIONS = [
    "x\r\nBcc: evil@example.test",
    "x\nBcc: evil@example.test",
    "x\rBcc: evil@example.test",
    "x\r\n\r\nbody",
    "x\x00y",
    "x\x0bBcc: e@x.test",
    "x\x0cBcc: e@x.test",
    "x\x1cBcc: e@x.test",
    "x\x85Bcc: e@x.test",
    "x\x9by",
    "x\u2028Bcc: e@x.test",
    "x\u2029Bcc: e@x.test",
    "x\x7fy",
    "=?utf-8?q?x=0D=0ABcc:_evil@example.test?=",
    "=?UTF-8?B?eA0KQmNjOiBlQHgudGVzdA==?=",
    "x\ud800y",
]
ADDRESSES = [
    "ann@example.test, bob@example.test",
    "ann@example.test;bob@example.test",
    "ann@example.test bob@example.test",
    "<ann@example.test> <bob@example.test>",
    "Ann <ann@example.test>, Bob <bob@example.test>",
    "group: ann@example.test;",
    "ann",
    "@example.test",
    "ann@",
    "ann@@example.test",
    "ann@-example.test",
    "ann@exam ple.test",
    '"ann smith"@example.test',
    "ann(comment)@example.test",
    "ann@[127.0.0.1]",
    "ann..smith@example.test",
    "a" * 65 + "@example.test",
    "ann@" + "a" * 64 + ".test",
    "ann@" + ".".join(["abcdefgh"] * 40),
    "änn@example.test",
    "",
    "   ",
    None,
    7,
]


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("field", ["subject", "reply_to", "from", "to", "list_unsubscribe", "header"])
def test_injected_header_is_refused_and_nothing_leaves(field: str, value: str) -> None:
    changed: dict[str, Any] = {field: value}
    if field in ("reply_to", "from"):
        changed = {field: f"{value} <a@example.test>"}
    if field == "header":
        changed = {"headers": {"X-Note": value}}
    with pytest.raises(PayloadError) as caught:
        build_message(email(**changed), None, None, NOW)
    assert caught.value.code in ("unsafe_header", "bad_address")
    assert value not in str(caught.value)


@pytest.mark.parametrize("address", ADDRESSES)
def test_more_or_less_than_one_plain_address_is_refused(address: object) -> None:
    action = email(to=address)  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match="bad_address|no_address"):
        build_message(action, None, None, NOW)


@pytest.mark.parametrize(
    "name", ["Bcc", "to", "Subject", "Content-Type", "Resent-To", "X Note", "X:Note", "X\nBcc", "", "DKIM-Signature"]
)
def test_headers_that_the_message_owns_cannot_be_added(name: str) -> None:
    with pytest.raises(PayloadError, match="unsafe_header"):
        build_message(email(headers={name: "x"}), None, None, NOW)


def test_refused_messages_become_verdicts_not_mail() -> None:
    with MailServer() as server:
        verdicts = send(
            config(server),
            email("a-1", subject=INJECTIONS[0]),
            email("a-2", to=""),
            email("a-3", text=""),
            email("a-4"),
        )
    assert [(verdict.status, verdict.code) for verdict in verdicts[:3]] == [
        ("failed", "unsafe_header"),
        ("failed", "no_address"),
        ("failed", "empty_message"),
    ]
    assert (verdicts[3].status, len(server.messages)) == ("sent", 1)


@pytest.mark.parametrize(
    ("given_address", "recipient"),
    [
        ("Ann Müller <ann@example.test>", "ann@example.test"),
        ('"Müller, Ann" <ann@example.test>', "ann@example.test"),
        (" o'brien+news@mail.example.test ", "o'brien+news@mail.example.test"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
    ],
)
def test_addresses_people_really_have(given_address: str, recipient: str) -> None:
    mail = build_message(email(to=given_address), None, None, NOW)
    assert mail.recipient == recipient


@settings(max_examples=150, deadline=None, print_blob=True)
@given(
    subject=st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=300),
    text=st.text(max_size=2000),
    html=st.text(max_size=500),
)
def test_any_text_survives_the_wire(subject: str, text: str, html: str) -> None:
    """Whatever is written, the parsed message has the same headers and one recipient, in lines SMTP can carry."""
    try:
        mail = build_message(email(subject=subject, text="." + text, html=html), None, None, NOW)
    except PayloadError as error:
        assert error.code == "unsafe_header" and "=?" in subject
        return
    parsed = message_from_bytes(mail.data, policy=policy.default)
    expected = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]
    assert list(parsed.keys()) == (expected if html else [*expected, "Content-Transfer-Encoding"])
    assert parsed.get_all("to") == ["ann@example.test"]
    assert mail.data.isascii()
    assert max(map(len, mail.data.split(b"\r\n"))) <= 998
    assert b"\n" not in mail.data.replace(b"\r\n", b"") and b"\r" not in mail.data.replace(b"\r\n", b"")
    plain = parsed.get_body(("plain",))
    assert plain is not None
    normal = _lines("." + text)
    assert _lines(str(plain.get_content())) == normal


def _lines(text: str) -> str:
    kept = "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)
    return kept.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
