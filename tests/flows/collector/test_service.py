"""The endpoint of events over real sockets: what is taken is durable, and every limit answers with a reason."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from flows.collector import server, service
from tests.flows.collector.serving import (
    BROWSER_KEY,
    KEYRING,
    SECRET,
    SERVER_KEY,
    SHOP,
    Served,
    configuration,
    served,
)

EVENT = {"name": "cart_created", "contact_id": "c1", "properties": {"total": 12.5}}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "buffer") as found:
        yield found


def test_one_event_and_a_batch_are_on_the_disk_when_they_are_acknowledged(here: Served) -> None:
    one = here.post(EVENT)
    many = here.post([{**EVENT, "id": f"e{number}"} for number in range(500)])
    wrapped = here.post({"events": [{**EVENT, "id": "w1", "time": "2026-03-02T08:59:00+01:00"}]})
    assert [(each.status_code, each.json()) for each in (one, many, wrapped)] == [
        (202, {"accepted": 1}), (202, {"accepted": 500}), (202, {"accepted": 1}),
    ]  # fmt: skip
    assert [len(line["events"]) for line in here.lines()] == [1, 500, 1]
    assert here.lines()[0] | {"id": None} == {
        "id": None, "at": "2026-03-02T09:00:00", "source": "server", "name": "backend", "events": [EVENT],
    }  # fmt: skip


REFUSED: list[tuple[Any, str]] = [
    ("text", "not_an_event"), ({"contact_id": "c1"}, "bad_name"), ({**EVENT, "name": "1st"}, "bad_name"),
    ({**EVENT, "name": "a\r\nb"}, "bad_name"), ({**EVENT, "name": "x" * 101}, "bad_name"),
    ({**EVENT, "colour": "red"}, "unknown_key"), ({**EVENT, "id": ""}, "bad_id"), ({**EVENT, "id": 7}, "bad_id"),
    ({**EVENT, "contact_id": "x" * 201}, "bad_contact_id"), ({**EVENT, "time": "yesterday"}, "bad_time"),
    ({**EVENT, "time": 1772442000}, "bad_time"), ({**EVENT, "action_id": "a1"}, "bad_action_id"),
    ({**EVENT, "properties": [1]}, "bad_properties"), ({**EVENT, "identity": "c1"}, "bad_identity"),
    ({**EVENT, "properties": {str(n): n for n in range(201)}}, "too_many_properties"),
    ({**EVENT, "properties": {"a": [[[[[[[[[1]]]]]]]]]}}, "too_deep"),
    ({**EVENT, "properties": {"a": "x" * 64_001}}, "too_large"),
    ({**EVENT, "properties": {"a": "x\0y"}}, "nul_character"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_an_event_that_breaks_a_limit_is_refused_with_the_reason(here: Served, event: Any, reason: str) -> None:
    answer = here.post(event)
    assert (answer.status_code, answer.json()["error"]) == (400, reason)
    assert here.events() == []


def test_limits_are_inclusive(here: Served) -> None:
    nested: Any = 1
    for _ in range(7):
        nested = [nested]
    properties: dict[str, Any] = {**{str(n): n for n in range(198)}, "deep": nested, "long": ""}
    properties["long"] = "x" * (64_000 - len(orjson.dumps({**EVENT, "properties": properties})))
    answer = here.post({**EVENT, "properties": properties})
    assert answer.status_code == 202, answer.text


def test_of_a_batch_the_good_ones_are_taken_and_the_others_are_kept_as_refused(here: Served) -> None:
    answer = here.post([EVENT, {"name": "bad name!"}, {**EVENT, "id": "e2"}])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [(each["index"], each["error"]) for each in answer.json()["refused"]] == [(1, "bad_name")]
    [line] = here.lines()
    assert line["events"] == [EVENT, {**EVENT, "id": "e2"}]
    assert line["refused"] == [{"reason": "bad_name", "event": '{"name":"bad name!"}'}]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not_json"), (b"{", 400, "not_json"), (b'{"name": "\xff"}', 400, "not_json"),
        (b'{"name": "a\x00b"}', 400, "not_json"), (b'"\\ud800"', 400, "not_json"), (b"[]", 400, "bad_batch"),
        (b"[" * 200_000, 400, "not_json"), (orjson.dumps([EVENT] * 501), 413, "bad_batch"),
        (b" " * 1_000_001, 413, "too_large"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_batch_is_refused_as_a_whole(here: Served, body: bytes, status: int, reason: str) -> None:
    answer = here.post(body)
    assert (answer.status_code, answer.json()["error"]) == (status, reason)
    assert here.lines() == []


def test_a_body_without_a_declared_length_is_cut_off_at_the_limit(here: Served) -> None:
    parts = (b"[" + b" " * 100_000 for _ in range(20))
    headers = {"authorization": f"Bearer {SERVER_KEY}", "content-type": "application/json"}
    answer = here.client.post("/v1/events", content=parts, headers=headers)
    assert (answer.status_code, answer.json()["error"], answer.headers["connection"]) == (413, "too_large", "close")


def test_only_json_is_taken_and_plain_text_of_a_browsers_beacon(here: Served) -> None:
    form = here.post(EVENT, content_type="application/x-www-form-urlencoded")
    text = here.post(EVENT, content_type="text/plain")
    beacon = here.post({"name": "page_viewed"}, key=BROWSER_KEY, content_type="text/plain;charset=UTF-8")
    assert [form.status_code, text.status_code, beacon.status_code] == [415, 415, 202]


def test_write_keys_open_what_they_are_for_and_nothing_else(here: Served) -> None:
    page = {"name": "page_viewed"}
    assert here.post(page, key=None).status_code == 401
    assert here.post(page, key="wrong").status_code == 401
    assert here.post(page, key=None, path=f"/v1/events?key={SERVER_KEY}").status_code == 401, "addresses are logged"
    assert here.post(page, key=None, path=f"/v1/events?key={BROWSER_KEY}").status_code == 202
    for path in ("/v1/events", "/health", "/", "/v1/../etc/passwd"):
        assert here.client.get(path, headers={"authorization": f"Bearer {SERVER_KEY}"}).status_code in (200, 404, 405)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"name": "page_viewed", "contact_id": "c1"}, "unsigned_identity"),
        ({"name": "page_viewed", "email": "ann@example.test"}, "unsigned_identity"),
        ({"name": "page_viewed", "phone": "+4912345"}, "unsigned_identity"),
        ({"name": "a", "action_id": "6f1c6b1e-0000-4000-8000-000000000001"}, "unsigned_identity"),
        ({"name": "email_unsubscribed"}, "reserved_name"), ({"name": "sms_bounced"}, "reserved_name"),
        ({"name": "page_viewed", "identity": "AAAA"}, "bad_identity"),
        ({"name": "page_viewed", "identity": KEYRING.message("leave", "6f1c6b1e-0000-4000-8000-000000000001")},
         "bad_identity"),
        ({"name": "page_viewed", "identity": KEYRING.identity("c1")[:-3] + "AAA"}, "bad_identity"),
    ],
)  # fmt: skip
def test_a_public_key_cannot_speak_for_others(here: Served, event: Any, reason: str) -> None:
    answer = here.post(event, key=BROWSER_KEY)
    assert (answer.status_code, answer.json()["error"]) == (400, reason)


def test_a_signed_identity_says_who_a_visitor_is(here: Served) -> None:
    event = {"name": "page_viewed", "anonymous_id": "v1", "identity": KEYRING.identity("c1")}
    assert here.post(event, key=BROWSER_KEY).status_code == 202
    assert here.events() == [{"name": "page_viewed", "anonymous_id": "v1", "contact_id": "c1"}]


def test_pages_of_other_origins_may_neither_write_nor_read_the_answer(here: Served) -> None:
    page = {"name": "page_viewed"}
    allowed = here.post(page, key=BROWSER_KEY, origin=SHOP)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (202, SHOP)
    for origin in ("https://evil.example", "https://shop.example.evil.example", "null", "http://shop.example"):
        answer = here.post(page, key=BROWSER_KEY, origin=origin)
        assert (answer.status_code, answer.json()["error"]) == (403, "unknown_origin")
        assert "access-control-allow-origin" not in answer.headers
        asked = here.client.options("/v1/events", headers={"origin": origin, "access-control-request-method": "POST"})
        assert asked.status_code == 403
    assert here.post(page, key=SERVER_KEY, origin=SHOP).status_code == 403, "a server's key is not for pages"
    asked = here.client.options("/v1/events", headers={"origin": SHOP, "access-control-request-method": "POST"})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, SHOP)
    assert len(here.events()) == 1


def test_a_flood_is_told_when_to_come_back_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    with served(tmp_path / "buffer", configuration(rate=10)) as here:
        answers = [here.post([EVENT] * 5) for _ in range(40)]
        assert [each.status_code for each in answers] == [202] * 4 + [429] * 36, "two seconds' worth at once"
        assert {each.headers["retry-after"] for each in answers[4:]} == {"1"}
        assert here.post({"name": "page_viewed"}, key=BROWSER_KEY).status_code == 202, "a limit is of one key"
        here.watch.seconds += 0.5
        assert here.post([EVENT] * 5).status_code == 202
        assert len(here.events()) == 26


def test_a_batch_larger_than_the_allowance_gets_through_when_it_is_full(tmp_path: Path) -> None:
    with served(tmp_path / "buffer", configuration(rate=10)) as here:
        assert here.post([EVENT] * 100).status_code == 202
        here.watch.seconds += 8
        assert (here.post([EVENT]).status_code, here.post([EVENT]).headers["retry-after"]) == (429, "1")
        here.watch.seconds += 1
        assert here.post([EVENT]).status_code == 202


def test_nothing_is_acknowledged_that_the_disk_does_not_take(here: Served) -> None:
    here.folder.write_text("a file where the folder should be")
    answer = here.post(EVENT)
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (503, "not_durable", "5")
    here.folder.unlink()
    assert here.post(EVENT).status_code == 202
    assert here.events() == [EVENT]


def test_who_sends_the_body_too_slowly_is_answered_and_cut_off(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BODY_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", here.port), timeout=20) as slow:
        slow.sendall(
            _head(f"Authorization: Bearer {SERVER_KEY}", "Content-Type: application/json", "Content-Length: 99")
        )
        assert b" 408 " in slow.recv(4096)
    assert here.post(EVENT).status_code == 202


def test_who_does_not_finish_the_head_is_cut_off_also_on_a_later_request(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.05)
    for before in (b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", here.port), timeout=20) as slow:
            slow.sendall(before)
            if before:
                assert b" 200 " in slow.recv(4096)
            slow.sendall(b"POST /v1/events HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            assert slow.recv(4096) == b"", "hung up, without an answer"


def test_who_drips_a_body_that_nobody_reads_is_cut_off(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MESSAGE_SECONDS", 0.05)
    for head, status in ((b"GET /health HTTP/1.1", b" 200 "), (b"POST /v1/events HTTP/1.1", b" 401 ")):
        with socket.create_connection(("127.0.0.1", here.port), timeout=20) as slow:
            slow.sendall(head + b"\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx")
            told = b""
            while part := slow.recv(4096):
                told += part
            assert status in told


def test_more_connections_than_there_may_be_are_turned_away_until_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    with served(tmp_path / "buffer") as here:
        others = [socket.create_connection(("127.0.0.1", here.port), timeout=20) for _ in range(3)]
        for other in others:  # answered, so they are counted
            other.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert other.recv(4096).startswith(b"HTTP/1.1 ")
        assert here.post(EVENT).status_code == 503
        for other in others:
            other.close()
        for _ in range(1000):  # until the server has noticed
            with suppress(httpx.TransportError):
                if here.post(EVENT).status_code == 202:
                    break
        assert here.events() == [EVENT]


def test_no_key_or_secret_is_written_or_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with served(tmp_path / "buffer") as here:
        answers = [
            here.post(EVENT), here.post({**EVENT, "name": 1}), here.post(b"{"), here.post(EVENT, key=SERVER_KEY + "x"),
            here.post({"name": "p"}, key=None, path=f"/v1/events?key={BROWSER_KEY}"),
            here.post(EVENT, key=BROWSER_KEY), here.post(EVENT, key=BROWSER_KEY, origin="https://evil.example"),
        ]  # fmt: skip
        told = "".join(each.text + str(each.headers) for each in answers)
        kept = "".join(str(line) for line in here.lines())
        shown = repr(here.collector) + repr(configuration()) + repr(KEYRING)
    for secret in (SERVER_KEY, BROWSER_KEY, SECRET):
        assert secret not in told + kept + shown + "".join(capfd.readouterr())
        ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
        assert not [record for record in ours if secret in record.getMessage()]


def _head(*headers: str) -> bytes:
    return "\r\n".join(["POST /v1/events HTTP/1.1", "Host: a", *headers, "", ""]).encode()
