"""A message goes out with links to the collector, and what its reader does comes back before the next message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from compiler.errors import ProjectError
from flows.collecting import collector
from flows.runner import Runner
from tests.flows.collector.kiosk import SECRETS, SETTINGS, collecting, with_collector
from tests.flows.killing import ENVIRONMENT, Kiosk

URL = "https://events.shop.example"
LINKED = (
    SETTINGS
    + f"""  url: {URL}/
  sender: The Kiosk
  clicks: [shop.example]
  groups: {{news: Newsletter}}
"""
)
TEMPLATE = """---
subject: Confirmed
---
<body><p>Hello</p><a href="https://shop.example/orders/{{ contact.person_id }}">Order</a>
<a href="#unsubscribe">Unsubscribe</a></body>
"""
READER = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"}


@pytest.fixture(params=["duckdb", "postgres"])
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Kiosk]:
    for name, value in {**ENVIRONMENT, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    on_server = request.param == "postgres"
    with Kiosk(tmp_path, request.getfixturevalue("postgres_server").database() if on_server else None) as opened:
        (tmp_path / "templates" / "confirm.html").write_text(TEMPLATE, encoding="utf-8")
        yield opened


def rows(kiosk: Kiosk, sql: str) -> list[dict[str, Any]]:
    with kiosk.open() as warehouse:
        return warehouse.rows(sql)


def test_opens_clicks_and_one_click_come_back_to_their_contact(kiosk: Kiosk) -> None:
    runner = with_collector(kiosk, LINKED)
    kiosk.add(2, "letter")
    runner.tick()
    runner.deliver()
    mail = next(each for each in kiosk.mail.messages if each.recipients == ("p0001@mail.example",))
    leave = (mail.header("List-Unsubscribe") or "").strip("<>")
    assert mail.header("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"
    html = mail.html or ""
    [pixel] = re.findall(r'<img src="([^"]+)"', html)
    [click] = re.findall(r'href="([^"]+)">Order', html)
    assert re.findall(r'href="([^"]+)">Unsubscribe', html) == [leave]
    assert "p0001" not in leave + pixel + click
    with collecting(kiosk) as here, httpx.Client(headers=READER, trust_env=False) as client:
        client.get(pixel.replace(URL, here))
        assert client.get(click.replace(URL, here)).headers["location"] == "https://shop.example/orders/p0001"
        client.post(leave.replace(URL, here), content="List-Unsubscribe=One-Click")
    kiosk.add(1, "urgent")
    with kiosk.open() as warehouse:
        warehouse.execute("update shop.happenings set person_id = 'p0001' where name = 'rang'")
    runner.tick()
    runner.deliver()
    found = rows(
        kiosk, "select contact_id, name, data ->> 'template' as template, data ->> 'step' as step, "
        "data ->> 'link' as link from penstock.events where name like 'email_%' and source = 'page:link' order by name",
    )  # fmt: skip
    assert [(row["contact_id"], row["name"], row["template"], row["step"], row["link"]) for row in found] == [
        ("p0001", "email_clicked", "confirm", "confirm", "https://shop.example/orders/p0001"),
        ("p0001", "email_opened", "confirm", "confirm", None),
    ]  # fmt: skip
    said = rows(kiosk, "select outcome from penstock.journal where workflow = 'urgent' and step = 'alarm'")
    assert said == [{"outcome": "skipped(unsubscribed)"}]
    written = [path for path in kiosk.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    for name, secret in SECRETS.items():
        assert [path for path in written if secret.encode() in path.read_bytes()] == [], name


def test_a_message_of_a_transaction_cannot_be_left_but_says_where_to_leave_others(kiosk: Kiosk) -> None:
    file = kiosk.folder / "workflows" / "letter.yaml"
    file.write_text(file.read_text().replace("email: confirm}", "email: confirm, transactional: true}"))
    runner = with_collector(kiosk, LINKED)
    kiosk.add(1, "letter")
    runner.tick()
    runner.deliver()
    [mail] = kiosk.mail.messages
    assert mail.header("List-Unsubscribe") is None
    assert f'href="{URL}/u/' in (mail.html or "")


def test_without_its_secret_nothing_is_claimed_and_no_collector_starts(
    kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = with_collector(kiosk, LINKED)
    kiosk.add(1, "letter")
    runner.tick()
    monkeypatch.delenv("KIOSK_LINKS")
    for attempt in (runner.deliver, Runner(kiosk.project).deliver, lambda: collector(kiosk.project)):
        with pytest.raises(ProjectError, match="KIOSK_LINKS is not set") as raised:
            attempt()
        assert raised.value.code == "E541"
    monkeypatch.setenv("KIOSK_LINKS", "short")
    with pytest.raises(ProjectError, match="fewer than 24 characters"):
        runner.deliver()
    states = rows(kiosk, "select distinct state from penstock.deliveries")
    assert (states, kiosk.mail.messages) == ([{"state": "pending"}], [])
