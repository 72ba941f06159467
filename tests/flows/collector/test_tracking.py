"""Opens, clicks and leaving over real sockets: GET changes nothing, nobody leaves for others, no open redirect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.collector.tracking import Tracking
from tests.flows.collector.serving import KEYRING, Served, served

ACTION = "6f1c6b1e-0000-4000-8000-000000000001"
PERSON = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
TARGET = "https://shop.example/cart?id=1"
GROUPS = {"news": "Newsletter", "offers": "Offers & more"}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    tracking = Tracking(KEYRING, ("shop.example",), GROUPS, "Acme <Home>")
    with served(tmp_path / "buffer", parts=[tracking]) as found:
        yield found


def said(here: Served) -> list[tuple[str, dict[str, Any]]]:
    assert {event["action_id"] for event in here.events()} <= {ACTION}
    return [(event["name"], event["properties"]) for event in here.events()]


def test_a_picture_is_an_open_once_a_minute(here: Served) -> None:
    path = f"/o/{KEYRING.message('open', ACTION)}.gif"
    answers = [here.client.get(path, headers=PERSON) for _ in range(2)]
    assert {(each.status_code, each.headers["content-type"], each.content[:6]) for each in answers} == {
        (200, "image/gif", b"GIF89a")
    }
    assert said(here) == [("email_opened", {})] * 2
    assert len({event["id"] for event in here.events()}) == 1
    assert all("set-cookie" not in each.headers for each in answers)


def test_a_click_leads_to_its_signed_address(here: Served) -> None:
    answer = here.client.get(f"/c/{KEYRING.message('click', ACTION, TARGET)}", headers=PERSON)
    assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
    assert said(here) == [("email_clicked", {"link": TARGET})]


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0",
        "",
        "Barracuda Sentinel",
        "python-requests/2.32",
        "Googlebot/2.1",
        "Mozilla/5.0 HeadlessChrome/140",
    ],
)
def test_machines_are_marked(here: Served, agent: str) -> None:
    here.client.get(f"/o/{KEYRING.message('open', ACTION)}.gif", headers={"user-agent": agent})
    clicked = here.client.get(f"/c/{KEYRING.message('click', ACTION, TARGET)}", headers={"user-agent": agent})
    assert clicked.status_code == 302
    assert said(here) == [("email_machine_opened", {}), ("email_machine_clicked", {"link": TARGET})]


def test_a_prefetch_is_a_machines_and_googles_proxy_fetches_when_a_person_opens(here: Served) -> None:
    path = f"/o/{KEYRING.message('open', ACTION)}.gif"
    here.client.get(path, headers={**PERSON, "sec-purpose": "prefetch;prerender"})
    here.client.get(path, headers={"user-agent": "Mozilla/5.0 (Windows NT 5.1) (via ggpht.com GoogleImageProxy)"})
    assert [name for name, _ in said(here)] == ["email_machine_opened", "email_opened"]


@pytest.mark.parametrize(
    "path",
    ["/c/", "/c/x", f"/c/{KEYRING.message('leave', ACTION, TARGET)}", f"/c/{KEYRING.message('open', ACTION)}",
     f"/c/{KEYRING.message('click', ACTION, 'https://evil.example/')}",
     f"/c/{KEYRING.message('click', ACTION, 'javascript:alert(1)')}",
     f"/c/{KEYRING.message('click', ACTION, TARGET)}?url=https://evil.example/&next=//evil.example",
     "/c/https://evil.example/", "/o/x.gif", f"/o/{KEYRING.message('click', ACTION, TARGET)}.gif", "/u/x",
     f"/u/{KEYRING.message('click', ACTION, TARGET)}"],
)  # fmt: skip
def test_what_nobody_signed_leads_nowhere(here: Served, path: str) -> None:
    answer = here.client.get(path, headers=PERSON)
    if "?url=" in path:
        assert answer.headers["location"] == TARGET, "an address in the query is nobody's business"
        return
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert here.events() == []


def test_a_crawler_that_follows_every_link_changes_nothing(here: Served) -> None:
    path = f"/u/{KEYRING.message('leave', ACTION, 'news')}"
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        answer = here.client.request(method, path, headers=PERSON)
        assert answer.status_code in (200, 405)
    for other in (f"/c/{KEYRING.message('click', ACTION, TARGET)}", f"/o/{KEYRING.message('open', ACTION)}.gif"):
        here.client.head(other, headers=PERSON)
    assert here.events() == []


def test_the_page_shows_the_groups_and_holds_nothing_that_runs(here: Served) -> None:
    answer = here.client.get(f"/u/{KEYRING.message('leave', ACTION, 'news')}", headers=PERSON)
    assert "Unsubscribe from Newsletter" in answer.text
    assert "Offers &amp; more" in answer.text
    assert "Acme &lt;Home&gt;" in answer.text
    assert "<script" not in answer.text and "set-cookie" not in answer.headers
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert ACTION not in answer.text


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("List-Unsubscribe=One-Click", "application/x-www-form-urlencoded"),
        ('--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n',
         "multipart/form-data; boundary=b"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("group", "properties"), [("news", {"group": "news"}), ("", {})])
def test_one_click_leaves_the_list_of_the_message(
    here: Served, content: str, kind: str, group: str, properties: dict[str, str]
) -> None:
    path = f"/u/{KEYRING.message('leave', ACTION, group)}"
    answers = [here.client.post(path, content=content, headers={"content-type": kind}) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200], "a repetition is fine, and there is no redirect"
    assert said(here) == [("email_unsubscribed", properties)] * 2


def test_a_contact_chooses_groups_and_can_come_back(here: Served) -> None:
    path = f"/u/{KEYRING.message('leave', ACTION, 'news')}"
    here.client.post(path, data={"leave": "news"})
    here.client.post(path, data={"leave": "all"})
    here.client.post(
        path, data={"choose": "yes", "group.news": "join", "group.offers": "leave", "group.other": "leave"}
    )
    here.client.post(path, data={"choose": "yes", "group.news": "", "group.offers": "maybe"})
    here.client.post(path, data={"leave": "offers"})
    here.client.post(path, data={"choose": "yes", "all": "join", "group.news": "leave"})
    assert said(here) == [
        ("email_unsubscribed", {"group": "news"}), ("email_unsubscribed", {}),
        ("email_resubscribed", {"group": "news"}), ("email_unsubscribed", {"group": "offers"}),
        ("email_resubscribed", {}), ("email_unsubscribed", {"group": "news"}),
    ]  # fmt: skip


def test_nobody_leaves_for_somebody_else(here: Served) -> None:
    token = KEYRING.message("leave", ACTION, "news")
    other = KEYRING.message("leave", "6f1c6b1e-0000-4000-8000-000000000002", "news")
    mixed = token[:30] + other[30:]
    for forged in (mixed, token[:-6], token + "AAAA", token.swapcase(), ACTION):
        answer = here.client.post(f"/u/{forged}", content="List-Unsubscribe=One-Click")
        assert answer.status_code == 404
    assert here.events() == []


def test_a_wish_is_acknowledged_only_when_it_is_on_the_disk_and_a_click_is_led_on_all_the_same(here: Served) -> None:
    here.folder.write_text("a file where the folder should be")
    left = here.client.post(f"/u/{KEYRING.message('leave', ACTION, 'news')}", content="List-Unsubscribe=One-Click")
    clicked = here.client.get(f"/c/{KEYRING.message('click', ACTION, TARGET)}", headers=PERSON)
    assert (left.status_code, clicked.status_code) == (503, 302)


def test_a_replayed_link_is_written_down_so_often_and_no_more(here: Served) -> None:
    path = f"/c/{KEYRING.message('click', ACTION, TARGET)}"
    answers = [here.client.get(path, headers=PERSON).status_code for _ in range(100)]
    assert set(answers) == {302}
    assert len(here.events()) == 10, "two seconds' worth of one message"
    leave = f"/u/{KEYRING.message('leave', ACTION, 'news')}"
    left = [here.client.post(leave, content="List-Unsubscribe=One-Click").status_code for _ in range(11)]
    assert left == [200] * 10 + [503]
    here.watch.seconds += 1
    assert here.client.post(leave, content="List-Unsubscribe=One-Click").status_code == 200


def test_a_provider_that_fetches_for_everybody_is_heard_for_everybody(here: Served) -> None:
    actions = [f"6f1c6b1e-0000-4000-8000-{number:012}" for number in range(300)]
    for action in actions:
        assert here.client.get(f"/o/{KEYRING.message('open', action, '')}.gif", headers=PERSON).status_code == 200
    assert len(here.events()) == len(actions)


def test_a_large_body_is_no_wish(here: Served) -> None:
    path = f"/u/{KEYRING.message('leave', ACTION, 'news')}"
    assert here.client.post(path, content=b"leave=news&" + b"x" * 20_000).status_code == 413
    assert here.events() == []
