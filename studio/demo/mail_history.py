"""What the mail provider's export holds of the months before Penstock: campaigns and the reactions to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from studio.demo.people import (
    DAY,
    Array,
    Index,
    People,
    Times,
    after,
    habit,
    interest,
    labels,
    local_to_utc,
    pick,
    seconds,
    stream,
    weeks_between,
)

TEMPLATES = ("newsletter", "promotion")
TOPICS = ("new_arrivals", "sale", "guides", "community", "outlet", "gifts")
DEFAULT_HOUR = 10
EXPLORED_HOURS = 17
EXPLORED_SHARE = 0.2
"""One send in five went out at a random hour from 6 to 22 local time, the others at ten."""


def _sends(seed: int, people: People, consents: npt.NDArray[np.bool_], begin: np.datetime64, days: int) -> pl.DataFrame:
    rng = stream(seed, 11)
    count = len(people.ids)
    end = begin + days * DAY
    joined = np.maximum(people.created, begin)
    present = np.maximum(7 * weeks_between(joined, np.full(count, end)), 0.0)
    number = np.where(consents & (present > 1), np.round((rng.geometric(0.22, count) - 1) * present / days), 0)
    who = np.repeat(np.arange(count), number.astype(np.int64))
    day = (end - seconds(rng.random(len(who)) * present[who] * 86400)).astype("datetime64[D]")
    explored = rng.random(len(who)) < EXPLORED_SHARE
    hour = np.where(explored, rng.integers(6, 6 + EXPLORED_HOURS, len(who)), DEFAULT_HOUR)
    local = after(day, hour * 3600.0 + rng.random(len(who)) * 600)
    sent = local_to_utc(local, people.zone[who])
    share = EXPLORED_SHARE / EXPLORED_HOURS
    frame = pl.DataFrame({
        "number": who, "occurred_at": sent, "hour": hour.astype(np.float64),
        "template": labels(TEMPLATES, pick(rng, (0.7, 0.3), len(who))),
        "topic": labels(TOPICS, pick(rng, (1.0,) * len(TOPICS), len(who))),
        "hour_propensity": np.where(hour == DEFAULT_HOUR, 1 - EXPLORED_SHARE + share, share),
    })  # fmt: skip
    frame = frame.filter(pl.Series((sent >= people.created[who]) & (sent < end)))
    return frame.sort("occurred_at", "number").with_columns(
        pl.concat_str(pl.lit("M-"), pl.int_range(1, pl.len() + 1).cast(pl.String).str.zfill(6)).alias("message_id")
    )


def _log_odds(people: People, who: Index, hour: Array, sent: Times, begin: np.datetime64) -> Array:
    weeks = weeks_between(np.maximum(people.created, begin)[who], sent)
    level: Array = people.truth["open_level"].to_numpy()[who]
    wane = interest(people.level[who], people.decay[who], weeks)
    return level + habit(hour, people.peak[who], people.kappa[who]) + wane - 0.3


def _rows(sends: pl.DataFrame, mask: npt.NDArray[np.bool_], kind: str, delay: Array) -> pl.DataFrame:
    return sends.with_columns(
        pl.lit(kind).alias("event_type"), pl.col("occurred_at") + pl.Series(seconds(delay)),
        pl.concat_str("message_id", pl.lit(f"-{kind}")).alias("event_id"),
    ).filter(pl.Series(mask))  # fmt: skip


def draw_mail(
    seed: int, people: People, consents: npt.NDArray[np.bool_], begin: np.datetime64, days: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the campaigns before `begin + days`.

    Args:
        seed: The one source of chance.
        people: The contacts.
        consents: Who may be written to, shape (contacts,).
        begin: First instant of the history.
        days: Days of history.

    Returns:
        Rows of the provider's event export (without `_loaded_at`) and of its suppression export.
    """
    rng = stream(seed, 12)
    sends = _sends(seed, people, consents, begin, days)
    mailbox = people.truth["mailbox"].to_numpy()
    # A dead address bounces once and is not written to again.
    first = sends.select(pl.col("occurred_at").rank("ordinal").over("number") == 1).to_series()
    sends = sends.filter(pl.Series(mailbox[sends["number"].to_numpy()] == "live") | first)
    who, sent = sends["number"].to_numpy(), sends["occurred_at"].to_numpy()
    size, live = len(who), mailbox[who] == "live"
    answers = live & (sent < people.churned[who])
    hour = sends["hour"].to_numpy()
    opened = answers & (rng.random(size) < 1 / (1 + np.exp(-_log_odds(people, who, hour, sent, begin))))
    next_hour = (people.peak[who] + rng.vonmises(0.0, people.kappa[who]) * 24 / (2 * np.pi) - hour) % 24
    open_delay = rng.lognormal(np.log(360), 1.0, size) + np.where(rng.random(size) < 0.5, next_hour * 3600, 0.0)
    clicked = opened & (rng.random(size) < people.truth["click_given_open"].to_numpy()[who])
    replied = opened & (rng.random(size) < 0.01)
    left = opened & (rng.random(size) < 0.006)
    machine = live & people.truth["machine_opens"].to_numpy()[who] & (rng.random(size) < 0.95)
    none = np.zeros(size)
    parts = [
        _rows(sends, np.ones(size, dtype=np.bool_), "sent", none),
        _rows(sends, ~live, "bounced", none + 4.0),
        _rows(sends, machine, "machine_opened", 60 + rng.random(size) * 1740),
        _rows(sends, opened, "opened", open_delay),
        _rows(sends, clicked, "clicked", open_delay + 20 + rng.random(size) * 300),
        _rows(sends, replied, "replied", open_delay + 1800),
        _rows(sends, left, "unsubscribed", open_delay + 60),
    ]
    events = pl.concat(parts).with_columns(contact_id=people.ids[pl.concat(parts)["number"].to_numpy()])
    departure = events.filter(pl.col("event_type") == "unsubscribed").group_by("number").agg(
        pl.col("occurred_at").min().alias("left_at"))  # fmt: skip
    events = events.join(departure, on="number", how="left").filter(
        pl.col("left_at").is_null() | (pl.col("occurred_at") <= pl.col("left_at"))
    )
    events = events.with_columns(
        pl.lit(None, pl.String).alias("action_id"),
        pl.when(pl.col("event_type") == "clicked").then(pl.lit("home")).alias("link"),
    ).select(
        "event_id", "message_id", "action_id", "contact_id", "event_type", "template", "topic", "link",
        "hour_propensity", "occurred_at",
    )  # fmt: skip
    stops = events.filter(pl.col("event_type").is_in(["bounced", "unsubscribed"])).sort("occurred_at", "event_id")
    suppressions = stops.select(
        "contact_id", pl.col("event_type").alias("reason"), pl.col("occurred_at").alias("suppressed_at"),
        (pl.col("occurred_at") + pl.duration(seconds=90)).alias("_loaded_at"),
    )  # fmt: skip
    return events.sort("occurred_at", "event_id"), suppressions
