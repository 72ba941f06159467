"""What is known of the accounts at outside systems: what was used of their limits, and which of them rest."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from flows.journal.schema import create_table, state_table

TABLES = (
    state_table(
        "budgets", "account text!, per_seconds bigint!, started_at timestamp!, used bigint!, free_at timestamp!"
    ),
    state_table(
        "breakers", "account text!, reason text!, code text, failures bigint!, since timestamp!, until timestamp!"
    ),
)


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements from version 6 to version 7."""
    for definition in TABLES:
        yield create_table(schema, definition)
