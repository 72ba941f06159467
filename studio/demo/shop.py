"""The demo shop as raw tables in DuckDB: what exports of a CRM, a shop, a web tracker and a mail provider hold.

`generate` returns what is known at `start`; `load` writes it; `land` brings later rows in, the way the exports do.
Tables in `KEYS` are replicas (one row per key, replaced when it changes), all others are append-only and may repeat
a row. The table `truth.truth` says what was planted; no model reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
from sqlglot import exp

from studio.demo.world import World, draw_world

SEED = 20260301
CONTACTS = 5000
START = datetime(2026, 3, 1)
"""First instant of the simulated period, naive UTC."""
HISTORY_DAYS = 120
HORIZON_DAYS = 45
"""Days of simulation after `START`."""
RAW_SCHEMA = "raw"
TRUTH = "truth"
"""Name of the table of planted facts, and of its schema."""
KEYS: Mapping[str, str] = {"crm_contacts": "contact_id", "shop_carts": "cart_id", "shop_orders": "order_id"}
"""Replicated tables and their key."""
_INCOMING = "penstock_demo_incoming"


def world(
    seed: int = SEED,
    contacts: int = CONTACTS,
    start: datetime = START,
    days: int = HISTORY_DAYS,
    horizon: int = HORIZON_DAYS,
) -> World:
    """The whole course of the shop; the same arguments give the same rows."""
    return draw_world(seed, contacts, start, days, horizon)


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """The frame as an Arrow table with plain string columns."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def known_at(course: World, instant: datetime) -> dict[str, pl.DataFrame]:
    """The raw tables as an observer at `instant` finds them: loaded before it, replicas in their last version."""
    known = {name: frame.filter(pl.col("_loaded_at") < instant) for name, frame in course.tables.items()}
    for name, key in KEYS.items():
        known[name] = known[name].unique(key, keep="last", maintain_order=True)
    return known


def generate(
    seed: int = SEED, contacts: int = CONTACTS, start: datetime = START, days: int = HISTORY_DAYS
) -> dict[str, pa.Table]:
    """Raw tables of the `days` before `start`, and the table `truth` of what was planted.

    Args:
        seed: The one source of chance: equal arguments give equal tables.
        contacts: Contacts ever, about 7 % of them created after `start` and so not yet here.
        start: First instant of the simulated period, naive UTC.
        days: Days of history.
    """
    course = world(seed, contacts, start, days)
    tables = {name: to_arrow(frame) for name, frame in known_at(course, start).items()}
    return tables | {TRUTH: to_arrow(course.truth)}


def raw_table(name: str) -> exp.Table:
    """The place of a raw table, or of the planted facts."""
    return exp.table_(name, db=TRUTH if name == TRUTH else RAW_SCHEMA, quoted=True)


def _execute(connection: duckdb.DuckDBPyConnection, statement: exp.Expression) -> None:
    connection.execute(statement.sql(dialect="duckdb"))


def load(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Write the tables, replacing those of an earlier load.

    Returns:
        Rows written, by table.
    """
    for schema in (RAW_SCHEMA, TRUTH):
        _execute(connection, exp.Create(this=exp.to_table(schema), kind="SCHEMA", exists=True))
    for name, table in tables.items():
        connection.register(_INCOMING, table)
        source = exp.select("*").from_(_INCOMING)
        _execute(connection, exp.Create(this=raw_table(name), kind="TABLE", expression=source, replace=True))
        connection.unregister(_INCOMING)
    return {name: table.num_rows for name, table in tables.items()}


def land(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
    """Bring exported rows in, in one transaction: append, or replace by key in a replica.

    A cart that was converted stays converted: the shop does not call it abandoned later.

    Returns:
        Rows that arrived, by table; tables without rows are left out.
    """
    filled = {name: frame for name, frame in tables.items() if frame.height}
    if not filled:
        return {}
    connection.begin()
    try:
        arrived = {name: _land(connection, name, frame) for name, frame in filled.items()}
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
    return {name: count for name, count in arrived.items() if count}


def _land(connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame) -> int:
    columns = newest(name, frame.to_dict(as_series=False))
    # A few rows as lists cost a third of the same rows as an Arrow table, and most landings are a few rows.
    landed = connection.execute(_landing(name, tuple(columns)), list(columns.values())).fetchall()
    return int(landed[0][0])


def newest(name: str, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns of rows, of a replica only the last row per key."""
    key = KEYS.get(name)
    if key is None:
        return columns
    last = {value: number for number, value in enumerate(columns[key])}.values()
    return {column: [values[number] for number in last] for column, values in columns.items()}


@lru_cache(maxsize=32)
def _landing(name: str, columns: tuple[str, ...]) -> str:
    """The statement that moves rows, bound as one list per column, into a table; its result counts them."""
    lists = [exp.Explode(this=exp.Parameter(this=exp.Literal.number(n))) for n in range(1, len(columns) + 1)]
    rows = exp.select(*(exp.alias_(list_, column, quoted=True) for list_, column in zip(lists, columns, strict=True)))
    return arrival(name, columns, rows).sql(dialect="duckdb")


def arrival(name: str, columns: Sequence[str], rows: exp.Select) -> exp.Expr:
    """The statement that brings rows into a raw table: appended, or by key into a replica."""
    key = KEYS.get(name)
    if key is None:
        into = [exp.to_identifier(column, quoted=True) for column in columns]
        return exp.insert(rows, raw_table(name), columns=into)
    old, new = exp.to_identifier("old"), exp.to_identifier("new")
    final = exp.column("status", old, quoted=True).neq("converted") if name == "shop_carts" else None
    update = exp.Update(expressions=[
        exp.EQ(this=exp.column(column, quoted=True), expression=exp.column(column, new, quoted=True))
        for column in columns
    ])  # fmt: skip
    insert = exp.Insert(
        this=exp.Tuple(expressions=[exp.column(column, quoted=True) for column in columns]),
        expression=exp.Tuple(expressions=[exp.column(column, new, quoted=True) for column in columns]),
    )
    return exp.merge(
        exp.When(matched=True, condition=final, then=update),
        exp.When(matched=False, then=insert),
        into=exp.alias_(raw_table(name), old, table=True),
        using=exp.Subquery(this=rows, alias=exp.TableAlias(this=new)),
        on=exp.column(key, old, quoted=True).eq(exp.column(key, new, quoted=True)),
    )
