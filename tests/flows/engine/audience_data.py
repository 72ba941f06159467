"""Random contacts, events and audience conditions over them, NULLs, late rows and duplicates included."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pyarrow as pa

from compiler.catalog import Catalog, ContactModel, EventModel, Relation
from flows.journal.migrations import migrate
from flows.warehouse.base import Warehouse

SCHEMA = "penstock"
NOW = datetime(2026, 3, 10, 12)
ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Nowhere/Land", None]
NAMES = ["seen", "bought", "opened", "asked"]
_DDL = (
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.people (id {id}, plan TEXT, score BIGINT, spent DOUBLE PRECISION, vip BOOLEAN, zone TEXT)",
    "CREATE TABLE shop.happened (event_id {event}, person {id}, name TEXT, at_time TIMESTAMP, seen_at TIMESTAMP, "
    "page TEXT, data {json})",
    "CREATE TABLE shop.orders (person TEXT, amount DOUBLE PRECISION)",
)
KINDS = {"text": ("TEXT", "TEXT"), "whole": ("BIGINT", "BIGINT"), "uuid": ("UUID", "UUID"), "mixed": ("BIGINT", "TEXT")}


def catalog(warehouse: Warehouse) -> Catalog:
    """The catalog of the tables that `create` made."""
    people, happened, orders = (
        Relation(name, ("shop", name), warehouse.columns(("shop", name))) for name in ("people", "happened", "orders")
    )
    return Catalog(
        ContactModel(people, id="id", timezone="zone"),
        EventModel(happened, "event_id", "person", "name", "at_time", "seen_at", "data"),
        relations={"orders": orders}, audiences={"buyers": "did('bought', within => '5d')"}, state_schema=SCHEMA,
    )  # fmt: skip


def create(warehouse: Warehouse, kinds: str) -> None:
    """Empty tables; `kinds` says what the ids of contacts and events are."""
    ids, event_ids = KINDS[kinds]
    document = "JSON" if type(warehouse).dialect == "duckdb" else "JSONB"
    for statement in _DDL:
        warehouse.execute(statement.format(id=ids, event=event_ids, json=document))
    migrate(warehouse, SCHEMA, datetime(2026, 1, 1), "shop/test")


class Data:
    """Makes rows; the ids of contacts and events are of the given kinds."""

    def __init__(self, random: Random, kinds: str) -> None:
        self.random = random
        self.contact_kind, self.event_kind = KINDS[kinds]
        self.events = 0

    def contact(self, number: int) -> Any:
        """The id of a contact."""
        return _identity(number, self.contact_kind)

    def person(self, number: int) -> dict[str, Any]:
        """A contact, with NULLs."""
        pick = self.random.choice
        return {
            "id": self.contact(number), "plan": pick(["free", "pro", None]), "score": pick([0, 1, 5, None]),
            "spent": pick([0.0, 2.5, 10.0, None]), "vip": pick([True, False, None]), "zone": pick(ZONES),
        }  # fmt: skip

    def event(self, contacts: int, before: datetime = NOW, days: float = 12) -> dict[str, Any]:
        """An event, sometimes late, ahead of its time, or of nobody; its time is often exactly at a window's edge."""
        self.events += 1
        pick = self.random.choice
        span = pick([timedelta(days=pick([1, 2, 5])), timedelta(seconds=self.random.uniform(-0.05, days) * 86400)])
        at = before - timedelta(seconds=int(span.total_seconds()))
        return {
            "event_id": _identity(1000 + self.events, self.event_kind),
            "person": None if self.random.random() < 0.05 else self.contact(self.random.randrange(contacts + 1)),
            "name": pick(NAMES), "at_time": at,
            "seen_at": at + timedelta(hours=pick([0, 0, 0, 30])), "page": pick(["/", "/pricing", None]),
            "data": pick([json.dumps({"amount": pick([1, 2.5, 20, "x", None]), "kind": pick(["a", "b"])}), "{}", None]),
        }  # fmt: skip

    def again(self, event: dict[str, Any]) -> dict[str, Any]:
        """The same event loaded once more, later."""
        return {**event, "seen_at": event["seen_at"] + timedelta(minutes=self.random.choice([0, 5]))}


def _identity(number: int, kind: str) -> Any:
    return {"BIGINT": number, "UUID": str(UUID(int=number)), "TEXT": f"k{number}"}[kind]


