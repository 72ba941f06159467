"""The tick of `onboarding.yaml` by hand: what a careful engineer would write for exactly this workflow on DuckDB.

It knows what a compiler has to find out: that a contact is enrolled once, that no condition looks further back than
the entry or 14 days, that the goal and every `if` are read from one pass over the events of the contacts concerned,
that no step repeats. Everything is set-wise; enrollments walk in rounds (each round, everybody who moved in the round
before looks at one step), so the work shrinks with every round. It leaves the same durable state as the engine:
`event_seen`, candidates, enrollments, journal, outbox, tags and the tick row with its watermarks and checksum.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import duckdb

TOPICS = ("welcome", "profile", "import", "team", "reports", "automation", "integrations", "billing", "loyalty")
# Per topic: pause · wait_for's within · rest after the answer · pause of who is not called. h = hours, d = local days.
TIMES = (
    ("1h", "2d", "12h", "1d"), ("2d", "3d", "6h", "18h"), ("1d", "48h", "1d", "2d"), ("36h", "2d", "12h", "1d"),
    ("3d", "1d", "8h", "24h"), ("12h", "4d", "2d", "1d"), ("4d", "36h", "12h", "12h"), ("2d", "3d", "1d", "3d"),
    ("7d", "7d", "12h", "1d"),
)  # fmt: skip
COMPLETED = 9 * len(TOPICS)


def tick(connection: duckdb.DuckDBPyConnection, workspace: str, now: datetime) -> dict[str, int]:
    """One tick, committed."""
    connection.begin()
    hand = _Hand(connection, workspace, now)
    counts = hand.run()
    connection.commit()
    return counts


class _Hand:
    def __init__(self, connection: duckdb.DuckDBPyConnection, workspace: str, now: datetime) -> None:
        self._connection = connection
        self._given: dict[str, Any] = {"t": now, "workspace": workspace}

    def run(self) -> dict[str, int]:
        last = self._one("SELECT tick, watermarks FROM penstock.ticks ORDER BY tick DESC LIMIT 1")
        watermarks = json.loads(last[1])
        self._given |= {
            "tick": last[0] + 1, "own": watermarks["own"],
            "since": datetime.fromisoformat(watermarks["model"]) - timedelta(days=1),
        }  # fmt: skip
        self._steps()
        model, own = self._arrivals(watermarks)
        # Waits of days end on the contact's wall clock of now: when somebody's zone changed, all waits are looked at.
        zones = self._one("SELECT bit_xor(hash(contact_id || '|' || coalesce(timezone, '')))::TEXT FROM main.contacts")[
            0
        ]
        self._given["every"] = watermarks["zones"] != zones
        entered = self._admit()
        due = self._count(_DUE)
        self._facts()
        goals = self._count(_GOALS)
        self._walk()
        self._write()
        watermarks = {
            "model": model.isoformat(),
            "own": own,
            "started": ["onboarding"],
            "zones": zones,
            "held": [],
            "audiences": [],
            "named": [],
            "guarded": {},
            "absent": {},
        }
        counts = {"entered": entered, "due": due, "exits": goals}
        self._run(_TICK_ROW, watermarks=json.dumps(watermarks), counts=json.dumps(counts))
        return counts

    # ------------------------------------------------------------ parts of the tick

    def _steps(self) -> None:
        """The workflow as 81 rows."""
        self._run(_STEP)
        values = [value for row in _step_rows() for value in row]
        marks = ", ".join("(" + ", ".join("?" * 10) + ")" for _ in range(COMPLETED))
        self._connection.execute("INSERT INTO step VALUES " + marks, values)

    def _arrivals(self, watermarks: dict[str, Any]) -> tuple[datetime, int]:
        self._run(_NEW_ROWS)
        model, own = self._one("SELECT max(CASE WHEN source = 'model' THEN loaded_at END), max(seq) FROM new_rows")
        model = max(model or datetime.min, datetime.fromisoformat(watermarks["model"]))
        pending = self._one("SELECT min(loaded_at) FROM penstock.event_seen WHERE arrived_tick IS NULL")[0]
        self._run("CREATE OR REPLACE TEMP TABLE matured AS FROM new_rows LIMIT 0")
        if pending is not None:
            self._run(_MATURED, pending=pending)
        self._run(_ARRIVED)
        self._run(_SEE)
        if pending is not None:
            self._run(_SEE_MATURED)
        return model, max(own or 0, int(watermarks["own"]))

    def _admit(self) -> int:
        self._run(_CANDIDATES)
        for statement in (_ENTER, _CONSUME, _ENTER_JOURNAL):
            self._run(statement)
        return int(self._one("SELECT count(*) FROM candidate WHERE verdict = 'entered'")[0])

    def _facts(self) -> None:
        earliest = self._one("SELECT least(min(entry_at), $t::TIMESTAMP - INTERVAL 14 DAY) FROM due")[0]
        for statement in (_EVENTS, _DUPLICATES, _FACTS, _PERSON):
            self._run(statement, earliest=earliest)

    def _walk(self) -> None:
        """Rounds until nobody moves; `walked` collects every step that somebody looked at."""
        self._run(_START)
        self._run(
            "CREATE OR REPLACE TEMP TABLE walked AS SELECT *, n AS to_n, l AS to_l, l AS until FROM walking LIMIT 0"
        )
        for _ in range(COMPLETED):
            self._run(_ROUND)
            self._run("INSERT INTO walked SELECT * FROM round")
            if not self._count(_MOVED):
                return

    def _write(self) -> None:
        for statement in (_ACTED, _ENDED, _JOURNAL_ACTED, _JOURNAL_ENDED, _JOURNAL_GOALS, _OUTBOX, _TAG, _MOVE, _LEAVE):
            self._run(statement)

    # ------------------------------------------------------------ tools

    def _run(self, text: str, **more: Any) -> duckdb.DuckDBPyConnection:
        given = {**self._given, **more}
        named = set(re.findall(r"\$([a-z]+)\b", text))
        used = {name: value for name, value in given.items() if name in named}
        return self._connection.execute(text, used) if used else self._connection.execute(text)

    def _count(self, text: str) -> int:
        row = self._run(text).fetchone()
        return int(row[0]) if row else 0

    def _one(self, text: str) -> tuple[Any, ...]:
        row = self._run(text).fetchone()
        if row is None:
            raise LookupError(text)
        return tuple(row)


def _step_rows() -> Iterator[tuple[Any, ...]]:
    """n, id, kind, topic, secs, days, next (then), else, what, order of the block's mail in `at`."""
    for number, (topic, times) in enumerate(zip(TOPICS, TIMES, strict=True)):
        b = 9 * number
        pause, within, rest, day = ((int(t[:-1]) * 3600, None) if t[-1] == "h" else (None, int(t[:-1])) for t in times)
        yield b, f"{topic}_pause", "wait", topic, *pause, b + 1, None, None, number
        yield b + 1, f"{topic}_mail", "email", topic, None, None, b + 2, None, topic, number
        yield b + 2, f"{topic}_answer", "wait_for", topic, *within, b + 3, b + 5, None, number
        yield b + 3, f"{topic}_tag", "tag", topic, None, None, b + 4, None, f"{topic}_engaged", number
        yield b + 4, f"{topic}_rest", "wait", topic, *rest, b + 6, None, None, number
        yield b + 5, f"{topic}_again", "email", topic, None, None, b + 6, None, f"{topic}_reminder", number
        yield b + 6, f"{topic}_if", "if", topic, None, None, b + 7, b + 8, None, number
        yield b + 7, f"{topic}_sales", "notify", topic, None, None, b + 9, None, "sales", number
        yield b + 8, f"{topic}_day", "wait", topic, *day, b + 9, None, None, number


