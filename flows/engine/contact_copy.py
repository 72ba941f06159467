"""One contact's part of a warehouse as a warehouse of its own, in memory: what happens there stays there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog, Relation
from compiler.condition import relation_table
from compiler.errors import ProjectError
from compiler.frames import ADDRESS_KEY
from flows.journal.migrations import migrate, read_meta
from flows.journal.tables import StateName, StateTables
from flows.warehouse.base import Warehouse, table
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
        ProjectError: E516, there is no such contact.
    """
    memory = DuckDBWarehouse(None)
    try:
        copier = _Copier(live, memory, catalog, {"contact_id": contact, "workflow": workflow})
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

    def models(self, named: Iterable[str]) -> None:
        contact, events = self.catalog.contact, self.catalog.events
        done = {contact.relation.place, events.relation.place}
        if not self._relation(contact.relation, _is_contact(frames.text(contact.relation, contact.id, "m"))):
            raise ProjectError(
                f"no contact '{self.given['contact_id']}' in {contact.relation.name}", code="E516",
                hint="penstock audience true",
            )  # fmt: skip
        if events.relation.place != contact.relation.place:
            self._relation(events.relation, _is_contact(frames.text(events.relation, events.contact, "m")))
        for score in self.catalog.scores.values():
            if score.relation.place not in done:
                done.add(score.relation.place)
                self._relation(score.relation, _is_contact(frames.text(score.relation, score.contact, "m")))
        for name in named:
            relation = self.catalog.relations.get(name)
            if relation is not None and relation.place not in done:
                done.add(relation.place)
                self._relation(relation, None)

    def _relation(self, relation: Relation, where: exp.Expr | None) -> int:
        """Make a table of the same name and columns; gives the number of rows copied."""
        schema = exp.Table(db=exp.to_identifier(relation.place[-2], quoted=True))
        self.memory.execute(exp.Create(this=schema, kind="SCHEMA", exists=True))
        columns = [
            exp.ColumnDef(this=exp.to_identifier(name, quoted=True), kind=exp.DataType.build(kind, dialect="duckdb"))
            for name, kind in relation.columns.items()
        ]
        shape = exp.Schema(this=table(relation.place), expressions=columns)
        self.memory.execute(exp.Create(this=shape, kind="TABLE"))
        if not self.live.relation_exists(relation.place):
            return 0
        values = [_portable(relation, name).as_(name, quoted=True) for name in relation.columns]
        rows = exp.select(*values).from_(relation_table(relation, "m"))
        data = self.live.fetch(rows.where(where) if where is not None else rows, self.given)
        return self.memory.load(relation.place, data) if data.num_rows else 0

    def state(self, workspace: str, at: datetime) -> tuple[Mapping[str, Any], ...]:
        state = StateTables(self.catalog.state_schema)
        meta = read_meta(self.live, state.schema)
        migrate(self.memory, state.schema, at, workspace, state_id=str(meta.state_id) if meta else None)
        if meta is None:
            return ()
        own = exp.EQ(this=exp.column("contact_id", table="m"), expression=exp.Placeholder(this="contact_id"))
        elsewhere = exp.and_(own, exp.NEQ(this=exp.column("workflow", table="m"),
                                          expression=exp.Placeholder(this="workflow")))  # fmt: skip
        for name in _KEPT:
            self._rows(state, name, name, own)
        self._rows(state, "enrollments", "enrollments", elsewhere)
        # all of them as closed: nothing of another workflow is delivered here
        self._rows(state, "deliveries", "outbox_closed", elsewhere)
        self._suppressions(state, own, str(meta.state_id))
        mine = exp.select("m.*").from_(exp.alias_(state["events"], "m", table=True)).where(own.copy())
        return tuple(self.live.rows(mine.order_by("m.seq"), self.given))

    def _rows(self, state: StateTables, source: StateName, into: StateName, where: exp.Expr) -> None:
        if not self.live.relation_exists(state.place(source)):
            return
        there = self.live.columns(state.place(source))
        values = []
        for name in self.memory.columns(state.place(into)):
            if name in there:  # a state that was not migrated yet lacks some
                column: exp.Expr = exp.column(name, table="m", quoted=True)
                values.append((exp.cast(column, "text") if there[name] in _TEXTUAL else column).as_(name, quoted=True))
        rows = exp.select(*values).from_(exp.alias_(state[source], "m", table=True)).where(where.copy())
        data = self.live.fetch(rows, self.given)
        if data.num_rows:
            self.memory.load(state.place(into), data)

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
        self._rows(state, "suppressions", "suppressions", exp.or_(own.copy(), by_address))


_TEXTUAL = ("UUID", "JSON")


def _portable(relation: Relation, name: str) -> exp.Expr:
    column: exp.Expr = exp.column(exp.to_identifier(name, quoted=True), table="m")
    return exp.cast(column, "text") if relation.columns[name].upper() in _TEXTUAL else column


def _is_contact(identity: exp.Expr) -> exp.Expr:
    return exp.EQ(this=identity, expression=exp.Placeholder(this="contact_id"))
