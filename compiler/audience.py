"""Audiences: who a condition over the contact holds for, as one query (language §3)."""

from __future__ import annotations

from sqlglot import exp

from compiler import frames
from compiler.allowlist import Trust
from compiler.catalog import Catalog
from compiler.condition import Condition, Scope, compile_condition
from compiler.frames import Needs
from compiler.lookup import frame


def audience(text: str, catalog: Catalog, zone: str, trust: Trust = "sql") -> exp.Select:
    """The `contact_id` of everybody for whom a condition holds at `$tick_at`.

    Args:
        text: a condition over the contact, as of an audience trigger.
        catalog: what it may name.
        zone: IANA name for contacts without a valid one.
        trust: allow-list level.

    Raises:
        ConditionError: as `compile_condition`.
    """
    return members(compile_condition(text, Scope(catalog, trust=trust)), catalog, zone)


def members(condition: Condition | None, catalog: Catalog, zone: str) -> exp.Select:
    """As `audience`, of a compiled condition; without one, everybody. `f` has each contact's time zone `tz`."""
    needs = Needs().add(condition)
    base = frames.contact_rows(catalog, needs.contact_columns, zone)
    events = frames.event_rows(catalog, needs.properties, names=needs.events, unique=needs.counts)
    built = frames.build(base, needs, row_id="contact_id", events=exp.Subquery(this=events), trigger=False)
    found = exp.select(frame("contact_id")).from_(built.subquery("f"))
    return found if condition is None else found.where(condition.tree.copy())
