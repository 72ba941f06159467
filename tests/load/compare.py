"""Whether two files hold the same result of a tick."""

from __future__ import annotations

from pathlib import Path

import duckdb

# Per table: what makes a row of the tick's result. Left out: order (seq), counts and checksum of the tick row.
RESULTS = {
    "enrollments": "SELECT * FROM {0}.penstock.enrollments",
    "outbox": "SELECT * EXCLUDE (seq) FROM {0}.penstock.outbox",
    "journal": "SELECT * EXCLUDE (seq) FROM {0}.penstock.journal WHERE tick > 100",
    "candidates": "SELECT * FROM {0}.penstock.candidates WHERE tick > 100",
    "event_seen": "SELECT * FROM {0}.penstock.event_seen",
    "contact_tags": "SELECT * FROM {0}.penstock.contact_tags",
    "ticks": "SELECT tick, tick_at, fence, watermarks FROM {0}.penstock.ticks",
}


def differences(engine: Path, hand: Path) -> dict[str, tuple[int, int, int]]:
    """Per table: rows of the result, rows only the engine has, rows only the hand has."""
    with duckdb.connect() as connection:
        connection.execute("ATTACH '{}' AS a (READ_ONLY)".format(str(engine).replace("'", "''")))
        connection.execute("ATTACH '{}' AS b (READ_ONLY)".format(str(hand).replace("'", "''")))
        return {table: _compared(connection, query) for table, query in RESULTS.items()}


def examples(engine: Path, hand: Path, table: str) -> list[tuple[object, ...]]:
    """A few rows that only one side has, for debugging."""
    query = RESULTS[table]
    with duckdb.connect() as connection:
        connection.execute("ATTACH '{}' AS a (READ_ONLY)".format(str(engine).replace("'", "''")))
        connection.execute("ATTACH '{}' AS b (READ_ONLY)".format(str(hand).replace("'", "''")))
        found: list[tuple[object, ...]] = []
        for one, other in (("a", "b"), ("b", "a")):
            sql = query.format(one) + " EXCEPT ALL " + query.format(other) + " ORDER BY ALL LIMIT 3"
            found += [(one, *row) for row in connection.execute(sql).fetchall()]
        return found


def _compared(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int, int, int]:
    one, other = query.format("a"), query.format("b")
    counts = [f"({one})", f"({one} EXCEPT ALL {other})", f"({other} EXCEPT ALL {one})"]
    rows = [connection.execute("SELECT count(*) FROM " + text).fetchone() for text in counts]
    return tuple(int(row[0]) if row else 0 for row in rows)  # type: ignore[return-value]
