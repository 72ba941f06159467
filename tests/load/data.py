"""Deterministic data for the tick: contacts, events and the state an engine leaves that has run for half a year.

Randomness is DuckDB's hash of (row, salt), so the data depend on the sizes and on DuckDB's version only. The file is
kept in the work folder under a name that says both, and copied for every measured run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from compiler.catalog import Catalog, ContactModel, DestinationInfo, EventModel, Relation, TemplateInfo
from compiler.graph import flow
from compiler.parser import parse_workflow
from compiler.planner import plan
from compiler.workflow import WaitForStep, WaitStep, Workflow
from flows.engine.deployment import Deployed, Deployment
from flows.journal.migrations import migrate
from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse

SCHEMA = "penstock"
WORKSPACE = "bench/dev"
WORKFLOW = "onboarding"
TICK_AT = datetime(2026, 6, 17, 10)
LAST_TICK_AT = TICK_AT - timedelta(hours=1)
LAST_TICK = 100
FILE = Path(__file__).with_name(f"{WORKFLOW}.yaml")
TOPICS = ("welcome", "profile", "import", "team", "reports", "automation", "integrations", "billing", "loyalty")
TRACKED = ("billing_mail", "import_mail", "integrations_mail", "loyalty_mail", "reports_mail", "welcome_mail")
"""Steps whose time `since:` or `since =>` reads, as the state keeps them in `enrollments.steps`."""


@dataclass(frozen=True)
class Size:
    """How many enrollments and events; everything else follows."""

    enrollments: int
    events: int

    @property
    def text(self) -> str:
        return f"{self.enrollments}x{self.events}"


FULL = Size(1_000_000, 10_000_000)
QUICK = Size(100_000, 1_000_000)
TINY = Size(2_000, 20_000)


def workflow() -> Workflow:
    """The workflow that both sides execute."""
    return parse_workflow(FILE.read_text(encoding="utf-8"), FILE.name).workflow


def base_file(folder: Path, size: Size) -> Path:
    """The file with the state before the tick; made when it is not there yet."""
    stamp = hashlib.md5(_sources(), usedforsecurity=False).hexdigest()[:8]
    file = folder / f"tick-{size.text}-{stamp}.duckdb"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    growing = file.with_suffix(".growing")
    growing.unlink(missing_ok=True)
    with DuckDBWarehouse(growing, lock=False) as warehouse:
        migrate(warehouse, SCHEMA, LAST_TICK_AT, WORKSPACE, state_id="00000000-0000-0000-0000-000000000001")
        _fill(warehouse, size)
    with duckdb.connect(str(growing)) as connection:
        connection.execute("CHECKPOINT")
    growing.rename(file)
    return file


def _sources() -> bytes:
    migrations = Path(migrate.__code__.co_filename).parent
    files = [Path(__file__), FILE, *sorted(migrations.glob("m*.py"))]
    return b"".join(file.read_bytes() for file in files) + duckdb.__version__.encode()


def deployment(warehouse: Warehouse) -> Deployment:
    """The workflow, compiled against the tables of the file."""
    contacts = Relation("contacts", ("main", "contacts"), warehouse.columns(("main", "contacts")))
    events = Relation("events", ("main", "events"), warehouse.columns(("main", "events")))
    names = [*TOPICS, *(f"{topic}_reminder" for topic in TOPICS)]
    templates = {name: TemplateInfo(name, name, contact=frozenset({"first_name"})) for name in names}
    catalog = Catalog(
        ContactModel(contacts, id="contact_id", email="email", timezone="timezone", unsubscribed="unsubscribed",
                     bounced="bounced"),
        EventModel(events, "event_id", "contact_id", "name", "event_time", "loaded_at", "data",
                   properties={"page_view": {"page": "text"}, "signup": {"source": "text"}}),
        destinations={"mail": DestinationInfo("mail", frozenset({"email"})),
                      "chat": DestinationInfo("chat", frozenset({"notify"}), default=True)},
        templates=templates, workflows=frozenset({WORKFLOW}), state_schema=SCHEMA,
    )  # fmt: skip
    deployed = Deployed(WORKFLOW, 1, datetime(2025, 1, 1), {1: plan(workflow(), catalog, version=1)})
    hashes = {name: hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in names}
    return Deployment(WORKSPACE, SCHEMA, catalog, "UTC", {WORKFLOW: deployed}, hashes)


@contextmanager
def connection(warehouse: DuckDBWarehouse) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse's own connection, for SQL that does not go through the engine."""
    yield warehouse._open_connection()


