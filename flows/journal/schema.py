"""State tables as data, and their DDL as sqlglot trees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlglot import exp

from flows.warehouse.base import table


@dataclass(frozen=True)
class Column:
    """A column: name, SQL type (text, integer, bigint, boolean, timestamp, uuid, json), whether NULL is refused."""

    name: str
    type: str
    required: bool = False


@dataclass(frozen=True)
class StateTable:
    """A state table; `primary_key` only where an index pays for itself."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()


def state_table(name: str, columns: str, primary_key: tuple[str, ...] = ()) -> StateTable:
    """A table from a compact text: `<column> <type>[!]`, separated by commas; `!` refuses NULL.

    Raises:
        ValueError: an item is not two words.
    """
    parsed = []
    for item in columns.split(","):
        column, kind = item.split()
        parsed.append(Column(column, kind.rstrip("!"), required=kind.endswith("!")))
    return StateTable(name, tuple(parsed), primary_key)


def create_schema(schema: str) -> exp.Create:
    """CREATE SCHEMA IF NOT EXISTS."""
    return exp.Create(this=exp.Table(db=exp.to_identifier(schema, quoted=True)), kind="SCHEMA", exists=True)


def create_table(schema: str, definition: StateTable) -> exp.Create:
    """CREATE TABLE of a state table."""
    columns: list[exp.Expr] = [_column(column) for column in definition.columns]
    if definition.primary_key:
        columns.append(exp.PrimaryKey(expressions=[_identifier(name) for name in definition.primary_key]))
    return exp.Create(this=exp.Schema(this=table((schema, definition.name)), expressions=columns), kind="TABLE")


def add_column(schema: str, name: str, column: Column) -> exp.Alter:
    """ALTER TABLE ADD COLUMN; the new column is NULL in the rows that are there."""
    return exp.Alter(this=table((schema, name)), kind="TABLE", actions=[_column(column)])


def located(tree: exp.Expr, schema: str) -> exp.Expr:
    """A statement over bare names of state tables, which then stand in a schema."""
    for node in tree.find_all(exp.Table):
        node.set("db", _identifier(schema))
    return tree


def create_union_view(schema: str, name: str, tables: Iterable[StateTable]) -> exp.Create:
    """CREATE VIEW over the rows of several tables with the same columns."""
    selects = [
        exp.select(*(exp.column(column.name, quoted=True) for column in definition.columns)).from_(
            table((schema, definition.name))
        )
        for definition in tables
    ]
    return exp.Create(this=table((schema, name)), kind="VIEW", expression=exp.union(*selects, distinct=False))


def _column(column: Column) -> exp.ColumnDef:
    constraints = [exp.ColumnConstraint(kind=exp.NotNullColumnConstraint())] if column.required else []
    return exp.ColumnDef(
        this=_identifier(column.name), kind=exp.DataType.build(column.type, dialect="duckdb"), constraints=constraints
    )


def _identifier(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=True)
