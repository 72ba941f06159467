"""The state tables of a schema, as sqlglot tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

from flows.warehouse.base import Place, table

StateName = Literal[
    "meta", "migrations", "lease", "workflow_versions", "templates", "config_versions", "controls", "ticks", "journal",
    "candidates", "enrollments", "audience_members", "events", "event_seen", "contact_tags", "contact_fields",
    "contact_merges", "suppressions", "outbox", "outbox_closed", "attempts", "deliveries",
]  # fmt: skip
"""Every state table and view; `deliveries` is the view over `outbox` and `outbox_closed`."""


@dataclass(frozen=True)
class StateTables:
    """The state tables in one schema: `StateTables("penstock")["outbox"]`."""

    schema: str

    def __getitem__(self, name: StateName) -> exp.Table:
        return table(self.place(name))

    def place(self, name: StateName) -> Place:
        """The table's name in parts."""
        return (self.schema, name)
