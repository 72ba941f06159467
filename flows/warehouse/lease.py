"""The lease of a state on a server: one engine at a time writes it, and one that was away too long writes nothing.

A row with a number, the fence, which grows by one whenever somebody takes the lease. It is taken in one statement, by
the server's clock, when nobody has it, when it expired, or when the session of its holder is gone: while it lives, that
session holds an advisory lock that is named after the fence. Each writing transaction renews it `where fence = mine`
and so has the row for itself until it ends; a holder that was paused until somebody else took the lease finds another
fence there, and is refused. (On DuckDB the lock of the file is the lease: the system drops it with its process.)
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql as composed
from psycopg.rows import TupleRow

from compiler.errors import LeaseLost, WarehouseLocked
from flows.warehouse.lock import Patience

TABLE = "lease"
"""Its name in the schema of the state."""
LIFE = timedelta(seconds=60)
"""How long somebody has the lease without renewing it, and how long a transaction may stand idle."""


class Lease:
    """The lease of the state in `schema`, of one session; not taken yet."""

    def __init__(self, connection: psycopg.Connection[TupleRow], schema: str) -> None:
        self.schema = schema
        self._connection = connection
        self._fence: int | None = None

    @property
    def taken(self) -> bool:
        """Whether this session took it; somebody else may have taken it since."""
        return self._fence is not None

    def take(self, patience: Patience) -> None:
        """Take it, or the right to make the state where there is none yet, waiting as long as `patience` allows.

        Raises:
            WarehouseLocked: somebody else has it still; the message names who.
        """
        while not self._may_write():
            who = self._holder()
            if not patience.pause(who):
                raise WarehouseLocked(
                    f"the state in {self.schema} is {who}", hint="wait until it has finished, or stop it"
                )

    def hold(self) -> None:
        """Renew it, at the beginning of a transaction, which then has it until its end.

        Raises:
            LeaseLost: somebody else took it in the meantime.
        """
        if self._fence is None:
            return
        if not self._execute(_HOLD, fence=self._fence, life=LIFE).rowcount:
            raise LeaseLost(
                f"the state in {self.schema} was taken over: it is {self._holder()}",
                hint="this process was away for too long; nothing that it had begun is written, run it again",
            )

    def release(self) -> None:
        """Give it back."""
        if self._fence is not None:
            self._execute(_RELEASE, fence=self._fence)
            self._fence = None

    # ------------------------------------------------------------ inside

    def _may_write(self) -> bool:
        if not self._there():
            found = self._one(_MAKE, schema=self.schema)
            if found is not None and found[0] and not self._there():
                return True
        return self._there() and self._take()

    def _take(self) -> bool:
        found = self._one(_TAKE, schema=self.schema, holder=_signature(), life=LIFE)
        if found is None:
            return False
        self._fence = int(found[0])
        return True

    def _there(self) -> bool:
        found = self._one(_THERE, schema=self.schema, table=TABLE)
        return found is not None and bool(found[0])

    def _holder(self) -> str:
        if not self._there():
            return "held by a session that makes it"
        found = self._one(_HOLDER)
        if found is None or found[0] is None:
            return "held by a session that has just finished"
        return f"held by {found[0]} since {found[1]:%Y-%m-%d %H:%M:%S} UTC"

    def _one(self, text: str, **parameters: Any) -> TupleRow | None:
        return self._execute(text, **parameters).fetchone()

    def _execute(self, text: str, **parameters: Any) -> psycopg.Cursor[TupleRow]:
        query = composed.SQL(text).format(lease=composed.Identifier(self.schema, TABLE))
        return self._connection.execute(query, parameters)


def command(words: Sequence[str]) -> str:
    """This program in a few words."""
    return " ".join([Path(words[0] or "python").name, *words[1:3]])


def _signature() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} ({command(sys.argv)})"


_TAKE = """
UPDATE {lease} AS l SET fence = l.fence + 1, holder = %(holder)s, acquired_at = clock_timestamp() AT TIME ZONE 'UTC',
    expires_at = clock_timestamp() AT TIME ZONE 'UTC' + %(life)s
WHERE l.id = (
    SELECT f.id FROM {lease} AS f
    WHERE f.id = 1 AND (
        f.holder IS NULL OR f.expires_at IS NULL OR f.expires_at <= clock_timestamp() AT TIME ZONE 'UTC'
        OR NOT EXISTS (
            SELECT 1 FROM pg_locks AS k
            WHERE k.locktype = 'advisory' AND k.objsubid = 1
                AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                AND (k.classid::bigint << 32) | k.objid::bigint = hashtextextended(%(schema)s || ':' || f.fence, 0)
        )
    )
    FOR UPDATE SKIP LOCKED
)
RETURNING l.fence, pg_try_advisory_lock(hashtextextended(%(schema)s || ':' || l.fence, 0))
"""
_HOLD = """
UPDATE {lease} SET expires_at = clock_timestamp() AT TIME ZONE 'UTC' + %(life)s WHERE id = 1 AND fence = %(fence)s
"""
_RELEASE = "UPDATE {lease} SET holder = NULL, expires_at = NULL WHERE id = 1 AND fence = %(fence)s"
_HOLDER = "SELECT holder, acquired_at FROM {lease} WHERE id = 1"
_THERE = """
SELECT EXISTS (
    SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s
)
"""
_MAKE = "SELECT pg_try_advisory_lock(hashtextextended(%(schema)s, 0))"
