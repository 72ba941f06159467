"""One contact's part of a warehouse as a warehouse of its own, in memory: what happens there stays there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog
from compiler.condition import relation_table
from compiler.errors import ProjectError
from compiler.frames import ADDRESS_KEY
from flows.engine.merging import check_not_merged
from flows.engine.scratch import Scratch
from flows.journal.migrations import migrate, read_meta
from flows.journal.tables import StateName, StateTables
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse

_KEPT: tuple[StateName, ...] = ("contact_tags", "contact_untags", "contact_fields", "contact_points",
                                "campaign_members")  # fmt: skip


@dataclass(frozen=True)
class ContactCopy:
    """The copy: `events` are the contact's rows of Penstock's own event table, not shown yet."""

    warehouse: Warehouse
    events: tuple[Mapping[str, Any], ...]


def copy_contact(
    live: Warehouse, catalog: Catalog, contact: str, *, workspace: str, workflow: str, named: Iterable[str],
    at: datetime,
) -> ContactCopy:  # fmt: skip
    """Copy what a workflow may read of a contact, from a connection that may be read-only.

    The contact's row, events and scores; whole the other models in `named`, because a sub-select may look at any row of
    them; of the state: tags, fields, points, campaigns, suppressions, and the contact's enrollments and deliveries of
    other workflows than `workflow`, which so begins anew.

    Raises:
        ProjectError: E516, there is no such contact, or it became part of another one.
    """
    check_not_merged(live, catalog.state_schema, contact)
    memory = DuckDBWarehouse(None)
    try:
        merged = _merged_into(live, catalog.state_schema, contact)
        copier = _Copier(live, memory, catalog, {"contact_id": contact, "workflow": workflow}, merged)
        copier.models(named)
        events = copier.state(workspace, at)
    except BaseException:
        memory.close()
        raise
    return ContactCopy(memory, events)


@dataclass(frozen=True)
class _Copier:
    live: Warehouse
    memory: Warehouse
    catalog: Catalog
    given: dict[str, Any]
    merged: tuple[str, ...]
    """Contacts that became part of this one: their rows are copied too."""

    @property
    def scratch(self) -> Scratch:
        return Scratch(self.live, self.memory, self.given)

    def models(self, named: Iterable[str]) -> None:
        contact, events = self.catalog.contact, self.catalog.events
        done = {contact.relation.place, events.relation.place}
        if not self.scratch.relation(contact.relation, self._owned(frames.text(contact.relation, contact.id, "m"))):
            raise ProjectError(
                f"no contact '{self.given['contact_id']}' in {contact.relation.name}", code="E516",
                hint="penstock audience true",
            )  # fmt: skip
        if events.relation.place != contact.relation.place:
            self.scratch.relation(events.relation, self._owned(frames.text(events.relation, events.contact, "m")))
        if contact.merges is not None and contact.merges.relation.place not in done:
            done.add(contact.merges.relation.place)
            into = frames.text(contact.merges.relation, contact.merges.into, "m")
            self.scratch.relation(contact.merges.relation, self._owned(into))
        for score in self.catalog.scores.values():
            if score.relation.place not in done:
                done.add(score.relation.place)
                self.scratch.relation(score.relation, self._owned(frames.text(score.relation, score.contact, "m")))
        for name in named:
            relation = self.catalog.relations.get(name)
            if relation is not None and relation.place not in done:
                done.add(relation.place)
                self.scratch.relation(relation)

    def _owned(self, identity: exp.Expr) -> exp.Expr:
        """Whether an id is the contact's, or that of one which became part of it."""
        given = {"contact_id": self.given["contact_id"], **{f"merged_{n}": each for n, each in enumerate(self.merged)}}
        self.given.update(given)
        return exp.In(this=identity, expressions=[exp.Placeholder(this=name) for name in given])

    def state(self, workspace: str, at: datetime) -> tuple[Mapping[str, Any], ...]:
        state = StateTables(self.catalog.state_schema)
        meta = read_meta(self.live, state.schema)
        migrate(self.memory, state.schema, at, workspace, state_id=str(meta.state_id) if meta else None)
        if meta is None:
            return ()
        own = self._owned(exp.column("contact_id", table="m"))
        elsewhere = exp.and_(own, exp.NEQ(this=exp.column("workflow", table="m"),
                                          expression=exp.Placeholder(this="workflow")))  # fmt: skip
        for name in _KEPT:
            self.scratch.state(state, name, where=own)
        self.scratch.state(state, "contact_merges", where=self._owned(exp.column("into_id", table="m")))
        self.scratch.state(state, "enrollments", where=elsewhere)
        # all of them as closed: nothing of another workflow is delivered here
        self.scratch.state(state, "deliveries", "outbox_closed", elsewhere)
        self._suppressions(state, own, str(meta.state_id))
        mine = exp.select("m.*").from_(exp.alias_(state["events"], "m", table=True)).where(own.copy())
        return tuple(self.live.rows(mine.order_by("m.seq"), self.given))

    def _suppressions(self, state: StateTables, own: exp.Expr, key: str) -> None:
        """By the contact's id, and by the address of its copied row."""
        contact = self.catalog.contact
        hashes: list[Any] = []
        if contact.email is not None:
            address = frames.address_hash(frames.text(contact.relation, contact.email, "m")).as_("hash")
            found = self.memory.rows(
                exp.select(address).from_(relation_table(contact.relation, "m")), {ADDRESS_KEY: key}
            )
            hashes = [row["hash"] for row in found if row["hash"] is not None]
        by_address = exp.In(
            this=exp.column("address_hash", table="m"),
            expressions=[exp.Literal.string(each) for each in hashes] or [exp.null()],
        )
        self.scratch.state(state, "suppressions", where=exp.or_(own.copy(), by_address))


def _merged_into(live: Warehouse, schema: str, contact: str) -> tuple[str, ...]:
    state = StateTables(schema)
    if not live.relation_exists(state.place("contact_merges")):
        return ()
    rows = live.rows(state.statement(live, _MERGED), {"contact_id": contact})
    return tuple(row["from_id"] for row in rows)


_MERGED = "SELECT from_id FROM contact_merges WHERE into_id = $contact_id ORDER BY from_id"
