"""The people of the demo shop: what is planted in them, and when on the clock they act.

All times are naive UTC in microseconds. Contacts are numbered from 0 in the order of their creation; `zone` is an
index into `ZONES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Times = npt.NDArray[np.datetime64]

ZONES = ("America/Los_Angeles", "America/New_York", "Europe/London", "Europe/Berlin", "Asia/Kolkata", "Asia/Tokyo")
PERSONAS = ("morning", "midday", "evening", "none")
RESPONSE_TYPES = ("persuadable", "sure_thing", "lost_cause", "sleeping_dog")
NATURAL_PURCHASE = (0.25, 0.60, 0.08, 0.35)
"""P(a cart is bought without any message), by response type."""
MAILBOXES = ("live", "refused", "bounces")
"""What a mail server says to the contact's address: delivered, 550 at once, or a bounce message later."""
MINUTE = np.timedelta64(60_000_000, "us")
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@dataclass(frozen=True)
class People:
    """Planted properties, arrays with one element per contact.

    Attributes:
        ids: Contact ids, `C-00001` …
        zone: True time zone.
        created: When the contact came to be.
        peak: Preferred local hour, 0-24.
        kappa: Strength of that habit (von Mises concentration; 0 = none).
        level: Latent interest on joining.
        decay: Loss of interest per week.
        response: Index into `RESPONSE_TYPES`.
        churned: From then on nothing is answered; never recorded anywhere.
        truth: The same and more as a table.
    """

    ids: pl.Series
    zone: Index
    created: Times
    peak: Array
    kappa: Array
    level: Array
    decay: Array
    response: Index
    churned: Times
    truth: pl.DataFrame


def stream(seed: int, number: int) -> np.random.Generator:
    """An independent random stream of the seed."""
    return np.random.default_rng([seed, number])


def pick(rng: np.random.Generator, shares: tuple[float, ...], size: int) -> Index:
    """Indices drawn with the given shares."""
    return rng.choice(len(shares), size=size, p=np.array(shares) / sum(shares)).astype(np.int64)


def labels(names: tuple[str, ...], index: Index) -> pl.Series:
    """The names at the indices."""
    return pl.Series(np.array(names, dtype=object)[index], dtype=pl.String)


def seconds(values: Array) -> npt.NDArray[np.timedelta64]:
    """Lengths of time from seconds."""
    return (values * 1e6).astype("timedelta64[us]")


def after(moment: Times | np.datetime64, elapsed: Array) -> Times:
    """Instants so many seconds after others."""
    shifted: Times = (moment + seconds(elapsed)).astype("datetime64[us]")
    return shifted


def weeks_between(earlier: Times, later: Times) -> Array:
    """Elapsed weeks, negative if `later` comes first."""
    elapsed: Array = (later.astype("int64") - earlier.astype("int64")) / (7 * 86400e6)
    return elapsed


def interest(level: Array, decay: Array, weeks: Array) -> Array:
    """Latent interest after so many weeks: it starts somewhere and wears off."""
    return level - decay * np.maximum(weeks, 0.0)


def habit(hour: Array, peak: Array, kappa: Array) -> Array:
    """Log of the hour-of-day factor; the factor's mean over 24 hours is 1."""
    return kappa * np.cos(2 * np.pi * (hour - peak) / 24) - np.log(np.i0(kappa))


def local_to_utc(local: Times, zones: Index) -> Times:
    """Instants of wall-clock times; a time in a daylight-saving gap moves on by the gap."""
    utc = np.empty(len(local), dtype="datetime64[us]")
    for number, zone in enumerate(ZONES):
        mask = zones == number
        wall = pl.Series("wall", local[mask].astype("datetime64[us]"))
        aware = wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        later = wall.dt.offset_by("1h").dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        filled = aware.to_frame().select(pl.col("wall").fill_null(later)).to_series()
        utc[mask] = filled.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
    return utc


def moments(rng: np.random.Generator, people: People, who: Index, day: Times) -> Times:
    """Instants on the given local days at the hours the contacts prefer (1.5 h later on weekends)."""
    shift = np.where(np.is_busday(day.astype("datetime64[D]")), 0.0, 1.5)
    angle = rng.vonmises(0.0, people.kappa[who]) * 24 / (2 * np.pi)
    hour = (people.peak[who] + shift + angle) % 24
    return local_to_utc(after(day, hour * 3600), people.zone[who])


def draw_people(seed: int, count: int, begin: np.datetime64, days: int, horizon: int) -> People:
    """Draw the contacts: 82 % older than the history, 11 % created in it, 7 % within `horizon` days after it."""
    rng = stream(seed, 1)
    zone = pick(rng, (0.15, 0.25, 0.2, 0.2, 0.1, 0.1), count)
    age = pick(rng, (0.82, 0.11, 0.07), count)
    span, origin = np.array([700.0, days, horizon])[age], np.array([-700.0, 0.0, days])[age]
    created = np.sort(after(begin, (origin + span * rng.random(count)) * 86400.0))
    persona = pick(rng, (0.3, 0.2, 0.3, 0.2), count)
    peak = (np.array([8.0, 12.5, 20.0, 0.0])[persona] + rng.normal(0, 1.2, count)) % 24
    kappa = np.where(persona == 3, 0.0, rng.gamma(3, 0.5, count))
    level, decay = rng.normal(0, 0.8, count), rng.gamma(2, 0.015, count)
    response = pick(rng, (0.25, 0.30, 0.35, 0.10), count)
    joined = np.maximum(created, begin)
    # One hazard per contact, taken at mid-history: its only use is a date after which nothing is answered.
    hazard = np.minimum(0.5, 0.012 * np.exp(-0.9 * (level - 10 * decay)))
    churned = after(joined, np.minimum(rng.exponential(1 / hazard), 2000.0) * 7 * 86400.0)
    ids = pl.Series([f"C-{number:05d}" for number in range(1, count + 1)], dtype=pl.String)
    truth = pl.DataFrame({
        "contact_id": ids,
        "persona": labels(PERSONAS, persona),
        "peak_hour": peak,
        "hour_strength": kappa,
        "true_time_zone": labels(ZONES, zone),
        "open_level": -0.6 + rng.normal(0, 0.7, count),
        "click_given_open": rng.beta(2, 6, count),
        "interest_level": level,
        "interest_decay_per_week": decay,
        "joined_at": joined,
        "churned_at": churned,
        "response_type": labels(RESPONSE_TYPES, response),
        "mailbox": labels(MAILBOXES, pick(rng, (0.975, 0.01, 0.015), count)),
        "machine_opens": rng.random(count) < 0.15,
    })  # fmt: skip
    return People(ids, zone, created, peak, kappa, level, decay, response, churned, truth)
