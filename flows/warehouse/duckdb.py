"""DuckDB, the embedded default: a file that one process owns at a time, or memory."""

from __future__ import annotations

import contextlib
import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

import duckdb
import pyarrow as pa
from sqlglot import exp

from compiler.errors import WarehouseError, WarehouseLocked
from flows.warehouse.base import Parameters, Place, Warehouse, plain, table
from flows.warehouse.duckdb_plans import Plans
from flows.warehouse.lock import DEFAULT_WAIT, Patience, SidecarLock, command_of

# Set after connecting, not as `config`: DuckDB refuses two connections of one process with different configs, and
# dbt-duckdb opens the same file with its own.
_SETTINGS: Mapping[str, str] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
    "preserve_insertion_order": "false",
    "TimeZone": "UTC",
}
FEW = 1000
"""So many rows are loaded as parameters: to register them would change the catalog, and cost every kept plan."""
_LISTED = {pa.string(): "text", pa.int64(): "bigint", pa.bool_(): "boolean", pa.timestamp("us"): "timestamp"}
_HOLDER = re.compile(r"held in (?P<command>.*?) \(PID (?P<pid>\d+)\)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# Messages of these classes quote values of rows, which may be personal data.
_QUOTING = (
    duckdb.ConversionException, duckdb.ConstraintException, duckdb.OutOfRangeException, duckdb.InvalidInputException,
)  # fmt: skip


class DuckDBWarehouse(Warehouse):
    """A DuckDB file, or memory when `path` is None.

    The sidecar lock `<file>.lock` is taken before the file is opened and kept until after it is closed, and DuckDB's
    own lock of a foreign process is waited for in the same way, both at most `wait` in all. Table `temp.iana_zones`
    holds the time zone names that zoneinfo and DuckDB both know; `utc_instant(wall, zone)` is a function.

    Raises:
        WarehouseLocked: another process still holds the file after `wait`; the message names it.
        WarehouseError: the file cannot be opened (E601).
    """

    dialect: ClassVar[str] = "duckdb"

    def __init__(
        self, path: Path | None, *, lock: bool = True, read_only: bool = False, wait: timedelta = DEFAULT_WAIT
    ) -> None:
        self.path = path
        self._lock = SidecarLock(path, shared=read_only) if path is not None and lock else None
        self._plans: Plans | None = None
        self._in_transaction = False
        patience = Patience(wait)
        if self._lock is not None and not self._lock.acquire(patience):
            raise WarehouseLocked(
                f"the warehouse file {path} is {self._lock.holder()}", hint="wait until it has finished, or stop it"
            )
        self._connection: duckdb.DuckDBPyConnection | None = None
        try:
            self._connection = _connect(path, read_only, patience)
            for name, value in _SETTINGS.items():
                self._connection.execute(exp.Set(expressions=[_assignment(name, value)]).sql("duckdb"))
            # In Jupyter DuckDB refuses this setting where ipywidgets is missing, and draws no bar then.
            with contextlib.suppress(duckdb.InvalidInputException):
                off = exp.Set(expressions=[_assignment("enable_progress_bar", "false")])
                self._connection.execute(off.sql("duckdb"))
            self._connection.execute(_UTC_INSTANT)
            self._plans = Plans(self._connection)
            self._load_zones()
        except BaseException:
            self.close()
            raise

    def execute(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> int:
        """See `Warehouse.execute`."""
        text = sql if isinstance(sql, str) else self.sql(sql)
        plans = self._open_plans()
        try:
            return plans.execute(text, parameters or {})
        except duckdb.Error as error:
            raise WarehouseError(_message(error)) from error

    def fetch(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> pa.Table:
        """See `Warehouse.fetch`. A HUGEINT (`sum` of integers) arrives as decimal: cast it in the query."""
        return self._run(sql, parameters).to_arrow_table()

    def rows(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """See `Warehouse.rows`."""
        cursor = self._run(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]

    def load(self, place: Place, data: pa.Table, *, columns: Sequence[str] | None = None) -> int:
        """See `Warehouse.load`."""
        names = tuple(columns if columns is not None else data.column_names)
        if data.num_rows <= FEW and all(data.schema.field(name).type in _LISTED for name in names):
            lists = {f"v{number}": data.column(name).to_pylist() for number, name in enumerate(names)}
            return self.execute(_listing(place, names, tuple(data.schema.field(name).type for name in names)), lists)
        connection = self._open_connection()
        connection.register("arriving", data)
        try:
            return self.execute(_insertion(place, names))
        finally:
            connection.unregister("arriving")
            self._open_plans().forget()

    def columns(self, place: Place) -> dict[str, str]:
        """See `Warehouse.columns`."""
        found = self.rows(_COLUMNS, _place_parameters(place))
        if not found:
            raise WarehouseError(f"there is no table or view {'.'.join(place)} in the warehouse", code="E602")
        return {row["column_name"]: row["data_type"] for row in found}

    def relation_exists(self, place: Place) -> bool:
        """See `Warehouse.relation_exists`."""
        if self._in_transaction:  # a statement that fails would end the transaction
            return bool(self.rows(_COLUMNS, _place_parameters(place)))
        try:
            self._open_connection().execute(exp.select("1").from_(table(place)).limit(0).sql(self.dialect))
        except duckdb.CatalogException:
            return False
        except duckdb.Error:  # it is there, and cannot be read
            return True
        return True

    def relations(self) -> dict[Place, dict[str, str]]:
        """See `Warehouse.relations`."""
        found: dict[Place, dict[str, str]] = {}
        for row in self.rows(_RELATIONS):
            found.setdefault((row["table_schema"], row["table_name"]), {})[row["column_name"]] = row["data_type"]
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Warehouse.transaction`."""
        if self._in_transaction:
            raise WarehouseError("a transaction is already open on this connection", code="E604")
        connection = self._open_connection()
        connection.begin()
        self._in_transaction = True
        try:
            yield
        except BaseException:
            self._in_transaction = False
            self._rollback()
            raise
        self._in_transaction = False
        try:
            connection.commit()
        except duckdb.Error as error:
            self._rollback()
            raise WarehouseError(
                f"COMMIT failed and may have happened: {_message(error)}", code="E603",
                hint="open the warehouse again and read the journal",
            ) from error  # fmt: skip

    def close(self) -> None:
        """See `Warehouse.close`."""
        connection, self._connection, self._plans = self._connection, None, None
        try:
            if connection is not None:
                connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _run(self, sql: exp.Expr | str, parameters: Parameters | None) -> duckdb.DuckDBPyConnection:
        text = sql if isinstance(sql, str) else self.sql(sql)
        plans = self._open_plans()
        try:
            return plans.run(text, parameters or {})
        except duckdb.Error as error:
            raise WarehouseError(_message(error)) from error

    def _open_plans(self) -> Plans:
        if self._plans is None:
            raise WarehouseError("the connection is closed", code="E606")
        return self._plans

    def _open_connection(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise WarehouseError("the connection is closed", code="E606")
        return self._connection

    def _rollback(self) -> None:
        if self._plans is not None:
            self._plans.rolled_back()
        try:
            self._open_connection().rollback()
        except (duckdb.Error, WarehouseError):
            # DuckDB rolled back by itself (a failed COMMIT, a fatal error); the first error is the one to show.
            return

    def _load_zones(self) -> None:
        connection = self._open_connection()
        connection.execute("CREATE TEMP TABLE iana_zones (name VARCHAR)")
        self.load(("temp", "iana_zones"), _zones(connection))


@lru_cache(maxsize=200)
def _insertion(place: Place, names: tuple[str, ...]) -> str:
    """The statement that appends the registered rows `arriving`."""
    return _appending(place, names, exp.select(*(exp.column(name, quoted=True) for name in names)).from_("arriving"))


@lru_cache(maxsize=200)
def _listing(place: Place, names: tuple[str, ...], kinds: tuple[pa.DataType, ...]) -> str:
    """The statement that appends the rows whose columns are its parameters `v0`, `v1`, …, each a list."""
    columns = [
        exp.Anonymous(this="unnest", expressions=[
            exp.cast(exp.Placeholder(this=f"v{number}"), exp.DataType.build(f"{_LISTED[kind]}[]"))
        ])
        for number, kind in enumerate(kinds)
    ]  # fmt: skip
    return _appending(place, names, exp.select(*columns))


def _appending(place: Place, names: tuple[str, ...], rows: exp.Select) -> str:
    named = [exp.to_identifier(name, quoted=True) for name in names]
    return exp.Insert(this=exp.Schema(this=table(place), expressions=named), expression=rows).sql(dialect="duckdb")


# The wall clock with the offset of the day before, if that shows this time there; else what the zone itself says. So a
# time that occurs twice is its first occurrence, and one that is skipped moves forward by the gap (RFC 5545).
_UTC_INSTANT = """
CREATE TEMP MACRO utc_instant(wall, zone) AS CASE
    WHEN ((wall - (((wall - INTERVAL 1 DAY) AT TIME ZONE 'UTC' AT TIME ZONE zone) - (wall - INTERVAL 1 DAY)))
        AT TIME ZONE 'UTC' AT TIME ZONE zone) = wall
    THEN wall - (((wall - INTERVAL 1 DAY) AT TIME ZONE 'UTC' AT TIME ZONE zone) - (wall - INTERVAL 1 DAY))
    ELSE wall AT TIME ZONE zone AT TIME ZONE 'UTC'
END
"""

_COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE lower(table_name) = lower($relation)
  AND CASE WHEN $catalog IS NOT NULL THEN lower(table_schema) = lower($owner) AND lower(table_catalog) = lower($catalog)
           WHEN $owner IS NULL THEN table_schema = current_schema()
           ELSE lower(table_schema) = lower($owner) AND table_catalog = current_database()
             OR table_schema = 'main' AND lower(table_catalog) = lower($owner) END
ORDER BY ordinal_position
"""

_RELATIONS = """
SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns
WHERE table_catalog = current_database() ORDER BY table_schema, table_name, ordinal_position
"""


def _place_parameters(place: Place) -> dict[str, str | None]:
    return {
        "relation": place[-1], "owner": place[-2] if len(place) > 1 else None,
        "catalog": place[-3] if len(place) > 2 else None,
    }  # fmt: skip


def _assignment(name: str, value: str) -> exp.SetItem:
    return exp.SetItem(this=exp.EQ(this=exp.var(name), expression=exp.Literal.string(value)))


def _connect(path: Path | None, read_only: bool, patience: Patience) -> duckdb.DuckDBPyConnection:
    if path is None:
        return duckdb.connect(":memory:")
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException as error:
            holder = _HOLDER.search(str(error))
            if holder is None:
                raise WarehouseError(
                    f"cannot open the warehouse file {path}: {_message(error)}", code="E601"
                ) from error
            command = command_of(int(holder["pid"]), Path(holder["command"]).name)
            who = f"held by process {holder['pid']} ({command})"
            if not patience.pause(who):
                raise WarehouseLocked(
                    f"the warehouse file {path} is {who}", hint="wait until it has finished, or stop it"
                ) from error
        except duckdb.Error as error:
            raise WarehouseError(f"cannot open the warehouse file {path}: {_message(error)}", code="E601") from error


@lru_cache(maxsize=1)
def _python_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


_warehouse_zones: dict[str, pa.Table] = {}


def _zones(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    version = duckdb.__version__
    if version not in _warehouse_zones:
        known = {cast(str, row[0]) for row in connection.execute("SELECT name FROM pg_timezone_names()").fetchall()}
        _warehouse_zones[version] = pa.table({"name": pa.array(sorted(known & _python_zones()), pa.string())})
    return _warehouse_zones[version]


def _message(error: duckdb.Error) -> str:
    first = str(error).strip().split("\n")[0]
    return _QUOTED.sub("'…'", first) if isinstance(error, _QUOTING) else first
