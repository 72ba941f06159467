"""The catalog: every name a definition may use, as one frozen value that is handed in (nothing here reads anything)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DataType = Literal["text", "integer", "number", "boolean", "timestamp", "date", "json", "uuid", "array", "other"]
Role = Literal["email", "sms", "push", "crm", "task", "notify", "webhook", "audience"]

TYPE_NAMES: dict[str, DataType] = {
    "varchar": "text", "text": "text", "string": "text", "char": "text", "bpchar": "text", "character varying": "text",
    "character": "text", "citext": "text",
    "tinyint": "integer", "smallint": "integer", "int": "integer", "integer": "integer", "bigint": "integer",
    "hugeint": "integer", "utinyint": "integer", "usmallint": "integer", "uinteger": "integer", "ubigint": "integer",
    "float": "number", "real": "number", "double": "number", "double precision": "number", "numeric": "number",
    "decimal": "number", "number": "number", "boolean": "boolean", "bool": "boolean",
    "timestamp": "timestamp", "timestamp with time zone": "timestamp", "timestamptz": "timestamp",
    "timestamp without time zone": "timestamp", "datetime": "timestamp", "timestamp_ns": "timestamp",
    "timestamp_s": "timestamp", "timestamp_ms": "timestamp", "date": "date", "json": "json", "jsonb": "json",
    "uuid": "uuid",
}  # fmt: skip
"""Warehouse type name in lower case, without length and precision -> data type."""

_LENGTH = re.compile(r"\([^)]*\)")
ZONED_TYPES = frozenset({"timestamp with time zone", "timestamptz"})


def data_type(warehouse_type: str) -> DataType:
    """The data type of a warehouse's type name, e.g. `DECIMAL(18,2)` -> number, `VARCHAR[]` -> array."""
    name = _bare(warehouse_type)
    return "array" if name.endswith("[]") else TYPE_NAMES.get(name, "other")


def _bare(warehouse_type: str) -> str:
    """`TIMESTAMP(3) WITH TIME ZONE` -> `timestamp with time zone`."""
    return " ".join(_LENGTH.sub(" ", warehouse_type.lower()).split())


@dataclass(frozen=True)
class Relation:
    """A table or view: its name in definitions, its place in the warehouse, its columns with the warehouse's types."""

    name: str
    place: tuple[str, ...]
    columns: Mapping[str, str]
    source: str = ""

    def type_of(self, column: str) -> DataType:
        """The data type of a column.

        Raises:
            KeyError: no such column.
        """
        return data_type(self.columns[column])

    def zoned(self, column: str) -> bool:
        """Whether the column is a timestamp with time zone."""
        return _bare(self.columns[column]) in ZONED_TYPES


@dataclass(frozen=True)
class MergeModel:
    """Which contact became part of which: a model and its columns."""

    relation: Relation
    from_: str
    into: str
    at: str


@dataclass(frozen=True)
class ContactModel:
    """The contact mapping of penstock.yaml; beside `relation`, `fields` and `merges` attributes are column names."""

    relation: Relation
    id: str
    email: str | None = None
    phone: str | None = None
    timezone: str | None = None
    updated_at: str | None = None
    unsubscribed: str | None = None
    bounced: str | None = None
    unsubscribed_groups: str | None = None
    tags: str | None = None
    push_token: str | None = None
    fields: Mapping[str, DataType] = field(default_factory=dict)
    merges: MergeModel | None = None


@dataclass(frozen=True)
class EventModel:
    """The events mapping of penstock.yaml. `properties`: event name -> property -> type, of the JSON column `data`."""

    relation: Relation
    id: str
    contact: str
    name: str
    time: str
    loaded_at: str
    data: str | None = None
    properties: Mapping[str, Mapping[str, DataType]] = field(default_factory=dict)
    overlap_seconds: int = 86400


@dataclass(frozen=True)
class DestinationInfo:
    """What definitions need to know of a destination; `objects`: the kinds of CRM object it takes, None for any."""

    name: str
    roles: frozenset[Role]
    default: bool = False
    targets: frozenset[str] | None = None
    objects: frozenset[str] | None = None


@dataclass(frozen=True)
class TemplateInfo:
    """What a template declares and reads.

    `variables`: declared name -> type; `required`: declared without default; `contact`, `entry`, `steps`: names read.
    """

    name: str
    digest: str
    group: str | None = None
    variables: Mapping[str, DataType] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    contact: frozenset[str] = frozenset()
    entry: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ScoreInfo:
    """Where the latest value of a score stands."""

    name: str
    relation: Relation
    contact: str = "contact_id"
    value: str = "score"
    scored_at: str | None = "scored_at"


@dataclass(frozen=True)
class Catalog:
    """Everything a definition may name.

    `open_names`: simulations stand alone, so templates, destinations, notify targets, fields and event properties
    that the case does not list exist there anyway. `points`: score that workflows add to -> its start value.
    `passed`: workflow -> names that `enroll` steps of others pass to it.
    """

    contact: ContactModel
    events: EventModel
    relations: Mapping[str, Relation] = field(default_factory=dict)
    destinations: Mapping[str, DestinationInfo] = field(default_factory=dict)
    templates: Mapping[str, TemplateInfo] = field(default_factory=dict)
    audiences: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, ScoreInfo] = field(default_factory=dict)
    workflows: frozenset[str] = frozenset()
    dialect: str = "duckdb"
    state_schema: str = "penstock"
    open_names: bool = False
    points: Mapping[str, float] = field(default_factory=dict)
    passed: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def property_type(self, event_names: tuple[str, ...], name: str) -> DataType | None:
        """The declared type of an event property; None when no named event declares it, or two differ."""
        declared = {self.events.properties.get(event, {}).get(name) for event in event_names or self.events.properties}
        declared.discard(None)
        return declared.pop() if len(declared) == 1 else None
