"""Audiences that are evaluated together have the members that each has on its own, on every warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from compiler.audience import Audience, Group, grouped, members
from compiler.catalog import MergeModel
from compiler.condition import Scope, compile_condition
from compiler.event_scan import REPEATED
from flows.engine.audiences import masks
from flows.engine.clock import VirtualClock
from flows.engine.deployment import Deployment
from flows.engine.evaluator import Evaluator
from flows.engine.simulation import read_cases
from flows.engine.simulator import Simulation
from flows.engine.work import Texts, Work
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.engine import audience_data
from tests.flows.engine.audience_data import NOW, SCHEMA, Conditions, Data

CONTACTS = 40
SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 60))]
TWO_WORKFLOWS = """
contacts: [{id: ann, big: 900000000000000000}]
workflows:
- version: 1
  workflow: broken
  trigger: {audience: contact.big * contact.big > 1}
  entry: {backfill: true}
  steps: [{id: mark, tag: huge}]
- version: 1
  workflow: sound
  trigger: {audience: contact.big > 1}
  entry: {backfill: true}
  steps: [{id: mark, tag: big}]
ticks: [2026-01-01T09:00Z]
"""


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    if request.param == "duckdb":
        with DuckDBWarehouse(None) as memory:
            yield memory
        return
    with PostgresWarehouse(request.getfixturevalue("postgres_server").database()) as server:
        yield server


def fill(warehouse: Warehouse, random: Random, kinds: str, *, own: bool, twice: bool) -> None:
    audience_data.create(warehouse, kinds)
    data = Data(random, kinds)
    events = [data.event(CONTACTS) for _ in range(150)]
    if twice:
        events += [data.again(event) for event in random.sample(events, 20)]
    audience_data.load(warehouse, "people", [data.person(number) for number in range(CONTACTS)])
    audience_data.load(warehouse, "happened", events)
    orders = [{"person": str(data.contact(number)), "amount": 2.0} for number in range(0, CONTACTS, 3)]
    audience_data.load(warehouse, "orders", orders)
    if own:  # some of them stand in the model too
        written = [data.again(event) for event in random.sample(events, 10)] + [data.event(CONTACTS) for _ in range(30)]
        for number, event in enumerate(written, start=1):
            audience_data.own_event(warehouse, number, event)
    for number in (5, 9):  # merged away; only catalogs that map merges look there
        warehouse.execute(
            "INSERT INTO penstock.contact_merges (from_id, into_id, merged_at) VALUES ($source, $into, $at)",
            {"source": str(data.contact(number)), "into": str(data.contact(number + 1)), "at": NOW},
        )
    warehouse.execute("INSERT INTO penstock.contact_tags (contact_id, tag) VALUES ($contact, 't')",
                      {"contact": str(data.contact(3))})  # fmt: skip


def holders(warehouse: Warehouse, work: Work, group: Group) -> list[list[Any]]:
    masks(work, group, [each.name for each in group.audiences])
    rows = warehouse.rows("SELECT contact_id, mask FROM tick_masks")
    assert len(rows) == CONTACTS - (2 if group.catalog.contact.merges else 0)
    return [
        sorted(row["contact_id"] for row in rows if row["mask"] & 1 << place) for place in range(len(group.audiences))
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_together_they_have_the_members_of_each(warehouse: Warehouse, seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    kinds = list(audience_data.KINDS)[seed % 4]
    fill(warehouse, random, kinds, own=seed % 3 > 0, twice=seed % 2 > 0)
    catalog = audience_data.catalog(warehouse)
    if seed % 2:
        catalog = replace(catalog, events=replace(catalog.events, properties={"bought": {"amount": "number"}}))
    if seed % 4 > 1:
        merges = MergeModel(catalog.relations["orders"], "person", "person", "person")
        catalog = replace(catalog, contact=replace(catalog.contact, merges=merges))
    made = Conditions(random)
    texts = [made.text() for _ in range(15)]
    audiences = [
        Audience(f"a{number}", compile_condition(text, Scope(catalog)), random.choice(["UTC", "Asia/Tokyo"]))
        for number, text in enumerate(texts)
    ]
    work = Work(warehouse, Deployment("shop/test", SCHEMA, catalog, "UTC", {}), Texts(), 1, NOW, "key")
    groups = grouped(audiences, catalog)
    assert len(groups) < len(audiences)
    for group in groups:
        for audience, found in zip(group.audiences, holders(warehouse, work, group), strict=True):
            alone = warehouse.rows(members(audience.condition, catalog, audience.zone), work.parameters)
            assert found == sorted(row["contact_id"] for row in alone), audience.condition.text


def test_an_event_counts_once_however_often_it_stands_there(warehouse: Warehouse) -> None:
    audience_data.create(warehouse, "whole")
    catalog = audience_data.catalog(warehouse)
    bought = {"event_id": 7, "person": 1, "name": "bought", "at_time": NOW, "seen_at": NOW, "page": None, "data": "{}"}
    other = {**bought, "event_id": 8, "person": 2}
    person = {"plan": None, "score": None, "spent": None, "vip": None, "zone": None}
    audience_data.load(warehouse, "people", [{"id": 1, **person}, {"id": 2, **person}])
    audience_data.load(warehouse, "happened", [bought, bought, other])
    audience_data.own_event(warehouse, 1, other)
    audience_data.own_event(warehouse, 2, {**bought, "event_id": "not a number", "person": 2})
    texts = ["event_count('bought') = 1", "event_count('bought') = 2", "did('bought')"]
    group = Group(tuple(Audience(t, compile_condition(t, Scope(catalog)), "UTC") for t in texts), catalog)
    work = Work(warehouse, Deployment("shop/test", SCHEMA, catalog, "UTC", {}), Texts(), 1, NOW, "key")
    masks(work, group, texts)
    assert sorted(row["event_id"] for row in warehouse.rows(f"SELECT event_id FROM {REPEATED}")) == ["7", "8"]
    found = {row["contact_id"]: row["mask"] for row in warehouse.rows("SELECT contact_id, mask FROM tick_masks")}
    assert found == {"1": 0b101, "2": 0b110}


@pytest.mark.parametrize("order", ["ascending", "in two runs", "descending"])
def test_ids_that_ascend_are_not_counted_and_still_none_counts_twice(warehouse: Warehouse, order: str) -> None:
    audience_data.create(warehouse, "whole")
    catalog, many, person = audience_data.catalog(warehouse), 30_000, {"plan": None, "score": None, "spent": None}
    audience_data.load(warehouse, "people", [{"id": n, **person, "vip": None, "zone": None} for n in range(10)])
    texts = ["event_count('seen') = 3000", "event_count('seen', within => '1h') = 360", "did('seen')"]
    group = Group(tuple(Audience(t, compile_condition(t, Scope(catalog)), "UTC") for t in texts), catalog)
    work = Work(warehouse, Deployment("shop/test", SCHEMA, catalog, "UTC", {}), Texts(), 1, NOW, "key")
    runs = {"ascending": [(0, many, 1)], "in two runs": [(many // 2, many, 1), (0, many // 2, 1)],
            "descending": [(many - 1, -1, -1)]}[order]  # fmt: skip
    for first, last, step in runs:
        warehouse.execute(_MANY, {"first": first, "last": last - step, "step": step, "now": NOW})
    masks(work, group, texts)
    assert warehouse.rows("SELECT DISTINCT mask FROM tick_masks") == [{"mask": 0b111}]
    # beside itself, in the next block, far back; the last is too old for one condition
    again = [many - 1, many - 4096, many // 3, 17]
    for number in again:
        warehouse.execute(_MANY, {"first": number, "last": number, "step": 1, "now": NOW})
    masks(work, group, texts)
    assert sorted(int(row["event_id"]) for row in warehouse.rows(f"SELECT event_id FROM {REPEATED}")) == sorted(again)
    assert warehouse.rows("SELECT DISTINCT mask FROM tick_masks") == [{"mask": 0b111}]


_MANY = """
    INSERT INTO shop.happened (event_id, person, name, at_time, seen_at)
    SELECT i, i % 10, 'seen', $now - (30000 - i) * INTERVAL '1 second', $now - (30000 - i) * INTERVAL '1 second'
    FROM generate_series($first::BIGINT, $last::BIGINT, $step::BIGINT) AS r(i) ORDER BY i * $step
