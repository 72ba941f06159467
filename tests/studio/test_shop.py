"""The demo shop: deterministic, shaped like exports, with the planted behaviour really in it."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb
import numpy as np
import polars as pl
import pytest

from studio.demo import shop
from studio.demo.people import ZONES, local_to_utc
from studio.demo.world import World, draw_world

SMALL = {"seed": 7, "contacts": 1500, "start": shop.START, "days": 120}


@pytest.fixture(scope="module")
def course() -> World:
    return shop.world()


def _local_hours(course: World) -> pl.DataFrame:
    visits = course.tables["web_events"].filter(pl.col("event_type") == "site_visit").unique("event_id")
    joined = visits.join(course.truth, on="contact_id")
    parts = [
        part.with_columns(pl.col("occurred_at").dt.replace_time_zone("UTC").dt.convert_time_zone(str(zone[0]))
                          .dt.replace_time_zone(None, ambiguous="earliest").alias("local"))
        for zone, part in joined.group_by("true_time_zone")
    ]  # fmt: skip
    return pl.concat(parts).with_columns(pl.col("local").dt.hour().alias("hour"))


def test_equal_arguments_give_equal_tables() -> None:
    first = shop.generate(**SMALL)  # type: ignore[arg-type]
    draw_world.cache_clear()
    again = shop.generate(**SMALL)  # type: ignore[arg-type]
    assert first.keys() == again.keys()
    assert all(first[name].equals(again[name]) for name in first)


def test_another_seed_gives_another_shop() -> None:
    first = shop.generate(**SMALL)  # type: ignore[arg-type]
    other = shop.generate(**{**SMALL, "seed": 8})  # type: ignore[arg-type]
    assert not first["web_events"].equals(other["web_events"])


def test_history_ends_at_the_start(course: World) -> None:
    tables = shop.generate()
    for name, table in tables.items():
        if name != shop.TRUTH:
            loaded = pl.Series(table["_loaded_at"])
            assert loaded.max() < shop.START, name  # type: ignore[operator]
    first = pl.Series(tables["web_events"]["occurred_at"]).min()
    assert isinstance(first, datetime)
    assert timedelta(0) <= first - (shop.START - timedelta(days=120)) < timedelta(days=1)


def test_sizes_are_those_of_a_small_shop() -> None:
    tables = shop.generate()
    assert tables["truth"].num_rows == 5000
    assert 4500 < tables["crm_contacts"].num_rows < 4800
    assert 45_000 < tables["web_events"].num_rows + tables["mail_events"].num_rows < 75_000
    assert 2500 < tables["shop_carts"].num_rows < 4500
    assert 800 < tables["shop_orders"].num_rows < 1800


def test_replicas_hold_one_row_per_key_and_exports_repeat_some() -> None:
    tables = shop.generate()
    for name, key in shop.KEYS.items():
        assert pl.Series(tables[name][key]).is_duplicated().sum() == 0, name
    events = pl.DataFrame(tables["web_events"])
    repeated = events.filter(pl.col("event_id").is_duplicated())
    assert 0.005 < repeated["event_id"].n_unique() / events.height < 0.015
    assert repeated.drop("_loaded_at").unique().height == repeated["event_id"].n_unique()
    late = events.filter(pl.col("_loaded_at") - pl.col("occurred_at") > timedelta(minutes=59))
    assert 0.015 < late.height / events.height < 0.045


def test_some_time_zones_are_missing_or_invalid() -> None:
    zones = pl.DataFrame(shop.generate()["crm_contacts"])["time_zone"]
    assert 0.02 < zones.null_count() / len(zones) < 0.06
    invalid = zones.drop_nulls().filter(~zones.drop_nulls().is_in(list(ZONES)))
    assert 0.003 < len(invalid) / len(zones) < 0.03


def test_contacts_act_at_their_hours(course: World) -> None:
    hours = _local_hours(course).filter(pl.col("hour_strength") > 1.0)
    apart = ((pl.col("hour") + 0.5 - pl.col("peak_hour") + 12) % 24 - 12).abs()
    near = hours.select((apart < 4).mean()).item()
    assert near > 0.6, "a third of the clock should hold most visits of people with a habit"
    free = _local_hours(course).filter(pl.col("persona") == "none")
    assert abs(free.select((apart < 4).mean()).item() - 1 / 3) < 0.05


def test_interest_wears_off(course: World) -> None:
    old = course.truth.filter(pl.col("joined_at") == shop.START - timedelta(days=120))
    visits = course.tables["web_events"].filter(pl.col("event_type") == "site_visit").join(old, on="contact_id")
    week = (pl.col("occurred_at") - pl.col("joined_at")).dt.total_days() // 7
    by_week = visits.group_by(week.alias("week")).len().sort("week")["len"].to_numpy()
    assert by_week[12:16].mean() < 0.85 * by_week[:4].mean()


def test_nobody_acts_after_churn(course: World) -> None:
    visits = course.tables["web_events"].filter(pl.col("event_type") == "site_visit").join(
        course.truth, on="contact_id")  # fmt: skip
    assert visits.filter(pl.col("occurred_at") >= pl.col("churned_at")).is_empty()


def test_carts_are_bought_as_planted(course: World) -> None:
    carts = course.tables["shop_carts"].unique("cart_id", keep="last").join(course.truth, on="contact_id")
    share = dict(carts.group_by("response_type").agg((pl.col("status") == "converted").mean()).iter_rows())
    for kind, planted in (("persuadable", 0.25), ("sure_thing", 0.60), ("lost_cause", 0.08), ("sleeping_dog", 0.35)):
        assert share[kind] == pytest.approx(planted, abs=0.06), kind


def test_a_time_in_the_spring_gap_moves_on() -> None:
    local = np.array(["2026-03-29T02:30:00", "2026-10-25T02:30:00", "2026-03-08T12:00:00"], dtype="datetime64[us]")
    zones = np.array([ZONES.index("Europe/Berlin")] * 2 + [ZONES.index("Asia/Kolkata")])
    assert [str(instant)[:16] for instant in local_to_utc(local, zones)] == [
        "2026-03-29T01:30", "2026-10-25T00:30", "2026-03-08T06:30",
    ]  # fmt: skip


def test_load_replaces_an_earlier_load() -> None:
    tables = shop.generate(**SMALL)  # type: ignore[arg-type]
    with duckdb.connect() as connection:
        shop.load(connection, tables)
        rows = shop.load(connection, tables)
        counted = connection.execute("select count(*) from raw.web_events").fetchall()[0][0]
        truth = connection.execute("select count(*) from truth.truth").fetchall()[0][0]
    assert (counted, truth) == (rows["web_events"], 1500)


def test_land_appends_exports_and_replaces_replicas() -> None:
    tables = shop.generate(**SMALL)  # type: ignore[arg-type]
    carts = pl.DataFrame(tables["shop_carts"])
    sold = carts.filter(pl.col("status") == "converted").head(1)
    still = carts.filter(pl.col("status") == "open").head(1)
    later = pl.concat([sold, still]).with_columns(pl.lit("abandoned").alias("status"))
    with duckdb.connect() as connection:
        shop.load(connection, tables)
        arrived = shop.land(connection, {
            "shop_carts": later, "web_events": pl.DataFrame(tables["web_events"]).head(3),
            "mail_events": pl.DataFrame(tables["mail_events"]).head(0),
        })  # fmt: skip
        found = dict(connection.execute(
            "select cart_id, status from raw.shop_carts where cart_id in (select unnest($1))",
            [later["cart_id"].to_list()]).fetchall())  # fmt: skip
        counts = connection.execute(
            "select (select count(*) from raw.shop_carts), (select count(*) from raw.web_events)"
        ).fetchall()[0]
    assert arrived == {"shop_carts": 1, "web_events": 3}
    assert found == {sold["cart_id"][0]: "converted", still["cart_id"][0]: "abandoned"}
    assert counts == (carts.height, tables["web_events"].num_rows + 3)
