"""What the cost of a tick and of planning depends on: change, not size; and how far behind a stream of events it gets.

Data are made in memory. A tick is measured from its start to its commit, in wall and in CPU seconds of this process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median, quantiles
from typing import TypeVar

from compiler.catalog import Catalog, ContactModel, DestinationInfo, EventModel, Relation, TemplateInfo
from compiler.parser import parse_workflow
from compiler.planner import plan
from flows.engine.clock import VirtualClock
from flows.engine.deployment import Deployed, Deployment
from flows.engine.evaluator import Evaluator
from flows.journal.migrations import migrate
from flows.warehouse.duckdb import DuckDBWarehouse

START = datetime(2026, 6, 15, 12)
SCHEMA = "penstock"
NURTURE = """
version: 1
workflow: nurture
trigger: {event: signed_up}
goals: [{name: bought, when: "did('bought', since => 'entry')"}]
steps:
- {id: pause, wait: 1h}
- id: keen
  if: did('seen', within => '30d', at_least => 2) and contact.plan = 'pro'
  then: [{id: mark, tag: keen}]
  else: [{id: mail, email: hello}]
- {id: rest, wait: 7d}
- {id: bye, tag: done}
"""
AUDIENCES = (
    "plan = 'pro' and did('seen', within => '30d')", "event_count('seen', within => '7d') >= {n}",
    "days_since('seen') >= {n}", "not did('bought') and has_tag('t{n}')",
)  # fmt: skip
Result = TypeVar("Result")
EVENTS = ("seen", "bought", "asked", "shared", "left")


@dataclass(frozen=True)
class Size:
    """How much there is: contacts who are due in each tick, idle enrollments, new events, old events."""

    due: int
    idle: int
    recent: int
    old: int

    def told(self) -> str:
        """The numbers in words."""
        return (f"{self.due:,} due, {self.idle:,} idle enrollments, {self.recent:,} events of 30 days, "
                f"{self.old:,} older ones")  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """Seconds of one tick."""

    wall: float
    cpu: float


def measured(call: Callable[[], Result]) -> tuple[Spent, Result]:
    """What a call takes, and what it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), found


def catalog(warehouse: DuckDBWarehouse) -> Catalog:
    """The catalog of the tables."""
    contacts, events = (
        Relation(name, ("main", name), warehouse.columns(("main", name))) for name in ("contacts", "events")
    )
    return Catalog(
        ContactModel(contacts, id="contact_id", email="email", timezone="zone"),
        EventModel(events, "event_id", "contact_id", "name", "event_time", "loaded_at"),
        destinations={"mail": DestinationInfo("mail", frozenset({"email"}), default=True)},
        templates={"hello": TemplateInfo("hello", "hello")}, state_schema=SCHEMA, open_names=True,
    )  # fmt: skip


def deployment(warehouse: DuckDBWarehouse, sources: Mapping[str, str]) -> Deployment:
    """Workflows, compiled; each was activated long ago."""
    known, deployed = catalog(warehouse), {}
    for name, source in sources.items():
        workflow = parse_workflow(source, f"{name}.yaml").workflow
        deployed[name] = Deployed(name, 1, datetime(2025, 1, 1), {1: plan(workflow, known, version=1)})
    return Deployment("bench/dev", SCHEMA, known, "UTC", deployed, {"hello": "h"})


class Bench:
    """A warehouse in memory with an engine that has looked at it once, a minute before `START`."""

    def __init__(self, contacts: int, sources: Mapping[str, str], fill: Sequence[str] = (), **given: object) -> None:
        """`fill`: statements that make the data, with their parameters."""
        self.warehouse = DuckDBWarehouse(None)
        migrate(self.warehouse, SCHEMA, START, "bench/dev")
        for statement in _TABLES:
            self.warehouse.execute(statement, {"contacts": contacts})
        for statement in fill:
            self.warehouse.execute(statement, {"start": START, **given})
        self.clock = VirtualClock(START - timedelta(minutes=1))
        self.evaluator = Evaluator(deployment(self.warehouse, sources), self.clock)
        self.evaluator.tick(self.warehouse)

    def tick(self, at: datetime) -> tuple[Spent, dict[str, int]]:
        """One tick, and what it counted."""
        self.clock.advance_to(at)
        spent, report = measured(lambda: self.evaluator.tick(self.warehouse))
        if report.set_aside:
            raise RuntimeError(f"workflows failed: {report.set_aside}")
        return spent, report.counts


