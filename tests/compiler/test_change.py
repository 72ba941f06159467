"""Of which conditions it can be told for whom they may have changed."""

from __future__ import annotations

import pytest

from compiler.audience import Audience, grouped
from compiler.change import Edge, fades, moves
from compiler.condition import Scope, compile_condition
from tests.compiler.test_allowlist import CATALOG

DAY = 86400.0


@pytest.mark.parametrize(("text", "ages"), [
    ("plan = 'pro' and visits > 3", []),
    ("did('a')", []),
    ("did(['a', 'b'], within => '5d')", [(("a", "b"), 5 * DAY)]),
    ("rate('a', 'b', within => '2d') > 0.4", [(("a",), 2 * DAY), (("b",), 2 * DAY)]),
    ("days_since('a') >= 3", [(("a",), 3 * DAY)]),
    ("coalesce(days_since('a'), 99) > 2.5", [(("a",), 2.5 * DAY)]),
    ("not (days_since('a') between 1 and 2)", [(("a",), DAY), (("a",), 2 * DAY)]),
    ("days_since('a') is null", []),
    ("last_event('a') <= now() - interval '2 hours'", [(("a",), 7200.0)]),
    ("now() + interval 1 minute > first_event('a')", [(("a",), -60.0)]),
    ("coalesce(did('b') and days_since('a') > 1, true)", [(("a",), DAY)]),
])  # fmt: skip
def test_events_move_a_condition_at_certain_ages(text: str, ages: list[tuple[tuple[str, ...], float]]) -> None:
    found = moves(compile_condition(text, Scope(CATALOG)))
    assert not found.untold
    assert found.edges == {Edge(*age) for age in ages}


@pytest.mark.parametrize(("text", "parts"), [
    ("local_hour() between 9 and 16 and vip", 1),
    ("local_dow() <= 5 or local_date() = date '2026-03-10'", 2),
])  # fmt: skip
def test_parts_that_only_the_clock_decides_are_found(text: str, parts: int) -> None:
    found = moves(compile_condition(text, Scope(CATALOG)))
    assert not found.untold
    assert len(found.clocks) == parts


@pytest.mark.parametrize("text", [
    "did('a', within => '5d')", "did('a', within => '5d', at_least => 3) and vip", "days_since('a') < 3",
    "event_count('a', within => '5d') >= 2 or 2 < event_count('b', within => '1d')", "did('a')", "3 >= days_since('a')",
    "last_event('a') > now() - interval '2 hours'", "(did('a', within => '5d')) and not did('b')",
    "now() - interval '2 hours' <= first_event('a')",
])  # fmt: skip
def test_time_alone_never_makes_it_true(text: str) -> None:
    assert fades(compile_condition(text, Scope(CATALOG)))


@pytest.mark.parametrize("text", [
    "not did('a', within => '5d')", "event_count('a', within => '5d') < 2", "event_count('a', within => '5d') = 2",
    "days_since('a') >= 3", "rate('a', 'b', within => '2d') > 0.4", "event_sum('a', event.n, within => '2d') > 4",
    "last_event('a') < now() - interval '2 hours'", "local_hour() < 9", "created_at < now()",
    "did('a', within => '5d') = false", "coalesce(did('a', within => '5d'), true)", "days_since('a') is null and vip",
    "first_event('a', within => '5d') > now() - interval '2 hours'", "did('a', event.until > now())",
    "event_count('a', within => '5d') >= visits", "did('a', within => '5d') is not true",
    "2 >= event_count('a', within => '1d')",
    "case when did('a', within => '5d') then vip else true end", "days_since('a', within => '3d') < 2",
])  # fmt: skip
def test_time_alone_may_make_it_true(text: str) -> None:
    assert not fades(compile_condition(text, Scope(CATALOG)))


@pytest.mark.parametrize(("text", "why"), [
    ("created_at < now()", "time"),
    ("local_hour() > visits", "time"),
    ("days_since('a') > days_since('b')", "time"),
    ("current_date > date '2026-01-01'", "time"),
    ("days_since('a') > visits", "time"),
    ("last_event('a') > now() - interval '1 month'", "time"),
    ("did('a', event.until > now())", "time of the tick"),
    ("exists (select 1 from ref('fct_orders') o where o.amount > 3)", "sub-select"),
])  # fmt: skip
def test_what_cannot_be_told_says_why_and_stands_in_a_group_of_its_own(text: str, why: str) -> None:
    untold = Audience("untold", compile_condition(text, Scope(CATALOG)), "UTC")
    told = Audience("told", compile_condition("has_tag('x')", Scope(CATALOG)), "UTC")
    assert why in untold.moves.untold
    assert told.moves.kept
    assert [group.told for group in grouped([untold, told], CATALOG)] == [True, False]