_STEP = """
    CREATE OR REPLACE TEMP TABLE step (n INT, id TEXT, kind TEXT, topic TEXT, secs INT, days INT, yes INT, no INT,
        what TEXT, place INT)
"""

# ---------------------------------------------------------------- what is new

_NEW_ROWS = """
    CREATE OR REPLACE TEMP TABLE new_rows AS
    SELECT r.* FROM (
        SELECT 'model' AS source, NULL::BIGINT AS seq, event_id, contact_id, name, event_time, loaded_at, template,
            amount, data
        FROM main.events WHERE loaded_at > $since AND loaded_at <= $t
        UNION ALL
        SELECT 'penstock', seq, event_id, contact_id, name, event_time, loaded_at, NULL, NULL, data
        FROM penstock.events WHERE seq > $own AND loaded_at <= $t AND contact_id IS NOT NULL
    ) AS r ANTI JOIN penstock.event_seen AS s ON s.event_id = r.event_id
    QUALIFY row_number() OVER (PARTITION BY r.event_id ORDER BY r.loaded_at, r.source) = 1
"""
_MATURED = """
    INSERT INTO matured
    SELECT r.* FROM (
        SELECT 'model' AS source, NULL::BIGINT AS seq, event_id, contact_id, name, event_time, loaded_at, template,
            amount, data
        FROM main.events WHERE loaded_at >= $pending AND loaded_at <= $t AND event_time <= $t
        UNION ALL
        SELECT 'penstock', seq, event_id, contact_id, name, event_time, loaded_at, NULL, NULL, data
        FROM penstock.events
        WHERE loaded_at >= $pending AND loaded_at <= $t AND event_time <= $t AND contact_id IS NOT NULL
    ) AS r
    SEMI JOIN (SELECT event_id FROM penstock.event_seen WHERE arrived_tick IS NULL) AS s ON s.event_id = r.event_id
    QUALIFY row_number() OVER (PARTITION BY r.event_id ORDER BY r.loaded_at, r.source) = 1
"""
_ARRIVED = """
    CREATE OR REPLACE TEMP TABLE arrived AS
    SELECT a.* FROM (SELECT * FROM new_rows WHERE event_time <= $t UNION ALL SELECT * FROM matured) AS a
    SEMI JOIN main.contacts AS c ON c.contact_id = a.contact_id
"""
_SEE = """
    INSERT INTO penstock.event_seen
    SELECT n.source, n.event_id, $tick, CASE WHEN a.event_id IS NOT NULL THEN $tick END, n.event_time, n.loaded_at
    FROM new_rows AS n LEFT JOIN arrived AS a ON a.event_id = n.event_id
"""
_SEE_MATURED = """
    UPDATE penstock.event_seen SET arrived_tick = $tick
    WHERE arrived_tick IS NULL AND event_id IN (SELECT event_id FROM matured SEMI JOIN arrived USING (event_id))
"""

