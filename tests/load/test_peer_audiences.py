"""The twenty audiences that a bench harness compares, worked out again in plain Python for every contact."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from tests.load import peer_audiences
from tests.load.peer import NOW

DAY = timedelta(days=1)
PEOPLE = """
    COPY (
        SELECT i AS contact_id, 'p' || i || '@example.test' AS email, ['US', 'DE', 'FR'][1 + i % 3] AS country,
            ['free', 'pro', 'starter'][1 + i // 3 % 3] AS plan, (i * 13 % 130)::DOUBLE AS mrr,
            [['vip'], ['beta', 'churned'], ['webinar'], []][1 + i % 4] AS tags,
            ['Europe/Berlin', 'America/Sao_Paulo', 'Asia/Tokyo'][1 + i % 3] AS timezone,
            ['lead', 'customer'][1 + i % 2] AS lifecycle, i % 5 > 0 AS consent, (i * 37 % 100)::INT AS score,
            (i * 11 % 120)::INT AS age_days
        FROM range(400) AS r(i)
    ) TO '{}' (FORMAT parquet)
"""
# Some contacts have no event, and some times are exactly at the edge of a window.
EVENTS = """
    COPY (
        SELECT i AS event_id, (i * 7919 % 390)::BIGINT AS contact_id,
            ['email_sent', 'email_sent', 'email_opened', 'link_clicked', 'page_view', 'form_submitted', 'cart_created',
             'purchase'][1 + (i * 31 // 7) % 8] AS type,
            TIMESTAMP '2026-06-15 12:00:00' - to_seconds(
                CASE WHEN i % 10 = 0 THEN [7, 30, 90][1 + i % 3] * 86400 ELSE (i * 104729) % (120 * 86400) END) AS ts,
            '{{"url": "' || ['/', '/pricing'][1 + i % 2] || '", "form": "' || ['demo', 'news'][1 + i % 2]
                || '", "cents": ' || (500 + i * 7 % 20000) || '}}' AS props
        FROM range(1, 4000) AS r(i)
    ) TO '{}' (FORMAT parquet)
"""


def _holds(person: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, bool]:
    def count(name: str, days: float = 10_000, test: Callable[[dict[str, Any]], bool] = lambda _: True) -> int:
        return sum(e["type"] == name and e["ts"] >= NOW - days * DAY and test(e["props"]) for e in events)

    def last(*names: str) -> datetime | None:
        return max((e["ts"] for e in events if e["type"] in names), default=None)

    local = NOW.replace(tzinfo=UTC).astimezone(ZoneInfo(person["timezone"]))
    tags, plan, country, mrr = person["tags"], person["plan"], person["country"], person["mrr"]
    active = last("email_opened", "link_clicked", "page_view", "form_submitted", "cart_created", "purchase")
    cart, bought = last("cart_created"), last("purchase")
    sent = count("email_sent", 90)
    spent = sum(e["props"]["cents"] for e in events if e["type"] == "purchase" and e["ts"] >= NOW - 90 * DAY)
    return {
        "country": country == "US",
        "plan_mrr": plan in ("pro", "enterprise") and mrr >= 100,
        "mrr_range": 20 <= mrr <= 50,
        "stage_consent": person["lifecycle"] == "customer" and person["consent"],
        "tag_vip": "vip" in tags,
        "tag_any_not": ("beta" in tags or "webinar" in tags) and "churned" not in tags,
        "opens_30d": count("email_opened", 30) >= 3,
        "clicks_7d": count("link_clicked", 7) >= 1,
        "pricing_views": count("page_view", 30, lambda props: props["url"] == "/pricing") >= 2,
        "inactive_30d": active is None or active <= NOW - 30 * DAY,
        "open_rate": sent > 0 and count("email_opened", 90) / sent > 0.4,
        "click_rate": sent > 0 and count("link_clicked", 90) / sent > 0.1,
        "cart_abandoned": cart is not None and cart <= NOW - DAY / 12 and (bought is None or bought < cart),
        "revenue_90d": spent >= 20_000,
        "score": person["score"] >= 70,
        "demo_form": count("form_submitted", test=lambda props: props["form"] == "demo") >= 1,
        "local_hours": 9 <= local.hour <= 16,
        "local_weekday": local.isoweekday() <= 5 and local.hour < 20 and person["consent"],
        "new_unused": person["age_days"] <= 60 and count("page_view") == 0,
        "upsell": (plan == "free" or mrr < 20) and count("email_opened", 30) >= 1 and count("purchase") == 0
        and country in ("US", "GB", "DE"),
    }  # fmt: skip


def test_the_digest_is_that_of_plain_conditions(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        for table, text in (("contacts", PEOPLE), ("events", EVENTS)):
            connection.execute(text.format(tmp_path / f"{table}.parquet"))
        people, events = (
            connection.read_parquet(str(tmp_path / f"{table}.parquet")).to_arrow_table().to_pylist()
            for table in ("contacts", "events")
        )
    by_contact: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        by_contact.setdefault(event["contact_id"], []).append({**event, "props": json.loads(event["props"])})
    held = [list(_holds(person, by_contact.get(person["contact_id"], [])).values()) for person in people]
    masks = [sum(1 << place for place, holds in enumerate(row) if holds) for row in held]
    peer_audiences.prepare(tmp_path / "w1.duckdb", tmp_path)
    found = peer_audiences.run(tmp_path / "w1.duckdb")
    assert list(_holds(people[0], [])) == list(peer_audiences.texts())
    assert found["counts"] == [sum(column) for column in zip(*held, strict=True)]
    assert sum(count > 0 for count in found["counts"]) >= 17
    assert found["checksum"] == sum(mask * (number % 1009) for number, mask in enumerate(masks))
    peer_audiences.prepare_again(tmp_path / "again.duckdb", tmp_path)
    again = peer_audiences.run_again(tmp_path / "again.duckdb")
    assert (again["counts"], again["checksum"]) == (found["counts"], found["checksum"])
    assert 4 <= again["looked_at"] < 60  # with those whose events are at the very edge of a window
