"""The plans of statements that come again: where a tick moves few rows, planning costs more than running.

DuckDB plans a statement at each run; a prepared one too, once it has parameters or anything in the catalog changed
since. So what has no parameters is prepared when it comes again, and a temporary table that is made anew keeps its
place in the catalog: its rows are replaced, as long as they are few.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
from sqlglot import exp

from compiler.errors import WarehouseError
from flows.warehouse.base import bound

MANY = 20_000
"""A temporary table that took so many rows is made anew: those that were replaced still take room."""
RUNS = 100
"""After so many runs a statement is planned again, since the tables may have grown."""
_TEXTS = 2000
_TEMPORARY = re.compile(r"CREATE OR REPLACE TEMPORARY TABLE (?P<name>\w+) (?:AS (?P<query>.*)|\(.*)", re.DOTALL)
_PLANNED = frozenset({
    duckdb.StatementType.SELECT, duckdb.StatementType.INSERT, duckdb.StatementType.UPDATE, duckdb.StatementType.DELETE,
})  # fmt: skip
_LEAVE_CATALOG = _PLANNED | {duckdb.StatementType.SET, duckdb.StatementType.EXPLAIN}
# With this optimizer a plan depends on the values that the tables held when it was made, and is wrong for others.
_ASIDE = "SET disabled_optimizers = 'statistics_propagation'"
_BACK = "RESET disabled_optimizers"

Shape = tuple[tuple[str, str], ...]


@dataclass
class _Prepared:
    execute: duckdb.Statement
    runs: int = 0


@dataclass
class _Table:
    """A temporary table: names and types of its columns, and about how many rows it took since it was made."""

    shape: Shape
    taken: int


@dataclass(frozen=True)
class _Remade:
    """A statement that makes a temporary table anew, taken apart; `filling` is None where it is made empty."""

    name: str
    emptying: str
    filling: str | None


class Plans:
    """Runs the statements of one connection, and keeps what it can of parsing and planning them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._statements: dict[str, duckdb.Statement] = {}
        self._remade: dict[str, _Remade | None] = {}
        self._shapes: dict[str, Shape] = {}
        self._tables: dict[str, _Table] = {}
        self._came: set[str] = set()
        self._names: dict[str, str] = {}
        self._prepared: dict[str, _Prepared] = {}

    def run(self, text: str, given: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
        """Run a statement; `given` has the values of its parameters, and may have more."""
        statement = self._statement(text)
        if statement.type not in _LEAVE_CATALOG:
            self._tables.clear()
            return self._change(statement, given)
        if statement.named_parameters or statement.type not in _PLANNED:
            return self._connection.execute(statement, _used(statement, given))
        return self._connection.execute(self._planned(text, statement))

    def execute(self, text: str, given: Mapping[str, Any]) -> int:
        """Run a statement and give the number of rows that it changed."""
        if text not in self._remade:
            self._remade[text] = _taken_apart(text)
        remade = self._remade[text]
        return _count(self.run(text, given)) if remade is None else self._make_anew(text, remade, given)

    def forget(self) -> None:
        """The catalog changed: DuckDB uses no plan from before, so it is a good time to make tables anew."""
        self._prepared.clear()
        self._came.clear()
        for made in self._tables.values():
            made.taken = MANY if 2 * made.taken > MANY else made.taken

    def rolled_back(self) -> None:
        """Forget the tables too: those that the transaction made are gone."""
        self._tables.clear()
        self.forget()

    def _make_anew(self, text: str, remade: _Remade, given: Mapping[str, Any]) -> int:
        known = self._tables.get(remade.name)
        if known is None or known.taken >= MANY or known.shape != self._shapes.get(text):
            count = _count(self._change(self._statement(text), given))
            self._shapes[text] = self._shape(remade.name)
            self._tables[remade.name] = _Table(self._shapes[text], count)
            return count
        emptied = _count(self.run(remade.emptying, {}))
        filled = _count(self.run(remade.filling, given)) if remade.filling is not None else 0
        known.taken += max(emptied, filled)
        return filled

    def _change(self, statement: duckdb.Statement, given: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
        cursor = self._connection.execute(statement, _used(statement, given))
        self.forget()
        return cursor

    def _shape(self, name: str) -> Shape:
        cursor = self.run(exp.select("*").from_(name).limit(0).sql("duckdb"), {})
        return tuple((column[0], str(column[1])) for column in cursor.description)

    def _planned(self, text: str, statement: duckdb.Statement) -> duckdb.Statement:
        """The statement itself when it comes for the first time, then its plan."""
        known = self._prepared.get(text)
        if known is not None and known.runs < RUNS:
            known.runs += 1
            return known.execute
        if text not in self._came:
            self._came.add(text)
            return statement
        name = self._names.setdefault(text, f"plan_{len(self._names)}")
        self._connection.execute(self._statement(_ASIDE))
        try:
            # Around a text that was generated already, under a name of ours.
            self._connection.execute(exp.Command(this="PREPARE", expression=f"{name} AS {text}").sql("duckdb"))
        finally:
            self._connection.execute(self._statement(_BACK))
        self._prepared[text] = _Prepared(self._statement(exp.Command(this="EXECUTE", expression=name).sql("duckdb")))
        return self._prepared[text].execute

    def _statement(self, text: str) -> duckdb.Statement:
        if (known := self._statements.get(text)) is not None:
            return known
        statements = self._connection.extract_statements(text)
        if len(statements) != 1:
            raise WarehouseError(f"expected one statement, got {len(statements)}", code="E605")
        if len(self._statements) > _TEXTS:
            self._statements.clear()
            self._remade.clear()
            self._shapes.clear()
        return self._statements.setdefault(text, statements[0])


def _taken_apart(text: str) -> _Remade | None:
    found = _TEMPORARY.fullmatch(text)
    if found is None:
        return None
    name, query = found["name"], found["query"]
    # The query is text that a tree was generated to; it is put in as it is, since parsing it again takes far longer.
    filling = None if query is None else exp.Insert(this=exp.to_table(name), expression=exp.var(query)).sql("duckdb")
    return _Remade(name, exp.delete(name).sql("duckdb"), filling)


def _used(statement: duckdb.Statement, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: bound(given[name]) for name in statement.named_parameters if name in given}


def _count(cursor: duckdb.DuckDBPyConnection) -> int:
    """The rows that a statement changed."""
    if cursor.description and cursor.description[0][0] == "Count":
        first = cursor.fetchone()
        return int(first[0]) if first else 0
    return 0
