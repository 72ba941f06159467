"""From the buffer into the warehouse: events with a sequence, opt-outs, and what was refused, file by file.

Each chunk of a file is one transaction, which also writes how far the file was read; whatever dies in between, the next
pass goes on there. An event id that is there already is not written again. Whom an event is about is found here: by
its contact id, by the message it answers, by e-mail address or phone number; an event of nobody known stays, and is
given to its contact when that one appears.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog
from compiler.condition import relation_table
from flows.collector.buffer import Chunk, chunk, files, remove, unread
from flows.journal.tables import StateTables, stage
from flows.warehouse.base import Warehouse

EARLIEST = datetime(2000, 1, 1)
AHEAD = timedelta(hours=24)
"""An event dated before the one, or further ahead than the other, gets the time at which it was received."""

Point = Literal["before_ingest", "in_ingest", "after_ingest"]
Row = dict[str, Any]
_ADDRESSES = ("email", "phone")

_SCHEMA = pa.schema([
    ("event_id", pa.string()), ("place", pa.int64()), ("contact_id", pa.string()), ("message", pa.string()),
    ("email", pa.string()), ("phone", pa.string()), ("visitor", pa.string()), ("name", pa.string()),
    ("event_time", pa.timestamp("us")), ("received_at", pa.timestamp("us")), ("data", pa.string()),
    ("source", pa.string()), ("opt_out", pa.string()), ("scope", pa.string()), ("channel", pa.string()),
])  # fmt: skip
_REFUSED = pa.schema([
    ("received_at", pa.timestamp("us")), ("source", pa.string()), ("reason", pa.string()), ("content", pa.string()),
])  # fmt: skip


@dataclass
class IngestReport:
    """What a pass brought: new events, repeated ones, refused ones, opt-outs (and their ends), later found contacts."""

    events: int = 0
    repeated: int = 0
    refused: int = 0
    opt_outs: int = 0
    found: int = 0

    def add(self, other: IngestReport) -> None:
        """Count what another pass brought, too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Backlog:
    """What of a collector is not in the warehouse: bytes and files that wait, and events refused lately."""

    waiting_bytes: int
    waiting_files: int
    refused_24h: int


