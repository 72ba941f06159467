"""One tick's hand tools: run a statement with the tick's parameters, cache its text, count on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlglot import exp

from compiler.plan import FRAME, STAGE, Plan
from flows.engine.deployment import Deployment
from flows.engine.holding import Holding
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse


class Texts:
    """Generated SQL of a deployment's trees; one per process and deployment, so that a tick generates nothing."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], str] = {}
        self._owners: dict[tuple[str, int], int] = {}

    def own(self, plan: Plan, table: str) -> str:
        """The name of a plan's frame or stage in this deployment.

        Their columns differ from plan to plan, and a table that keeps its columns need not be made anew.
        """
        return f"{table}_of_{self._owners.setdefault((plan.workflow, plan.version), len(self._owners))}"

    def owned(self, plan: Plan, tree: exp.Expr) -> exp.Expr:
        """A copy of a plan's tree that reads the frame and the stages by those names."""
        found = tree.copy()
        for table in found.find_all(exp.Table):
            if not table.db and table.name.startswith((FRAME, STAGE)):
                table.set("this", exp.to_identifier(self.own(plan, table.name)))
        return found

    def text(self, key: tuple[str, ...], tree: exp.Expr | Any, warehouse: Warehouse) -> str:
        """The text of a tree known by a key; `tree` is called when it is a function and the text is not known."""
        found = self._texts.get(key)
        if found is None:
            found = self._texts[key] = warehouse.sql(tree() if callable(tree) else tree)
        return found


@dataclass
class Work:
    """The state of one tick while it is evaluated."""

    warehouse: Warehouse
    deployment: Deployment
    texts: Texts
    tick: int
    tick_at: datetime
    address_key: str
    seq: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    row_tables: set[str] = field(default_factory=set)
    holding: Holding = field(default_factory=Holding)

    def __post_init__(self) -> None:
        self.state = StateTables(self.deployment.schema)

    @property
    def parameters(self) -> dict[str, Any]:
        """What every statement may name."""
        return {"tick": self.tick, "tick_at": self.tick_at, "address_key": self.address_key, "seq": self.seq}

    def run(self, text: str, **parameters: Any) -> int:
        """Run a statement written over state tables and temporary tables; gives the rows changed."""
        return self.warehouse.execute(self.state.statement(self.warehouse, text), {**self.parameters, **parameters})

    def rows(self, text: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a small query."""
        return self.warehouse.rows(self.state.statement(self.warehouse, text), {**self.parameters, **parameters})

    def number(self, text: str, **parameters: Any) -> int:
        """The one number a query gives."""
        return int(next(iter(self.rows(text, **parameters)[0].values())) or 0)

    def make(self, table: str, tree: exp.Expr | Any, *key: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Make a temporary table of a query and give its number of rows; the text is cached under table and key."""

        def create() -> exp.Expr:
            query = tree() if callable(tree) else tree
            return exp.Create(
                this=exp.to_table(table), kind="TABLE", replace=True, expression=query,
                properties=exp.Properties(expressions=[exp.TemporaryProperty()]),
            )  # fmt: skip

        text = self.texts.text((table, *key), create, self.warehouse)
        return self.warehouse.execute(text, {**self.parameters, **(parameters or {})})

    def make_own(self, plan: Plan, table: str, tree: exp.Expr) -> int:
        """As `make`, for a table that only this plan has."""
        own = self.texts.own(plan, table)
        return self.make(own, lambda: self.texts.owned(plan, tree), plan.workflow, str(plan.version))

    def add(self, table: str, tree: exp.Expr | Any, *key: str) -> int:
        """Append the rows of a query to a table, column by column in order; the text is cached as `make`'s is."""

        def insert() -> exp.Expr:
            return exp.insert(tree() if callable(tree) else tree, table)

        return self.warehouse.execute(self.texts.text((table, *key), insert, self.warehouse), self.parameters)

    def journal(self, rows: str, order: str = "contact_id, enrollment_id", **parameters: Any) -> int:
        """Append journal rows; `rows` selects workflow, version, enrollment_id, contact_id, key, step, kind, what,
        outcome, due, action_id, cause, details.
        """
        written = self.run(_JOURNAL.replace("/*order*/", order).replace("/*rows*/", rows), **parameters)
        self.seq += written
        return written

    def count(self, what: str, amount: int) -> None:
        """Add to the tick's counts."""
        if amount:
            self.counts[what] = self.counts.get(what, 0) + amount


_JOURNAL = """
    INSERT INTO journal
    SELECT $tick, $seq + row_number() OVER (ORDER BY /*order*/), $tick_at, workflow, CAST(version AS INTEGER),
        CAST(enrollment_id AS UUID), contact_id, key, step, kind, what, outcome, CAST(due AS TIMESTAMP),
        CAST(action_id AS UUID), cause, CAST(details AS JSON)
    FROM (/*rows*/) AS r
"""
