"""Identities: alike in Python and SQL, different for different parts."""

from __future__ import annotations

import random

from sqlglot import exp

from compiler.identity import action_identity, identity_tree
from flows.journal.ids import identity
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
    query = exp.select(identity_tree([exp.cast(exp.Placeholder(this=name), "text") for name in names]).as_("id"))
    text = warehouse.sql(query)
    for _ in range(300):
        parts = [draw.choice(ODD) for _ in names]
        found = warehouse.rows(text, dict(zip(names, parts, strict=True)))[0]["id"]
        assert found == identity(*parts), parts


def test_the_id_of_an_action_is_that_of_its_parts(warehouse: Warehouse) -> None:
    enrollment = exp.cast(exp.Literal.string(identity("x")), "uuid")
    for step, visit in (("hello", None), ("émile's", 1), ("again", 12)):
        number = None if visit is None else exp.Literal.number(visit)
        query = exp.select(action_identity(enrollment, step, number).as_("id"))
        assert warehouse.rows(query)[0]["id"] == identity(identity("x"), step, visit or 1)


def test_no_two_lists_of_parts_look_alike() -> None:
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("a", None), ("a", ""), ("a", "-"), (None, "a"), ("1:a",), ("a", "0:")]
    assert len({identity(*parts) for parts in lists}) == len(lists)
