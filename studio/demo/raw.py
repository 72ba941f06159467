"""Where the demo's raw tables stand: in its own warehouse file, or in a database of a server that is the demo's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import polars as pl
import pyarrow as pa
from sqlglot import exp

from compiler.errors import ProjectError
from flows.warehouse.base import Warehouse, table
from flows.warehouse.location import FileLocation, Location
from studio.demo import shop

MARK = ("made_by_penstock_demo", "shop")
"""Schema and table that say that everything in a database was made by a demo."""
_INCOMING = "demo_incoming"
_KINDS = {pa.large_string(): "text", pa.string(): "text", pa.int64(): "bigint", pa.float64(): "double",
          pa.bool_(): "boolean", pa.timestamp("us"): "timestamp"}  # fmt: skip


class Raw(ABC):
    """An open place of raw tables; a context manager that closes it."""

    @abstractmethod
    def load(self, tables: Mapping[str, pa.Table]) -> dict[str, int]:
        """Write the tables, replacing those of an earlier load; gives the rows written, by table."""

    @abstractmethod
    def land(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
        """Bring exported rows in, in one transaction; gives the rows that arrived, by table."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileRaw(Raw):
    """Raw tables in a DuckDB file that this process may have open elsewhere as well."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._connection = duckdb.connect(str(file))

    def load(self, tables: Mapping[str, pa.Table]) -> dict[str, int]:
        """See `Raw.load`."""
        return shop.load(self._connection, tables)

    def land(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
        """See `Raw.land`."""
        return shop.land(self._connection, tables)

    def close(self) -> None:
        """See `Raw.close`."""
        self._connection.close()


class ServerRaw(Raw):
    """Raw tables in a database of a server."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def load(self, tables: Mapping[str, pa.Table]) -> dict[str, int]:
        """See `Raw.load`."""
        with self._warehouse.transaction():
            for schema in (shop.RAW_SCHEMA, shop.TRUTH):
                self._warehouse.execute(_schema(schema))
            for name, data in tables.items():
                self._make(shop.raw_table(name), data)
        return {name: data.num_rows for name, data in tables.items()}

    def _make(self, place: exp.Table, data: pa.Table) -> None:
        self._warehouse.execute(exp.Drop(tables=[place.copy()], kind="TABLE", exists=True, cascade=True))
        self._warehouse.execute(exp.Create(this=_shape(place, data.schema), kind="TABLE"))
        self._warehouse.load((place.db, place.name), data)

    def land(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
        """See `Raw.land`."""
        with self._warehouse.transaction():
            arrived = {name: self._land(name, frame) for name, frame in tables.items() if frame.height}
        return {name: count for name, count in arrived.items() if count}

    def _land(self, name: str, frame: pl.DataFrame) -> int:
        schema = shop.to_arrow(frame).schema
        columns = shop.newest(name, frame.to_dict(as_series=False))
        temporary = exp.Properties(expressions=[exp.TemporaryProperty()])
        shape = _shape(exp.to_table(_INCOMING), schema)
        self._warehouse.execute(exp.Create(this=shape, kind="TABLE", replace=True, properties=temporary))
        self._warehouse.load(("temp", _INCOMING), pa.table(columns, schema))
        rows = exp.select(*(exp.column(column, quoted=True) for column in columns)).from_(_INCOMING)
        return self._warehouse.execute(shop.arrival(name, tuple(columns), rows))

    def close(self) -> None:
        """See `Raw.close`."""
        self._warehouse.close()


def _shape(place: exp.Table, schema: pa.Schema) -> exp.Schema:
    columns = [
        exp.ColumnDef(this=exp.to_identifier(field.name, quoted=True), kind=exp.DataType.build(_KINDS[field.type]))
        for field in schema
    ]
    return exp.Schema(this=place.copy(), expressions=columns)


def open_raw(location: Location) -> Raw:
    """The raw tables at a location."""
    if isinstance(location, FileLocation):
        return FileRaw(location.path)
    return ServerRaw(location.open(""))


def clear_database(location: Location) -> None:
    """Empty a database that an earlier demo made, or mark an empty one as the demo's; a file needs nothing.

    Raises:
        ProjectError: E530, it holds something that no demo made.
    """
    if isinstance(location, FileLocation):
        return
    with location.open("") as warehouse:
        there = _schemas(warehouse)
        if there and not warehouse.relation_exists(MARK):
            raise _not_empty(location, there)
        with warehouse.transaction():
            for schema in there:
                warehouse.execute(exp.Drop(tables=[_place(schema)], kind="SCHEMA", exists=True, cascade=True))
            warehouse.execute(_schema(MARK[0]))
            column = exp.ColumnDef(this=exp.to_identifier("note"), kind=exp.DataType.build("text"))
            warehouse.execute(exp.Create(this=exp.Schema(this=table(MARK), expressions=[column]), kind="TABLE"))


def demand_empty(location: Location) -> None:
    """Refuse a database that holds anything; a file is looked at by its folder.

    Raises:
        ProjectError: E530.
    """
    if isinstance(location, FileLocation):
        return
    with location.open("", read_only=True) as warehouse:
        if there := _schemas(warehouse):
            raise _not_empty(location, there)


def _schemas(warehouse: Warehouse) -> list[str]:
    return sorted({place[0] for place in warehouse.relations()})


def _not_empty(location: Location, there: Sequence[str]) -> ProjectError:
    return ProjectError(
        f"{location.label} holds something that no demo made: {', '.join(there[:5])}", code="E530",
        hint="make an empty database and name it: PGDATABASE",
    )  # fmt: skip


def _schema(name: str) -> exp.Create:
    return exp.Create(this=_place(name), kind="SCHEMA", exists=True)


def _place(schema: str) -> exp.Table:
    return exp.Table(db=exp.to_identifier(schema, quoted=True))