# ---------------------------------------------------------------- cost follows change


def ticks_of(sizes: Sequence[Size], runs: int) -> list[list[Spent]]:
    """For each size the seconds of `runs` ticks, interleaved; in each tick as many are due as in every other."""
    benches = []
    for size in sizes:
        contacts, waiting = max(100_000, size.idle + size.due * (runs + 1)), size.due * (runs + 1)
        bench = Bench(contacts, {"nurture": NURTURE}, (_WAITING, IDLE, RECENT, _OLD), waiting=waiting, **vars(size))
        benches.append(bench)
    spent: list[list[Spent]] = [[] for _ in sizes]
    for run in range(runs + 1):
        for place, (bench, size) in enumerate(zip(benches, sizes, strict=True)):
            found, counts = bench.tick(START + timedelta(minutes=run))
            if counts.get("due") != size.due:
                raise RuntimeError(f"{counts.get('due')} were due, not {size.due}")
            if run:  # the first one takes the events in and compiles
                spent[place].append(found)
    for bench in benches:
        bench.warehouse.close()
    return spent


def idle_ticks(workflows: int, contacts: int, events: int, runs: int) -> list[Spent]:
    """Ticks of many workflows in which nothing is due and nothing arrives; two of five have an audience."""
    sources = {}
    for number in range(workflows):
        trigger = {"event": EVENTS[number % 5]}
        if number % 5 < 2:
            trigger = {"audience": AUDIENCES[number % 4].format(n=number // 10 + 1)}
        sources[f"w{number}"] = json.dumps({
            "version": 1, "workflow": f"w{number}", "trigger": trigger,
            "steps": [{"id": "rest", "wait": "1d"}, {"id": "mail", "email": "hello"}],
        })  # fmt: skip
    bench = Bench(contacts, sources, (RECENT,), recent=events)
    bench.tick(START + timedelta(minutes=1))
    spent = [bench.tick(START + timedelta(minutes=2, seconds=run))[0] for run in range(runs)]
    bench.warehouse.close()
    return spent


def planning(steps: int, runs: int) -> list[float]:
    """Seconds that planning a workflow of so many steps takes, read and checked before."""
    block = """
- {{id: pause_{n}, wait: 1d}}
- {{id: mail_{n}, email: hello, if: "did('seen', within => '30d')"}}
- id: seen_{n}
  wait_for: did('seen')
  within: 2d
  then: [{{id: tag_{n}, tag: seen_{n}}}]
  else: []
- id: check_{n}
  if: event_count('seen', since => 'entry') >= {n} and contact.plan = 'pro'
  then: []
  else: [{{id: mark_{n}, tag: quiet_{n}}}]
- {{id: set_{n}, tag: step_{n}}}
"""
    blocks = "".join(block.format(n=n) for n in range(steps // 7))
    workflow = parse_workflow(NURTURE.split("- {id: pause")[0] + blocks.lstrip("\n"), "nurture.yaml").workflow
    bench = Bench(1, {"nurture": NURTURE})
    known, spent = catalog(bench.warehouse), []
    for _ in range(runs):
        started = time.perf_counter()
        plan(workflow, known, version=1)
        spent.append(time.perf_counter() - started)
    bench.warehouse.close()
    return spent


# ---------------------------------------------------------------- a stream of events


@dataclass(frozen=True)
class Lag:
    """How far behind the ticks are: seconds from the loading of the newest event decided on to the commit.

    `rates` are events per second of tick.
    """

    lags: tuple[float, ...]
    rates: tuple[float, ...]

    def told(self, per_second: int, seconds: float) -> str:
        """The line that is printed."""
        later = self.lags[max(1, len(self.lags) // 10) :]
        high = quantiles(later, n=20)[-1] if len(later) > 1 else later[0]
        return (f"{per_second:,} events/s for {seconds:.0f} s, five workflows listen, a tick every 10 s: lag "
                f"{self.lags[-1]:.1f} s now, {high:.1f} s p95, {max(later):.1f} s peak after the beginning; the "
                f"engine takes in {median(self.rates):,.0f} events per second of its own time")  # fmt: skip


def stream(per_second: int, minutes: float, contacts: int = 20_000, every: float = 10.0) -> Lag:
    """Ticks every `every` seconds, or as soon as the one before is done, while events are loaded all the time.

    The clock is virtual: it stands still between ticks and goes on by what a tick really takes.
    """
    sources = {
        f"on_{name}": json.dumps({
            "version": 1, "workflow": f"on_{name}", "trigger": {"event": name}, "entry": {"reentry": "after_exit"},
            "goals": [{"name": "g", "when": f"did('{EVENTS[number - 1]}')"}],
            "steps": [{"id": "wait", "wait_for": f"did('{EVENTS[number - 2]}')", "within": "1h",
                       "then": [{"id": "mark", "tag": name}], "else": []},
                      {"id": "mail", "email": "hello"}],
        })
        for number, name in enumerate(EVENTS)
    }  # fmt: skip
    bench = Bench(contacts, sources)
    now, loaded, lags, rates = 0.0, 0, [], []
    while now < minutes * 60:
        until = int((now + every) * per_second)
        bench.warehouse.execute(_STREAM, {"start": START, "loaded": loaded, "until": until, "per_second": per_second,
                                          "contacts": contacts})  # fmt: skip
        now += every
        spent, _ = bench.tick(START + timedelta(seconds=now))
        lags.append(now + spent.wall - until / per_second)
        rates.append((until - loaded) / spent.wall)
        loaded = until
        now += max(0.0, spent.wall - every)
    bench.warehouse.close()
    return Lag(tuple(lags), tuple(rates))


_TABLES = (
    """
    CREATE TABLE main.contacts AS
    SELECT i AS contact_id, 'p' || i || '@example.test' AS email, ['free', 'pro', 'basic'][1 + i % 3] AS plan,
        ['Europe/Berlin', 'Asia/Tokyo', 'America/New_York'][1 + i % 3] AS zone
    FROM range($contacts) AS r(i)
    """,
    """
    CREATE TABLE main.events (event_id BIGINT, contact_id BIGINT, name TEXT, event_time TIMESTAMP, loaded_at TIMESTAMP)
    """,
)
# Of those who wait, as many are due in each minute.
_WAITING = """
    INSERT INTO penstock.enrollments
    SELECT md5('n:' || i)::UUID, 'nurture', 1, i::TEXT, NULL, 'e' || i, '{}', $start - INTERVAL 1 HOUR, 'pause',
        $start - INTERVAL 1 HOUR, $start + to_seconds((i // $due) * 60), NULL, NULL, NULL, 1, 1, NULL, NULL
    FROM range($waiting) AS r(i)
"""
IDLE = """
    INSERT INTO penstock.enrollments
    SELECT md5('i:' || i)::UUID, 'nurture', 1, ($waiting + i)::TEXT, NULL, 'i' || i, '{}', $start - INTERVAL 1 DAY,
        'rest', $start - INTERVAL 1 DAY, $start + INTERVAL 6 DAY, NULL, NULL, NULL, 1, 1, NULL, NULL
    FROM range($idle) AS r(i)
"""
RECENT = """
    INSERT INTO main.events
    SELECT i, hash(i) % 100000, ['seen', 'seen', 'asked'][1 + i % 3], t, t FROM (
        SELECT i, $start - INTERVAL 10 MINUTE - to_seconds((i * 2592000 // $recent)::BIGINT) AS t
        FROM range($recent) AS r(i)
    )
"""
_OLD = """
    INSERT INTO main.events
    SELECT $recent + i, hash(i) % 100000, 'seen', t, t FROM (
        SELECT i, $start - INTERVAL 60 DAY - to_seconds(i) AS t FROM range($old) AS r(i)
    )
"""
_STREAM = """
    INSERT INTO main.events
    SELECT i, hash(i) % $contacts, ['seen', 'bought', 'asked', 'shared', 'left'][1 + (hash(i, 1) % 5)::INT], t, t FROM (
        SELECT i, $start::TIMESTAMP + to_microseconds((i * 1000000 // $per_second)::BIGINT) AS t
        FROM range($loaded::BIGINT, $until::BIGINT) AS r(i)
    )
"""
