"""Copies of a warehouse's tables in memory: what happens there stays there, and the warehouse is only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from compiler.catalog import DataType, Relation, data_type
from compiler.condition import relation_table
from flows.journal.tables import StateName, StateTables
from flows.warehouse.base import Place, Warehouse, table

_ZONED = "timestamptz"
_NEAREST: Mapping[DataType, str] = {
    "integer": "bigint", "number": "double", "boolean": "boolean", "timestamp": "timestamp", "date": "date",
    "json": "json", "uuid": "uuid", "array": "text[]",
}  # fmt: skip


@dataclass(frozen=True)
class Scratch:
    """Copies from `live`, which may be read-only, into `memory`, a DuckDB; `given` are parameters of the filters."""

    live: Warehouse
    memory: Warehouse
    given: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, relation: Relation, place: Place | None = None, **more: str) -> None:
        """Make an empty table with the relation's name (or another) and columns, and `more` columns of some types."""
        where = place or relation.place
        if len(where) > 1:
            schema = exp.Table(db=exp.to_identifier(where[-2], quoted=True))
            self.memory.execute(exp.Create(this=schema, kind="SCHEMA", exists=True))
        kinds = {name: self._kind(relation, name) for name in relation.columns}
        kinds.update({name: exp.DataType.build(kind) for name, kind in more.items()})
        columns = [exp.ColumnDef(this=exp.to_identifier(name, quoted=True), kind=kind) for name, kind in kinds.items()]
        self.memory.execute(exp.Create(this=exp.Schema(this=table(where), expressions=columns), kind="TABLE"))

    def relation(self, relation: Relation, where: exp.Expr | None = None) -> int:
        """Make a table of the same name and columns, with the rows of alias `m` that fit; gives their number."""
        self.shape(relation)
        rows = self.rows_of(relation)
        return self.fill(relation, rows.where(where) if where is not None else rows, relation.place)

    def fill(self, relation: Relation, rows: exp.Select, place: Place) -> int:
        """Load what a query over the live relation gives into a table; gives the number of rows."""
        if not self.live.relation_exists(relation.place):
            return 0
        data = self.live.fetch(rows, self.given)
        return self.memory.load(place, data) if data.num_rows else 0

    def rows_of(self, relation: Relation) -> exp.Select:
        """All rows and columns of a relation, alias `m`, as they travel."""
        values = [self._portable(name, relation.type_of(name)).as_(name, quoted=True) for name in relation.columns]
        return exp.select(*values).from_(relation_table(relation, "m"))

    def state(
        self, state: StateTables, source: StateName, into: StateName | None = None, where: exp.Expr | None = None
    ) -> int:
        """Copy rows of a state table (alias `m`) into a state table; a state that was not migrated yet lacks some."""
        if not self.live.relation_exists(state.place(source)):
            return 0
        there, place = self.live.columns(state.place(source)), state.place(into or source)
        wanted = [name for name in self.memory.columns(place) if name in there]
        values = [self._portable(name, data_type(there[name])).as_(name, quoted=True) for name in wanted]
        rows = exp.select(*values).from_(exp.alias_(state[source], "m", table=True))
        data = self.live.fetch(rows.where(where.copy()) if where is not None else rows, self.given)
        return self.memory.load(place, data) if data.num_rows else 0

    @property
    def _alike(self) -> bool:
        return type(self.live).dialect == type(self.memory).dialect

    def _kind(self, relation: Relation, name: str) -> exp.DataType:
        """The copy's type of a column: the same where the copy knows the live types, else the nearest."""
        if self._alike:
            return exp.DataType.build(relation.columns[name], dialect=type(self.memory).dialect)
        return exp.DataType.build(_ZONED if relation.zoned(name) else _NEAREST.get(relation.type_of(name), "text"))

    def _portable(self, name: str, kind: DataType) -> exp.Expr:
        """A column of `m` as it travels: what only one warehouse knows as text."""
        column: exp.Expr = exp.column(exp.to_identifier(name, quoted=True), table="m")
        travels = kind not in ("uuid", "json") and (self._alike or kind != "other")
        return column if travels else exp.cast(column, "text")
