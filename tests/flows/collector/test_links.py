"""Links in messages: what is signed, what is left alone, and that nobody else can make one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from compiler.content import parse_template, render
from flows.collector.links import MessageLinks, counted
from flows.collector.tokens import Keyring
from tests.flows.collector.serving import KEYRING, SECRET

ACTION = "6f1c6b1e-0000-4000-8000-000000000001"
LINKS = MessageLinks("https://events.shop.example", KEYRING, ("shop.example",))


def leads_to(html: str) -> list[str]:
    """The links of some HTML: signed ones as what they say."""
    found = []
    for address in re.findall(r"""<a [^>]*href=["']([^"']*)""", html):
        _, _, token = address.partition("https://events.shop.example/c/")
        message = KEYRING.opened("click", token) if token else None
        found.append(address if message is None else f"-> {message.text}")
    return found


def test_links_to_listed_hosts_are_signed_and_all_others_stay() -> None:
    html = """
        <a href="https://shop.example/cart?a=1&amp;b=2">Cart</a> <a class="x" href='http://www.shop.example/'>Home</a>
        <a href="https://evil.example/">Elsewhere</a> <a href="https://shop.example.evil.example/">Nearly</a>
        <a href="https://shop.example@evil.example/">At</a> <a href="mailto:a@shop.example">Mail</a>
        <a href="#top">Top</a> <img src="https://shop.example/i.png"><link href="https://shop.example/s.css">
    """
    assert leads_to(LINKS.html(ACTION, html, "https://events.shop.example/u/x")) == [
        "-> https://shop.example/cart?a=1&b=2", "-> http://www.shop.example/", "https://evil.example/",
        "https://shop.example.evil.example/", "https://shop.example@evil.example/", "mailto:a@shop.example", "#top",
    ]  # fmt: skip


def test_the_picture_stands_once_before_the_end_of_the_body() -> None:
    html = LINKS.html(ACTION, "<body><p>Hello</body></body></html>", "u")
    [token] = re.findall(r'<img src="https://events\.shop\.example/o/([^"]+)\.gif"', html)
    assert html.endswith("</body></html>")
    opened = KEYRING.opened("open", token)
    assert opened is not None
    assert (opened.action_id, opened.text) == (ACTION, "")
    assert "<img" not in MessageLinks("https://e.example", KEYRING, opens=False).html(ACTION, "<p>", "u")


def test_a_template_says_where_to_leave_in_html_and_in_its_derived_text() -> None:
    source = '---\nsubject: Hello\ngroup: news\n---\n<p>Hello</p><p><a href="#unsubscribe">Unsubscribe</a></p>'
    message = render(parse_template("t", {"html": source}, "t"), {})
    leave = LINKS.leave(ACTION, "news")
    assert message.html is not None
    assert f'<a href="{leave}">Unsubscribe</a>' in LINKS.html(ACTION, message.html, leave)
    text = render(parse_template("t", {"txt": "---\nsubject: a\n---\nStop: #unsubscribe #unsubscribed"}, "t"), {}).text
    assert LINKS.text(text, leave).strip() == f"Stop: {leave} #unsubscribed"


def test_a_token_says_what_it_was_made_for_and_old_secrets_still_count() -> None:
    token = LINKS.leave(ACTION, "news").removeprefix("https://events.shop.example/u/")
    left = KEYRING.opened("leave", token)
    assert left is not None
    assert (left.action_id, left.text) == (ACTION, "news")
    for purpose in ("open", "click", "identity"):
        assert KEYRING.read(purpose, token) is None
    assert Keyring(["another-secret-of-enough-characters", SECRET]).opened("leave", token) == left
    assert Keyring(["another-secret-of-enough-characters"]).opened("leave", token) is None
    assert Keyring([]).opened("leave", token) is None


def test_no_token_holds_a_contact_or_an_address() -> None:
    assert "@" not in LINKS.leave(ACTION, "news")
    assert len(LINKS.leave(ACTION, None)) < 90


@pytest.mark.parametrize("position", range(0, 66, 3))
def test_a_token_with_one_changed_character_is_none(position: int) -> None:
    token = KEYRING.message("leave", ACTION, "all good")
    at = position % (len(token) - 1)  # of the last character some bits stand for nothing
    other = "A" if token[at] != "A" else "B"
    assert KEYRING.opened("leave", token[:at] + other + token[at + 1 :]) is None


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: raw.hex()))
def test_no_text_is_a_token_by_chance(text: str) -> None:
    assert KEYRING.opened("leave", text) is None


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "//evil.example", "https:evil.example", "https://evil.example/https://shop.example",
     "https://shop.example\\@evil.example", "https://user:pw@shop.example/", "https://shop.example\r\nX: y", "",
     "https://[::1", "https://notshop.example/", "ftp://shop.example/"],
)  # fmt: skip
def test_an_address_that_only_looks_like_a_listed_one_is_not(address: str) -> None:
    assert not counted(address, ("shop.example",))


def test_every_message_has_tokens_of_its_own() -> None:
    assert LINKS.leave(str(uuid4()), "news") != LINKS.leave(str(uuid4()), "news")


def test_an_identity_can_be_made_by_hand_as_the_page_says() -> None:
    key = hashlib.sha256(b"penstock links " + SECRET.encode()).digest()
    mac = hmac.new(key, b"identity\0c1", hashlib.sha256).digest()[:16]
    token = base64.urlsafe_b64encode(key[:1] + mac + b"c1").rstrip(b"=").decode()
    assert token == penstock.identity("c1", secret=SECRET)
    assert KEYRING.contact(token) == "c1"
