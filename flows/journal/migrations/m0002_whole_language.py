"""Points, campaigns, and candidates that wait: what the whole workflow language keeps."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from flows.journal.schema import Column, add_column, create_table, state_table

TABLES = (
    state_table("contact_points", "contact_id text!, name text!, value double!, since timestamp, cause uuid"),
    state_table("completed_actions", "action_id uuid!, enrollment_id uuid!"),
    state_table("campaign_members", "contact_id text!, campaign text!, since timestamp, cause uuid"),
)


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements from version 1 to version 2. `candidates.entry` is the row of a candidate that waits."""
    for definition in TABLES:
        yield create_table(schema, definition)
    yield add_column(schema, "candidates", Column("entry", "json"))
