"""Penstock as one engine of a bench harness: `python -m tests.load.peer '<json>'` prints one JSON line.

The argument has `workload`, `phase` (`prepare` or `run`) and `data`, a folder with contacts.parquet and for w1
events.parquet. `run` times the work and prints digests of its results, to compare with other engines. w1: twenty
audiences; with `mode` incremental once more after 1 % of the contacts changed. w2: `prepare` makes the state that an
engine leaves in the middle of a journey of fifty steps, `run` is one tick over it, committed; its digests are of
positions, transitions and actions.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from compiler.catalog import Catalog, ContactModel, DestinationInfo, EventModel, Relation, TemplateInfo
from compiler.graph import flow
from compiler.parser import parse_workflow
from compiler.planner import plan
from compiler.workflow import Workflow
from flows.engine.clock import VirtualClock
from flows.engine.deployment import Deployed, Deployment
from flows.engine.evaluator import Evaluator
from flows.journal.migrations import migrate
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse

SCHEMA = "penstock"
WORKSPACE = "peer/dev"
NOW = datetime(2026, 6, 15, 12)
FILE = Path(__file__).with_name("journey.yaml")
TEMPLATES = ("hello", "reminder", "offer")
STATE_ID = "00000000-0000-0000-0000-000000000002"


def main(arguments: list[str]) -> int:
    """Prepare or run a workload."""
    from tests.load import peer_audiences

    config: dict[str, Any] = json.loads(arguments[0])
    data = Path(config["data"])
    again = data / "penstock-w1-again.duckdb"
    match config.get("workload"), config["phase"], config.get("mode"):
        case "w1", "prepare", "incremental":
            peer_audiences.prepare_again(again, data)
        case "w1", _, "incremental":
            print(json.dumps(peer_audiences.run_again(again)))
        case "w1", "prepare", _:
            peer_audiences.prepare(data / "penstock-w1.duckdb", data)
        case "w1", _, _:
            print(json.dumps(peer_audiences.run(data / "penstock-w1.duckdb")))
        case "w2", "prepare", _:
            prepare(data / "penstock-w2.duckdb", data / "contacts.parquet")
        case "w2", _, _:
            print(json.dumps(run(data / "penstock-w2.duckdb")))
        case other, _, _:
            print(f"no workload {other!r} here; there are w1, w2", file=sys.stderr)
            return 2
    return 0


def prepare(file: Path, contacts: Path) -> None:
    """Make the state before the tick in a new file."""
    for left in (file, file.with_name(file.name + ".wal")):
        left.unlink(missing_ok=True)
    with DuckDBWarehouse(file) as warehouse:
        _fill(warehouse, contacts)


def run(file: Path) -> dict[str, Any]:
    """Tick once. What an engine process does once in its life, compiling, is done before, on an empty warehouse."""
    with DuckDBWarehouse(None) as empty:
        _fill(empty, None)
        evaluator = Evaluator(deployment(empty), VirtualClock(NOW))
        evaluator.tick(empty)
    with DuckDBWarehouse(file) as warehouse:
        started = time.perf_counter()
        report = evaluator.tick(warehouse)
        seconds = time.perf_counter() - started
        if report.set_aside:
            raise RuntimeError(f"the workflow failed: {report.set_aside}")
        return {"seconds": {"tick": seconds}, **digest(warehouse)}


def digest(warehouse: Warehouse) -> dict[str, Any]:
    """Counts and order-free sums over positions, transitions and actions."""
    warehouse.execute("CREATE TEMP TABLE steps (position VARCHAR, step BIGINT)")
    for node in flow(workflow()).nodes:
        warehouse.execute("INSERT INTO steps VALUES ($id, $n)", {"id": node.id, "n": node.index})
    for statement in (_ENROLLMENTS, _ACTIONS, _HISTORY):
        warehouse.execute(statement, {"now": NOW})
    numbers = [int(next(iter(warehouse.rows(query, {"now": NOW})[0].values()))) for query in _DIGEST]
    actions = [list(row.values()) for row in warehouse.rows(_ACTION_DIGEST)]
    return {"advanced": numbers[0], "transitions": numbers[1], "state": [*numbers, actions]}


def workflow() -> Workflow:
    """The fifty steps."""
    return parse_workflow(FILE.read_text(encoding="utf-8"), FILE.name).workflow


def deployment(warehouse: Warehouse) -> Deployment:
    """The workflow, compiled against the tables of the file."""
    contacts = Relation("contacts", ("main", "contacts"), warehouse.columns(("main", "contacts")))
    events = Relation("events", ("main", "events"), warehouse.columns(("main", "events")))
    destinations: Mapping[str, DestinationInfo] = {
        "mail": DestinationInfo("mail", frozenset({"email"})),
        "chat": DestinationInfo("chat", frozenset({"notify"}), default=True),
    }
    catalog = Catalog(
        ContactModel(contacts, id="contact_id", email="email"),
        EventModel(events, "event_id", "contact_id", "name", "event_time", "loaded_at"),
        destinations=destinations, templates={name: TemplateInfo(name, name) for name in TEMPLATES},
        workflows=frozenset({"journey"}), state_schema=SCHEMA,
    )  # fmt: skip
    deployed = Deployed("journey", 1, datetime(2025, 1, 1), {1: plan(workflow(), catalog, version=1)})
    hashes = {name: hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in TEMPLATES}
    return Deployment(WORKSPACE, SCHEMA, catalog, "UTC", {"journey": deployed}, hashes)


def _fill(warehouse: Warehouse, contacts: Path | None) -> None:
    """The tables and the state; without contacts the same, empty."""
    migrate(warehouse, SCHEMA, NOW, WORKSPACE, state_id=STATE_ID)
    warehouse.execute("CREATE MACRO u(i, salt) AS (hash(i, salt) % 1000003) / 1000003.0")
    if contacts is None:
        warehouse.execute(_NOBODY)
    else:
        warehouse.execute(_CONTACTS, {"file": str(contacts)})
    watermarks = json.dumps({"model": "2026-06-15T11:50:00", "own": 0, "started": ["journey"], "zones": None})
    for statement in (_START, _EVENTS, _STANDING, _TICK):
        warehouse.execute(statement, {"now": NOW, "watermarks": watermarks})
    warehouse.execute("DROP MACRO u")


_NOBODY = """
    CREATE TABLE main.contacts (
        contact_id BIGINT, email VARCHAR, plan VARCHAR, country VARCHAR, score INTEGER, mrr DOUBLE
    )