# ---------------------------------------------------------------- who enters

_CANDIDATES = """
    CREATE OR REPLACE TEMP TABLE candidate AS
    SELECT c.*,
        CASE WHEN c.place > 1 OR EXISTS (SELECT 1 FROM penstock.enrollments AS n
            WHERE n.workflow = 'onboarding' AND n.contact_id = c.contact_id) THEN 'reentry' ELSE 'entered' END
            AS verdict
    FROM (
        SELECT s.*, row_number() OVER (PARTITION BY contact_id ORDER BY event_time, event_id) AS place
        FROM (
            SELECT contact_id, event_id, event_time,
                json_merge_patch(json_object('event_id', event_id, 'contact_id', contact_id, 'name', name, 'event_time',
                    event_time, 'loaded_at', loaded_at, 'template', template, 'amount', amount), data) AS entry,
                md5(length($workspace) || ':' || $workspace || '10:onboarding' || length(contact_id) || ':'
                    || contact_id || '-' || length(event_id) || ':' || event_id)::UUID AS candidate_id
            FROM arrived WHERE name = 'signup' AND (data->>'$.source') <> 'import'
        ) AS s ANTI JOIN (SELECT candidate_id FROM penstock.candidates WHERE workflow = 'onboarding') AS k
            ON k.candidate_id = s.candidate_id
    ) AS c
"""
_ENTER = """
    INSERT INTO penstock.enrollments
    SELECT candidate_id, 'onboarding', 1, contact_id, NULL, event_id, entry, event_time, 'welcome_pause', event_time,
        event_time + INTERVAL 1 HOUR, NULL, NULL, NULL, $tick, $tick, NULL, NULL
    FROM candidate WHERE verdict = 'entered'
"""
_CONSUME = """
    INSERT INTO penstock.candidates
    SELECT candidate_id, 'onboarding', contact_id, NULL, event_id, event_time, verdict, $tick, NULL, FALSE
    FROM candidate
"""
_ENTER_JOURNAL = """
    INSERT INTO penstock.journal
    SELECT $tick, row_number() OVER (), $t, 'onboarding', 1, candidate_id, contact_id, NULL, NULL,
        CASE verdict WHEN 'entered' THEN 'enter' ELSE 'refused' END, NULL, verdict, event_time, NULL, event_id,
        CASE verdict WHEN 'entered' THEN entry END
    FROM candidate
"""