@dataclass
class Ingest:
    """Reads one buffer into one state; keeps in mind how far, so that a pass with nothing new asks no warehouse.

    Attributes:
        folder: of the buffer.
        schema: of the state tables.
        point: called with the name of each point that is passed.
    """

    folder: Path
    schema: str
    point: Callable[[Point], None] = lambda name: None
    _read: dict[str, int] = field(default_factory=dict)
    _state: StateTables = field(init=False)

    def __post_init__(self) -> None:
        self._state = StateTables(self.schema)

    def waiting(self) -> bool:
        """Whether something stands in the buffer that was not read."""
        return any(True for _ in unread(self.folder, lambda name: self._read.get(name, 0)))

    def run(self, warehouse: Warehouse, now: datetime, key: str, catalog: Catalog) -> IngestReport:
        """Take everything in that is durable now.

        Args:
            warehouse: an open connection, outside of a transaction.
            now: naive UTC; when the events were loaded.
            key: of address hashes.
            catalog: knows the addresses of contacts.
        """
        report = IngestReport()
        # Anew each time: another process may have read on since.
        read = self._read = self._positions(warehouse)
        self.point("before_ingest")
        for path in files(self.folder):
            while (part := chunk(path, read.get(path.name, 0))) is not None:
                report.add(self._take(warehouse, part, now, key, catalog))
                read[part.file] = part.end
                self.point("after_ingest")
                if part.last:
                    remove(path)
                    del read[part.file]
                    break
        return report

    def find(self, warehouse: Warehouse, now: datetime, catalog: Catalog) -> int:
        """Give events of unknown addresses to contacts that have them now; they arrive anew. How many."""
        wanted = self._rows(warehouse, _UNRESOLVED)
        if not wanted:
            return 0
        with warehouse.transaction():
            self._find_people(warehouse, wanted, catalog)
            warehouse.execute(self._text(warehouse, _FOUND))
            return warehouse.execute(self._text(warehouse, _RESOLVE), {"now": now, "seq": self._last_seq(warehouse)})

    def backlog(self, warehouse: Warehouse, now: datetime) -> Backlog:
        """What waits, and what was refused in the last 24 hours."""
        read = self._positions(warehouse)
        sizes = []
        for path in files(self.folder):
            with suppress(FileNotFoundError):  # taken in and removed just now
                sizes.append(path.stat().st_size - read.get(path.name, 0))
        text = self._text(warehouse, "SELECT count(*) AS n FROM events_rejected WHERE loaded_at > $since")
        [refused] = warehouse.rows(text, {"since": now - timedelta(days=1)})
        waiting = [size for size in sizes if size > 0]
        return Backlog(sum(waiting), len(waiting), int(refused["n"]))

    # ------------------------------------------------------------ one chunk

    def _positions(self, warehouse: Warehouse) -> dict[str, int]:
        found = self._rows(warehouse, "SELECT file, position FROM collected_files")
        return {row["file"]: row["position"] for row in found}

    def _take(self, warehouse: Warehouse, part: Chunk, now: datetime, key: str, catalog: Catalog) -> IngestReport:
        rows: list[Row] = []
        refused: list[Row] = []
        for line in part.lines:
            _read_line(line, rows, refused)
        for place, row in enumerate(rows):
            row["place"] = place
        with warehouse.transaction():
            report = self._write(warehouse, rows, now, key, catalog) if rows else IngestReport()
            report.refused = len(refused)
            if refused:
                stage(warehouse, "ingest_refused", pa.Table.from_pylist(refused, schema=_REFUSED))
                warehouse.execute(self._text(warehouse, _REJECT), {"now": now})
            warehouse.execute(
                self._text(warehouse, "DELETE FROM collected_files WHERE file = $file"), {"file": part.file}
            )
            if not part.last:
                given = {"file": part.file, "position": part.end}
                warehouse.execute(self._text(warehouse, "INSERT INTO collected_files SELECT $file, $position"), given)
            self.point("in_ingest")
        return report

    def _write(self, warehouse: Warehouse, rows: list[Row], now: datetime, key: str, catalog: Catalog) -> IngestReport:
        stage(warehouse, "ingest_rows", pa.Table.from_pylist(rows, schema=_SCHEMA))
        self._find_people(warehouse, [row for row in rows if not row["contact_id"]], catalog)
        answers = any(row["message"] for row in rows)
        warehouse.execute(self._text(warehouse, _MESSAGES if answers else _NO_MESSAGES))
        warehouse.execute(self._text(warehouse, _FRESH))
        given = {"now": now, "key": key, "seq": self._last_seq(warehouse)}
        report = IngestReport(events=warehouse.execute(self._text(warehouse, _INSERT), given))
        report.repeated = len(rows) - report.events
        if any(row["opt_out"] for row in rows):
            report.opt_outs = warehouse.execute(self._text(warehouse, _SUPPRESS), given)
        if any(row["visitor"] and row["contact_id"] for row in rows):
            seq = self._last_seq(warehouse)
            report.found = warehouse.execute(self._text(warehouse, _INTRODUCE), {"now": now, "seq": seq})
        return report

    def _find_people(self, warehouse: Warehouse, rows: Iterable[Row], catalog: Catalog) -> None:
        """Fill `ingest_people`: which contact has an address of the rows. Of several contacts it is the first by id."""
        wanted = sorted({(kind, row[kind]) for row in rows for kind in _ADDRESSES if row[kind]})
        columns = {"kind": [kind for kind, _ in wanted], "address": [address for _, address in wanted]}
        stage(warehouse, "ingest_wanted", pa.table(columns, pa.schema([(name, pa.string()) for name in columns])))
        selects = [_owners(catalog, kind) for kind in _ADDRESSES] if wanted else [_NOBODY]
        query = exp.union(*selects, distinct=False) if len(selects) > 1 else selects[0]
        warehouse.execute(exp.Create(
            this=exp.to_table("ingest_people"), kind="TABLE", replace=True, expression=query,
            properties=exp.Properties(expressions=[exp.TemporaryProperty()]),
        ))  # fmt: skip

    def _last_seq(self, warehouse: Warehouse) -> int:
        return int(self._rows(warehouse, "SELECT coalesce(max(seq), 0) AS seq FROM events")[0]["seq"])

    def _rows(self, warehouse: Warehouse, text: str) -> list[Row]:
        return warehouse.rows(self._text(warehouse, text))

    def _text(self, warehouse: Warehouse, text: str) -> str:
        return self._state.statement(warehouse, text)


