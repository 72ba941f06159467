"""What becomes of contacts in flight when a version is published, and which candidates `enroll` steps made."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from flows.journal.schema import Column, add_column


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements from version 2 to version 3. `in_flight` is `migrate`, or NULL where they stay as they are."""
    yield add_column(schema, "workflow_versions", Column("in_flight", "text"))
    yield add_column(schema, "candidates", Column("asked", "boolean"))
