"""Forms of web pages: listed fields, listed pages, and nothing that a visitor could turn on others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.collector.forms import Form, Forms
from tests.flows.collector.serving import Served, served

PAGES = ("https://shop.example/thanks", "https://shop.example/offer")
FORMS = {
    "newsletter": Form("form_submitted", ("topic",), "email", "phone", PAGES, "website"),
    "bare": Form("asked", (), None, None, (), None),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "buffer", parts=[Forms(FORMS)]) as found:
        yield found


def test_a_form_becomes_an_event_of_its_listed_fields_and_leads_to_its_page(here: Served) -> None:
    fields = {"email": " Ann@mail.example", "topic": "plants", "colour": "red", "contact_id": "c1", "name": "other"}
    answer = here.client.post("/v1/forms/newsletter", data=fields)
    assert (answer.status_code, answer.headers["location"]) == (303, PAGES[0])
    assert here.events() == [
        {"name": "form_submitted", "email": "Ann@mail.example", "properties": {"form": "newsletter", "topic": "plants"}}
    ]
    assert here.client.post("/v1/forms/bare", data=fields).text.count("Thank you") == 2
    assert here.events()[1] == {"name": "asked", "properties": {"form": "bare"}}


@pytest.mark.parametrize(
    ("wanted", "led"),
    [(PAGES[1], PAGES[1]), ("https://evil.example/", PAGES[0]), ("//evil.example", PAGES[0]), ("", PAGES[0]),
     (PAGES[1] + "@evil.example", PAGES[0]), (PAGES[1] + "\r\nSet-Cookie: a=b", PAGES[0])],
)  # fmt: skip
def test_a_form_leads_only_to_listed_pages(here: Served, wanted: str, led: str) -> None:
    answer = here.client.post("/v1/forms/newsletter", data={"redirect": wanted})
    assert (answer.status_code, answer.headers["location"], "set-cookie" in answer.headers) == (303, led, False)


def test_a_machine_that_fills_the_trap_is_thanked_and_forgotten(here: Served) -> None:
    assert here.client.post("/v1/forms/newsletter", data={"email": "a@b.example", "website": "x"}).status_code == 303
    assert here.events() == []


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "reason"),
    [
        ("/v1/forms/other", b"a=b", "application/x-www-form-urlencoded", 404, "unknown_form"),
        ("/v1/forms/newsletter", b"{}", "application/json", 415, "not_a_form"),
        ("/v1/forms/newsletter", b"a=%ff", "application/x-www-form-urlencoded", 400, "not_a_form"),
        ("/v1/forms/newsletter", b"a&" * 300, "application/x-www-form-urlencoded", 400, "not_a_form"),
        ("/v1/forms/newsletter", b"topic=a%00b", "application/x-www-form-urlencoded", 400, "nul_character"),
        ("/v1/forms/newsletter", b"email=" + b"x" * 300, "application/x-www-form-urlencoded", 400, "bad_email"),
        ("/v1/forms/newsletter", b"x" * 70_000, "application/x-www-form-urlencoded", 413, "too_large"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(here: Served, path: str, body: bytes, kind: str, status: int, reason: str) -> None:
    answer = here.client.post(path, content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]) == (status, reason)
    assert here.events() == []


def test_one_address_posts_so_often_and_no_more(here: Served) -> None:
    answers = [here.client.post("/v1/forms/bare", data={"a": "b"}).status_code for _ in range(8)]
    assert answers == [200] * 4 + [429] * 4
