"""What `make bench` prints of backtests: the 50-step workflow over 90 days of hourly ticks.

    python -m tests.load.backtest [--contacts N] [--days N] [--profile]

Everybody joins some time in the first 60 days; nine other events a contact are spread over 90 days. The warehouse is a
DuckDB in memory, copied from as from any other.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from compiler.catalog import Catalog, ContactModel, DestinationInfo, EventModel, Relation, TemplateInfo
from compiler.parser import parse_workflow
from compiler.planner import plan
from flows.engine.backtest import Ran, run_backtest, ticks_of
from flows.engine.backtest_report import Summary, summarise
from flows.engine.deployment import Deployed, Deployment
from flows.engine.history import Span, copy_history
from flows.warehouse.duckdb import DuckDBWarehouse

WORKFLOW = "journey"
START = datetime(2026, 1, 1)
CONTACTS = 100_000
DAYS = 90
FILE = Path(__file__).with_name(f"{WORKFLOW}.yaml")
SECONDS = 120.0


@dataclass(frozen=True)
class Measured:
    """Seconds of the copy and of the ticks, and what came of it."""

    contacts: int
    days: int
    events: int
    copying: float
    ticking: float
    ran: Ran
    summary: Summary


def measure(contacts: int, days: int = DAYS) -> Measured:
    """One backtest of the first so many days."""
    definition = parse_workflow(FILE.read_text(encoding="utf-8"), FILE.name).workflow
    until = START + timedelta(days=days)
    with DuckDBWarehouse(None) as live:
        for statement in (_SCHEMA, _CONTACTS, _EVENTS):
            live.execute(statement, {"n": contacts, "start": START})
        catalog = _catalog(live)
        compiled = plan(definition, catalog, version=1)
        deployed = {WORKFLOW: Deployed(WORKFLOW, 1, START, {1: compiled})}
        templates = {name: name for name in catalog.templates}
        deployment = Deployment("bench/dev", "penstock", catalog, "UTC", deployed, templates)
        began = time.perf_counter()
        history = copy_history(live, catalog, [compiled], (), Span(WORKFLOW, "bench/dev", until))
        copied = time.perf_counter()
        with history:
            ran = run_backtest(history, deployment, ticks_of(START, until, timedelta(hours=1)))
            done = time.perf_counter()
            summary = summarise(history.warehouse, "penstock", definition, ran)
            return Measured(contacts, days, history.staged("events"), copied - began, done - copied, ran, summary)


def told(found: Measured) -> str:
    """The lines for people; only the whole size has a target."""
    summary, each = found.summary, found.ticking / found.ran.evaluated * 1000
    total = found.copying + found.ticking
    verdict = "met" if total <= SECONDS else "missed"
    target = f"; target <= {SECONDS:.0f} s: {verdict}" if (found.contacts, found.days) == (CONTACTS, DAYS) else ""
    size = f"{found.contacts:,} contacts, {found.events:,} events, {len(summary.steps)} steps, {found.days} days"
    ticks = f"{found.ran.evaluated:,} of {found.ran.ticks:,} hourly ticks evaluated, {each:.0f} ms each"
    return (
        f"backtest, {size}: {total:.1f} s{target}\n"
        f"  copy {found.copying:.1f} s; {ticks}; {summary.entered:,} entered, {summary.sent:,} sent"
    )


def _catalog(live: DuckDBWarehouse) -> Catalog:
    contacts = Relation("contacts", ("shop", "contacts"), live.columns(("shop", "contacts")))
    events = Relation("events", ("shop", "events"), live.columns(("shop", "events")))
    templates = {name: TemplateInfo(name, name) for name in ("hello", "reminder", "offer")}
    return Catalog(
        ContactModel(contacts, id="contact_id", email="email"),
        EventModel(events, "event_id", "contact_id", "name", "event_time", "loaded_at", "data"),
        destinations={"mail": DestinationInfo("mail", frozenset({"email"})),
                      "chat": DestinationInfo("chat", frozenset({"notify"}), default=True)},
        templates=templates, workflows=frozenset({WORKFLOW}), state_schema="penstock",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure once and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.backtest")
    parser.add_argument("--contacts", type=int, default=CONTACTS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--profile", action="store_true", help="print where the time went")
    chosen = parser.parse_args(arguments)
    if not chosen.profile:
        print(told(measure(chosen.contacts, chosen.days)))
        return 0
    with cProfile.Profile() as profile:
        print(told(measure(chosen.contacts, chosen.days)))
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    return 0


_SCHEMA = "CREATE SCHEMA shop"
_CONTACTS = """
    CREATE TABLE shop.contacts AS
    SELECT 'c' || i AS contact_id, 'p' || i || '@example.test' AS email,
        ['free', 'pro', 'enterprise'][1 + (hash(i, 1) % 3)::INT] AS plan, (hash(i, 2) % 100)::INT AS score,
        ['US', 'DE', 'FR'][1 + (hash(i, 3) % 3)::INT] AS country, (hash(i, 4) % 100)::INT AS mrr
    FROM range($n::BIGINT) AS r(i)
"""
_EVENTS = """
    CREATE TABLE shop.events AS
    SELECT 'j' || i AS event_id, 'c' || i AS contact_id, 'joined' AS name,
        $start::TIMESTAMP + to_seconds((hash(i, 5) % (60 * 86400))::BIGINT) AS event_time,
        event_time + to_seconds(5) AS loaded_at, '{}'::JSON AS data
    FROM range($n::BIGINT) AS r(i)
    UNION ALL
    SELECT 'e' || i, 'c' || (hash(i, 6) % $n::BIGINT),
        CASE WHEN hash(i, 7) % 3 = 0 THEN 'link_clicked' ELSE 'email_opened' END,
        $start::TIMESTAMP + to_seconds((hash(i, 8) % (90 * 86400))::BIGINT) AS event_time,
        event_time + to_seconds(5), '{}'::JSON
    FROM range(9 * $n::BIGINT) AS r(i)
"""

if __name__ == "__main__":
    sys.exit(main())
