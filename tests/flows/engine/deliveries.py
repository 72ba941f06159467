"""A small state with an outbox, and what it takes to deliver it to recorders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from destinations.base import Destination
from destinations.recorder import Recorder
from flows.engine.attempts import AttemptLog
from flows.engine.clock import VirtualClock
from flows.engine.dispatcher import Delivery, DeliveryReport, deliver
from flows.engine.intents import Intent
from flows.journal.ids import identity
from flows.journal.migrations import migrate
from flows.warehouse.base import Warehouse
from flows.warehouse.location import FileLocation, Location, ServerLocation

START = datetime(2026, 3, 2, 9)
SCHEMA = "penstock"


def no_secrets(name: str) -> str:
    raise KeyError(name)


def recorder(name: str = "mail", **config: Any) -> Recorder:
    return Recorder.from_config(name, {"type": "recorder", **config}, no_secrets)


class Outbox:
    """A state with tick 1 at `START`, in a file or in an empty database; `open` knows whether it is open."""

    def __init__(self, folder: Path, *, new: bool = True, database: Mapping[str, str | int] | None = None) -> None:
        file = FileLocation(folder / "warehouse.duckdb")
        self.location: Location = file if database is None else ServerLocation(database)
        self.local = folder / "local"
        self.clock = VirtualClock(START)
        self.is_open = False
        self.seq = 0
        if not new:
            return
        with self.open() as warehouse:
            migrate(warehouse, SCHEMA, START, "shop/dev", state_id=identity("state"))
            row = {"tick": [1], "tick_at": [START]}
            warehouse.load((SCHEMA, "ticks"), pa.table(row))

    @contextmanager
    def open(self) -> Iterator[Warehouse]:
        with self.location.open(SCHEMA, wait=timedelta(seconds=5)) as warehouse:
            self.is_open = True
            try:
                yield warehouse
            finally:
                self.is_open = False

    def add(
        self, contact: str, step: str = "welcome", *, kind: str = "email", destination: str | None = "mail",
        expires_at: datetime | None = None, transactional: bool = False, on_error: str | None = None,
        state: str = "pending", worker: str | None = None, fence: int = 0, claimed_at: datetime | None = None,
        group: str | None = None,
    ) -> str:  # fmt: skip
        """One intent of the contact's only enrollment; returns its action id."""
        self.seq += 1
        enrollment = identity("enrollment", contact)
        action = identity(enrollment, step, 1)
        payload: dict[str, Any] = {"address": f"{contact}@example.test", "step": {"group": group}, "on_error": on_error}
        row: Mapping[str, Any] = {
            "action_id": action, "enrollment_id": enrollment, "workflow": "nurture", "version": 1,
            "contact_id": contact, "step": step, "visit": 1, "kind": kind, "what": step, "destination": destination,
            "payload": json.dumps(payload), "due": START, "decided_at": START, "tick": 1, "seq": self.seq,
            "expires_at": expires_at, "transactional": transactional, "state": state, "attempts": 0,
            "worker": worker, "fence": fence, "updated_at": claimed_at,
        }  # fmt: skip
        with self.open() as warehouse:
            warehouse.load((SCHEMA, "outbox"), _table(row))
        return action

    def insert(self, table: str, **row: Any) -> None:
        with self.open() as warehouse:
            warehouse.load((SCHEMA, table), _table(row))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with self.open() as warehouse:
            return warehouse.rows(sql)

    def states(self) -> dict[str, str]:
        """Action id -> delivery state."""
        found = self.rows("select action_id, state from penstock.deliveries")
        assert len({row["action_id"] for row in found}) == len(found)
        return {row["action_id"]: row["state"] for row in found}

    def log(self) -> list[str]:
        """The journaled deliveries, in order: `<contact> <what> <outcome>`."""
        found = self.rows(
            "select contact_id || ' ' || coalesce(what, kind) || ' ' || outcome as said "
            "from penstock.journal order by tick, seq"
        )
        return [row["said"] for row in found]

    def deliver(self, *destinations: Destination, keep: bool = True, **options: Any) -> DeliveryReport:
        """One pass, with this folder's attempt log unless `keep` is False."""
        log = AttemptLog(self.local) if keep else None
        try:
            given = {"render": self.render, **options}
            delivery = Delivery(
                self.open, SCHEMA, {d.name: d for d in destinations}, clock=self.clock, log=log, **given
            )
            return asyncio.run(deliver(delivery))
        finally:
            if log is not None:
                log.close()

    def render(self, intent: Intent) -> Mapping[str, Any]:
        assert not self.is_open, "rendering happens without the warehouse"
        return {"to": intent.address, "subject": intent.what, "text": "hello"}


def _table(row: Mapping[str, Any]) -> pa.Table:
    return pa.table({name: pa.array([value], _type(value)) for name, value in row.items() if value is not None})


def _type(value: Any) -> pa.DataType:
    return pa.timestamp("us") if isinstance(value, datetime) else pa.scalar(value).type


def sent(destination: Recorder) -> Sequence[tuple[str, str, int]]:
    """(contact, what, attempt) in the order the destination got them."""
    return [(action.contact_id, action.what, action.attempt) for action in destination.actions]
