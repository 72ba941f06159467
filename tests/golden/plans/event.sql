-- Workflow event: what every tick runs for it, in this order.
-- Written by `penstock compile`; the engine runs the same statements.
-- $tick_at: instant of the tick · $earliest: what is older is no candidate · $fresh: the workflow is new.
--
-- Conditions as written:
--   trigger.where: entry.activity = 'order_placed'
--   entry.key: entry.activity_id
--   goals.0.when: did('order_placed', since => 'entry')
--   steps.2.wait_for: did('page_seen')

-- 1 · entry
-- candidates: events order_placed that arrived
CREATE OR REPLACE TEMPORARY TABLE tick_candidates AS
SELECT
  f.contact_id,
  CAST((
    f.entry ->> '$.activity_id'
  ) AS TEXT) AS key,
  CAST(f.entry_ref AS TEXT) AS entry_ref,
  f.entry_at AS candidate_at,
  f.entry
FROM (
  WITH base AS (
    SELECT
      a.contact_id,
      a.entry,
      a.event_id AS entry_ref,
      a.event_time AS entry_at,
      COALESCE(c.tz, 'UTC') AS tz
    FROM tick_arrivals AS a
    JOIN tick_contacts AS c
      ON c.contact_id = a.contact_id
    WHERE
      (
        a.name IN ('order_placed') AND (
          NOT a.fresh OR $fresh
        )
      )
      AND (
        a.missed_by IS NULL OR a.missed_by = 'event'
      )
  )
  SELECT
    f.*
  FROM base AS f
) AS f
WHERE
  (
    f.entry ->> '$.activity'
  ) = 'order_placed';

-- 2 · exits
-- enrollments that leave before anything else happens: goals, exits, time over
CREATE OR REPLACE TEMPORARY TABLE tick_exits AS
SELECT
  x.*
FROM (
  SELECT
    f.enrollment_id,
    f.contact_id,
    f.key,
    CASE WHEN (
      COALESCE(f.did_order_placed_92ebc1, 0) = 1
    ) THEN 'goal' END AS reason
  FROM (
    WITH base AS (
      SELECT
        s.*,
        COALESCE(c.tz, 'UTC') AS tz
      FROM tick_scope AS s
      LEFT JOIN tick_contacts AS c
        ON c.contact_id = s.contact_id
    ), looked AS (
      SELECT
        f.enrollment_id AS row_id,
        MAX(CASE WHEN e.name = 'order_placed' AND e.event_time >= f.entry_at THEN 1 END) AS did_order_placed_92ebc1
      FROM base AS f
      JOIN tick_events AS e
        ON (
          e.contact_id = f.contact_id AND e.name = 'order_placed'
        )
        AND e.event_id IS DISTINCT FROM f.entry_ref
      GROUP BY
        f.enrollment_id
    )
    SELECT
      f.*,
      k.did_order_placed_92ebc1
    FROM base AS f
    LEFT JOIN looked AS k
      ON k.row_id = f.enrollment_id
  ) AS f
) AS x
WHERE
  NOT x.reason IS NULL;

-- 3 · frame
-- one row per due enrollment with everything its conditions read, computed once
CREATE OR REPLACE TEMPORARY TABLE tick_frame AS
WITH base AS (
  SELECT
    s.enrollment_id,
    s.contact_id,
    s.key,
    s.entry_ref,
    s.entry_at,
    s.position,
    s.logical_at,
    s.due_at,
    s.steps,
    s.tick_at,
    s.log_at,
    "c"."c_given_name",
    "c"."m_email",
    "c"."m_bounced",
    "c"."m_unsubscribed",
    COALESCE(c.tz, 'UTC') AS tz,
    g.p0
  FROM tick_scope AS s
  LEFT JOIN tick_contacts AS c
    ON c.contact_id = s.contact_id
  LEFT JOIN (VALUES
    ('soon', 0),
    ('thanks', 1),
    ('looked', 2),
    ('interested', 3),
    ('tell', 4)) AS g(step, p0)
    ON g.step = s.position
), looked AS (
  SELECT
    f.enrollment_id AS row_id,
    ARRAY_AGG(e.event_time) FILTER(WHERE
      e.name = 'page_seen' AND e.event_time >= f.entry_at) AS did_page_seen_19e0ed
  FROM base AS f
  JOIN tick_events AS e
    ON (
      e.contact_id = f.contact_id AND e.name = 'page_seen'
    )
    AND e.event_id IS DISTINCT FROM f.entry_ref
  GROUP BY
    f.enrollment_id
)
SELECT
  f.*,
  k.did_page_seen_19e0ed
FROM base AS f
LEFT JOIN looked AS k
  ON k.row_id = f.enrollment_id;

