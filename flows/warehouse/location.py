"""Where a target's warehouse is, and how it is opened: a file of DuckDB, or a database of a PostgreSQL server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from compiler.errors import WarehouseLocked
from flows.warehouse.base import Warehouse
from flows.warehouse.lock import DEFAULT_WAIT, Patience, SidecarLock
from flows.warehouse.postgres_dialect import PenstockPostgres

Open = Callable[[], Warehouse]


class Location(ABC):
    """The place of a warehouse. The drivers load when it is opened: checking definitions opens none."""

    type: ClassVar[str]
    """The `type` of a target in dbt's profiles.yml."""
    dialect: ClassVar[str]
    """Name of the sqlglot dialect of its SQL."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The place in words for a message; no password is in it."""

    @abstractmethod
    def missing(self) -> bool:
        """Whether there is nothing to open yet, so that building models comes first."""

    @abstractmethod
    def open(self, state: str, *, read_only: bool = False, wait: timedelta = DEFAULT_WAIT) -> Warehouse:
        """A connection, the only one at a time that writes the state in schema `state`.

        Raises:
            WarehouseLocked: somebody else writes longer than `wait`; the message names who.
            WarehouseError: it cannot be opened.
        """

    @abstractmethod
    @contextmanager
    def building(self, wait: timedelta = DEFAULT_WAIT) -> Iterator[Open]:
        """While dbt builds: its turn where the warehouse has one, and how to look at what it built within that turn.

        Raises:
            WarehouseLocked: as `open`.
        """


@dataclass(frozen=True)
class FileLocation(Location):
    """A DuckDB file, which one process opens at a time."""

    path: Path
    type: ClassVar[str] = "duckdb"
    dialect: ClassVar[str] = "duckdb"

    @property
    def label(self) -> str:
        """See `Location.label`."""
        return str(self.path)

    def missing(self) -> bool:
        """See `Location.missing`."""
        return not self.path.is_file()

    def open(self, state: str, *, read_only: bool = False, wait: timedelta = DEFAULT_WAIT) -> Warehouse:
        """See `Location.open`: the lock is the file's, whichever schema is written."""
        from flows.warehouse.duckdb import DuckDBWarehouse

        return DuckDBWarehouse(self.path, read_only=read_only, wait=wait)

    @contextmanager
    def building(self, wait: timedelta = DEFAULT_WAIT) -> Iterator[Open]:
        """See `Location.building`: dbt opens the file itself, under our lock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = SidecarLock(self.path)
        if not lock.acquire(Patience(wait)):
            raise WarehouseLocked(
                f"the warehouse file {self.path} is {lock.holder()}", hint="wait until it has finished, or stop it"
            )
        try:
            yield self._open_unlocked
        finally:
            lock.release()

    def _open_unlocked(self) -> Warehouse:
        from flows.warehouse.duckdb import DuckDBWarehouse

        return DuckDBWarehouse(self.path, lock=False)


@dataclass(frozen=True)
class ServerLocation(Location):
    """A database of a PostgreSQL server: libpq's parameters, and the role to become, if any."""

    parameters: Mapping[str, str | int] = field(repr=False)
    role: str | None = None
    type: ClassVar[str] = "postgres"
    dialect: ClassVar[str] = PenstockPostgres.__name__.lower()

    @property
    def label(self) -> str:
        """See `Location.label`."""
        given = self.parameters
        return f"PostgreSQL database {given.get('dbname')} on {given.get('host')}:{given.get('port')}"

    def missing(self) -> bool:
        """See `Location.missing`: a database is there, or opening it says what is wrong."""
        return False

    def open(self, state: str, *, read_only: bool = False, wait: timedelta = DEFAULT_WAIT) -> Warehouse:
        """See `Location.open`: readers take no lease."""
        from flows.warehouse.postgres import PostgresWarehouse

        lease = None if read_only or not state else state
        return PostgresWarehouse(self.parameters, role=self.role, state=lease, read_only=read_only, wait=wait)

    @contextmanager
    def building(self, wait: timedelta = DEFAULT_WAIT) -> Iterator[Open]:
        """See `Location.building`: the server keeps dbt and the engine apart, so nobody waits."""
        yield lambda: self.open("", read_only=True)


DIALECTS: Mapping[str, str] = {location.type: location.dialect for location in (FileLocation, ServerLocation)}
"""Type of a target -> the sqlglot dialect of its SQL."""
