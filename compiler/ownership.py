"""Whose a row is now: contacts that became part of others stand in `contact_merges`, and what was theirs is looked up.

Catalogs without a mapping of merges pay nothing for it: their trees stay as they are.
"""

from __future__ import annotations

from sqlglot import exp

from compiler.catalog import Catalog

_MERGES = "g"


def owner(catalog: Catalog, contact: exp.Expr) -> exp.Expr:
    """The contact whose a row of `contact` is now; the rows must be joined by `with_owner`."""
    if catalog.contact.merges is None:
        return contact
    return exp.Coalesce(this=exp.column("into_id", table=_MERGES), expressions=[contact])


def with_owner(rows: exp.Select, catalog: Catalog, contact: exp.Expr) -> exp.Select:
    """The rows with what `owner` reads beside them."""
    if catalog.contact.merges is None:
        return rows
    same = exp.EQ(this=exp.column("from_id", table=_MERGES), expression=contact.copy())
    return rows.join(_merges(catalog), on=same, join_type="left")


def without_merged(rows: exp.Select, catalog: Catalog, contact: exp.Expr) -> exp.Select:
    """The rows of contacts that did not become part of others."""
    if catalog.contact.merges is None:
        return rows
    same = exp.EQ(this=exp.column("from_id", table=_MERGES), expression=contact.copy())
    return rows.where(exp.Not(this=exp.Exists(this=exp.select("1").from_(_merges(catalog)).where(same))))


def of_merged(rows: exp.Select, catalog: Catalog, contact: exp.Expr) -> exp.Select:
    """The rows of contacts that became part of others, and of whom as `who`."""
    same = exp.EQ(this=exp.column("from_id", table=_MERGES), expression=contact.copy())
    return rows.select(exp.column("into_id", table=_MERGES).as_("who")).join(_merges(catalog), on=same)


def _merges(catalog: Catalog) -> exp.Table:
    return exp.table_("contact_merges", db=catalog.state_schema, alias=_MERGES)
