"""What all workflows and processes share at an outside system: the limits of its account, and whether it rests.

Both are kept in the warehouse. A claim takes from the budgets in its own transaction, so two processes never have the
same request to give away.

A window of up to a minute is a pace: a process takes its turn for at most ten seconds, spreads its requests over it,
and another one's turn begins where it ends. A longer window is a quota, counted from the full hour or day (UTC); when
it is used up, the account is left alone until the next one begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from destinations.base import Capabilities, Limit, Verdict
from destinations.pace import LONGEST_WAITED
from flows.engine.breaker import Breaker, Circuit
from flows.engine.receipts import Position, last_seq
from flows.journal.tables import StateTables, stage
from flows.warehouse.base import Warehouse

TURN = timedelta(seconds=10)
"""The longest turn of one process at an account with a pace."""
_SLACK = timedelta(seconds=2)

_BUDGETS = "SELECT account, per_seconds, started_at, used, free_at FROM budgets"
_BREAKERS = "SELECT account, reason, code, failures, since, until FROM breakers"
_FORGET_BUDGETS = """
    DELETE FROM budgets WHERE EXISTS (
        SELECT 1 FROM new_budgets AS n WHERE n.account = budgets.account AND n.per_seconds = budgets.per_seconds
    )
"""
_KEEP_BUDGETS = "INSERT INTO budgets SELECT account, per_seconds, started_at, used, free_at FROM new_budgets"
_FORGET_BREAKERS = "DELETE FROM breakers WHERE account IN (SELECT account FROM new_breakers)"
_KEEP_BREAKERS = """
    INSERT INTO breakers SELECT account, reason, code, failures, since, until FROM new_breakers WHERE reason IS NOT NULL
"""
_BUDGET_ROWS = pa.schema([
    ("account", pa.string()), ("per_seconds", pa.int64()), ("started_at", pa.timestamp("us")), ("used", pa.int64()),
    ("free_at", pa.timestamp("us")),
])  # fmt: skip
_BREAKER_ROWS = pa.schema([
    ("account", pa.string()), ("reason", pa.string()), ("code", pa.string()), ("failures", pa.int64()),
    ("since", pa.timestamp("us")), ("until", pa.timestamp("us")),
])  # fmt: skip


_JOURNAL_ROWS = pa.schema([
    ("tick", pa.int64()), ("seq", pa.int64()), ("executed_at", pa.timestamp("us")), ("kind", pa.string()),
    ("what", pa.string()), ("outcome", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What was used in one window of an account; `free_at`: when the turn of who took it last is over."""

    account: str
    per_seconds: int
    started_at: datetime
    used: int
    free_at: datetime