# ---------------------------------------------------------------- who is due, and what happened to them

_DUE = """
    CREATE OR REPLACE TEMP TABLE due AS
    SELECT n.enrollment_id, n.contact_id, n.entry_at, s.n, n.logical_at AS l, n.due_at, n.steps
    FROM penstock.enrollments AS n JOIN step AS s ON s.id = n.position
    WHERE n.exit IS NULL AND n.workflow = 'onboarding' AND (n.due_at <= $t OR n.entered_tick = $tick
        OR $every OR n.contact_id IN (SELECT contact_id FROM arrived WHERE name IN ('email_opened',
            'profile_completed', 'email_clicked', 'teammate_invited', 'automation_created', 'template_used', 'purchase',
            'upgraded')))
"""
_EVENTS = """
    CREATE OR REPLACE TEMP TABLE event AS
    SELECT event_id, contact_id, name, event_time, loaded_at, template, amount, page FROM (
        SELECT event_id, contact_id, name, event_time, loaded_at, template, amount,
            CASE WHEN name = 'page_view' THEN data->>'$.page' END AS page
        FROM main.events
        WHERE event_time >= $earliest AND loaded_at <= $t AND event_time <= $t
            AND name IN ('email_opened', 'email_clicked', 'profile_completed', 'page_view', 'teammate_invited',
                'automation_created', 'template_used', 'support_ticket', 'purchase', 'upgraded')
        UNION ALL
        SELECT event_id, contact_id, name, event_time, loaded_at, data->>'$.template', NULL, NULL
        FROM penstock.events WHERE event_time >= $earliest AND loaded_at <= $t AND event_time <= $t
    ) SEMI JOIN due USING (contact_id)
"""
# The same event twice counts once: the row loaded first stays.
_DUPLICATES = """
    DELETE FROM event WHERE rowid IN (
        SELECT rowid FROM event
        WHERE event_id IN (SELECT event_id FROM event GROUP BY event_id HAVING count(*) > 1)
        QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY loaded_at) > 1
    )
"""
_FACTS = """
    CREATE OR REPLACE TEMP TABLE fact AS
    SELECT d.enrollment_id,
        bool_or(e.name = 'upgraded' AND e.event_time >= d.entry_at) AS upgraded,
        bool_or(e.page = 'pricing' AND e.event_time >= $t::TIMESTAMP - INTERVAL 14 DAY) AS pricing,
        count(CASE WHEN e.name = 'page_view' AND e.event_time >= $t::TIMESTAMP - INTERVAL 7 DAY THEN 1 END) AS views,
        bool_or(e.name = 'support_ticket' AND e.event_time >= d.entry_at) AS asked,
        sum(CASE WHEN e.name = 'purchase' AND e.event_time >= d.entry_at THEN e.amount END) AS spent,
        max(CASE WHEN e.name = 'email_clicked' AND e.template = 'loyalty' THEN e.event_time END) AS loyal
    FROM due AS d JOIN event AS e ON e.contact_id = d.contact_id
    WHERE e.name IN ('upgraded', 'page_view', 'support_ticket', 'purchase', 'email_clicked')
    GROUP BY d.enrollment_id
"""
_PERSON = """
    CREATE OR REPLACE TEMP TABLE person AS
    SELECT c.contact_id, c.email, c.first_name, coalesce(z.name, 'UTC') AS tz, c.plan, c.country, c.employees,
        CASE WHEN c.bounced THEN 'skipped(bounced)' WHEN trim(coalesce(c.email, '')) = '' THEN 'skipped(no_address)'
            WHEN c.unsubscribed THEN 'skipped(unsubscribed)' ELSE 'decided' END AS mailing,
        EXISTS (SELECT 1 FROM penstock.contact_tags AS g
            WHERE g.contact_id = c.contact_id AND g.tag = 'welcome_engaged') AS engaged
    FROM main.contacts AS c LEFT JOIN iana_zones AS z ON z.name = c.timezone
    SEMI JOIN due ON due.contact_id = c.contact_id
"""
_GOALS = """
    CREATE OR REPLACE TEMP TABLE goal AS
    SELECT d.enrollment_id, d.contact_id FROM due AS d JOIN fact AS f USING (enrollment_id) WHERE f.upgraded
"""