-- 4 · stage 1
-- every due enrollment walks on, one layer per step, until it rests or ends; acts: thanks, interested, tell
CREATE OR REPLACE TEMPORARY TABLE tick_stage_0 AS
WITH l0 AS NOT MATERIALIZED (
  SELECT
    "f"."did_page_seen_19e0ed",
    "f"."entry_at",
    "f"."log_at",
    "f"."tick_at",
    "f"."tz",
    f.p0 AS "p",
    f.logical_at AS "l",
    CAST(NULL AS TIMESTAMP) AS "u"
  FROM tick_frame AS f
), l1u AS NOT MATERIALIZED (
  SELECT
    "f"."did_page_seen_19e0ed",
    "f"."entry_at",
    "f"."l",
    "f"."log_at",
    "f"."p",
    "f"."tick_at",
    "f"."tz",
    CASE WHEN "f"."p" = 0 THEN "f"."l" + INTERVAL '3600' SECOND ELSE "f"."u" END AS "u"
  FROM l0 AS f
), l1 AS NOT MATERIALIZED (
  SELECT
    "f"."did_page_seen_19e0ed",
    "f"."entry_at",
    "f"."log_at",
    "f"."tick_at",
    "f"."tz",
    "f"."u",
    CASE WHEN "f"."p" = 0 AND "f"."u" <= f.tick_at THEN 1 ELSE "f"."p" END AS "p",
    CASE WHEN "f"."p" = 0 AND "f"."u" <= f.tick_at THEN "f"."u" ELSE "f"."l" END AS "l"
  FROM l1u AS f
), l2 AS NOT MATERIALIZED (
  SELECT
    "f"."did_page_seen_19e0ed",
    "f"."entry_at",
    "f"."log_at",
    "f"."tick_at",
    "f"."tz",
    "f"."u",
    CASE WHEN "f"."p" = 1 THEN 2 ELSE "f"."p" END AS "p",
    CASE WHEN "f"."p" = 1 AND f.tick_at > "f"."l" + INTERVAL '3600' SECOND THEN f.tick_at ELSE "f"."l" END AS "l",
    CASE WHEN "f"."p" = 1 THEN "f"."l" ELSE CAST(NULL AS TIMESTAMP) END AS "a1"
  FROM l1 AS f
), l3u AS NOT MATERIALIZED (
  SELECT
    "f"."a1",
    "f"."did_page_seen_19e0ed",
    "f"."entry_at",
    "f"."l",
    "f"."log_at",
    "f"."p",
    "f"."tick_at",
    CASE
      WHEN "f"."p" = 2
      THEN CASE
        WHEN f.tz = 'UTC'
        THEN "f"."l" + INTERVAL '2' DAY
        ELSE UTC_INSTANT((
          "f"."l" AT TIME ZONE 'UTC' AT TIME ZONE f.tz
        ) + INTERVAL '2' DAY, f.tz)
      END
      ELSE "f"."u"
    END AS "u"
  FROM l2 AS f
), l3m AS NOT MATERIALIZED (
  SELECT
    "f"."a1",
    "f"."l",
    "f"."log_at",
    "f"."p",
    "f"."tick_at",
    "f"."u",
    CASE
      WHEN "f"."p" = 2
      THEN LIST_MIN(LIST_FILTER(f.did_page_seen_19e0ed, LAMBDA x : x >= f.entry_at AND x <= "f"."u"))
      ELSE CAST(NULL AS TIMESTAMP)
    END AS "m2"
  FROM l3u AS f
), l3 AS NOT MATERIALIZED (
  SELECT
    "f"."a1",
    "f"."log_at",
    "f"."tick_at",
    "f"."u",
    CASE
      WHEN "f"."p" = 2 AND NOT f.m2 IS NULL
      THEN 3
      WHEN "f"."p" = 2 AND "f"."u" <= f.tick_at
      THEN 4
      ELSE "f"."p"
    END AS "p",
    CASE
      WHEN "f"."p" = 2 AND NOT f.m2 IS NULL
      THEN CASE WHEN f.m2 > "f"."l" THEN f.m2 ELSE "f"."l" END
      WHEN "f"."p" = 2 AND "f"."u" <= f.tick_at
      THEN "f"."u"
      ELSE "f"."l"
    END AS "l"
  FROM l3m AS f
), l4 AS NOT MATERIALIZED (
  SELECT
    "f"."a1",
    "f"."log_at",
    "f"."tick_at",
    "f"."u",
    CASE WHEN "f"."p" = 3 THEN 5 ELSE "f"."p" END AS "p",
    CASE WHEN "f"."p" = 3 AND f.tick_at > "f"."l" + INTERVAL '3600' SECOND THEN f.tick_at ELSE "f"."l" END AS "l",
    CASE WHEN "f"."p" = 3 THEN "f"."l" ELSE CAST(NULL AS TIMESTAMP) END AS "a3"
  FROM l3 AS f
), l5 AS NOT MATERIALIZED (
  SELECT
    "f"."a1",
    "f"."a3",
    "f"."log_at",
    "f"."u",
    CASE WHEN "f"."p" = 4 THEN 5 ELSE "f"."p" END AS "p",
    CASE WHEN "f"."p" = 4 AND f.tick_at > "f"."l" + INTERVAL '3600' SECOND THEN f.tick_at ELSE "f"."l" END AS "l",
    CASE WHEN "f"."p" = 4 THEN "f"."l" ELSE CAST(NULL AS TIMESTAMP) END AS "a4"
  FROM l4 AS f
)
SELECT
  "f"."a1",
  "f"."a3",
  "f"."a4",
  "f"."l",
  "f"."p",
  "f"."u",
  "s"."c_given_name",
  "s"."contact_id",
  "s"."due_at",
  "s"."enrollment_id",
  "s"."key",
  "s"."log_at",
  "s"."m_bounced",
  "s"."m_email",
  "s"."m_unsubscribed",
  "s"."p0",
  "s"."position",
  "s"."steps"
