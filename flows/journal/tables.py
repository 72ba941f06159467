"""The state tables of a schema, as sqlglot tables, and statements over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import pyarrow as pa
import sqlglot
from sqlglot import exp

from flows.warehouse.base import Place, Warehouse, table

StateName = Literal[
    "meta", "migrations", "lease", "workflow_versions", "templates", "config_versions", "controls", "ticks", "journal",
    "candidates", "enrollments", "audience_members", "audience_masks", "events", "event_seen", "contact_tags",
    "contact_untags", "contact_fields", "contact_points", "campaign_members", "contact_merges", "suppressions",
    "outbox", "outbox_closed", "attempts", "completed_actions", "deliveries", "budgets", "breakers",
    "collected_files", "events_rejected",
]  # fmt: skip
"""Every state table and view; `deliveries` is the view over `outbox` and `outbox_closed`."""

_NAMES = frozenset(get_args(StateName))


@dataclass(frozen=True)
class StateTables:
    """The state tables in one schema: `StateTables("penstock")["outbox"]`."""

    schema: str

    def __getitem__(self, name: StateName) -> exp.Table:
        return table(self.place(name))

    def place(self, name: StateName) -> Place:
        """The table's name in parts."""
        return (self.schema, name)

    def statement(self, warehouse: Warehouse, text: str) -> str:
        """A constant statement over state tables, ready to run: their bare names get the schema.

        Written in DuckDB's dialect, read by sqlglot and generated for the warehouse; kept for the next time.
        """
        return _generated(self.schema, type(warehouse).dialect, text)


def stage(warehouse: Warehouse, name: str, data: pa.Table) -> None:
    """Make a temporary table of the connection anew and load it.

    Columns are text, bigint, boolean or timestamp; a text column `action_id` becomes a UUID.
    """
    columns = tuple((field.name, "uuid" if field.name == "action_id" else _KINDS[field.type]) for field in data.schema)
    warehouse.execute(_creation(type(warehouse).dialect, name, columns))
    warehouse.load(("temp", name), data)


_KINDS = {pa.string(): "text", pa.int64(): "bigint", pa.bool_(): "boolean", pa.timestamp("us"): "timestamp"}


@lru_cache(maxsize=100)
def _creation(dialect: str, name: str, columns: tuple[tuple[str, str], ...]) -> str:
    """The statement that makes a temporary table."""
    defined = [exp.ColumnDef(this=exp.to_identifier(n), kind=exp.DataType.build(kind)) for n, kind in columns]
    return exp.Create(
        this=exp.Schema(this=exp.to_table(name), expressions=defined), kind="TABLE", replace=True,
        properties=exp.Properties(expressions=[exp.TemporaryProperty()]),
    ).sql(dialect=dialect)  # fmt: skip


@lru_cache(maxsize=1000)
def _generated(schema: str, dialect: str, text: str) -> str:
    tree = sqlglot.parse_one(text, dialect="duckdb")
    for node in tree.find_all(exp.Table):
        if not node.db and node.name in _NAMES:
            node.set("db", exp.to_identifier(schema, quoted=True))
    return tree.sql(dialect=dialect, comments=False)