"""
_CONTACTS = """
    CREATE TABLE main.contacts AS SELECT contact_id, email, plan, country, score, mrr FROM read_parquet($file)
"""
# Everybody waits somewhere: in the first or second wait of a block, or for one of its two events; 30 % are due.
_START = """
    CREATE TABLE main.start AS
    SELECT contact_id, step, wait_s, due, due - wait_s AS entered FROM (
        SELECT *, epoch($now::TIMESTAMP)::BIGINT + floor((u(contact_id, 21) - 0.3) * wait_s)::BIGINT AS due FROM (
            SELECT contact_id, block * 10 + [1, 3, 5, 9][1 + place] AS step,
                [172800, 86400, 86400, 259200][1 + place] AS wait_s
            FROM (
                SELECT contact_id, floor(u(contact_id, 22) * 5)::INT AS block,
                    floor(u(contact_id, 23) * 4)::INT AS place
                FROM main.contacts
            )
        )
    )
"""
# An event at the very second of the entry into the step is before it, so all stand a microsecond earlier.
_EVENTS = """
    CREATE TABLE main.events AS
    SELECT 'e' || contact_id AS event_id, contact_id,
        ['email_opened', 'link_clicked'][1 + floor(u(contact_id, 24) * 2)::INT] AS name,
        $now::TIMESTAMP - to_seconds(floor(u(contact_id, 25) * 300)::BIGINT) - to_microseconds(1) AS event_time,
        $now::TIMESTAMP AS loaded_at
    FROM main.contacts WHERE u(contact_id, 26) < 0.1
"""
_STANDING = """
    INSERT INTO penstock.enrollments
    SELECT md5('journey:' || contact_id)::UUID, 'journey', 1, contact_id::VARCHAR, NULL, 'j' || contact_id, '{}',
        make_timestamp(entered * 1000000), 's' || step, make_timestamp(entered * 1000000),
        make_timestamp(due * 1000000), NULL, NULL, NULL, 1, 1, NULL, NULL
    FROM main.start
"""
_TICK = """
    INSERT INTO penstock.ticks
    SELECT 1, $now::TIMESTAMP - INTERVAL 10 MINUTE, 0, $watermarks, '{}', NULL, $now, $now
"""
_ENROLLMENTS = """
    CREATE TEMP TABLE now_standing AS
    SELECT n.contact_id::BIGINT AS id, CASE WHEN n.exit IS NULL THEN s.step ELSE 50 END AS step,
        CASE WHEN n.moved_tick > 1 THEN epoch($now::TIMESTAMP)::BIGINT ELSE epoch(n.logical_at)::BIGINT END AS entered,
        CASE WHEN n.exit IS NULL THEN epoch(n.due_at)::BIGINT ELSE epoch($now::TIMESTAMP)::BIGINT END AS due,
        n.exit IS NOT NULL AS ended, n.moved_tick > 1 AS moved
    FROM penstock.enrollments AS n JOIN steps AS s USING (position)
"""
_ACTIONS = """
    CREATE TEMP TABLE acted AS
    SELECT j.contact_id::BIGINT AS id, s.step, split_part(j.what, ':', 1) AS kind
    FROM penstock.journal AS j JOIN steps AS s ON s.position = j.step WHERE j.kind IN ('action', 'intent')
"""
# Numbers grow along every path; the branch before an arm's action writes no row, so it is put back.
_HISTORY = """
    CREATE TEMP TABLE history AS
    SELECT id, step AS from_step, lead(step) OVER (PARTITION BY id ORDER BY step) AS to_step FROM (
        SELECT s.contact_id AS id, s.step FROM main.start AS s JOIN now_standing AS n ON n.id = s.contact_id AND n.moved
        UNION ALL SELECT id, step FROM acted
        UNION ALL SELECT id, step // 10 * 10 + 6 FROM acted WHERE step % 10 IN (7, 8)
        UNION ALL SELECT id, step FROM now_standing WHERE moved
    )
    QUALIFY to_step IS NOT NULL
"""
_DIGEST = (
    "SELECT count(*) FROM now_standing WHERE entered = epoch($now::TIMESTAMP)::BIGINT",
    "SELECT count(*) FROM history",
    "SELECT count(*) FROM now_standing WHERE ended",
    "SELECT sum((id % 1009) * step) FROM now_standing",
    "SELECT sum(due % 100003) FROM now_standing",
    "SELECT sum((id % 1009) * (from_step * 50 + to_step)) FROM history",
)
_ACTION_DIGEST = "SELECT kind, count(*), sum((id % 1009) * step)::BIGINT FROM acted GROUP BY kind ORDER BY kind"

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
