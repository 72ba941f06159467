"""The whole course of the demo shop: history and the simulated period, drawn at once from one seed.

The simulated period holds what happens without any message; what messages cause is added by
`studio.demo.customers`. Every raw row has `_loaded_at`, the time at which the export delivers it: 2 % of event rows
are up to three days late, 1 % come twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
import polars as pl

from studio.demo.mail_history import draw_mail
from studio.demo.names import FIRST_NAMES, LAST_NAMES, ascii_name
from studio.demo.people import (
    DAY,
    HOUR,
    MINUTE,
    NATURAL_PURCHASE,
    ZONES,
    Array,
    Index,
    People,
    Times,
    draw_people,
    interest,
    labels,
    moments,
    pick,
    seconds,
    stream,
    weeks_between,
)

COUNTRIES = ("US", "US", "GB", "DE", "IN", "JP")
BROKEN_ZONES = ("Mars/Olympus_Mons", "GMT+25", "Europe/Pari", "EST5EDT4")
PAGES = ("home", "product", "category", "pricing", "blog", "docs")
LINKS = ("pricing", "blog", "docs", "case_studies")
LISTS = ("newsletter", "product_news", "shop_events")
DEVICES = ("phone", "desktop", "tablet")
STAGES = ("subscriber", "qualified", "customer")
PLANS = ("free", "pro", "enterprise")
OWNERS = ("dana@acme.example", "kofi@acme.example", "lin@acme.example", "marta@acme.example")
PRICES = (12.0, 19.0, 24.5, 35.0, 49.0, 79.0, 120.0, 199.0)
"""Unit price in EUR of product P-1 … P-8; the dbt seed `products` holds the same."""
NEVER = np.datetime64("2100-01-01T00:00:00.000000")
WEB_COLUMNS: Mapping[str, pl.DataType] = {
    "event_id": pl.String(), "contact_id": pl.String(), "event_type": pl.String(), "page": pl.String(),
    "list_name": pl.String(), "cart_id": pl.String(), "order_id": pl.String(), "amount": pl.Float64(),
    "item_count": pl.Int64(), "stars": pl.Int64(), "properties": pl.String(),
    "occurred_at": pl.Datetime("us"), "_loaded_at": pl.Datetime("us"),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """The whole course of the shop.

    Attributes:
        start: First instant of the simulated period.
        tables: Raw tables by name with all rows ever, of replicated tables all versions, ordered by `_loaded_at`.
        truth: One row per contact: what was planted.
    """

    start: datetime
    tables: Mapping[str, pl.DataFrame]
    truth: pl.DataFrame


@dataclass(frozen=True)
class _Carts:
    who: Index
    created: Times
    sold: Times
    line_cart: Index
    product: Index
    quantity: Index
    amount: Array
    items: Index

    @property
    def ids(self) -> pl.Series:
        return pl.Series([f"K-{n:06d}" for n in range(1, len(self.who) + 1)], dtype=pl.String)


def _visits(seed: int, people: People, begin: np.datetime64, total: int) -> tuple[Index, Times]:
    rng = stream(seed, 2)
    weeks = np.arange(total // 7 + 1)
    week_start = begin + weeks * 7 * DAY
    since = weeks_between(np.maximum(people.created, begin)[:, None], week_start[None, :])
    visits = rng.poisson(0.30 * np.exp(interest(people.level[:, None], people.decay[:, None], since)))
    cell = np.repeat(np.arange(visits.size), visits.ravel())
    who = (cell // len(weeks)).astype(np.int64)
    when = moments(rng, people, who, week_start[cell % len(weeks)] + rng.integers(0, 7, len(who)) * DAY)
    fresh = np.flatnonzero(people.created >= begin)
    who, when = np.append(who, fresh), np.append(when, people.created[fresh] + MINUTE)
    keep = (
        (when >= np.maximum(people.created, begin)[who]) & (when < people.churned[who]) & (when < begin + total * DAY)
    )
    order = np.argsort(when[keep], kind="stable")
    return who[keep][order], when[keep][order]


def _carts(seed: int, people: People, who: Index, when: Times) -> _Carts:
    rng = stream(seed, 3)
    mask = rng.random(len(who)) < 0.14
    buyer, created = who[mask], when[mask] + seconds(180 + rng.random(mask.sum()) * 720)
    order = np.argsort(created, kind="stable")
    buyer, created = buyer[order], created[order]
    lines = 1 + pick(rng, (0.55, 0.25, 0.15, 0.05), len(buyer))
    line_cart = np.repeat(np.arange(len(buyer)), lines).astype(np.int64)
    product = pick(rng, (0.2, 0.18, 0.15, 0.14, 0.12, 0.1, 0.07, 0.04), len(line_cart))
    quantity = 1 + pick(rng, (0.8, 0.15, 0.05), len(line_cart))
    amount: Array = np.bincount(line_cart, weights=np.array(PRICES)[product] * quantity, minlength=len(buyer)).astype(
        np.float64
    )
    items = np.bincount(line_cart, weights=quantity, minlength=len(buyer)).astype(np.int64)
    buys = rng.random(len(buyer)) < np.array(NATURAL_PURCHASE)[people.response[buyer]]
    hours = np.clip(rng.lognormal(np.log(3.0), 1.3, len(buyer)), 0.05, 120.0)
    sold = np.where(buys, created + seconds(hours * 3600), NEVER)
    return _Carts(buyer, created, sold, line_cart, product, quantity, amount, items)


def _web(kind: str, people: People, who: Index, when: Times, **columns: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"contact_id": people.ids[who], "occurred_at": when.astype("datetime64[us]"), **columns})
    number = pl.int_range(1, pl.len() + 1).cast(pl.String).str.zfill(6)
    counted = {} if "event_id" in columns else {"event_id": pl.format("{}-{}", pl.lit(kind), number)}
    return frame.with_columns(pl.lit(kind).alias("event_type"), **counted)


def _json(**columns: pl.Series) -> pl.Series:
    return pl.DataFrame(columns).select(pl.struct(pl.all()).struct.json_encode()).to_series()


def _browsing(seed: int, people: People, who: Index, when: Times) -> list[pl.DataFrame]:
    rng = stream(seed, 4)
    size = len(who)

    def some(share: float) -> Index:
        return np.flatnonzero(rng.random(size) < share).astype(np.int64)

    page = labels(PAGES, pick(rng, (0.3, 0.3, 0.2, 0.05, 0.1, 0.05), size))
    device = _json(device=labels(DEVICES, pick(rng, (0.55, 0.38, 0.07), size)))
    click, use, join = some(0.15), some(0.06), some(0.03)
    link = labels(LINKS, pick(rng, (0.35, 0.3, 0.2, 0.15), len(click)))
    names = labels(LISTS, pick(rng, (0.6, 0.25, 0.15), len(join)))
    return [
        _web("site_visit", people, who, when, page=page, properties=device),
        _web("link_clicked", people, who[click], when[click] + seconds(60 + rng.random(len(click)) * 540), page=link),
        _web("product_used", people, who[use], when[use] + seconds(120 + rng.random(len(use)) * 900)),
        _web("list_added", people, who[join], when[join] + 5 * MINUTE, list_name=names),
    ]


def _arrivals(seed: int, people: People, begin: np.datetime64) -> list[pl.DataFrame]:
    """What new contacts do in their first days: sign up, join the newsletter, use the product for the first time."""
    rng = stream(seed, 5)
    fresh = np.flatnonzero(people.created >= begin).astype(np.int64)
    signed = fresh[rng.random(len(fresh)) < 0.8]
    joined = signed[rng.random(len(signed)) < 0.45]
    used = signed[rng.random(len(signed)) < 0.45]
    first_use = people.created[used] + seconds(rng.exponential(1.2, len(used)) * 86400)
    newsletter = pl.Series(["newsletter"] * len(joined), dtype=pl.String)
    return [
        _web("signup", people, signed, people.created[signed], page=pl.Series(["home"] * len(signed), dtype=pl.String)),
        _web("list_added", people, joined, people.created[joined] + 5 * MINUTE, list_name=newsletter).with_columns(
            pl.concat_str(pl.lit("first-"), "event_id").alias("event_id")
        ),
        _web("product_used", people, used, first_use).with_columns(
            pl.concat_str(pl.lit("first-"), "event_id").alias("event_id")
        ),
    ]


def _shopping(seed: int, people: People, carts: _Carts) -> list[pl.DataFrame]:
    """Tracker rows of carts, purchases and reviews."""
    rng = stream(seed, 6)
    ids, amount, items = carts.ids, pl.Series(carts.amount), pl.Series(carts.items)
    sold = np.flatnonzero(carts.sold < NEVER).astype(np.int64)
    reviewed = sold[rng.random(len(sold)) < 0.12]
    orders = ids.str.replace("K-", "O-", literal=True)
    stars = pl.Series(5 - pick(rng, (0.5, 0.27, 0.12, 0.06, 0.05), len(reviewed)))
    return [
        _web("cart_created", people, carts.who, carts.created, cart_id=ids, amount=amount, item_count=items),
        _web("purchase", people, carts.who[sold], carts.sold[sold], cart_id=ids[sold], order_id=orders[sold],
             amount=amount[sold], item_count=items[sold],
             event_id=ids[sold].str.replace("K-", "purchase-", literal=True)),
        _web("review_submitted", people, carts.who[reviewed],
             carts.sold[reviewed] + seconds((5 + rng.random(len(reviewed)) * 35) * 86400),
             order_id=orders[reviewed], stars=stars),
    ]  # fmt: skip


def exported(rng: np.random.Generator, frame: pl.DataFrame) -> pl.DataFrame:
    """Add `_loaded_at`: after 45-120 s; 2 % of the rows 1-72 h late; 1 % a second time within a day."""
    late = rng.random(frame.height) < 0.02
    delay = np.where(late, 3600 + rng.random(frame.height) * 71 * 3600, 45 + rng.random(frame.height) * 75)
    first = frame.with_columns((pl.col("occurred_at") + pl.Series(seconds(delay))).alias("_loaded_at"))
    again = first.filter(pl.Series(rng.random(frame.height) < 0.01))
    shift = pl.Series(seconds(600 + rng.random(again.height) * 85000))
    return pl.concat([first, again.with_columns(pl.col("_loaded_at") + shift)]).sort("_loaded_at", "event_id")


def _shop_tables(people: People, carts: _Carts) -> dict[str, pl.DataFrame]:
    """Carts and orders as versions of replicated rows, order lines as rows."""
    sold = pl.Series(carts.sold < NEVER)
    base = pl.DataFrame({
        "cart_id": carts.ids, "contact_id": people.ids[carts.who], "status": "open", "item_count": carts.items,
        "cart_value": carts.amount, "created_at": carts.created, "updated_at": carts.created,
    })  # fmt: skip
    ended = base.with_columns(
        status=pl.select(pl.when(sold).then(pl.lit("converted")).otherwise(pl.lit("abandoned"))).to_series(),
        updated_at=pl.Series(np.where(carts.sold < NEVER, carts.sold, carts.created + 7 * DAY)),
    )
    orders = ended.filter(sold).select(
        pl.col("cart_id").str.replace("K-", "O-", literal=True).alias("order_id"), "contact_id", "cart_id",
        pl.lit("paid").alias("status"), pl.col("cart_value").alias("amount"), "item_count",
        pl.lit("EUR").alias("currency"), pl.lit(None, pl.String).alias("discount_code"),
        pl.col("updated_at").alias("ordered_at"), "updated_at",
    )  # fmt: skip
    refunds = orders.filter(pl.col("order_id").str.slice(2).cast(pl.Int64) % 33 == 0).with_columns(
        pl.lit("refunded").alias("status"), pl.col("updated_at") + pl.duration(days=6)
    )
    index = np.flatnonzero(carts.sold[carts.line_cart] < NEVER)
    cart = carts.line_cart[index]
    number = np.arange(len(carts.line_cart)) - np.searchsorted(carts.line_cart, carts.line_cart)
    lines = pl.DataFrame({
        "order_id": carts.ids[cart].str.replace("K-", "O-", literal=True), "line_no": number[index] + 1,
        "product_id": [f"P-{n + 1}" for n in carts.product[index]], "quantity": carts.quantity[index],
        "unit_price": np.array(PRICES)[carts.product[index]], "_loaded_at": carts.sold[cart] + MINUTE,
    })  # fmt: skip
    minute = (pl.col("updated_at") + pl.duration(seconds=40)).alias("_loaded_at")
    return {
        "shop_carts": pl.concat([base, ended]).with_columns(minute),
        "shop_orders": pl.concat([orders, refunds]).with_columns(minute),
        "shop_order_lines": lines,
    }


def _contact_base(seed: int, people: People) -> pl.DataFrame:
    rng = stream(seed, 7)
    count = len(people.ids)
    first, last = pick(rng, (1.0,) * len(FIRST_NAMES), count), pick(rng, (1.0,) * len(LAST_NAMES), count)
    zone = labels(ZONES, people.zone).to_frame("zone").select(
        pl.when(pl.Series(rng.random(count) < 0.04)).then(None)
        .when(pl.Series(rng.random(count) < 0.01)).then(labels(BROKEN_ZONES, rng.integers(0, 4, count)))
        .otherwise(pl.col("zone"))
    ).to_series()  # fmt: skip
    mail = [f"{ascii_name(FIRST_NAMES[a])}.{ascii_name(LAST_NAMES[b])}.{n}@mail.example.test"
            for n, (a, b) in enumerate(zip(first, last, strict=True), 1)]  # fmt: skip
    phone = [f"+15550{n:06d}" for n in range(1, count + 1)]
    return pl.DataFrame({
        "contact_id": people.ids,
        "first_name": labels(FIRST_NAMES, first),
        "last_name": labels(LAST_NAMES, last),
        "email": pl.Series(mail).to_frame("m").select(
            pl.when(pl.Series(rng.random(count) >= 0.01)).then(pl.col("m"))).to_series(),
        "phone": pl.Series(phone).to_frame("p").select(
            pl.when(pl.Series(rng.random(count) >= 0.3)).then(pl.col("p"))).to_series(),
        "time_zone": zone,
        "country": labels(COUNTRIES, people.zone),
        "email_consent": rng.random(count) < 0.85,
        "sms_consent": rng.random(count) < 0.35,
        "owner_email": labels(OWNERS, rng.integers(0, len(OWNERS), count)),
        "created_at": people.created,
    })  # fmt: skip


def _crm(seed: int, people: People, carts: _Carts, web: pl.DataFrame, begin: np.datetime64) -> dict[str, pl.DataFrame]:
    """The contact's versions as its stage moves: subscriber, qualified on a pricing click, customer on a purchase."""
    rng = stream(seed, 8)
    count = len(people.ids)
    stage = np.where(people.created < begin, pick(rng, (0.6, 0.15, 0.25), count), 0)
    plan = np.where(stage == 2, pick(rng, (0.5, 0.42, 0.08), count), 0)
    upgraded = np.maximum(plan, pick(rng, (0.6, 0.35, 0.05), count))
    bought = np.full(count, NEVER)
    np.minimum.at(bought, carts.who, carts.sold)
    pricing = web.filter((pl.col("event_type") == "link_clicked") & (pl.col("page") == "pricing"))
    asked = np.full(count, NEVER)
    np.minimum.at(asked, pricing["contact_id"].str.slice(2).cast(pl.Int64).to_numpy() - 1,
                  pricing["occurred_at"].to_numpy() + 2 * HOUR)  # fmt: skip
    base = _contact_base(seed, people)

    def version(mask: np.typing.NDArray[np.bool_], level: Index, plans: Index, when: Times) -> pl.DataFrame:
        frame = base.with_columns(lifecycle_stage=labels(STAGES, level), plan=labels(PLANS, plans),
                                  updated_at=pl.Series(when.astype("datetime64[us]")))  # fmt: skip
        return frame.filter(pl.Series(mask))

    everyone = np.ones(count, dtype=np.bool_)
    first = version(everyone, stage, plan, people.created)
    qualified = (stage == 0) & (asked < bought) & (asked < NEVER)
    moved = version(qualified, np.full(count, 1), plan, asked)
    won = version((stage < 2) & (bought < NEVER), np.full(count, 2), upgraded, bought + 10 * MINUTE)
    contacts = pl.concat([first, moved, won]).with_columns(
        pl.when(pl.col("lifecycle_stage") != "subscriber").then("owner_email").alias("owner_email"),
        (pl.max_horizontal("updated_at", pl.lit(begin)) + pl.duration(seconds=20)).alias("_loaded_at"),
    )  # fmt: skip
    history = contacts.sort("contact_id", "updated_at").select(
        "contact_id", pl.col("lifecycle_stage").shift(1).over("contact_id").alias("from_stage"),
        pl.col("lifecycle_stage").alias("to_stage"), pl.col("updated_at").alias("changed_at"), "_loaded_at",
    )  # fmt: skip
    number = pl.int_range(1, pl.len() + 1).cast(pl.String).str.zfill(6)
    stages = history.with_columns(pl.concat_str(pl.lit("S-"), number).alias("change_id"))
    return {"crm_contacts": contacts, "crm_stage_changes": stages}