def _owners(catalog: Catalog, kind: str) -> exp.Select:
    """The contacts that have one of the wanted e-mail addresses or phone numbers."""
    contact = catalog.contact
    column = contact.email if kind == "email" else contact.phone
    if column is None:
        return _NOBODY.copy()
    address = exp.Lower(this=exp.Trim(this=frames.text(contact.relation, column, "m")))
    wanted = exp.and_(
        exp.EQ(this=exp.column("kind", table="w"), expression=exp.Literal.string(kind)),
        exp.EQ(this=exp.column("address", table="w"), expression=address),
    )
    return (
        exp.select(
            exp.Literal.string(kind).as_("kind"), exp.column("address", table="w").as_("address"),
            exp.Min(this=frames.text(contact.relation, contact.id, "m")).as_("contact_id"),
        )
        .from_(relation_table(contact.relation, "m")).join("ingest_wanted AS w", on=wanted).group_by("w.address")
    )  # fmt: skip


_NOBODY = exp.select(
    exp.cast(exp.null(), "text").as_("kind"), exp.cast(exp.null(), "text").as_("address"),
    exp.cast(exp.null(), "text").as_("contact_id"),
).where(exp.false())  # fmt: skip


# ---------------------------------------------------------------- lines


def _read_line(line: bytes, rows: list[Row], refused: list[Row]) -> None:
    """Add what a line says; a line that cannot be read is refused as a whole."""
    try:
        content = orjson.loads(line)
        received = _instant(content["at"])
        source = f"{content['source']}:{content['name']}"
        taken = [_row(event, content, number, received, source) for number, event in enumerate(content["events"])]
        not_taken = [
            {"received_at": received, "source": source, "reason": event["reason"], "content": event["event"]}
            for event in content.get("refused", ())
        ]
    except (ValueError, KeyError, TypeError):
        text = line[:2000].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        refused.append({"received_at": None, "source": "buffer", "reason": "damaged_line", "content": text})
    else:
        rows += taken
        refused += not_taken


def _row(event: Row, content: Row, number: int, received: datetime, source: str) -> Row:
    data = dict(event.get("properties") or {})
    visitor = event.get("anonymous_id")
    if visitor:
        data["anonymous_id"] = visitor
    given = event.get("time")
    happened = received if given is None else _instant(given)
    if happened < EARLIEST or happened > received + AHEAD:
        data["time_given"], happened = given, received
    own = event.get("id")
    if own is None:
        event_id = f"{content['id']}-{number}"
    else:  # what a public key calls its events must not pass for an event of somebody else
        event_id = f"{content['name']}:{own}" if content["source"] == "browser" else own
    trusted = content["source"] != "browser"
    opt_out, scope, channel = _opt_out(event) if trusted else (None, None, None)
    return {
        "event_id": event_id, "contact_id": event.get("contact_id"), "message": event.get("action_id"),
        "email": _normal(event.get("email")), "phone": _normal(event.get("phone")), "visitor": visitor,
        "name": event["name"], "event_time": happened, "received_at": received,
        "data": json.dumps(data, ensure_ascii=False), "source": source, "opt_out": opt_out, "scope": scope,
        "channel": channel,
    }  # fmt: skip


_OPT_OUTS = frozenset({"unsubscribed", "resubscribed", "complained", "bounced"})
"""What an event `<channel>_…` says about later messages; a soft bounce has another name."""


def _opt_out(event: Row) -> tuple[str | None, str | None, str | None]:
    """What an event means for later messages: reason, scope and channel; a destination may have said it already."""
    if (said := event.get("opt_out")) is not None:
        return said["reason"], said["scope"], said["channel"]
    channel, _, what = event["name"].partition("_")
    if channel not in ("email", "sms", "push") or what not in _OPT_OUTS:
        return None, None, None
    group = (event.get("properties") or {}).get("group")
    scoped = what in ("unsubscribed", "resubscribed") and isinstance(group, str) and bool(group)
    return what, str(group) if scoped else "all", channel


def _normal(address: str | None) -> str | None:
    return address.strip().lower() if address else None


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:  # the last hours of the year 9999, west of Greenwich
        return moment.replace(tzinfo=None)


# ---------------------------------------------------------------- statements

