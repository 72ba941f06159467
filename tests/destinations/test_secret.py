"""References in, masked out."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from destinations.base import Limit
from destinations.classification import HTTP, http_ruling, smtp_code, smtp_ruling
from destinations.config import DestinationConfig, read_config
from destinations.errors import ConfigurationError
from destinations.pace import Pace
from destinations.secret import Secret, scrub
from tests.destinations.conftest import run


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ env_var('A') }}", "alpha"),
        ('{{env_var("A")}}', "alpha"),
        ("https://x.test/{{ env_var('A') }}/{{ env_var('B', 'b') }}", "https://x.test/alpha/b"),
        ("{{ env_var('B', '') }}", ""),
        ("plain", "plain"),
    ],
)
def test_references_resolve_when_revealed(template: str, value: str) -> None:
    secret = Secret(template, {"A": "alpha"}.__getitem__)
    assert secret.reveal() == value
    assert "alpha" not in repr(secret) + str(secret) + f"{secret}"


@pytest.mark.parametrize("template", ["{{ env_var(A) }}", "{{ 7 * 7 }}", "{{ env_var('A') | upper }}", "{{"])
def test_only_env_var_may_stand_in_braces(template: str) -> None:
    with pytest.raises(ConfigurationError, match="D103"):
        Secret(template, {"A": "alpha"}.__getitem__).reveal()


def test_missing_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="environment variable B is not set"):
        Secret("{{ env_var('B') }}", {"A": "alpha"}.__getitem__).reveal()


def test_a_value_that_looks_like_a_reference_is_not_resolved_again() -> None:
    values = {"A": "{{ env_var('B') }}", "B": "beta"}
    assert Secret("{{ env_var('A') }}", values.__getitem__).reveal() == "{{ env_var('B') }}"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\r\nb\x00c\u2028d", "a b c d"),
        ("to ann.lee+x@mail.example.test, now", "to <address>, now"),
        ("Bearer s3cret/longer and s3cret", "Bearer *** and ***"),
        ("x" * 600, "x" * 499 + "…"),
    ],
)
def test_scrubbed_text(text: str, clean: str) -> None:
    assert scrub(text, ["s3cret", "s3cret/longer", "", "a"]) == clean


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("timeout", "500ms", timedelta(milliseconds=500)),
        ("timeout", "5 min", timedelta(minutes=5)),
        ("timeout", "1.5h", timedelta(minutes=90)),
        ("rate", "100/s", (Limit(100, timedelta(seconds=1)),)),
        ("rate", "90 / m", (Limit(90, timedelta(minutes=1)),)),
        ("rate", ["100/10s", "5000/d"], (Limit(100, timedelta(seconds=10)), Limit(5000, timedelta(days=1)))),
    ],
)
def test_durations_and_rates(key: str, value: str, expected: object) -> None:
    assert getattr(read_config(DestinationConfig, "out", {key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout", "soon"),
        ("timeout", 5),
        ("rate", "0/s"),
        ("rate", 10),
        ("allow_hosts", "localhost"),
        ("max_batch", 0),
    ],
)
def test_wrong_durations_and_rates_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"D101 destination out: {key}"):
        read_config(DestinationConfig, "out", {key: value})


def test_every_http_status_has_a_ruling() -> None:
    assert {status: http_ruling(status).status for status in HTTP} == {s: r.status for s, r in HTTP.items()}
    rulings: dict[int, set[str]] = {status // 100: set() for status in range(200, 600, 100)}
    for status in set(range(200, 600)) - set(HTTP):
        rulings[status // 100].add(http_ruling(status).status)
    assert rulings == {2: {"sent"}, 3: {"failed"}, 4: {"failed"}, 5: {"retry"}}


@pytest.mark.parametrize(
    ("reply", "text", "code", "status", "suppress"),
    [
        (250, "2.0.0 ok", "250 2.0.0", "sent", None),
        (421, "closing", "421", "retry", None),
        (550, "5.1.1 no such user", "550 5.1.1", "failed", "bounced"),
        (553, "5.1.1 no such user", "553 5.1.1", "failed", "bounced"),
        (550, "mailbox 5.1.1 odd", "550", "failed", None),
        (535, "5.7.8 bad", "535 5.7.8", "retry", None),
    ],
)
def test_smtp_replies(reply: int, text: str, code: str, status: str, suppress: str | None) -> None:
    assert smtp_code(reply, text) == code
    assert (smtp_ruling(code).status, smtp_ruling(code).suppress) == (status, suppress)


def test_pace_spreads_requests_beyond_the_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is the test's: a burst of one second's worth at once, then one every tenth of a second."""
    now = [100.0]
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))
        now[0] += seconds

    async def work() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: now[0])
        monkeypatch.setattr("destinations.pace.asyncio.sleep", sleep)
        pace = Pace([Limit(100, timedelta(seconds=10)), Limit(5, timedelta(days=1))])
        for _ in range(13):
            await pace.turn()
        for _ in range(1000):
            await Pace().turn()
        monkeypatch.undo()

    run(work())
    assert waits == [0.1, 0.1, 0.1]
