"""What a case says, and what of it is visible at a tick."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.oracle.clock import moment


@dataclass(frozen=True)
class Event:
    """One event; `seen` is when the engine may see it."""

    id: str
    contact: str
    name: str
    time: datetime
    properties: dict[str, Any]
    loaded: datetime
    seen: datetime

    def column(self, name: str) -> Any:
        """A property, or one of the event's own columns."""
        own = {"event_id": self.id, "id": self.id, "name": self.name, "event_time": self.time}
        return self.properties.get(name, own.get(name))


def read_event(row: list[Any]) -> Event:
    """An event of a simulation file."""
    properties = dict(row[4]) if len(row) > 4 and row[4] else {}
    time = moment(row[3])
    loaded = moment(row[5]) if len(row) > 5 else time
    visible = moment(row[6]) if len(row) > 6 else loaded
    return Event(str(row[0]), str(row[1]), str(row[2]), time, properties, loaded, max(loaded, visible, time))


@dataclass
class World:
    """The case's data, seen at `tick`, under the tags and fields that workflows wrote."""

    case: dict[str, Any]
    tick: datetime = datetime.min
    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[tuple[str, str], bool] = field(default_factory=dict)
    fields: dict[tuple[str, str], Any] = field(default_factory=dict)
    points: dict[tuple[str, str], float] = field(default_factory=dict)
    counted: frozenset[str] = frozenset()
    """Scores that workflows add points to."""
    campaigns: set[tuple[str, str]] = field(default_factory=set)
    asked: list[Any] = field(default_factory=list)
    """Candidates that `enroll` steps made, for the next tick."""
    askings: int = 0
    """How many they made so far."""
    paused: frozenset[str] = frozenset()
    owners: dict[str, str] = field(default_factory=dict)
    """Whom each merged contact became part of."""
    rows_of: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The columns of every contact, of merged ones too."""
    enrollments: list[Any] = field(default_factory=list)
    all_events: list[Event] = field(default_factory=list)
    seen_events: dict[str, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reads the events once."""
        self.all_events = [read_event(row) for row in self.case.get("events", [])]

    def show(self, tick: datetime) -> None:
        """Moves to a tick."""
        self.tick, self.contacts = tick, {}
        for row in self.case["contacts"]:
            self._put(str(row["id"]), row)
        changes = sorted(self.case.get("changes", []), key=lambda row: moment(row["at"]))
        for row in changes:
            if moment(row["at"]) <= tick:
                self._put(str(row["contact"]), row["set"])
        self.rows_of = dict(self.contacts)
        for merged in self.owners:
            self.contacts.pop(merged, None)
        self.seen_events = {}
        taken: set[str] = set()
        for event in sorted(self.all_events, key=lambda each: each.loaded):
            if event.seen <= tick and event.id not in taken:
                taken.add(event.id)
                self.seen_events.setdefault(self.owner(event.contact), []).append(event)

    def _put(self, contact: str, columns: dict[str, Any]) -> None:
        if contact not in self.contacts:
            self.contacts[contact] = {"id": contact, "contact_id": contact, "email": f"{contact}@example.test"}
        self.contacts[contact] |= {key: value for key, value in columns.items() if key != "id"}

    def events(self, contact: str) -> list[Event]:
        """The contact's visible events."""
        return self.seen_events.get(contact, [])

    def column(self, contact: str, name: str) -> Any:
        """A column of the contact; a field that a workflow set wins."""
        if (contact, name) in self.fields:
            return self.fields[contact, name]
        return self.contacts[contact].get(name)

    def owner(self, contact: str) -> str:
        """The contact that one has become, or is."""
        while contact in self.owners:
            contact = self.owners[contact]
        return contact

    def merge(self, one: str, into: str) -> None:
        """What is kept about a contact goes over to the one that stays."""
        self.owners[one] = into
        for (contact, tag), written in list(self.tags.items()):
            if contact == one:
                del self.tags[contact, tag]
                if written:
                    self.tags[into, tag] = True
        self.campaigns = {(into if contact == one else contact, name) for contact, name in self.campaigns}
        for (contact, name), added in list(self.points.items()):
            if contact == one:
                self.points[into, name] = self.points.get((into, name), 0) + added
        kept: dict[tuple[str, str], Any] = {}
        for (contact, name), value in self.fields.items():  # in the order of writing
            kept[into if contact == one else contact, name] = value
        self.fields = kept
        self.asked = [
            (name, (at, number, into if who == one else who, entry)) for name, (at, number, who, entry) in self.asked
        ]

    def write_field(self, contact: str, name: str, value: Any) -> None:
        """The last write stands last."""
        self.fields.pop((contact, name), None)
        self.fields[contact, name] = value

    def opted_out(self, contact: str) -> bool:
        """Whether the contact, or one that became part of it, is unsubscribed."""
        if self.column(contact, "unsubscribed"):
            return True
        return any(self.rows_of[each].get("unsubscribed") for each in self.owners if self.owner(each) == contact)

    def left_groups(self, contact: str) -> set[str]:
        """The groups that either is unsubscribed from."""
        sides = [contact, *(each for each in self.owners if self.owner(each) == contact)]
        return {group for each in sides for group in self.rows_of[each].get("unsubscribed_groups") or []}

    def has_tag(self, contact: str, tag: str) -> bool:
        """Whether the contact has a tag, by a workflow or by the model."""
        written = self.tags.get((contact, tag))
        return tag in (self.contacts[contact].get("tags") or []) if written is None else written

    def emit(self, contact: str, name: str, time: datetime, properties: dict[str, Any]) -> None:
        """Writes an event, which is seen from the next tick on."""
        number = f"{len(self.all_events):09}"
        just_after = self.tick + timedelta(microseconds=1)
        self.all_events.append(Event(number, contact, name, time, properties, just_after, just_after))

    def controlled(self, names: Iterable[str]) -> None:
        """Reads which workflows are paused: the last control of a scope decides."""
        last: dict[str, str] = {}
        for row in sorted(self.case.get("control", []), key=lambda row: moment(row["at"])):
            if moment(row["at"]) <= self.tick:
                action = "pause" if "pause" in row else "resume"
                last[row[action]] = action
        self.paused = frozenset(name for name in names if "pause" in (last.get(name), last.get("all")))

    def score(self, contact: str, name: str) -> Any:
        """The latest visible score, with the points that workflows added."""
        given = self._given_score(contact, name)
        if name not in self.counted:
            return given
        return (given or 0) + self.points.get((contact, name), 0)

    def _given_score(self, contact: str, name: str) -> Any:
        rows = [
            (moment(row["at"]), row["value"])
            for row in self.case.get("scores", [])
            if str(row["contact"]) == contact and row["name"] == name and moment(row["at"]) <= self.tick
        ]
        return max(rows)[1] if rows else None

    def rows(self, model: str) -> list[dict[str, Any]]:
        """The visible rows of a model."""
        given = self.case.get("models", {}).get(model, [])
        return [row for row in given if "visible_at" not in row or moment(row["visible_at"]) <= self.tick]