_MESSAGES = """
    CREATE OR REPLACE TEMPORARY TABLE ingest_messages AS
    SELECT CAST(d.action_id AS TEXT) AS message, d.contact_id, d.payload ->> '$.address' AS address, d.workflow,
        d.step, d.what
    FROM (SELECT DISTINCT CAST(r.message AS UUID) AS action_id FROM ingest_rows AS r WHERE r.message IS NOT NULL) AS a
    JOIN deliveries AS d ON d.action_id = a.action_id
"""
_NO_MESSAGES = """
    CREATE OR REPLACE TEMPORARY TABLE ingest_messages AS
    SELECT CAST(NULL AS TEXT) AS message, CAST(NULL AS TEXT) AS contact_id, CAST(NULL AS TEXT) AS address,
        CAST(NULL AS TEXT) AS workflow, CAST(NULL AS TEXT) AS step, CAST(NULL AS TEXT) AS what
    WHERE FALSE
"""
# What a message's event says of its message comes from the delivery, not from outside.
_FRESH = """
    CREATE OR REPLACE TEMPORARY TABLE ingest_fresh AS
    SELECT r.*, coalesce(r.contact_id, m.contact_id, p.contact_id, q.contact_id) AS who,
        coalesce(m.address, r.email, r.phone) AS address,
        CASE WHEN m.message IS NOT NULL THEN json_merge_patch(CAST(r.data AS JSON),
            json_object('template', m.what, 'workflow', m.workflow, 'step', m.step))
        ELSE CAST(r.data AS JSON) END AS content
    FROM (
        SELECT i.*, row_number() OVER (PARTITION BY i.event_id ORDER BY i.place) AS nth FROM ingest_rows AS i
    ) AS r
    LEFT JOIN ingest_messages AS m ON m.message = r.message
    LEFT JOIN ingest_people AS p ON p.kind = 'email' AND p.address = r.email
    LEFT JOIN ingest_people AS q ON q.kind = 'phone' AND q.address = r.phone
    WHERE r.nth = 1 AND NOT EXISTS (SELECT 1 FROM events AS e WHERE e.event_id = r.event_id)
"""
_INSERT = """
    INSERT INTO events
    SELECT f.event_id, $seq + row_number() OVER (ORDER BY f.place), f.who, f.message,
        CASE WHEN f.who IS NULL THEN f.email END, CASE WHEN f.who IS NULL THEN f.phone END, f.name, f.event_time, $now,
        f.content, f.source
    FROM ingest_fresh AS f
"""
# Who complained is not written to again because of a click on a page; a person may lift that.
_SUPPRESS = """
    INSERT INTO suppressions
    SELECT CAST(md5(f.event_id || ':opt-out') AS UUID), f.who,
        CASE WHEN f.address IS NOT NULL THEN md5($key || ':' || lower(trim(f.address))) END, f.channel, f.scope,
        CASE WHEN f.opt_out = 'resubscribed' THEN 'lift' ELSE 'add' END, f.opt_out, f.source, f.received_at
    FROM ingest_fresh AS f
    WHERE f.opt_out IS NOT NULL AND (f.who IS NOT NULL OR f.address IS NOT NULL) AND NOT (
        f.opt_out = 'resubscribed' AND f.scope = 'all' AND EXISTS (
            SELECT 1 FROM suppressions AS s WHERE s.reason = 'complained' AND s.contact_id = f.who
        )
    )
"""
_REJECT = """
    INSERT INTO events_rejected SELECT r.received_at, $now, r.source, r.reason, r.content FROM ingest_refused AS r
"""
_UNRESOLVED = """
    SELECT DISTINCT email, phone FROM events WHERE contact_id IS NULL AND (email IS NOT NULL OR phone IS NOT NULL)
"""
_FOUND = """
    CREATE OR REPLACE TEMPORARY TABLE ingest_found AS
    SELECT e.event_id, coalesce(p.contact_id, q.contact_id) AS contact_id, row_number() OVER (ORDER BY e.seq) AS place
    FROM events AS e
    LEFT JOIN ingest_people AS p ON p.kind = 'email' AND p.address = e.email
    LEFT JOIN ingest_people AS q ON q.kind = 'phone' AND q.address = e.phone
    WHERE e.contact_id IS NULL AND coalesce(p.contact_id, q.contact_id) IS NOT NULL
"""
_RESOLVE = """
    UPDATE events SET contact_id = f.contact_id, email = NULL, phone = NULL, seq = $seq + f.place, loaded_at = $now
    FROM ingest_found AS f WHERE events.event_id = f.event_id
"""
_INTRODUCE = """
    UPDATE events SET contact_id = v.contact_id, seq = $seq + v.place, loaded_at = $now
    FROM (
        SELECT e.event_id, w.contact_id, row_number() OVER (ORDER BY e.seq) AS place
        FROM events AS e
        JOIN (
            SELECT f.visitor, min(f.contact_id) AS contact_id FROM ingest_fresh AS f
            WHERE f.visitor IS NOT NULL AND f.contact_id IS NOT NULL GROUP BY f.visitor
        ) AS w ON e.data ->> '$.anonymous_id' = w.visitor
        WHERE e.contact_id IS NULL
    ) AS v WHERE events.event_id = v.event_id
"""
