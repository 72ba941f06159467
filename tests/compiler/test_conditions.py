"""Conditions: names, types, errors with their place, NULL, and what the compiled tree gives on DuckDB."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from compiler.condition import Condition, EntryShape, Scope, compile_condition, compile_value
from compiler.errors import ConditionError
from tests.compiler.test_allowlist import CATALOG

IN_STEP = Scope(
    CATALOG, entry=EntryShape({"cart_id": "text", "total": "number"}, open=True), steps=frozenset({"hello", "wait"}),
    enrollment=True, goals=("did('purchase')",), workflow="w",
)  # fmt: skip


@pytest.fixture(scope="module")
def warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("""
            CREATE TABLE frame AS SELECT * FROM (VALUES
                ('a', 'pro', 3::BIGINT, 1.25::DOUBLE, TRUE, TIMESTAMP '2025-03-01 10:00', DATE '2000-02-29',
                 '{"cart_id": "K1", "total": "12.5", "n": 9, "flag": true, "note": null}'::JSON),
                ('b', NULL, NULL, NULL, NULL, NULL, NULL, '{}'::JSON)
            ) AS t(contact_id, c_plan, c_visits, c_spent, c_vip, c_created_at, c_born_on, entry)
        """)
        yield connection


def value(warehouse: duckdb.DuckDBPyConnection, condition: Condition) -> tuple[object, object]:
    """What the condition is for the contacts a, who has everything, and b, who has nothing."""
    query = f"SELECT {condition.tree.sql(dialect='duckdb')} FROM frame AS f ORDER BY contact_id"
    given = {"tick_at": "2025-03-04 10:00:00"} if "$tick_at" in query else None
    rows = warehouse.execute(query, given).fetchall()
    return rows[0][0], rows[1][0]


@pytest.mark.parametrize(("text", "a", "b"), [
    ("plan = 'pro'", True, None),
    ("not (plan = 'pro')", False, None),
    ("plan <> 'x'", True, None),
    ("plan is null", False, True),
    ("plan is distinct from 'pro'", False, True),
    ("plan in ('pro', 'x')", True, None),
    ("plan not in ('x')", True, None),
    ("plan = 'x' or visits = 3", True, None),
    ("plan = 'x' and visits = 3", False, None),
    ("true or plan = 'x'", True, True),
    ("false and plan = 'x'", False, False),
    ("coalesce(plan, 'none') = 'none'", False, True),
    ("case when plan = 'pro' then true else false end", True, False),
    ("visits / 2 = 1.5", True, None),
    ("visits % 2 = 1", True, None),
    ("visits between 3 and 4", True, None),
    ("visits > 2.5", True, None),
    ("spent * 4 = 5", True, None),
    ("vip", True, None),
    ("not vip", False, None),
    ("vip = true", True, None),
    ("created_at < now() - interval '3 days'", False, None),
    ("created_at <= now() - interval '3 days'", True, None),
    ("created_at = '2025-03-01 10:00'", True, None),
    ("created_at = '2025-03-01T10:00:00Z'", True, None),
    ("created_at = timestamp '2025-03-01 10:00:00'", True, None),
    ("created_at = timestamptz '2025-03-01 11:00:00+01:00'", True, None),
    ("created_at = cast('2025-03-01 10:00:00' as timestamp)", True, None),
    ("born_on = date '2000-02-29'", True, None),
    ("born_on < created_at", True, None),
    ("extract(year from born_on) = 2000", True, None),
    ("date_trunc('day', created_at) = '2025-03-01'", True, None),
    ("plan like 'p%' and plan ilike 'P_O'", True, None),
    ("length(plan) = 3 and upper(plan) = 'PRO'", True, None),
    ("plan || '!' = 'pro!'", True, None),
    ("starts_with(plan, 'p') and contains(plan, 'r')", True, None),
    ("entry.cart_id = 'K1'", True, None),
    ("entry.total > 12", True, None),
    ("entry.n > 10", False, None),
    ("entry.n = 9.0", True, None),
    ("entry.n + 1 = 10", True, None),
    ("entry.flag", True, None),
    ("entry.flag = true", True, None),
    ("entry.note is null", True, True),
    ("entry.missing = 'x'", None, None),
    ("entry.cart_id = plan", False, None),
    ("try_cast(plan as integer) is null", True, True),
    ("cast(plan as integer) = 1", None, None),
    ("visits::text = '3'", True, None),
])  # fmt: skip
def test_values_on_duckdb(warehouse: duckdb.DuckDBPyConnection, text: str, a: object, b: object) -> None:
    assert value(warehouse, compile_condition(text, IN_STEP)) == (a, b)


def test_a_bucket_is_the_start_of_an_md5(warehouse: duckdb.DuckDBPyConnection) -> None:
    # md5('seed1:a') starts with 4e42af41
    found = value(warehouse, compile_value("bucket('seed1')", IN_STEP))[0]
    import hashlib

    assert found == int(hashlib.md5(b"seed1:a", usedforsecurity=False).hexdigest()[:8], 16) / 2**32


@pytest.mark.parametrize(("text", "code", "offset", "said"), [
    ("plann = 'pro'", "E203", 0, "plan"),
    ("contact.plann = 'pro'", "E203", 8, "plan"),
    ("vip and plann = 'x'", "E203", 8, "plan"),
    ("conatct.plan = 'x'", "E203", 8, "contact"),
    ("event.amount > 3", "E203", 6, "only inside did()"),
    ("did('a', plann = 'x')", "E203", 9, "plan"),
    ("steps.helo.sent_at is null", "E208", 11, "hello"),
    ("steps.hello.sent is null", "E203", 12, "sent_at"),
    ("did('a', since => 'helo')", "E208", 18, "hello"),
    ("opened('helo')", "E208", 0, "hello"),
    ("dd('a')", "E204", 0, "did"),
    ("has_tags('x')", "E204", 0, "has_tag"),
    ("did('a', witin => '3d')", "E207", 0, "within"),
    ("did('a', within => '3 days')", "E207", 19, "number and a unit"),
    ("did()", "E207", 0, "name of an event"),
    ("did('a', event.x = 1, event.y = 2)", "E207", 32, "join them with and"),
    ("event_sum('a') > 1", "E207", 0, "event.amount"),
    ("did('a', at_least => 'x')", "E207", 0, "whole number"),
    ("visits = 'many'", "E206", 9, "cannot compare"),
    ("plan > 3", "E206", 7, "cannot compare"),
    ("vip = 'yes'", "E206", 6, "cannot compare"),
    ("created_at > 'tomorrow'", "E206", 13, "no time"),
    ("plan", "E206", 0, "text"),
    ("visits + 1", "E206", 0, "integer"),
    ("plan and vip", "E206", 0, "true or false"),
    ("not visits", "E206", 4, "true or false"),
    ("plan + 1 = 2", "E206", 7, "a number"),
    ("case when plan then 1 else 2 end = 1", "E206", 10, "true or false"),
    ("plan like 3", "E206", 10, "expected text, found integer"),
    ("now() + 1 > now()", "E206", 0, "takes an interval"),
    ("extract(days from now()) = 1", "E206", None, "no part of a time"),
    ("date_trunc('weeks', now()) < now()", "E206", 0, "no part of a time"),
    ("coalesce(visits, 'x') = 1", "E206", 0, "cannot compare"),
    ("plan = ", "E202", None, "not a SQL expression"),
    ("(plan = 'x'", "E202", None, "not a SQL expression"),
    ("plan = 'x", "E202", None, "not a SQL expression"),
    ("", "E201", None, "exactly one SQL expression"),
    ("id in (select person from ref('fct_order'))", "E205", None, "fct_orders"),
    ("id in (select persn from ref('fct_orders'))", "E203", 14, "person"),
    ("score('churn') > 1", "E205", 0, "churn"),
    ("in_audience('vip')", "E205", 0, "vip"),
])  # fmt: skip
def test_errors_name_place_and_nearest(text: str, code: str, offset: int | None, said: str) -> None:
    with pytest.raises(ConditionError) as refused:
        compile_condition(text, IN_STEP)
    error = refused.value
    assert error.code == code
    assert said in f"{error.message} {error.hint}"
    if offset is not None:
        assert error.offset == offset


def test_since_and_steps_belong_to_workflows() -> None:
    outside = Scope(CATALOG)
    for text in ("did('a', since => 'entry')", "opened('hello')", "entry.x = 1", "steps.hello.status = 'sent'"):
        with pytest.raises(ConditionError):
            compile_condition(text, outside)


def test_a_condition_says_what_it_reads() -> None:
    made = compile_condition("plan = 'x' and did('a', event.amount > 3) and has_tag('t')", IN_STEP)
    assert made.contact_columns >= {"plan"}
    assert made.events == {"a"}
    assert dict(made.properties) == {"amount": "other"}
    assert made.tags == {"t"}
    assert made.state and not made.subquery


def test_equal_lookups_share_a_column() -> None:
    made = compile_condition("did('a') or did('a') and not did('a', within => '3d')", IN_STEP)
    assert len(made.lookups) == 2