@lru_cache(maxsize=2)
def draw_world(seed: int, contacts: int, start: datetime, days: int, horizon: int) -> World:
    """Draw the shop.

    Args:
        seed: The one source of chance.
        contacts: Number of contacts ever, about 7 % of them created after `start`.
        start: First instant of the simulated period, naive UTC.
        days: Days of history before it.
        horizon: Days after it.
    """
    begin = np.datetime64(start, "us") - days * DAY
    people = draw_people(seed, contacts, begin, days, horizon)
    who, when = _visits(seed, people, begin, days + horizon)
    carts = _carts(seed, people, who, when)
    parts = _browsing(seed, people, who, when) + _arrivals(seed, people, begin) + _shopping(seed, people, carts)
    web = pl.concat(parts, how="diagonal").sort("occurred_at", "event_id")
    missing = [pl.lit(None, kind).alias(name) for name, kind in WEB_COLUMNS.items() if name not in web.columns]
    web = exported(stream(seed, 9), web.with_columns(missing)).select(list(WEB_COLUMNS))
    tables = {"web_events": web} | _shop_tables(people, carts) | _crm(seed, people, carts, web, begin)
    consents = tables["crm_contacts"].unique("contact_id").sort("contact_id")["email_consent"].to_numpy()
    mail, suppressions = draw_mail(seed, people, consents, begin, days)
    tables |= {"mail_events": exported(stream(seed, 10), mail), "mail_suppressions": suppressions}
    ordered = {name: frame.sort("_loaded_at", *frame.columns[:2]) for name, frame in tables.items()}
    return World(start, ordered, people.truth)
