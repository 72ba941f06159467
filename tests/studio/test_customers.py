"""The simulated customers: reproducible answers that honour what was planted."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb
import polars as pl
import pytest

from studio.demo import shop
from studio.demo.customers import EFFECTS, Customers, Export, Message
from studio.demo.world import World

_WITHOUT_LINKS = ("delivered", "bounced", "replied", "opened", "machine_opened")
END = shop.START + timedelta(days=shop.HORIZON_DAYS)


@pytest.fixture(scope="module")
def course() -> World:
    return shop.world()


@pytest.fixture(scope="module")
def customers(course: World) -> Customers:
    return Customers(course, shop.SEED)


def _some(course: World, **wanted: object) -> list[dict[str, object]]:
    return course.truth.filter(*(pl.col(name) == value for name, value in wanted.items())).to_dicts()


def _events(rows: dict[str, list[dict[str, object]]], table: str = "mail_events") -> set[object]:
    return {row["event_type"] for row in rows.get(table, [])}


def test_the_same_message_gets_the_same_answer(course: World, customers: Customers) -> None:
    messages = [Message(f"a{n}", f"C-{n:05d}", "special_offer", datetime(2026, 3, 3, 9)) for n in range(1, 400)]
    first = [customers.react(message) for message in messages]
    again = Customers(course, shop.SEED)
    assert [again.react(message) for message in reversed(messages)][::-1] == first
    assert any(rows.get("shop_orders") for rows in first)


def test_rows_are_loaded_after_they_happened(customers: Customers) -> None:
    for number in range(1, 600):
        message = Message(f"b{number}", f"C-{number:05d}", "ask_review", datetime(2026, 3, 9, 17))
        for rows in customers.react(message).values():
            for row in rows:
                when = row.get("occurred_at") or row.get("suppressed_at") or row["updated_at"]
                assert message.sent_at < when < row["_loaded_at"]


def test_dead_mailboxes_bounce_or_are_refused(course: World, customers: Customers) -> None:
    person = _some(course, mailbox="bounces")[0]
    rows = customers.react(Message("c1", str(person["contact_id"]), "welcome", datetime(2026, 3, 3, 9)))
    assert _events(rows) == {"bounced"}
    assert [row["reason"] for row in rows["mail_suppressions"]] == ["bounced"]
    contacts = course.tables["crm_contacts"].unique("contact_id").drop_nulls("email")
    address = dict(contacts.select("contact_id", "email").iter_rows())
    refused = next(p for p in _some(course, mailbox="refused") if p["contact_id"] in address)
    live = next(p for p in _some(course, mailbox="live") if p["contact_id"] in address)
    assert customers.refuses(address[refused["contact_id"]])
    assert not customers.refuses(address[live["contact_id"]])


def test_who_has_churned_answers_nothing(course: World, customers: Customers) -> None:
    gone = course.truth.filter(
        pl.col("churned_at") < shop.START, pl.col("mailbox") == "live", ~pl.col("machine_opens")
    )["contact_id"]
    assert len(gone) > 100
    for contact in gone:
        rows = customers.react(Message(f"d{contact}", contact, "cart_reminder", datetime(2026, 3, 3, 9)))
        assert set(rows) == {"mail_events"}
        assert _events(rows) == {"delivered"}


def test_mail_at_the_preferred_hour_is_opened_more(course: World, customers: Customers) -> None:
    people = course.truth.filter(
        pl.col("true_time_zone") == "Asia/Tokyo", pl.col("hour_strength") > 1, pl.col("churned_at") > END,
        pl.col("mailbox") == "live",
    )  # fmt: skip
    opened = {0: 0, 12: 0}
    for row in people.iter_rows(named=True):
        for shift in opened:
            hour = (row["peak_hour"] + shift - 9) % 24
            sent = datetime(2026, 3, 10) + timedelta(hours=hour)
            rows = customers.react(Message(f"e{shift}{row['contact_id']}", row["contact_id"], "product_value", sent))
            opened[shift] += "opened" in _events(rows)
    assert opened[0] > 2 * opened[12] > 0


def _reminded(course: World, customers: Customers) -> pl.DataFrame:
    carts = course.tables["shop_carts"].unique("cart_id", keep="last")
    alive = course.truth.filter(pl.col("churned_at") > END, pl.col("mailbox") == "live")
    answers = []
    for cart in carts.join(alive, on="contact_id").iter_rows(named=True):
        row: dict[str, object] = {"kind": cart["response_type"], "natural": cart["status"] == "converted"}
        for template, hours in (("cart_reminder", 2), ("cart_discount", 26)):
            sent = cart["created_at"] + timedelta(hours=hours)
            rows = customers.react(Message(f"{template}{cart['cart_id']}", cart["contact_id"], template, sent,
                                           cart["cart_id"]))  # fmt: skip
            row[template] = len(rows.get("shop_orders", []))
        answers.append(row)
    return pl.DataFrame(answers)


def test_messages_cause_the_purchases_that_were_planted(course: World, customers: Customers) -> None:
    answers = _reminded(course, customers)
    assert answers.filter(pl.col("natural"))["cart_reminder"].sum() == 0
    assert answers.select(pl.sum_horizontal("cart_reminder", "cart_discount").max()).item() == 1, "bought twice"
    open_carts = answers.filter(~pl.col("natural"))
    for template in ("cart_reminder", "cart_discount"):
        for kind in ("persuadable", "sure_thing", "lost_cause", "sleeping_dog"):
            mine = open_carts.filter(pl.col("kind") == kind)[template]
            planted = EFFECTS[template].get(kind, 0.0)
            tolerance = 3 * (planted * (1 - planted) / len(mine)) ** 0.5
            assert mine.mean() == pytest.approx(planted, abs=tolerance), (template, kind)


def test_all_triggers_of_the_six_workflows_happen(course: World, customers: Customers) -> None:
    future = customers.spontaneous(shop.START, END)
    events = future["web_events"].filter(pl.col("occurred_at") >= shop.START).unique("event_id")
    counts = dict(events.group_by("event_type").len().iter_rows())
    assert all(counts[name] >= 50 for name in ("signup", "cart_created", "purchase", "product_used"))
    assert counts["review_submitted"] >= 20
    assert events.filter(pl.col("list_name") == "newsletter").height >= 100
    assert events.filter(pl.col("event_type") == "link_clicked", pl.col("page") == "pricing").height >= 100
    known = shop.known_at(course, shop.START)
    bought = known["crm_contacts"].filter(pl.col("lifecycle_stage") == "customer")["contact_id"]
    visits = known["web_events"].filter(
        pl.col("event_type") == "site_visit", pl.col("contact_id").is_in(bought.implode())
    )
    last = visits.group_by("contact_id").agg(pl.col("occurred_at").max())
    lapsing = last.filter(pl.col("occurred_at") > shop.START - timedelta(days=30))
    assert lapsing.height >= 200


def test_new_contacts_arrive_before_their_sign_up(course: World, customers: Customers) -> None:
    future = customers.spontaneous(shop.START, END)
    signups = future["web_events"].filter(pl.col("event_type") == "signup").unique("event_id", keep="first")
    rows = future["crm_contacts"].sort("_loaded_at").unique("contact_id", keep="first")
    both = signups.join(rows, on="contact_id", suffix="_row")
    assert both.height == signups.filter(pl.col("occurred_at") >= shop.START).height
    assert both.filter(pl.col("_loaded_at_row") > pl.col("_loaded_at")).is_empty()


def test_the_export_delivers_each_row_once_and_in_time(course: World, customers: Customers) -> None:
    export = Export(customers, shop.START)
    sent = datetime(2026, 3, 2, 8)
    messages = [Message(f"f{n}", f"C-{n:05d}", "get_started", sent, pixel="p") for n in range(1, 300)]
    export.react(messages)
    mail = {row["event_id"]: row for m in messages for row in customers.react(m)["mail_events"]}
    called = []
    with duckdb.connect() as connection:
        shop.load(connection, shop.generate())
        at = shop.START
        while at < END + timedelta(days=1):
            at += timedelta(hours=12)
            made = export.calls(at)
            assert [call.when for call in made] == sorted(call.when for call in made if call.when < at)
            called += made
            shop.land(connection, export.due(at))
            early = connection.execute("select count(*) from raw.web_events where _loaded_at >= $1", [at]).fetchall()
            assert early == [(0,)]
        assert shop.land(connection, export.due(at)) == {}
        mine = connection.execute("select count(*) from raw.mail_events where action_id is not null").fetchall()
        carts = connection.execute("select count(*), count(distinct cart_id) from raw.shop_carts").fetchall()
        web = connection.execute(
            "select count(*) from raw.web_events where event_id not like 'f%-%' or event_id like 'first-%'"
        ).fetchall()
    assert mine == [(0,)], "what a message causes comes by requests"
    assert sorted(f"{call.message.action_id}-{call.kind}" for call in called) == sorted(
        event for event, row in mail.items() if row["event_type"] in _WITHOUT_LINKS
    )
    whole = shop.known_at(course, END + timedelta(days=1))
    assert carts == [(whole["shop_carts"].height, whole["shop_carts"].height)]
    assert web == [(whole["web_events"].height,)]