FROM l5 AS f
JOIN tick_frame AS s
  ON s.log_at = f.log_at;

-- 5 · action thanks
-- email thanks through post: who reached it in this tick
SELECT
  f.log_at,
  f.enrollment_id,
  f.contact_id,
  f.key,
  'thanks' AS step,
  'email' AS kind,
  'thanks' AS what,
  f.a1 AS due,
  CASE
    WHEN COALESCE(f.m_bounced, FALSE)
    THEN 'skipped(bounced)'
    WHEN TRIM(COALESCE(f.m_email, '')) = ''
    THEN 'skipped(no_address)'
    WHEN COALESCE(f.m_unsubscribed, FALSE)
    THEN 'skipped(unsubscribed)'
    ELSE 'decided'
  END AS outcome,
  JSON_OBJECT('contact', JSON_OBJECT('given_name', f.c_given_name), 'address', f.m_email, 'on_error', 'continue') AS payload,
  CAST(NULL AS TIMESTAMP) AS expires_at,
  1 AS visit
FROM tick_stage_0 AS f
WHERE
  NOT f.a1 IS NULL;

-- 6 · action interested
-- tag interested: who reached it in this tick
SELECT
  f.log_at,
  f.enrollment_id,
  f.contact_id,
  f.key,
  'interested' AS step,
  'tag' AS kind,
  'interested' AS what,
  f.a3 AS due,
  'ok' AS outcome,
  CAST(NULL AS JSON) AS payload,
  CAST(NULL AS TIMESTAMP) AS expires_at,
  1 AS visit
FROM tick_stage_0 AS f
WHERE
  NOT f.a3 IS NULL;

-- 7 · action tell
-- notify baker through post: who reached it in this tick
SELECT
  f.log_at,
  f.enrollment_id,
  f.contact_id,
  f.key,
  'tell' AS step,
  'notify' AS kind,
  'baker' AS what,
  f.a4 AS due,
  'decided' AS outcome,
  JSON_OBJECT(
    'contact',
    JSON_OBJECT(),
    'address',
    f.m_email,
    'on_error',
    'continue',
    'step',
    JSON_OBJECT('target', 'baker', 'text', 'A quiet customer')
  ) AS payload,
  CAST(NULL AS TIMESTAMP) AS expires_at,
  1 AS visit
FROM tick_stage_0 AS f
WHERE
  NOT f.a4 IS NULL;

-- 8 · moves
-- where each enrollment came to rest, until when, or how it ended
CREATE OR REPLACE TEMPORARY TABLE tick_moves AS
SELECT
  x.*
FROM (
  SELECT
    f.log_at,
    f.enrollment_id,
    f.contact_id,
    f.key,
    f.p AS ordinal,
    COALESCE(
      CASE
        WHEN f.p = 0
        THEN 'soon'
        WHEN f.p = 1
        THEN 'thanks'
        WHEN f.p = 2
        THEN 'looked'
        WHEN f.p = 3
        THEN 'interested'
        WHEN f.p = 4
        THEN 'tell'
      END,
      f.position
    ) AS position,
    f.l AS logical_at,
    CASE WHEN "f"."p" IN (0) THEN "f"."u" WHEN "f"."p" IN (2) THEN "f"."u" END AS due_at,
    f.steps AS steps,
    CAST(NULL AS JSON) AS arms,
    CAST(NULL AS JSON) AS visits,
    FALSE AS back,
    CASE WHEN f.p = 5 THEN 'completed' END AS exit,
    f.p <> f.p0 AS moved,
    f.due_at AS due_before
  FROM tick_stage_0 AS f
) AS x
WHERE
  x.moved OR NOT x.exit IS NULL OR x.due_at IS DISTINCT FROM x.due_before;