def sizes(warehouse: Warehouse) -> Mapping[str, int]:
    """Rows per table of the state before the tick."""
    return {str(row["what"]): int(row["n"]) for row in warehouse.rows(_SIZES)}


def _fill(warehouse: Warehouse, size: Size) -> None:
    n = size.enrollments
    newcomers, fresh, own = max(n // 2000, 5), n // 50, size.events // 100
    given = {
        "n": n, "newcomers": newcomers, "fresh": fresh, "own": own, "t": TICK_AT, "t0": LAST_TICK_AT,
        "history": size.events - n - newcomers - fresh - size.events // 1000, "workflow": WORKFLOW,
        "workspace": WORKSPACE, "topics": list(TOPICS), "last": LAST_TICK,
    }  # fmt: skip
    warehouse.execute("CREATE MACRO u(i, salt) AS (hash(i, salt) % 1000003) / 1000003.0")
    warehouse.execute("CREATE MACRO pick(l, x) AS l[1 + floor(x * len(l))::INT]")
    warehouse.execute("CREATE TEMP TABLE resting (place BIGINT, n BIGINT, step VARCHAR, seconds BIGINT)")
    warehouse.load(("temp", "resting"), _resting())
    for statement in (_CONTACTS, _STANDING, _EVENTS, _OWN_EVENTS, _ENROLLMENTS, _CANDIDATES, _JOURNAL, _SEEN, _TAGS):
        warehouse.execute(statement, given)
    watermarks = warehouse.rows(
        "SELECT (SELECT max(loaded_at) FROM main.events WHERE loaded_at <= $t0) AS model, "
        "(SELECT max(seq) FROM penstock.events WHERE loaded_at <= $t0) AS own, "
        "(SELECT bit_xor(hash(contact_id || '|' || timezone))::VARCHAR FROM main.contacts) AS zones", given,
    )[0]  # fmt: skip
    text = json.dumps({"model": watermarks["model"].isoformat(), "own": watermarks["own"], "started": [WORKFLOW],
                       "zones": watermarks["zones"]})  # fmt: skip
    warehouse.execute(_TICK, {**given, "watermarks": text})
    warehouse.execute("DROP MACRO u")
    warehouse.execute("DROP MACRO pick")


def _resting() -> pa.Table:
    """The steps where an enrollment can stand, and how long."""
    rows: list[tuple[int, str, int]] = []
    for node in flow(workflow()).nodes:
        duration = node.step.wait if isinstance(node.step, WaitStep) else None
        if isinstance(node.step, WaitForStep):
            duration = node.step.within
        if duration is not None:
            rows.append((node.index, node.id, int(duration.elapsed.total_seconds())))
    return pa.table({
        "place": pa.array(range(len(rows)), pa.int64()), "n": pa.array([row[0] for row in rows], pa.int64()),
        "step": [row[1] for row in rows], "seconds": pa.array([row[2] for row in rows], pa.int64()),
    })  # fmt: skip


_CONTACTS = """
    CREATE TABLE main.contacts AS
    SELECT 'c' || i AS contact_id, CASE WHEN u(i, 1) < 0.99 THEN 'person' || i || '@example.test' END AS email,
        pick(['Ada', 'Ben', 'Cem', 'Dora', 'Eva', 'Finn', 'Gül', 'Hugo'], u(i, 2)) AS first_name,
        CASE WHEN u(i, 3) < 0.85 THEN 'UTC'
            ELSE pick(['Europe/Berlin', 'America/New_York', 'Asia/Tokyo', 'Asia/Kolkata'], u(i, 4)) END AS timezone,
        pick(['free', 'free', 'free', 'starter', 'pro'], u(i, 5)) AS plan,
        pick(['US', 'US', 'GB', 'DE', 'FR', 'IN', 'BR'], u(i, 6)) AS country,
        floor(power(u(i, 7), 3) * 2000)::INT AS employees,
        u(i, 8) < 0.03 AS unsubscribed, u(i, 9) < 0.01 AS bounced, TIMESTAMP '2026-01-01' AS updated_at
    FROM range($n::BIGINT + $newcomers::BIGINT) AS r(i)
"""
# Where everybody stands: most rest somewhere, 15 % have left, 7 % of the others became due in the last hour.
_STANDING = """
    CREATE TEMP TABLE standing AS
    SELECT i, 'c' || i AS contact_id, n, step, left_already, due_at - to_seconds(seconds) AS l,
        CASE WHEN NOT left_already THEN due_at END AS due_at,
        due_at - to_seconds(seconds) - to_hours(n * 8 + 3) AS entry_at
    FROM (
        SELECT i, w.n, w.step, w.seconds, u(i, 20) < 0.15 AS left_already,
            CASE WHEN u(i, 21) < 0.07 THEN $t::TIMESTAMP - to_milliseconds(floor(u(i, 22) * 3599999)::BIGINT)
                ELSE $t::TIMESTAMP + to_milliseconds(1 + floor(u(i, 22) * w.seconds * 999)::BIGINT) END AS due_at
        FROM range($n::BIGINT) AS r(i) JOIN resting AS w ON w.place = floor(u(i, 23) * (SELECT count(*) FROM resting))
    )
"""
_EVENTS = """
    CREATE TABLE main.events AS
    WITH history AS (
        SELECT 'e' || i AS event_id, 'c' || floor(power(u(i, 30), 1.3) * $n::BIGINT)::BIGINT AS contact_id,
            u(i, 31) AS x, u(i, 32) AS y,
            $t0::TIMESTAMP - to_seconds(floor(u(i, 33) * 180 * 86400)::BIGINT) AS event_time,
            to_seconds(CASE WHEN u(i, 34) < 0.03 THEN floor(u(i, 35) * 40000)::BIGINT ELSE 5 END) AS late
        FROM range($history::BIGINT) AS r(i)
    ), lately AS (
        SELECT 'f' || i AS event_id, 'c' || floor(u(i, 40) * $n::BIGINT)::BIGINT AS contact_id, 0.85 * u(i, 41) AS x,
            u(i, 42) AS y, $t0::TIMESTAMP + to_milliseconds(floor(u(i, 43) * 3500000)::BIGINT) AS event_time,
            to_seconds(5) AS late
        FROM range($fresh::BIGINT) AS r(i)
    ), named AS (
        SELECT event_id, contact_id, y, event_time, event_time + late AS loaded_at,
            CASE WHEN x < .25 THEN 'email_sent' WHEN x < .45 THEN 'email_opened' WHEN x < .53 THEN 'email_clicked'
                WHEN x < .78 THEN 'page_view' WHEN x < .83 THEN 'purchase' WHEN x < .91 THEN 'login'
                WHEN x < .939 THEN 'support_ticket' WHEN x < .959 THEN 'profile_completed'
                WHEN x < .974 THEN 'teammate_invited' WHEN x < .984 THEN 'automation_created'
                WHEN x < .998 THEN 'template_used' WHEN x < .999 THEN 'upgraded' ELSE 'unknown' END AS name
        FROM (SELECT * FROM history UNION ALL SELECT * FROM lately)
    ), typed AS (
        SELECT event_id, contact_id, name, event_time, loaded_at,
            CASE WHEN name LIKE 'email_%' THEN pick($topics::VARCHAR[], y) END AS template,
            CASE WHEN name = 'purchase' THEN round(5 + y * 120, 2) END AS amount,
            CASE WHEN name = 'page_view' THEN json_object('page',
                pick(['home', 'docs', 'pricing', 'blog', 'features'], y), 'seconds', floor(y * 300)::INT) END AS data
        FROM named
        UNION ALL
        SELECT 's' || i, contact_id, 'signup', entry_at, entry_at + to_seconds(5), NULL, NULL,
            json_object('source', pick(['ad', 'friend', 'search'], u(i, 50)))
        FROM standing
        UNION ALL
        SELECT 's' || ($n::BIGINT + i), 'c' || ($n::BIGINT + i), 'signup',
            $t0::TIMESTAMP + to_seconds(floor(u(i, 51) * 3590)::BIGINT), $t::TIMESTAMP - to_seconds(2), NULL, NULL,
            json_object('source', pick(['ad', 'friend', 'search', 'import'], u(i, 52)))
        FROM range($newcomers::BIGINT) AS r(i)
        UNION ALL
        SELECT 'g' || i, 'c' || floor(u(i, 53) * $n::BIGINT)::BIGINT, 'upgraded',
            $t0::TIMESTAMP + to_seconds(floor(u(i, 54) * 3590)::BIGINT), $t::TIMESTAMP - to_seconds(2), NULL, NULL, NULL
        FROM range(greatest($n::BIGINT // 1000, 20)) AS r(i)
    )
    SELECT * FROM (
        SELECT * FROM typed
        UNION ALL  -- exported twice
        SELECT event_id, contact_id, name, event_time, loaded_at + to_seconds(1800), template, amount, data
        FROM typed WHERE hash(event_id) % 1000 = 0
    )
    ORDER BY loaded_at, event_id
"""
# What Penstock's own collector wrote: opens and clicks, some within the last hour.
_OWN_EVENTS = """
    INSERT INTO penstock.events
    SELECT 'o' || i, i + 1, 'c' || floor(u(i, 60) * $n::BIGINT)::BIGINT, NULL, NULL, NULL,
        CASE WHEN u(i, 61) < 0.7 THEN 'email_opened' ELSE 'email_clicked' END,
        $t::TIMESTAMP - to_seconds(($own::BIGINT - i) * 30), $t::TIMESTAMP - to_seconds(($own::BIGINT - i) * 30),
        json_object('template', pick($topics::VARCHAR[], u(i, 62))), 'tracking'
    FROM range($own::BIGINT) AS r(i)
"""
_STEPS = ", ".join(
    "'{0}', CASE WHEN s.n > (SELECT w.n + 1 FROM resting AS w WHERE w.step = '{1}_pause') "
    "THEN s.l - to_hours((s.n - (SELECT w.n + 2 FROM resting AS w WHERE w.step = '{1}_pause')) * 8) END".format(
        step, step.removesuffix("_mail")
    )
    for step in TRACKED
)
_ENROLLMENTS = (
    """
    INSERT INTO penstock.enrollments
    SELECT md5(length($workspace::VARCHAR) || ':' || $workspace::VARCHAR || length($workflow::VARCHAR) || ':'
            || $workflow::VARCHAR || length(s.contact_id) || ':' || s.contact_id
            || '-' || length('s' || s.i) || ':s' || s.i
        )::UUID, $workflow, 1, s.contact_id, NULL, 's' || s.i,
        json_object('event_id', 's' || s.i, 'contact_id', s.contact_id, 'name', 'signup', 'event_time', s.entry_at,
            'loaded_at', s.entry_at + to_seconds(5), 'template', NULL, 'amount', NULL, 'source',
            pick(['ad', 'friend', 'search'], u(s.i, 50))),
        s.entry_at, s.step, s.l, s.due_at, json_object("""
    + _STEPS
    + """), NULL, NULL, 1, $last,
        CASE WHEN s.left_already THEN pick(['completed', 'goal'], u(s.i, 70)) END, CASE WHEN s.left_already THEN s.l END
    FROM standing AS s ORDER BY s.entry_at
"""
)
_CANDIDATES = """
    INSERT INTO penstock.candidates
    SELECT enrollment_id, workflow, contact_id, key, entry_ref, entry_at, 'entered', 1, NULL, FALSE
    FROM penstock.enrollments
"""
_JOURNAL = """
    INSERT INTO penstock.journal
    SELECT 1 + hash(enrollment_id) % ($last::BIGINT - 1), row_number() OVER (), logical_at, workflow, version,
        enrollment_id, contact_id, key, position, 'rest', NULL, NULL, logical_at, NULL, NULL, NULL
    FROM penstock.enrollments ORDER BY 1
"""
# What arrived in 30 days; a few events are dated ahead: half of them become due in the tick.
_SEEN = """
    INSERT INTO penstock.event_seen
    SELECT source, event_id, 50, CASE WHEN hash(event_id) % 100 > 0 OR loaded_at < $t0::TIMESTAMP - INTERVAL 1 HOUR
        THEN 50 END, event_time, loaded_at
    FROM (
        SELECT 'model' AS source, event_id, min(event_time) AS event_time, min(loaded_at) AS loaded_at
        FROM main.events GROUP BY event_id
        UNION ALL
        SELECT 'penstock', event_id, event_time, loaded_at FROM penstock.events
    )
    WHERE loaded_at > $t0::TIMESTAMP - INTERVAL 30 DAY AND loaded_at <= $t0::TIMESTAMP ORDER BY loaded_at
"""
_TAGS = """
    INSERT INTO penstock.contact_tags
    SELECT contact_id, 'welcome_engaged', logical_at, enrollment_id FROM penstock.enrollments
    WHERE position NOT LIKE 'welcome_%' AND hash(contact_id) % 10 < 4
"""
_TICK = """
    INSERT INTO penstock.ticks
    SELECT $last, $t0, 0, $watermarks, '{}', NULL, $t0, $t0
"""
_SIZES = """
    SELECT 'contacts' AS what, count(*) AS n FROM main.contacts
    UNION ALL SELECT 'events', count(*) FROM main.events
    UNION ALL SELECT 'penstock.events', count(*) FROM penstock.events
    UNION ALL SELECT 'enrollments', count(*) FROM penstock.enrollments
    UNION ALL SELECT 'journal', count(*) FROM penstock.journal
    UNION ALL SELECT 'event_seen', count(*) FROM penstock.event_seen
"""
