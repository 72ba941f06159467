"""Identities: alike in Python and SQL, different for different parts."""

from __future__ import annotations

import random
from datetime import datetime

from sqlglot import exp

from flows.journal.ids import identity, identity_sql, instant, instant_sql
from flows.warehouse.base import Warehouse

ODD = [
    "",
    "-",
    "1:a",
    "a",
    "é",
    "e\u0301",
    "😀👩‍👩‍👧",
    "日本語",
    "\u202e",
    "a\nb",
    " ",
    "'",
    '"',
    "\\",
    "0:",
    None,
    "1:-",
    "ǅ",
]


def test_python_and_the_warehouse_agree_for_odd_texts_and_null(warehouse: Warehouse) -> None:
    seed = 20260302
    print("seed", seed)
    draw = random.Random(seed)
    names = ["a", "b", "c"]
    query = exp.select(identity_sql(*(exp.Placeholder(this=name) for name in names)).as_("id"))
    text = warehouse.sql(query)
    for _ in range(300):
        parts = [draw.choice(ODD) for _ in names]
        found = warehouse.rows(text, dict(zip(names, parts, strict=True)))[0]["id"]
        assert found == identity(*parts), parts


def test_numbers_and_uuids_count_as_their_text(warehouse: Warehouse) -> None:
    one = identity("x")
    query = exp.select(identity_sql(exp.cast(exp.Literal.string(one), "uuid"), exp.Literal.number(7)).as_("id"))
    assert warehouse.rows(query)[0]["id"] == identity(one, 7) == identity(one, "7")


def test_no_two_lists_of_parts_look_alike() -> None:
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("a", None), ("a", ""), ("a", "-"), (None, "a"), ("1:a",), ("a", "0:")]
    assert len({identity(*parts) for parts in lists}) == len(lists)


def test_instants_are_the_same_text_in_sql(warehouse: Warehouse) -> None:
    for moment in (
        datetime(2026, 1, 2),
        datetime(2026, 12, 31, 23, 59, 59, 999999),
        datetime(2026, 1, 1, 0, 0, 0, 50),
    ):
        query = exp.select(instant_sql(exp.cast(exp.Placeholder(this="m"), "timestamp")).as_("t"))
        assert warehouse.rows(query, {"m": moment})[0]["t"] == instant(moment)
