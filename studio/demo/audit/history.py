"""What could be seen when: the raw rows of all exports, turned into events, contacts and model rows with their ticks.

A row is visible from the first tick after the export delivered it, an event in addition not before it happened. Of a
repeated event the copy that came first counts.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from studio.demo.audit.conditions import AuditError
from studio.demo.customers import Call, Customers, Message, over_http
from studio.demo.world import World

_MODELS: Mapping[str, tuple[str, str]] = {
    "fct_orders": ("shop_orders", "order_id"), "fct_carts": ("shop_carts", "cart_id"),
}  # fmt: skip
"""Model -> the replicated raw table that it shows, and its key."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a contact did. `seen` is the number of the first tick that sees it, `row` columns and properties."""

    event_id: str
    name: str
    happened_at: datetime
    seen: int
    row: Mapping[str, Any] = field(repr=False)


@dataclass
class Person:
    """One contact: `versions`, `forbidden` and `left` as (first tick that sees it, what), and events by time."""

    contact_id: str
    versions: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    forbidden: list[tuple[int, str]] = field(default_factory=list)
    left: list[tuple[int, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def groups_left(self, tick: int) -> set[str]:
        """The message groups that the contact wants no more."""
        return {group for seen, group in self.left if seen <= tick}

    @property
    def known(self) -> int:
        """The first tick that sees the contact."""
        return self.versions[0][0]

    def at(self, tick: int) -> dict[str, Any]:
        """The columns of the contact as the tick sees them."""
        found: dict[str, Any] = {}
        for seen, columns in self.versions:
            if seen <= tick:
                found = columns
        reasons = {reason for seen, reason in self.forbidden if seen <= tick}
        return {**found, "is_unsubscribed": "unsubscribed" in reasons, "is_bounced": "bounced" in reasons}


class History:
    """Everything that all exports delivered, as the ticks could see it.

    Args:
        course: what happened without messages.
        customers: who answered the messages.
        messages: what reached the mailboxes.
        ticks: times of all ticks, in order.
        groups: template -> its message group.
    """

    def __init__(
        self, course: World, customers: Customers, messages: Iterable[Message], ticks: Sequence[datetime],
        groups: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.ticks = ticks
        self.people: dict[str, Person] = {}
        self.groups = groups
        raw = {name: list(frame.iter_rows(named=True)) for name, frame in course.tables.items()}
        came: list[Call] = []
        for message in messages:
            exported, calls = over_http(customers.react(message), message)
            came += calls
            for name, rows in exported.items():
                raw[name] += rows
        for name in raw:
            raw[name].sort(key=lambda row: row["_loaded_at"])
        self.delivered = {name: sum(row["_loaded_at"] < ticks[-1] for row in rows) for name, rows in raw.items()}
        self._models = {model: raw[table] for model, (table, _) in _MODELS.items()}
        self._shown: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        self._read_contacts(raw["crm_contacts"], raw["mail_suppressions"])
        self._read_events(raw["web_events"], [*raw["mail_events"], *map(_came, came)])
        self._read_wishes(came, groups)

    def seen(self, loaded_at: datetime) -> int:
        """The first tick after a row was delivered; the number of ticks when there is none."""
        return bisect_right(self.ticks, loaded_at)

    def rows(self, model: str, tick: int) -> Iterable[Mapping[str, Any]]:
        """The rows of a model at a tick, the last version of each key.

        Raises:
            AuditError: the audit does not know the model.
        """
        if model not in _MODELS:
            raise AuditError(f"the audit does not know the model {model}")
        if (model, tick) not in self._shown:
            key = _MODELS[model][1]
            last: dict[str, Mapping[str, Any]] = {}
            for row in self._models[model]:
                if row["_loaded_at"] >= self.ticks[tick]:
                    break
                if last.get(row[key], {}).get("status") != "converted":
                    last[row[key]] = row
            self._shown[model, tick] = list(last.values())
        return self._shown[model, tick]

    def _read_contacts(self, rows: Iterable[Mapping[str, Any]], forbidden: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            seen = self.seen(row["_loaded_at"])
            if seen < len(self.ticks):
                person = self.people.setdefault(row["contact_id"], Person(row["contact_id"]))
                person.versions.append((seen, {**row, "timezone": row["time_zone"]}))
        for row in forbidden:
            if row["contact_id"] in self.people:
                entry = (self.seen(row["_loaded_at"]), row["reason"])
                self.people[row["contact_id"]].forbidden.append(entry)

    def _read_events(self, web: Iterable[Mapping[str, Any]], mail: Iterable[Mapping[str, Any]]) -> None:
        found: dict[str, list[Event]] = defaultdict(list)
        known: set[str] = set()
        for row in (*map(_web, web), *map(_mail, mail)):
            if row["event_id"] in known:
                continue
            known.add(row["event_id"])
            person = self.people.get(row["contact_id"])
            if person is None:
                continue
            seen = max(self.seen(row["loaded_at"]), bisect_left(self.ticks, row["occurred_at"]), person.known)
            if seen < len(self.ticks):
                event = Event(row["event_id"], row["event_name"], row["occurred_at"], seen, row)
                found[person.contact_id].append(event)
        for contact, events in found.items():
            self.people[contact].events = sorted(events, key=lambda event: (event.happened_at, event.event_id))

    def _read_wishes(self, calls: Iterable[Call], groups: Mapping[str, str]) -> None:
        """Who left the group of a message with one click, and whose mailbox turned out to be dead."""
        for call in calls:
            person = self.people.get(call.message.contact_id)
            if person is None:
                continue
            if call.kind == "bounced":
                person.forbidden.append((self.seen(call.when), "bounced"))
            elif call.kind == "unsubscribed":
                person.left.append((self.seen(call.when), groups[call.message.template]))


def _came(call: Call) -> dict[str, Any]:
    """A request as a row of the mail system: it is loaded when it comes."""
    message = call.message
    return {"event_id": f"{message.action_id}-{call.kind}", "contact_id": message.contact_id, "event_type": call.kind,
            "template": message.template, "link": None, "action_id": message.action_id, "occurred_at": call.when,
            "_loaded_at": call.when}  # fmt: skip


def _web(row: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: row.get(name) for name in ("page", "cart_id", "order_id", "amount", "item_count", "stars")}
    return {**_common(row, row["event_type"]), **shared, "list": row.get("list_name"),
            **json.loads(row.get("properties") or "{}")}  # fmt: skip


def _mail(row: Mapping[str, Any]) -> dict[str, Any]:
    topic = {"topic": row["topic"]} if row.get("topic") is not None else {}
    return {**_common(row, f"email_{row['event_type']}"), "template": row["template"], "page": row["link"],
            "action_id": row["action_id"], **topic}  # fmt: skip


def _common(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"event_id": row["event_id"], "contact_id": row["contact_id"], "event_name": name,
            "occurred_at": row["occurred_at"], "loaded_at": row["_loaded_at"]}  # fmt: skip