"""


def test_a_named_audience_that_fails_keeps_its_members_and_the_others_get_theirs() -> None:
    with DuckDBWarehouse(None) as memory:
        audience_data.create(memory, "whole")
        person = {"plan": None, "spent": None, "vip": None, "zone": None}
        audience_data.load(memory, "people", [{"id": 1, **person, "score": 1}])
        texts = {"huge": "score * 9000000000000000000 > 1", "second": "score = 2"}
        catalog = replace(audience_data.catalog(memory), audiences=texts)
        audiences = tuple(Audience(name, compile_condition(t, Scope(catalog)), "UTC") for name, t in texts.items())
        clock = VirtualClock(NOW)
        evaluator = Evaluator(Deployment("shop/test", SCHEMA, catalog, "UTC", {}, audiences=audiences), clock)

        def tick(minutes: int) -> tuple[dict[str, str], list[tuple[str, str]]]:
            clock.advance_to(NOW + timedelta(minutes=minutes))
            report = evaluator.tick(memory)
            kept = memory.rows("SELECT name, contact_id FROM penstock.audience_members WHERE member ORDER BY 1, 2")
            return report.set_aside, [(row["name"], row["contact_id"]) for row in kept]

        assert tick(0) == ({}, [("huge", "1")])
        audience_data.load(memory, "people", [{"id": 2, **person, "score": 2}])
        for minutes in (1, 2, 3):
            aside, kept = tick(minutes)
            assert set(aside) == {"huge"} and "Overflow" in aside["huge"]
            assert kept == [("huge", "1"), ("second", "2")]
        assert tick(4) == ({"huge": "quarantined"}, [("huge", "1"), ("second", "2")])
        memory.execute("UPDATE shop.people SET score = 0 WHERE id = 1")
        memory.execute("DELETE FROM shop.people WHERE id = 2")
        memory.execute("INSERT INTO penstock.controls SELECT uuid(), 'workflow:huge', 'resume', 'a', 'b', $now",
                       {"now": NOW + timedelta(minutes=5)})  # fmt: skip
        assert tick(6) == ({}, [])


def test_one_that_fails_does_not_keep_the_others_from_their_members() -> None:
    with Simulation(read_cases(Path("case.yaml"), TWO_WORKFLOWS)[0]) as run:
        report = run.step(datetime(2026, 1, 1, 9))
        assert set(report.set_aside) == {"broken"}
        assert "Overflow" in report.set_aside["broken"]
        assert [row.split(" | ")[2:] for row in run.log()] == [
            ["sound/ann", "-", "enter"], ["sound/ann", "mark", "tag:big ok"], ["sound/ann", "-", "exit completed"],
        ]  # fmt: skip