# ---------------------------------------------------------------- walking

# `own`: when the mail of the current topic went out, `loyalty` included, because `since:` and `since =>` name it.
_START = """
    CREATE OR REPLACE TEMP TABLE walking AS
    SELECT d.enrollment_id, d.contact_id, d.entry_at, d.n, d.l, p.tz,
        CASE WHEN s.topic IN ('welcome', 'import', 'reports', 'integrations', 'billing', 'loyalty')
            THEN (d.steps->>('$.' || s.topic || '_mail'))::TIMESTAMP END AS own
    FROM due AS d JOIN step AS s ON s.n = d.n JOIN person AS p ON p.contact_id = d.contact_id
    ANTI JOIN goal AS g ON g.enrollment_id = d.enrollment_id
"""
_ROUND = """
    CREATE OR REPLACE TEMP TABLE round AS
    WITH looked AS (
        SELECT w.*, s.kind, s.topic, s.yes, s.no,
            CASE WHEN s.secs IS NOT NULL THEN w.l + to_seconds(s.secs) WHEN s.days IS NULL THEN NULL
                WHEN w.tz = 'UTC' THEN w.l + to_days(s.days)
                ELSE utc_instant((w.l AT TIME ZONE 'UTC' AT TIME ZONE w.tz) + to_days(s.days), w.tz) END AS until
        FROM walking AS w JOIN step AS s ON s.n = w.n
    ), hit AS (
        SELECT k.enrollment_id, min(e.event_time) AS hit_time
        FROM looked AS k JOIN event AS e ON e.contact_id = k.contact_id
        WHERE k.kind = 'wait_for' AND e.event_time <= k.until
            AND e.event_time >= CASE k.topic WHEN 'team' THEN k.l WHEN 'profile' THEN k.entry_at
                WHEN 'automation' THEN k.entry_at ELSE k.own END
            AND CASE k.topic
                WHEN 'profile' THEN e.name = 'profile_completed'
                WHEN 'import' THEN e.name = 'email_clicked' AND e.template = 'import'
                WHEN 'team' THEN e.name = 'teammate_invited'
                WHEN 'automation' THEN e.name IN ('automation_created', 'template_used')
                WHEN 'integrations' THEN e.name = 'email_clicked' AND e.template = 'integrations'
                WHEN 'billing' THEN e.name = 'purchase' AND e.amount > 20
                ELSE e.name = 'email_opened' AND e.template = k.topic END
        GROUP BY k.enrollment_id
    ), chosen AS (
        SELECT k.*, h.hit_time,
            CASE WHEN k.kind = 'if' THEN CASE k.topic
                WHEN 'welcome' THEN p.plan = 'pro'
                WHEN 'profile' THEN f.pricing
                WHEN 'import' THEN p.employees >= 50
                WHEN 'team' THEN p.engaged
                WHEN 'reports' THEN f.views >= 3
                WHEN 'automation' THEN p.country IN ('DE', 'US') AND p.plan = 'free'
                WHEN 'integrations' THEN f.asked
                WHEN 'billing' THEN f.spent > 100
                ELSE f.loyal >= k.own END END AS test
        FROM looked AS k LEFT JOIN hit AS h USING (enrollment_id)
        LEFT JOIN fact AS f USING (enrollment_id) LEFT JOIN person AS p ON p.contact_id = k.contact_id
    )
    SELECT enrollment_id, contact_id, entry_at, n, l, tz,
        CASE WHEN kind = 'email' AND n % 9 = 1
            THEN CASE WHEN l < $t::TIMESTAMP - INTERVAL 1 HOUR THEN $t ELSE l END ELSE own END AS own,
        CASE kind
            WHEN 'wait' THEN CASE WHEN until <= $t THEN yes ELSE n END
            WHEN 'wait_for' THEN CASE WHEN hit_time IS NOT NULL THEN yes WHEN until <= $t THEN no ELSE n END
            WHEN 'if' THEN CASE WHEN test THEN yes ELSE no END
            ELSE yes END AS to_n,
        CASE kind
            WHEN 'wait' THEN CASE WHEN until <= $t THEN until ELSE l END
            WHEN 'wait_for' THEN CASE WHEN hit_time IS NOT NULL THEN greatest(l, hit_time)
                WHEN until <= $t THEN until ELSE l END
            WHEN 'if' THEN l
            ELSE CASE WHEN l < $t::TIMESTAMP - INTERVAL 1 HOUR THEN $t ELSE l END END AS to_l,
        until
    FROM chosen
"""
_MOVED = """
    CREATE OR REPLACE TEMP TABLE walking AS
    SELECT enrollment_id, contact_id, entry_at, to_n AS n, to_l AS l, tz, own FROM round WHERE to_n <> n AND to_n < 81
"""