def load(warehouse: Warehouse, table: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to a table of `shop`."""
    kinds = warehouse.columns(("shop", table))
    columns = {name: pa.array([row[name] for row in rows], _ARROW[kinds[name].upper()]) for name in kinds}
    warehouse.load(("shop", table), pa.table(columns))


_ARROW = {
    "BIGINT": pa.int64(), "TEXT": pa.string(), "VARCHAR": pa.string(), "UUID": pa.string(), "JSON": pa.string(),
    "JSONB": pa.string(), "DOUBLE": pa.float64(), "DOUBLE PRECISION": pa.float64(), "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"), "TIMESTAMP WITHOUT TIME ZONE": pa.timestamp("us"),
}  # fmt: skip


def own_event(warehouse: Warehouse, number: int, event: dict[str, Any]) -> None:
    """Write an event into Penstock's own table."""
    warehouse.execute(
        "INSERT INTO penstock.events (event_id, seq, contact_id, name, event_time, loaded_at, data, source) "
        "VALUES ($id, $seq, $contact, $name, $at_time, $seen_at, $data, 'test')",
        {"id": str(event["event_id"]), "seq": number, "name": event["name"], "at_time": event["at_time"],
         "contact": None if event["person"] is None else str(event["person"]), "seen_at": event["seen_at"],
         "data": event["data"]},
    )  # fmt: skip


class Conditions:
    """Makes texts of conditions."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def text(self, depth: int = 2) -> str:
        """Any condition over the contact."""
        luck = self.random.random()
        if depth and luck < 0.35:
            return f"({self.text(depth - 1)} {self.random.choice(['and', 'or'])} {self.text(depth - 1)})"
        if depth and luck < 0.5:
            return f"not ({self.text(depth - 1)})"
        kinds: list[Callable[[], str]] = [self._column, self._did, self._did, self._number, self._number, self._since,
                                          self._rate, self._moment, self._local, self._state]  # fmt: skip
        return self.random.choice(kinds)()

    def _column(self) -> str:
        return self.random.choice([
            "plan = 'pro'", "plan <> 'pro'", "plan is null", "score > 1", "score between 0 and 3", "spent >= score",
            "contact.vip", "vip is not true", "plan in ('free', 'x')", "zone like 'E%'",
        ])  # fmt: skip

    def _names(self) -> str:
        if self.random.random() < 0.25:
            return "['seen', 'opened']"
        return f"'{self.random.choice(NAMES)}'"

    def _options(self) -> str:
        where = self.random.choice(["", "", "", ", event.page = '/pricing'", ", event.kind = 'a'", ", event.amount > 2",
                                    ", event.amount > contact.score"])  # fmt: skip
        return where + self.random.choice(["", ", within => '1d'", ", within => '2d'", ", within => '5d'"])

    def _did(self) -> str:
        least = ", at_least => 2" if self.random.random() < 0.3 else ""
        return f"did({self._names()}{self._options()}{least})"

    def _number(self) -> str:
        if self.random.random() < 0.3:
            return f"event_sum({self._names()}, event.amount{self._options()}) > {self.random.choice([0, 3])}"
        return f"event_count({self._names()}{self._options()}) {self._order()} {self.random.choice([0, 1, 2])}"

    def _order(self) -> str:
        return self.random.choice(["=", "<>", "<", "<=", ">", ">="])

    def _since(self) -> str:
        days = f"days_since({self._names()}{self.random.choice(['', ', event.kind = ' + chr(39) + 'b' + chr(39)])})"
        return self.random.choice([
            f"{days} {self._order()} {self.random.choice([1, 2.5, 5])}", f"coalesce({days}, 99) >= 2", f"{days} is null"
        ])  # fmt: skip

    def _rate(self) -> str:
        return f"rate('opened', 'seen', within => '{self.random.choice(['2d', '5d'])}') > 0.4"

    def _moment(self) -> str:
        which = self.random.choice(["first_event", "last_event"])
        return self.random.choice([
            f"{which}('seen') < {which}('bought')", f"{which}('asked') > timestamp '2026-03-08 12:00:00'",
            "last_event('opened') > now() - interval '36 hours'",
        ])  # fmt: skip

    def _local(self) -> str:
        return self.random.choice(["local_hour() between 9 and 13", "local_dow() <= 3 and local_hour() < 17",
                                   "local_date() = date '2026-03-10'"])  # fmt: skip

    def _state(self) -> str:
        return self.random.choice([
            "has_tag('t')", "in_audience('buyers')", "bucket('x') < 0.5",
            "exists (select 1 from ref('orders') o where o.amount > contact.score)",
        ])  # fmt: skip