class Accounts:
    """The accounts of a pass' destinations, as the warehouse knows them, and what this pass learns."""

    def __init__(self, destinations: Mapping[str, Capabilities]) -> None:
        self._able = {name: able for name, able in destinations.items() if able.outside}
        self._circuits: dict[str, Circuit] = {}
        self._changed: set[str] = set()
        self._budgets: dict[tuple[str, int], Budget] = {}

    def load(self, warehouse: Warehouse, state: StateTables) -> None:
        """Read what others learned and used."""
        if not self._able:
            return
        known = {row["account"]: Breaker(**row) for row in warehouse.rows(state.statement(warehouse, _BREAKERS))}
        for account in {self.account(name) for name in self._able}:
            circuit = self._circuits.setdefault(account, Circuit(account))
            if account not in self._changed:
                circuit.breaker = known.get(account)
        if any(able.limits for able in self._able.values()):
            found = warehouse.rows(state.statement(warehouse, _BUDGETS))
            self._budgets = {(row["account"], row["per_seconds"]): Budget(**row) for row in found}

    def account(self, name: str) -> str:
        """The account of a destination: the one its configuration names, or its own."""
        able = self._able.get(name)
        return (able.account if able is not None else None) or name

    def resting(self, now: datetime) -> dict[str, str]:
        """Destination -> why nothing may be sent to it now."""
        found = {}
        for name in self._able:
            breaker = self._circuits[self.account(name)].resting(now)
            if breaker is not None:
                found[name] = breaker.said
            elif (spent := self._spent(name, now)) is not None:
                found[name] = spent
        return found

    def allowed(self, names: Iterable[str], now: datetime) -> dict[str, int]:
        """Destination -> how many actions may be claimed for it; one without a limit is not in it."""
        found = {}
        for name in names:
            able = self._able.get(name)
            if able is None:
                continue
            requests = [self._left(name, limit, now) for limit in able.limits]
            if self._circuits[self.account(name)].probing:
                requests.append(1)
            if requests:
                found[name] = min(requests) * able.max_batch
        return found

    def take(self, warehouse: Warehouse, state: StateTables, claimed: Mapping[str, int], now: datetime) -> None:
        """Book the requests that a claim will make, inside its transaction."""
        used: dict[tuple[str, int], Budget] = {}
        for name, actions in claimed.items():
            able = self._able.get(name)
            if able is None or not able.limits or not actions:
                continue
            requests = math.ceil(actions / able.max_batch)
            for limit in able.limits:
                key = (self.account(name), _seconds(limit))
                used[key] = self._booked(used.get(key) or self._budget(key, now), limit, requests, now)
        if used:
            self._budgets |= used
            stage(warehouse, "new_budgets", pa.Table.from_pylist([vars(one) for one in used.values()], _BUDGET_ROWS))
            warehouse.execute(state.statement(warehouse, _FORGET_BUDGETS))
            warehouse.execute(state.statement(warehouse, _KEEP_BUDGETS))

    def observe(self, name: str, verdicts: Iterable[Verdict], now: datetime) -> str | None:
        """Learn from one call; why the destination rests from now on, if it does."""
        if name not in self._able:
            return None
        circuit = self._circuits.setdefault(self.account(name), Circuit(self.account(name)))
        before = circuit.breaker
        opened = circuit.observe(list(verdicts), now)
        if circuit.breaker is not before:
            self._changed.add(circuit.account)
        return None if opened is None else opened.said

    def save(self, warehouse: Warehouse, state: StateTables, where: Position) -> None:
        """Write what was learned, and journal it, inside the caller's transaction."""
        if not self._changed:
            return
        rows = []
        for account in sorted(self._changed):
            breaker = self._circuits[account].breaker
            rows.append({"account": account} if breaker is None else vars(breaker))
        journal_destinations(
            warehouse, state, where,
            {row["account"]: f"rests: {Breaker(**row).said}" if "until" in row else "well again" for row in rows},
        )  # fmt: skip
        stage(warehouse, "new_breakers", pa.Table.from_pylist(rows, _BREAKER_ROWS))
        warehouse.execute(state.statement(warehouse, _FORGET_BREAKERS))
        warehouse.execute(state.statement(warehouse, _KEEP_BREAKERS))
        self._changed.clear()

    def _spent(self, name: str, now: datetime) -> str | None:
        for limit in self._able[name].limits:
            if self._left(name, limit, now) <= 0:
                budget = self._budget((self.account(name), _seconds(limit)), now)
                if limit.per <= LONGEST_WAITED:
                    pace = f"{limit.count:,} per {_window(limit)}"
                    return f"its pace of {pace} is taken until {budget.free_at:%H:%M:%S} UTC"
                until = budget.started_at + limit.per
                return f"limit of {limit.count:,} per {_window(limit)} used up, until {until:%Y-%m-%d %H:%M} UTC"
        return None

    def _budget(self, key: tuple[str, int], now: datetime) -> Budget:
        """The budget in the window of now."""
        start = _window_start(key[1], now)
        known = self._budgets.get(key)
        if known is None:
            return Budget(*key, start, 0, now)
        return known if known.started_at >= start else Budget(*key, start, 0, known.free_at)

    def _left(self, name: str, limit: Limit, now: datetime) -> int:
        budget = self._budget((self.account(name), _seconds(limit)), now)
        if limit.per > LONGEST_WAITED:
            return max(0, limit.count - budget.used)
        if budget.free_at > now + _SLACK:
            return 0
        return max(1, int(limit.per_second * TURN.total_seconds()))

    def _booked(self, budget: Budget, limit: Limit, requests: int, now: datetime) -> Budget:
        lasts = timedelta(seconds=requests / limit.per_second) if limit.per <= LONGEST_WAITED else timedelta()
        free_at = max(budget.free_at, now) + lasts
        return Budget(budget.account, budget.per_seconds, budget.started_at, budget.used + requests, free_at)


def journal_destinations(warehouse: Warehouse, state: StateTables, where: Position, said: Mapping[str, str]) -> None:
    """One row of the log per destination or account, inside the caller's transaction."""
    first = last_seq(warehouse, state, where.tick) + 1
    rows = [
        {"tick": where.tick, "seq": first + place, "executed_at": where.now, "kind": "destination", "what": name,
         "outcome": outcome}
        for place, (name, outcome) in enumerate(sorted(said.items()))
    ]  # fmt: skip
    warehouse.load(state.place("journal"), pa.Table.from_pylist(rows, _JOURNAL_ROWS))


def _seconds(limit: Limit) -> int:
    return max(1, int(limit.per.total_seconds()))


def _window_start(seconds: int, now: datetime) -> datetime:
    since = int(now.replace(tzinfo=UTC).timestamp())
    return datetime.fromtimestamp(since - since % seconds, UTC).replace(tzinfo=None)


def _window(limit: Limit) -> str:
    names: Mapping[float, str] = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86400.0: "day"}
    return names.get(limit.per.total_seconds(), f"{limit.per.total_seconds():.0f} s")
