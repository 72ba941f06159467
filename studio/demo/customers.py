"""The simulated customers: what they do by themselves, and how they react to a message that really arrived.

Reactions are pure functions of (seed, contact, action id, what): the same message at the same time always gets the
same answer, whatever else happened. They honour what `studio.demo.people` planted: hour habits, waning interest,
silent churn, dead mailboxes, and the true effect of a template on a purchase (`EFFECTS`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from studio.demo.world import PRICES, World

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""Raw rows by table name, each with its `_loaded_at`."""

EFFECTS: Mapping[str, Mapping[str, float]] = {
    "cart_reminder": {"persuadable": 0.22, "sure_thing": 0.02},
    "cart_discount": {"persuadable": 0.18, "sure_thing": 0.02, "lost_cause": 0.01},
    "special_offer": {"persuadable": 0.12, "sure_thing": 0.03},
    "winback_first": {"persuadable": 0.03},
    "winback_last": {"persuadable": 0.05},
    "product_tips": {"persuadable": 0.02, "sure_thing": 0.02},
}
"""P(this message causes a purchase that would not have been made), by template and response type; else 0."""
FIRST_USE = 0.15
"""P(`get_started` makes a contact use the product who otherwise would not have)."""
UNSUBSCRIBES: Mapping[str, float] = {"sleeping_dog": 0.04}
UNSUBSCRIBES_ELSE = 0.003
REPLIES: Mapping[str, float] = {"case_study": 0.22, "support_offer": 0.10, "cart_reminder": 0.02}
REVIEWS = 0.35
"""P(review), of those who open `ask_review`."""
CART_TEMPLATES = ("cart_reminder", "cart_discount")
LANDING: Mapping[str, str] = {
    "welcome": "blog", "product_value": "product", "winback_first": "category", "winback_last": "category",
    "case_study": "case_studies", "special_offer": "pricing", "get_started": "docs", "advanced_tips": "docs",
    "support_offer": "docs", "cart_reminder": "product", "cart_discount": "product", "thank_you": "home",
    "product_tips": "docs", "ask_review": "product", "referral": "home",
}  # fmt: skip
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Message:
    """An e-mail that reached a mailbox.

    Attributes:
        action_id: The idempotency key it was sent with.
        contact_id: Whom it reached.
        template: Which template it was made from.
        sent_at: When it arrived, naive UTC.
        cart_id: The cart it speaks of, if any.
        pixel, link, leave: Addresses in it: of its picture, of its first link, and where to leave with one click.
    """

    action_id: str
    contact_id: str
    template: str
    sent_at: datetime
    cart_id: str | None = None
    pixel: str = ""
    link: str = ""
    leave: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request because of a message: `opened`, `machine_opened`, `clicked`, `unsubscribed` by who got it; `delivered`,
    `replied`, `bounced` by the mail system.
    """

    when: datetime
    kind: str
    message: Message


@dataclass(frozen=True, slots=True)
class _Cart:
    amount: float
    items: int
    created_at: datetime
    sold: bool


class Customers:
    """All customers of one world.

    Args:
        course: The world, from `studio.demo.shop.world`.
        seed: The one source of chance of the reactions.
    """

    def __init__(self, course: World, seed: int) -> None:
        self._course = course
        self._seed = seed
        self._loaded = {name: frame["_loaded_at"].to_numpy() for name, frame in course.tables.items()}
        self._truth = {row["contact_id"]: row for row in course.truth.iter_rows(named=True)}
        carts = course.tables["shop_carts"].unique("cart_id", keep="last")
        self._carts = {
            row["cart_id"]: _Cart(row["cart_value"], row["item_count"], row["created_at"], row["status"] == "converted")
            for row in carts.iter_rows(named=True)
        }
        contacts = course.tables["crm_contacts"].unique("contact_id", keep="last").filter(pl.col("email").is_not_null())
        mailbox = contacts.join(course.truth.select("contact_id", "mailbox"), on="contact_id")
        self._refused = frozenset(mailbox.filter(pl.col("mailbox") == "refused")["email"])

    def refuses(self, address: str) -> bool:
        """True if a mail server answers 550 for this address."""
        return address in self._refused

    def spontaneous(self, after: datetime, until: datetime) -> dict[str, pl.DataFrame]:
        """Raw rows that exports deliver in `[after, until)` without any message: visits, carts, purchases, sign-ups.

        Of replicated tables every version is there; `land` keeps the last.
        """
        parts = {}
        window = np.array([after, until], dtype="datetime64[us]")
        for name, frame in self._course.tables.items():
            first, last = np.searchsorted(self._loaded[name], window)
            parts[name] = frame.slice(int(first), max(int(last - first), 0))
        return parts

    def react(self, message: Message) -> Rows:
        """Raw rows that follow from the message, some dated days after it, some late, some twice.

        Raises:
            KeyError: the contact is not of this world.
        """
        return _Reaction(self._seed, self._truth[message.contact_id], message, self._carts).rows()


def over_http(rows: Rows, message: Message) -> tuple[Rows, list[Call]]:
    """What of a reaction comes by exports, and what by requests: nobody can use an address that the message lacks."""
    needed = {
        "opened": message.pixel,
        "machine_opened": message.pixel,
        "clicked": message.link,
        "unsubscribed": message.leave,
    }
    first = {row["event_id"]: row for row in reversed(rows.get("mail_events", []))}
    calls = [Call(row["occurred_at"], row["event_type"], message) for row in first.values()]
    others = {name: found for name, found in rows.items() if name not in ("mail_events", "mail_suppressions")}
    return others, [call for call in calls if needed.get(call.kind, True)]


class _Reaction:
    """One message being answered; collects the rows."""

    def __init__(self, seed: int, person: Row, message: Message, carts: Mapping[str, _Cart]) -> None:
        self._seed, self._person, self._message, self._carts = seed, person, message, carts
        self._rows: Rows = {}

    def rows(self) -> Rows:
        message, person = self._message, self._person
        if person["mailbox"] != "live":
            self._mail("bounced", message.sent_at + timedelta(seconds=40))
            self._suppress("bounced", message.sent_at + timedelta(seconds=40))
            return self._rows
        self._mail("delivered", message.sent_at + timedelta(seconds=3))
        if person["machine_opens"] and self._draw("machine") < 0.95:
            delay = 60 + 1740 * self._draw("machine delay")
            self._mail("machine_opened", message.sent_at + timedelta(seconds=delay))
        if message.sent_at >= person["churned_at"]:
            return self._rows
        buys, uses = self._persuaded(), self._starts_using()
        if not (buys or uses or self._draw("open") < self._open_probability()):
            return self._rows
        opened = message.sent_at + self._open_delay(hurried=buys or uses)
        self._mail("opened", opened)
        clicked = opened + timedelta(seconds=20 + 300 * self._draw("click delay"))
        if buys or uses or self._draw("click") < person["click_given_open"]:
            page = LANDING.get(message.template, "home")
            self._mail("clicked", clicked, link=page)
            self._web("site_visit", clicked + timedelta(seconds=2), page=page)
            if uses:
                self._web("product_used", clicked + timedelta(minutes=2 + 30 * self._draw("use delay")))
        if buys:
            self._purchase(clicked + timedelta(minutes=2 + 40 * self._draw("buy delay")))
        self._answers(opened)
        return self._rows

    def _answers(self, opened: datetime) -> None:
        kind, template = self._person["response_type"], self._message.template
        if self._draw("reply") < REPLIES.get(template, 0.003):
            self._mail("replied", opened + timedelta(minutes=15 + 600 * self._draw("reply delay")))
        if template == "ask_review" and self._draw("review") < REVIEWS:
            stars = (5, 5, 5, 4, 4, 3, 2, 1)[int(8 * self._draw("stars"))]
            self._web("review_submitted", opened + timedelta(hours=1 + 60 * self._draw("review delay")), stars=stars)
        if self._draw("leave") < UNSUBSCRIBES.get(kind, UNSUBSCRIBES_ELSE):
            left = opened + timedelta(seconds=60)
            self._mail("unsubscribed", left)
            self._suppress("unsubscribed", left)

    # ------------------------------------------------------------ decisions

    def _draw(self, what: str) -> float:
        message = self._message
        return draw(self._seed, message.contact_id, message.action_id, what)

    def _persuaded(self) -> bool:
        """True if this message causes a purchase.

        For carts one draw serves all messages about that cart, and each template owns its own stretch of it: a cart
        is never bought twice, however many messages speak of it.
        """
        message, kind = self._message, self._person["response_type"]
        effect = EFFECTS.get(message.template, {}).get(kind, 0.0)
        if message.template not in CART_TEMPLATES:
            return self._draw("buy") < effect
        cart = self._carts.get(message.cart_id or "")
        if cart is None or cart.sold:
            return False
        lower = 0.0
        for template in CART_TEMPLATES[: CART_TEMPLATES.index(message.template)]:
            lower += EFFECTS[template].get(kind, 0.0)
        return lower <= draw(self._seed, message.contact_id, message.cart_id or "", "buy") < lower + effect

    def _starts_using(self) -> bool:
        return self._message.template == "get_started" and self._draw("use") < FIRST_USE

    def _local_hour(self) -> float:
        utc = self._message.sent_at.replace(tzinfo=ZoneInfo("UTC"))
        local = utc.astimezone(ZoneInfo(self._person["true_time_zone"]))
        return local.hour + local.minute / 60

    def _weight(self, hour: float) -> float:
        person = self._person
        kappa: float = person["hour_strength"]
        return math.exp(kappa * math.cos(2 * math.pi * (hour - person["peak_hour"]) / 24))

    def _open_probability(self) -> float:
        person = self._person
        mean = sum(self._weight(hour) for hour in range(24)) / 24
        weeks = (self._message.sent_at - person["joined_at"]) / timedelta(weeks=1)
        wane = person["interest_level"] - person["interest_decay_per_week"] * max(weeks, 0.0)
        odds = person["open_level"] + math.log(self._weight(self._local_hour()) / mean) + wane + 0.4
        return 1 / (1 + math.exp(-odds))

    def _open_delay(self, *, hurried: bool) -> timedelta:
        """Minutes, and for half of the contacts up to the next hour at which they are usually active."""
        u = min(max(self._draw("open delay"), 1e-9), 1 - 1e-9)
        minutes = math.exp(math.log(6) + _NORMAL.inv_cdf(u))
        if hurried or self._draw("later") < 0.5:
            return timedelta(minutes=minutes)
        hour = self._local_hour()
        weights = [self._weight(hour + ahead) * 0.9**ahead for ahead in range(24)]
        target, total = self._draw("active hour") * sum(weights), 0.0
        for ahead, weight in enumerate(weights):
            total += weight
            if target < total:
                return timedelta(hours=ahead, minutes=minutes)
        return timedelta(hours=23, minutes=minutes)

    # ------------------------------------------------------------ rows

    def _export(self, table: str, row: Row, occurred: datetime, what: str) -> None:
        """Write an event row: 2 % come 1-72 h late, 1 % a second time within a day."""
        delay = 45 + 75 * self._draw(f"{what} load")
        if self._draw(f"{what} late") < 0.02:
            delay = 3600 * (1 + 71 * self._draw(f"{what} lateness"))
        loaded = occurred + timedelta(seconds=round(delay))
        self._rows.setdefault(table, []).append({**row, "occurred_at": occurred, "_loaded_at": loaded})
        if self._draw(f"{what} twice") < 0.01:
            again = loaded + timedelta(seconds=round(600 + 85000 * self._draw(f"{what} again")))
            self._rows[table].append({**row, "occurred_at": occurred, "_loaded_at": again})

    def _mail(self, kind: str, when: datetime, link: str | None = None) -> None:
        message = self._message
        row = {
            "event_id": f"{message.action_id}-{kind}", "message_id": f"<{message.action_id}@acme.example>",
            "action_id": message.action_id, "contact_id": message.contact_id, "event_type": kind,
            "template": message.template, "link": link,
        }  # fmt: skip
        self._export("mail_events", row, _whole(when), kind)

    def _web(self, kind: str, when: datetime, *, event_id: str | None = None, **columns: object) -> None:
        message = self._message
        name = event_id or f"{message.action_id}-{kind}"
        row = {"event_id": name, "contact_id": message.contact_id, "event_type": kind, **columns}
        self._export("web_events", row, _whole(when), kind)

    def _suppress(self, reason: str, when: datetime) -> None:
        instant = _whole(when)
        row = {"contact_id": self._message.contact_id, "reason": reason, "suppressed_at": instant}
        loaded = instant + timedelta(seconds=90)
        self._rows.setdefault("mail_suppressions", []).append({**row, "_loaded_at": loaded})

    def _purchase(self, when: datetime) -> None:
        message, instant = self._message, _whole(when)
        loaded = instant + timedelta(seconds=40)
        cart = self._carts.get(message.cart_id or "") if message.template in CART_TEMPLATES else None
        discount = message.template in ("cart_discount", "special_offer")
        order = message.action_id if cart is None else (message.cart_id or "").removeprefix("K-")
        product = int(len(PRICES) * self._draw("product"))
        full, items = (PRICES[product], 1) if cart is None else (cart.amount, cart.items)
        amount = round(full * 0.9, 2) if discount else full
        common = {"contact_id": message.contact_id, "cart_id": message.cart_id if cart else None}
        bought = {**common, "order_id": f"O-{order}", "amount": amount, "item_count": items}
        self._web("purchase", instant, event_id=f"purchase-{order}",
                  **{name: value for name, value in bought.items() if name != "contact_id"})  # fmt: skip
        code = f"{message.template}-10" if discount else None
        self._rows["shop_orders"] = [{**bought, "status": "paid", "currency": "EUR", "discount_code": code,
                                      "ordered_at": instant, "updated_at": instant, "_loaded_at": loaded}]  # fmt: skip
        if cart is not None:
            self._rows["shop_carts"] = [{**common, "status": "converted", "item_count": cart.items,
                                         "cart_value": cart.amount, "created_at": cart.created_at,
                                         "updated_at": instant, "_loaded_at": loaded}]  # fmt: skip


class Export:
    """The exports of all systems: holds rows back until the time they are loaded.

    Args:
        customers: Whose spontaneous behaviour is delivered too.
        since: Everything loaded before this instant is there already.
    """

    def __init__(self, customers: Customers, since: datetime) -> None:
        self._customers = customers
        self._reached = since
        self._pending: dict[str, list[Row]] = {}
        self._calls: list[Call] = []

    def add(self, rows: Rows) -> None:
        """Queue rows of reactions."""
        for name, new in rows.items():
            self._pending.setdefault(name, []).extend(new)

    def react(self, messages: Iterable[Message]) -> None:
        """Let the customers answer the messages and queue what follows."""
        for message in messages:
            rows, calls = over_http(self._customers.react(message), message)
            self.add(rows)
            self._calls += calls

    def calls(self, until: datetime) -> list[Call]:
        """The requests that are made before `until` and were not given before, in order."""
        ready = [call for call in self._calls if call.when < until]
        self._calls = [call for call in self._calls if call.when >= until]
        return sorted(ready, key=lambda call: (call.when, call.message.action_id, call.kind))

    def due(self, until: datetime) -> dict[str, pl.DataFrame]:
        """Everything that is loaded before `until` and was not given before, by table."""
        tables = self._customers.spontaneous(self._reached, until)
        for name, frame in tables.items():
            queue = self._pending.get(name, [])
            ready = [row for row in queue if row["_loaded_at"] < until]
            if ready:
                self._pending[name] = [row for row in queue if row["_loaded_at"] >= until]
                schema = dict(frame.schema)
                grown = pl.DataFrame([{**dict.fromkeys(schema), **row} for row in ready], schema=schema)
                tables[name] = pl.concat([frame, grown]).sort("_loaded_at", maintain_order=True)
        self._reached = max(self._reached, until)
        return tables


def draw(seed: int, contact_id: str, action_id: str, what: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.md5(f"{seed}:{contact_id}:{action_id}:{what}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


def _whole(when: datetime) -> datetime:
    return when.replace(microsecond=0)
