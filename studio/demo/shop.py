"""The demo shop as raw tables in DuckDB: what exports of a CRM, a shop, a web tracker and a mail provider hold.

`generate` returns what is known at `start`; `load` writes it; `land` brings later rows in, the way the exports do.
Tables in `KEYS` are replicas (one row per key, replaced when it changes), all others are append-only and may repeat
a row. The table `truth.truth` says what was planted; no model reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

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


def _table(name: str) -> exp.Table:
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
        _execute(connection, exp.Create(this=_table(name), kind="TABLE", expression=source, replace=True))
        connection.unregister(_INCOMING)
    return {name: table.num_rows for name, table in tables.items()}


def land(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
    """Bring exported rows in: append, or replace by key in a replica.

    A cart that was converted stays converted: the shop does not call it abandoned later.

    Returns:
        Rows that arrived, by table; tables without rows are left out.
    """
    arrived: dict[str, int] = {}
    for name, frame in tables.items():
        if frame.is_empty():
            continue
        key = KEYS.get(name)
        rows = frame if key is None else frame.unique(key, keep="last", maintain_order=True)
        if name == "shop_carts":
            rows = rows.filter(~pl.col("cart_id").is_in(_converted(connection)))
        connection.register(_INCOMING, to_arrow(rows))
        incoming = exp.select(*(exp.column(column, quoted=True) for column in rows.columns)).from_(_INCOMING)
        if key is not None:
            keys = exp.select(exp.column(key, quoted=True)).from_(_INCOMING)
            _execute(connection, exp.delete(_table(name)).where(exp.column(key, quoted=True).isin(query=keys)))
        columns = [exp.to_identifier(column, quoted=True) for column in rows.columns]
        _execute(connection, exp.insert(incoming, _table(name), columns=columns))
        connection.unregister(_INCOMING)
        arrived[name] = rows.height
    return arrived


def _converted(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = exp.select("cart_id").from_(_table("shop_carts")).where("status = 'converted'")
    return [str(row[0]) for row in connection.execute(query.sql(dialect="duckdb")).fetchall()]
