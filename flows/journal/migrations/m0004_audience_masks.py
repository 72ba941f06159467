"""What each contact was the last time that its audiences were evaluated, so that only changes are evaluated again."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from flows.journal.schema import create_table, state_table


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements from version 3 to version 4."""
    masks = state_table("audience_masks", "statement text!, contact_id text!, mask bigint!, digest bigint!")
    yield create_table(schema, masks)
