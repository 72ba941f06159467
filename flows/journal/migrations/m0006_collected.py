"""What the collector brings: how far its files were read, and what was refused."""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp

from flows.journal.schema import create_table, located, state_table

TABLES = (
    state_table("collected_files", "file text!, position bigint!"),
    state_table(
        "events_rejected",
        "received_at timestamp, loaded_at timestamp!, source text!, reason text!, content text",
    ),
)

_INDEXES = """
CREATE INDEX events_event ON events (event_id);
CREATE INDEX events_unresolved ON events (seq) WHERE contact_id IS NULL;
CREATE INDEX outbox_closed_action ON outbox_closed (action_id);
"""


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements from version 5 to version 6."""
    for definition in TABLES:
        yield create_table(schema, definition)


def on_server(schema: str) -> Iterator[exp.Expr]:
    """The statements where rows are found by indexes."""
    for tree in sqlglot.parse(_INDEXES, dialect="postgres"):
        if tree is not None:
            yield located(tree, schema)
