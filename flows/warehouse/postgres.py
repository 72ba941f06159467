"""PostgreSQL: one session per connection; who writes the state has its lease."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
import pyarrow as pa
from psycopg import sql as composed
from psycopg.adapt import Buffer, Loader
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader
from pyarrow import csv as arrow_csv
from sqlglot import exp

from compiler.errors import WarehouseAway, WarehouseError, WarehouseLocked
from flows.warehouse import lease
from flows.warehouse.arrow_out import MANY, ArrowOut, reads
from flows.warehouse.base import Parameters, Place, Warehouse, bound, plain
from flows.warehouse.lease import Lease, command
from flows.warehouse.lock import DEFAULT_WAIT, Patience
from flows.warehouse.postgres_dialect import FUNCTIONS, PenstockPostgres

_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
    # Another program may have a table for itself, as dbt has for the moment in which it replaces a model.
    "lock_timeout": "30s",
}
_TEMPORARY = "pg_temp"
_ZONES = "iana_zones"
_WORDS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(?P<percent>%)|(?P<end>;)|\$(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_REPLACED = "DROP TABLE IF EXISTS "
# A session that only reads may fill temporary tables, but not make them.
_REPLACED_TEMPORARY = f'{_REPLACED}"{_TEMPORARY}".'
_BUT_THIS = "SET TRANSACTION READ WRITE; "
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# Messages of these classes quote values of rows, which may be personal data.
_QUOTING = (psycopg.DataError, psycopg.IntegrityError)
_IN_THE_WAY = (
    psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure,
)  # fmt: skip


class PostgresWarehouse(Warehouse):
    """A session of a PostgreSQL server.

    `connection` are libpq's parameters (host, port, user, password, dbname …). With `state`, a schema, the session has
    the lease of the state in it until it is closed, and waits for another that has it, at most `wait`. A session that
    is `read_only` writes its own temporary tables and nothing else; `role` is the one it becomes.
    Table `pg_temp.iana_zones` holds the time zone names that zoneinfo and the server both know;
    `pg_temp.utc_instant(wall, zone)` is a function.

    Raises:
        WarehouseLocked: somebody else still has the lease after `wait`; the message names who.
        WarehouseAway: the server cannot be reached, or refuses (E601).
    """

    dialect: ClassVar[str] = PenstockPostgres.__name__.lower()
    indexed: ClassVar[bool] = True

    def __init__(
        self, connection: Mapping[str, str | int], *, role: str | None = None, state: str | None = None,
        schema: str | None = None, read_only: bool = False, wait: timedelta = DEFAULT_WAIT,
    ) -> None:  # fmt: skip
        self._in_transaction = False
        self._read_only = False
        self._wait = wait
        self._lease: Lease | None = None
        self._own: set[str] = {_ZONES, _TEMPORARY}
        self._out = ArrowOut(connection, role, schema)
        self._connection: psycopg.Connection[TupleRow] | None = _connect(connection)
        try:
            self._prepare(role, schema)
            if read_only:
                self.execute("SET default_transaction_read_only = on")
                self._read_only = True
            if state is not None:
                # A process that is paused in a transaction must not keep others out for longer than its lease does.
                self._set("idle_in_transaction_session_timeout", f"{int(lease.LIFE.total_seconds() * 1000)}ms")
                self._lease = Lease(self._connection, state)
                self._lease.take(Patience(wait))
        except psycopg.Error as error:
            self.close()
            raise WarehouseAway(f"cannot open the warehouse: {_message(error)}") from error
        except BaseException:
            self.close()
            raise

    def execute(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> int:
        """See `Warehouse.execute`."""
        with self._run(sql, parameters) as cursor:
            while cursor.nextset():
                pass
            return max(cursor.rowcount, 0)

    def fetch(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> pa.Table:
        """See `Warehouse.fetch`: many rows come by a second session, where that sees the same."""
        if (many := self._many(sql, parameters)) is not None:
            return many
        with self._run(sql, parameters) as cursor:
            columns = [(column.name, _ARROW.get(column.type_code)) for column in cursor.description or ()]
            values = list(zip(*cursor.fetchall(), strict=True)) or [()] * len(columns)
        arrays = [pa.array(map(plain, found), type=kind) for (_, kind), found in zip(columns, values, strict=True)]
        return pa.Table.from_arrays(arrays, names=[name for name, _ in columns])

    def rows(self, sql: exp.Expr | str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """See `Warehouse.rows`."""
        with self._run(sql, parameters) as cursor:
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]

    def load(self, place: Place, data: pa.Table, *, columns: Sequence[str] | None = None) -> int:
        """See `Warehouse.load`: one COPY."""
        names = tuple(columns if columns is not None else data.column_names)
        copy = composed.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
            composed.Identifier(*_named(place)), composed.SQL(", ").join(map(composed.Identifier, names))
        )
        try:
            with self._open_connection().cursor() as cursor:
                with cursor.copy(copy) as stream:
                    stream.write(_csv(data.select(names)))
                return cursor.rowcount
        except psycopg.Error as error:
            raise self._refused(error) from error

    def columns(self, place: Place) -> dict[str, str]:
        """See `Warehouse.columns`."""
        found = self.rows(_COLUMNS, _place_parameters(place))
        if not found:
            raise WarehouseError(f"there is no table or view {'.'.join(place)} in the warehouse", code="E602")
        return {row["name"]: row["type"] for row in found}

    def relation_exists(self, place: Place) -> bool:
        """See `Warehouse.relation_exists`."""
        return bool(self.rows(_COLUMNS, _place_parameters(place)))

    def relations(self) -> dict[Place, dict[str, str]]:
        """See `Warehouse.relations`."""
        found: dict[Place, dict[str, str]] = {}
        for row in self.rows(_RELATIONS):
            found.setdefault((row["owner"], row["relation"]), {})[row["name"]] = row["type"]
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Warehouse.transaction`."""
        if self._in_transaction:
            raise WarehouseError("a transaction is already open on this connection", code="E604")
        self._renew(taken=False)
        self.execute("BEGIN")
        self._in_transaction = True
        try:
            self._renew(taken=True)
            yield
        except BaseException:
            self._in_transaction = False
            self._rollback()
            raise
        self._in_transaction = False
        self._commit()

    def close(self) -> None:
        """See `Warehouse.close`."""
        connection, self._connection = self._connection, None
        self._out.close()
        if connection is None:
            return
        if self._lease is not None and not self._in_transaction:
            # A session that ends has given back its lease, whether it could say so or not.
            with contextlib.suppress(psycopg.Error):
                self._lease.release()
        connection.close()

    # ------------------------------------------------------------ inside

    def _prepare(self, role: str | None, schema: str | None) -> None:
        connection = self._open_connection()
        if role is not None:
            self._set("role", role)
        for name, value in _SETTINGS.items():
            self._set(name, value)
        if schema is not None:
            connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", (schema,))
        connection.execute(f"CREATE TEMP TABLE {_ZONES} (name text)".encode())
        self.load(("temp", _ZONES), _zones(connection))
        for function in FUNCTIONS:
            connection.execute(function.encode())

    def _many(self, sql: exp.Expr | str, parameters: Parameters | None) -> pa.Table | None:
        """A large result; None when it is small, or only this session can give it, or has types that need a driver."""
        text, values = self._given(sql, parameters)
        if self._in_transaction or not reads(text) or self._own.intersection(_WORD.findall(text)):
            return None
        try:
            with psycopg.ClientCursor(self._open_connection()) as cursor:
                query = composed.SQL(cursor.mogrify(text.encode(), values))
                cursor.execute(composed.SQL("EXPLAIN (FORMAT JSON) {}").format(query))
                if json.loads(cursor.fetchall()[0][0])[0]["Plan"]["Plan Rows"] < MANY:
                    return None
                cursor.execute(composed.SQL("SELECT * FROM ({}) AS _result LIMIT 0").format(query))
                columns = [(column.name, column.type_code) for column in cursor.description or ()]
        except psycopg.Error as error:
            raise self._refused(error) from error
        names = [name for name, _ in columns]
        if len(set(names)) < len(names) or not all(code in _ARROW for _, code in columns):
            return None
        # What Arrow has no plain type for comes as text.
        shown = [
            composed.SQL("{}::text" if code in _AS_TEXT else "{}").format(composed.Identifier(name))
            for name, code in columns
        ]
        outer = composed.SQL("SELECT {} FROM ({}) AS _result").format(composed.SQL(", ").join(shown), query)
        kinds = [_ARROW[code] for _, code in columns]
        return self._out.fetch(outer.as_string(self._open_connection()), names, kinds)

    def _set(self, name: str, value: str) -> None:
        self._open_connection().execute("SELECT set_config(%s, %s, false)", (name, value))

    def _renew(self, *, taken: bool) -> None:
        """Before a transaction take the lease of a state that was made in this session, within it renew it."""
        if self._lease is None:
            return
        try:
            if taken:
                self._lease.hold()
            elif not self._lease.taken:
                self._lease.take(Patience(self._wait))
        except psycopg.Error as error:
            raise self._refused(error) from error

    def _run(self, sql: exp.Expr | str, parameters: Parameters | None) -> psycopg.Cursor[TupleRow]:
        text, values = self._given(sql, parameters)
        if text.startswith(_REPLACED_TEMPORARY):
            self._own.add(text.removeprefix(_REPLACED_TEMPORARY).split('"')[1])
            text = _BUT_THIS + text if self._read_only else text
        connection = self._open_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(text.encode(), values)
        except psycopg.Error as error:
            raise self._refused(error) from error
        return cursor

    def _given(self, sql: exp.Expr | str, parameters: Parameters | None) -> tuple[str, dict[str, Any]]:
        """The driver's text of a statement, and the parameters that it names."""
        text, names = _prepared(sql if isinstance(sql, str) else self.sql(sql))
        given = parameters or {}
        return text, {name: bound(given[name]) for name in names if name in given}

    def _refused(self, error: psycopg.Error) -> WarehouseError:
        """What a failure means: somebody else is in the way, the server is gone, or the statement is wrong."""
        message = _message(error)
        if isinstance(error, _IN_THE_WAY):
            return WarehouseLocked(f"the warehouse is busy: {message}", hint="somebody else works on the same tables")
        if self._connection is not None and self._connection.closed:
            return WarehouseAway(f"the connection to the warehouse broke: {message}")
        return WarehouseError(message)

    def _commit(self) -> None:
        try:
            status = self._open_connection().execute("COMMIT").statusmessage
        except psycopg.Error as error:
            self._rollback()
            raise WarehouseAway(
                f"COMMIT failed and may have happened: {_message(error)}", code="E603",
                hint="open the warehouse again and read the journal",
            ) from error  # fmt: skip
        if status != "COMMIT":  # a statement had failed and the block went on
            raise WarehouseError("the transaction was rolled back: one of its statements had failed")

    def _rollback(self) -> None:
        # The server rolls back by itself when the connection is gone; the first error is the one to show.
        with contextlib.suppress(psycopg.Error, WarehouseError):
            self._open_connection().execute("ROLLBACK")

    def _open_connection(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            raise WarehouseError("the connection is closed", code="E606")
        return self._connection


class _NumberLoader(Loader):
    """A numeric without a fraction is an int: `sum` of bigint is one."""

    def load(self, data: Buffer) -> int | Decimal:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else Decimal(text)


def _connect(parameters: Mapping[str, str | int]) -> psycopg.Connection[TupleRow]:
    given: dict[str, Any] = {"application_name": f"penstock: {command(sys.argv)}"[:63], **parameters}
    try:
        # Values stand in the statement as literals, whose types the server finds by where they stand.
        connection = psycopg.connect(autocommit=True, cursor_factory=psycopg.ClientCursor, **given)
    except psycopg.Error as error:
        raise WarehouseAway(f"cannot open the warehouse: {_message(error)}") from error
    for kind in ("json", "jsonb"):
        connection.adapters.register_loader(kind, TextLoader)
    connection.adapters.register_loader("numeric", _NumberLoader)
    return connection


@lru_cache(maxsize=2000)
def _prepared(text: str) -> tuple[str, frozenset[str]]:
    """A statement with `$name` as the driver's `%(name)s`, and the names.

    Raises:
        WarehouseError: more than one statement (E605); only a temporary table that is made anew takes two.
    """
    names: set[str] = set()
    ends: list[int] = []

    def word(match: re.Match[str]) -> str:
        if match["name"]:
            names.add(match["name"])
            return f"%({match['name']})s"
        if match["end"]:
            ends.append(match.start())
        return match[0].replace("%", "%%")

    changed = _WORDS.sub(word, text)
    statements = 1 + sum(1 for end in ends if text[end + 1 :].strip(" ;\n"))
    if statements > (2 if text.startswith(_REPLACED) else 1):
        raise WarehouseError(f"expected one statement, got {statements}", code="E605")
    return changed, frozenset(names)


def _named(place: Place) -> Place:
    return (_TEMPORARY, *place[1:]) if len(place) > 1 and place[0] == "temp" else place


def _place_parameters(place: Place) -> dict[str, str | None]:
    parts = _named(place)
    return {
        "relation": parts[-1], "owner": parts[-2] if len(parts) > 1 else None,
        "catalog": parts[-3] if len(parts) > 2 else None,
    }  # fmt: skip


_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND lower(c.relname) = lower($relation)
    AND coalesce(lower($catalog) = lower(current_database()), TRUE)
    AND CASE
        WHEN $owner IS NULL THEN pg_table_is_visible(c.oid)
        WHEN $owner = 'pg_temp' THEN n.oid = pg_my_temp_schema()
        ELSE lower(n.nspname) = lower($owner) END
ORDER BY a.attnum
"""
_RELATIONS = """
SELECT n.nspname AS owner, c.relname AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
ORDER BY n.nspname, c.relname, a.attnum
"""
_ARROW: Mapping[int, pa.DataType] = {
    psycopg.adapters.types[name].oid: kind
    for name, kind in {
        "text": pa.string(), "varchar": pa.string(), "bpchar": pa.string(), "uuid": pa.string(), "json": pa.string(),
        "jsonb": pa.string(), "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(),
        "float4": pa.float32(), "float8": pa.float64(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us"),
    }.items()
}  # fmt: skip
"""Arrow types by the server's; of others Arrow finds the type from the values."""
_AS_TEXT = frozenset(psycopg.adapters.types[name].oid for name in ("uuid", "json", "jsonb", "bpchar"))


def _csv(data: pa.Table) -> bytes:
    """Rows as COPY reads them: NULL is nothing, an empty text is two quotes, a list is an array literal."""
    arrays = [_flat(column) for column in data.columns]
    sink = io.BytesIO()
    table = pa.Table.from_arrays(arrays, names=[str(number) for number in range(len(arrays))])
    arrow_csv.write_csv(table, sink, arrow_csv.WriteOptions(include_header=False, quoting_style="needed"))
    return sink.getvalue()


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.chunked_array([pa.array(map(_array, column.to_pylist()), pa.string())])
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us"))
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def _array(values: Sequence[Any] | None) -> str | None:
    if values is None:
        return None
    items = ("NULL" if item is None else '"' + re.sub(r'(["\\])', r"\\\1", str(item)) + '"' for item in values)
    return "{" + ",".join(items) + "}"


_warehouse_zones: dict[int, pa.Table] = {}


def _zones(connection: psycopg.Connection[TupleRow]) -> pa.Table:
    version = connection.info.server_version
    if version not in _warehouse_zones:
        known = {str(row[0]) for row in connection.execute("SELECT name FROM pg_timezone_names").fetchall()}
        both = sorted(known & zoneinfo.available_timezones())
        _warehouse_zones[version] = pa.table({"name": pa.array(both, pa.string())})
    return _warehouse_zones[version]


def _message(error: psycopg.Error) -> str:
    first = (error.diag.message_primary or str(error)).strip().split("\n")[0]
    return _QUOTED.sub("'…'", first) if isinstance(error, _QUOTING) else first
