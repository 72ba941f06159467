"""The interface of a warehouse: execute, fetch Arrow, transaction, bulk load, columns.

Statements are sqlglot trees, or texts that `sql()` made from one; values travel as named parameters (`$name`, which
`exp.Placeholder(this="name")` generates). A place is a name in parts: (table,), (schema, table) or
(catalog, schema, table). Timestamps go in and come out as naive UTC, UUIDs as text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import UUID

from sqlglot import exp

if TYPE_CHECKING:
    import pyarrow as pa

Place = tuple[str, ...]
Parameters = Mapping[str, Any]


class Warehouse(ABC):
    """One open connection to a warehouse; a context manager that closes it."""

    dialect: ClassVar[str]
    """Name of the sqlglot dialect that `sql()` generates."""
    indexed: ClassVar[bool] = False
    """Whether rows are found by indexes; a columnar warehouse skips what it need not read without them."""

    @abstractmethod
    def execute(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> int:
        """Run one statement and return the number of rows it changed.

        `parameters` may hold more names than the statement uses; the others are not sent.

        Raises:
            WarehouseError: the warehouse refused the statement, or a parameter is missing.
        """

    @abstractmethod
    def fetch(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> pa.Table:
        """Run one query and return its result as Arrow.

        Raises:
            WarehouseError: as `execute`.
        """

    @abstractmethod
    def rows(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """Run one query with a small result: UUIDs as text, timestamps as naive UTC datetimes.

        Raises:
            WarehouseError: as `execute`.
        """

    @abstractmethod
    def load(self, place: Place, data: pa.Table, *, columns: Sequence[str] | None = None) -> int:
        """Append Arrow rows in bulk and return their number; `columns` are the names to fill, default all of `data`.

        Raises:
            WarehouseError: the table does not exist or does not take the rows.
        """

    @abstractmethod
    def columns(self, place: Place) -> dict[str, str]:
        """Column name -> the warehouse's type name, in order.

        Raises:
            WarehouseError: no such table or view.
        """

    @abstractmethod
    def relation_exists(self, place: Place) -> bool:
        """Whether a table or view of that name is there."""

    @abstractmethod
    def relations(self) -> dict[Place, dict[str, str]]:
        """Every table and view that this session may see, by (schema, table): column name -> type name, in order."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection and let go of every lock; a second call does nothing."""

    @abstractmethod
    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN, then COMMIT, or ROLLBACK when the block raises; nesting is an error.

        Raises:
            WarehouseError: nested, or code E603: COMMIT failed and may have happened; reopen and ask the journal.
        """

    def sql(self, tree: exp.Expr) -> str:
        """The text of a statement in this warehouse's dialect."""
        return tree.sql(dialect=self.dialect, comments=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def table(place: Place) -> exp.Table:
    """The sqlglot table of a place, every part quoted."""
    parts = [exp.to_identifier(part, quoted=True) for part in place]
    named = dict(zip(("this", "db", "catalog"), reversed(parts), strict=False))
    return exp.Table(**named)


def plain(value: Any) -> Any:
    """A value as `rows` gives it: a UUID as text, an instant as naive UTC."""
    match value:
        case UUID():
            return str(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).replace(tzinfo=None)
        case _:
            return value


def bound(value: Any) -> Any:
    """A parameter as it is sent: an aware datetime would become a timestamptz, and state columns are naive UTC."""
    return plain(value) if isinstance(value, datetime) else value