# ---------------------------------------------------------------- writing it down

_ACTED = """
    CREATE OR REPLACE TEMP TABLE acted AS
    SELECT w.enrollment_id, w.contact_id, w.l AS due, w.n, s.id AS step, s.kind, s.what, p.email, p.first_name, s.topic,
        md5('36:' || w.enrollment_id::TEXT || length(s.id) || ':' || s.id || '1:1')::UUID AS action_id,
        CASE s.kind WHEN 'tag' THEN 'ok' WHEN 'notify' THEN 'decided' ELSE
            CASE WHEN s.n % 9 = 5 AND NOT coalesce(CASE s.topic
                    WHEN 'welcome' THEN p.country <> 'FR' WHEN 'import' THEN p.employees < 500
                    WHEN 'reports' THEN p.plan <> 'pro' WHEN 'integrations' THEN p.employees >= 3
                    WHEN 'loyalty' THEN p.plan <> 'free' ELSE TRUE END, FALSE)
                THEN 'skipped(condition)' ELSE p.mailing END END AS outcome
    FROM walked AS w JOIN step AS s ON s.n = w.n JOIN person AS p ON p.contact_id = w.contact_id
    WHERE s.kind IN ('email', 'notify', 'tag')
"""
# Whoever passed a mail on the way has its time in `steps`; the others keep what they had.
_ENDED = """
    CREATE OR REPLACE TEMP TABLE ended AS
    SELECT w.enrollment_id, w.contact_id, w.to_n AS n, w.to_l AS l, w.until, s.id AS position, w.to_n <> d.n AS moved,
        json_object(
            'billing_mail', coalesce(a.billing, (d.steps->>'$.billing_mail')::TIMESTAMP),
            'import_mail', coalesce(a.import_, (d.steps->>'$.import_mail')::TIMESTAMP),
            'integrations_mail', coalesce(a.integrations, (d.steps->>'$.integrations_mail')::TIMESTAMP),
            'loyalty_mail', coalesce(a.loyalty, (d.steps->>'$.loyalty_mail')::TIMESTAMP),
            'reports_mail', coalesce(a.reports, (d.steps->>'$.reports_mail')::TIMESTAMP),
            'welcome_mail', coalesce(a.welcome, (d.steps->>'$.welcome_mail')::TIMESTAMP)) AS steps
    FROM walked AS w LEFT JOIN step AS s ON s.n = w.to_n JOIN due AS d ON d.enrollment_id = w.enrollment_id
    LEFT JOIN (
        SELECT enrollment_id,
            max(CASE n WHEN 64 THEN own END) AS billing, max(CASE n WHEN 19 THEN own END) AS import_,
            max(CASE n WHEN 55 THEN own END) AS integrations, max(CASE n WHEN 73 THEN own END) AS loyalty,
            max(CASE n WHEN 37 THEN own END) AS reports, max(CASE n WHEN 1 THEN own END) AS welcome
        FROM walked WHERE n % 9 = 1 GROUP BY enrollment_id
    ) AS a ON a.enrollment_id = w.enrollment_id
    WHERE (w.to_n = w.n OR w.to_n = 81) AND (w.to_n <> d.n OR w.until IS DISTINCT FROM d.due_at)
"""
_JOURNAL_ACTED = """
    INSERT INTO penstock.journal
    SELECT $tick, 1000000 + row_number() OVER (), $t, 'onboarding', 1, enrollment_id, contact_id, NULL, step,
        CASE outcome WHEN 'decided' THEN 'intent' ELSE 'action' END, kind || ':' || what, outcome, due, action_id,
        NULL, NULL
    FROM acted
"""
_JOURNAL_ENDED = """
    INSERT INTO penstock.journal
    SELECT $tick, 2000000 + row_number() OVER (), $t, 'onboarding', 1, enrollment_id, contact_id, NULL, position,
        CASE WHEN n = 81 THEN 'exit' ELSE 'rest' END, NULL, CASE WHEN n = 81 THEN 'completed' END,
        CASE WHEN n < 81 THEN l END, NULL, NULL,
        CASE WHEN n < 81 THEN json_object('steps', steps, 'arms', NULL, 'visits', NULL) END
    FROM ended WHERE moved
"""
_JOURNAL_GOALS = """
    INSERT INTO penstock.journal
    SELECT $tick, 3000000 + row_number() OVER (), $t, 'onboarding', 1, enrollment_id, contact_id, NULL, NULL, 'exit',
        NULL, 'goal', NULL, NULL, NULL, NULL
    FROM goal
"""
_OUTBOX = """
    INSERT INTO penstock.outbox
    SELECT action_id, enrollment_id, 'onboarding', 1, contact_id, NULL, step, 1, kind, what,
        CASE kind WHEN 'email' THEN 'mail' ELSE 'chat' END, CASE kind WHEN 'email' THEN md5(what) END,
        CASE kind WHEN 'email'
            THEN json_object('contact', json_object('first_name', first_name), 'address', email, 'on_error', 'continue')
            ELSE json_object('contact', json_object(), 'address', email, 'on_error', 'continue', 'step',
                json_object('target', 'sales', 'text', 'Worth a call about ' || topic || '.')) END,
        due, $t, $tick, 1000000 + row_number() OVER (), NULL, FALSE, 'pending', NULL, NULL, 0, NULL, NULL, NULL, $t
    FROM acted WHERE outcome = 'decided'
"""
_TAG = """
    INSERT INTO penstock.contact_tags
    SELECT a.contact_id, a.what, $t, a.action_id FROM acted AS a
    ANTI JOIN penstock.contact_tags AS g ON g.contact_id = a.contact_id AND g.tag = a.what
    WHERE a.kind = 'tag'
"""
_MOVE = """
    UPDATE penstock.enrollments SET position = coalesce(e.position, enrollments.position), logical_at = e.l,
        due_at = CASE WHEN e.n < 81 THEN e.until END, moved_tick = $tick,
        steps = CASE WHEN e.moved THEN e.steps ELSE enrollments.steps END,
        exit = CASE WHEN e.n = 81 THEN 'completed' END, exited_at = CASE WHEN e.n = 81 THEN $t END
    FROM ended AS e WHERE enrollments.enrollment_id = e.enrollment_id
"""
_LEAVE = """
    UPDATE penstock.enrollments SET exit = 'goal', exited_at = $t, moved_tick = $tick, due_at = NULL
    FROM goal WHERE enrollments.enrollment_id = goal.enrollment_id
"""
_TICK_ROW = """
    INSERT INTO penstock.ticks
    SELECT $tick, $t, (SELECT coalesce(max(fence), 0) FROM penstock.lease), $watermarks, $counts,
        (SELECT md5(bit_xor(hash(enrollment_id, step, kind, outcome))::TEXT) FROM penstock.journal WHERE tick = $tick),
        $t, $t
"""
