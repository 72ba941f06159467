"""Audiences that are evaluated only for who may have changed have the members and edges of a full evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from compiler.audience import Audience
from compiler.condition import Scope, compile_condition
from compiler.parser import parse_workflow
from compiler.planner import plan
from flows.engine.clock import VirtualClock
from flows.engine.deployment import Deployed, Deployment
from flows.engine.evaluator import Evaluator
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.engine import audience_data
from tests.flows.engine.audience_data import SCHEMA, Conditions, Data

START = datetime(2026, 3, 10, 7, 50)
CONTACTS = 25
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 60))]
WORKFLOW = """
version: 1
workflow: {name}
trigger:
  audience: {condition}
entry: {{reentry: always, backfill: {backfill}, cap: 100 per 1d}}
exit_on_leave: {leave}
steps:
- {{id: mark, {action}: t}}
- {{id: rest, wait: {wait}}}
"""
MEMBERS = "SELECT name, contact_id, member, since, edge FROM penstock.audience_members ORDER BY name, contact_id"
JOURNAL = "SELECT tick, workflow, contact_id, kind, what, outcome FROM penstock.journal ORDER BY tick, seq"


@pytest.fixture(params=["duckdb", "postgres"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Warehouse, Warehouse]]:
    with ExitStack() as stack:
        if request.param == "duckdb":
            yield stack.enter_context(DuckDBWarehouse(None)), stack.enter_context(DuckDBWarehouse(None))
            return
        server = request.getfixturevalue("postgres_server")
        yield (stack.enter_context(PostgresWarehouse(server.database())),
               stack.enter_context(PostgresWarehouse(server.database())))  # fmt: skip


class Both:
    """Two warehouses with the same rows."""

    def __init__(self, pair: tuple[Warehouse, Warehouse], random: Random, kinds: str) -> None:
        self.pair = pair
        self.random = random
        self.data = Data(random, kinds)
        self.people = {number: self.data.person(number) for number in range(CONTACTS)}
        self.written = 0
        for warehouse in pair:
            audience_data.create(warehouse, kinds)
            audience_data.load(warehouse, "people", list(self.people.values()))

    def load(self, table: str, rows: list[dict[str, Any]]) -> None:
        for warehouse in self.pair:
            audience_data.load(warehouse, table, rows)

    def execute(self, statement: str, given: dict[str, Any]) -> None:
        for warehouse in self.pair:
            warehouse.execute(statement, given)

    def change(self, now: datetime) -> None:
        """What happens between two ticks: often little or nothing."""
        for number in self.random.sample(range(CONTACTS), self.random.choice([0, 0, 1, 3])):
            person = self.people.pop(number, None)
            if person is not None:
                self.execute("DELETE FROM shop.people WHERE id = $id", {"id": person["id"]})
            if person is None or self.random.random() < 0.8:
                self.people[number] = self.data.person(number)
                self.load("people", [self.people[number]])
        events = [self.data.event(CONTACTS, now, days=1) for _ in range(self.random.choice([0, 0, 2, 6]))]
        # who loads it does so now; some are dated ahead, and some are there twice
        events = [{**event, "seen_at": now + timedelta(hours=self.random.choice([0, 0, 3]))} for event in events]
        if events and self.random.random() < 0.3:
            events.append(self.data.again(events[0]))
        self.load("happened", events)
        if self.random.random() < 0.2:
            self.written += 1
            event = {**self.data.event(CONTACTS, now, days=1), "seen_at": now}
            for warehouse in self.pair:
                audience_data.own_event(warehouse, self.written, event)
        if self.random.random() < 0.2:
            buyer = str(self.data.contact(self.random.randrange(CONTACTS)))
            self.load("orders", [{"person": buyer, "amount": float(self.random.choice([1, 4]))}])


def deployment(warehouse: Warehouse, texts: list[str], named: list[str]) -> Deployment:
    catalog = audience_data.catalog(warehouse)
    catalog = replace(catalog, audiences={**catalog.audiences, **{f"named{n}": text for n, text in enumerate(named)}})
    deployed = {}
    for number, text in enumerate(texts):
        name = f"w{number}"
        source = WORKFLOW.format(
            name=name, condition=repr(text) if "'" not in text else '"' + text + '"',
            backfill=["false", "true"][number % 2], leave=["true", "false"][number // 2 % 2],
            action=["tag", "untag"][number % 3 == 2], wait=["1h", "1d"][number % 2],
        )  # fmt: skip
        workflow = parse_workflow(source, f"{name}.yaml").workflow
        deployed[name] = Deployed(name, 1, datetime(2026, 1, 1), {1: plan(workflow, catalog, version=1)})
    audiences = tuple(
        Audience(name, compile_condition(text, Scope(catalog)), "Asia/Tokyo")
        for name, text in catalog.audiences.items()
    )
    return Deployment("shop/test", SCHEMA, catalog, "UTC", deployed, audiences=audiences)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_who_may_have_changed_is_as_good_as_everybody(pair: tuple[Warehouse, Warehouse], seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    both = Both(pair, random, list(audience_data.KINDS)[seed % 4])
    both.load("happened", [both.data.event(CONTACTS, START) for _ in range(60)])
    made = Conditions(random)
    texts = [made.text() for _ in range(8)]
    clock = VirtualClock(START)
    deployed = deployment(pair[0], texts, [made.text() for _ in range(3)])
    evaluators = [Evaluator(deployed, clock, incremental=incremental) for incremental in (True, False)]
    for tick in range(8):
        for evaluator, warehouse in zip(evaluators, pair, strict=True):
            report = evaluator.tick(warehouse)
            assert not report.set_aside
        for query in (MEMBERS, JOURNAL):
            first, second = (warehouse.rows(query) for warehouse in pair)
            assert first == second, (tick, clock.now(), texts)
        clock.advance_to(clock.now() + random.choice([timedelta(minutes=10), timedelta(hours=1), timedelta(hours=7)]))
        both.change(clock.now())
