-- Workflow rows: what every tick runs for it, in this order.
-- Written by `penstock compile`; the engine runs the same statements.
-- $tick_at: instant of the tick · $earliest: what is older is no candidate · $fresh: the workflow is new.
--
-- Conditions as written:
--   trigger.contact: person_id
--   trigger.at: happened_at
--   trigger.key: activity_id
--   trigger.where: activity = 'page_seen'
--   steps.0.if: not has_tag('reader')

-- 1 · rows
-- rows of activity whose key is new
CREATE OR REPLACE TEMPORARY TABLE tick_rows AS
SELECT
  r.*,
  JSON_OBJECT(
    'activity_id',
    "r"."r_activity_id",
    'person_id',
    "r"."r_person_id",
    'activity',
    "r"."r_activity",
    'happened_at',
    "r"."r_happened_at",
    'arrived_at',
    "r"."r_arrived_at"
  ) AS entry
FROM (
  SELECT
    f.*,
    CAST(f.r_person_id AS TEXT) AS contact_id,
    CAST(f.r_activity_id AS TEXT) AS entry_ref,
    CAST(NULL AS TEXT) AS key,
    CAST(f.r_happened_at AS TIMESTAMP) AS entry_at
  FROM (
    SELECT
      m."activity_id" AS "r_activity_id",
      m."person_id" AS "r_person_id",
      m."activity" AS "r_activity",
      m."happened_at" AS "r_happened_at",
      m."arrived_at" AS "r_arrived_at"
    FROM "shop"."activity" AS m
  ) AS f
  WHERE
    f.r_activity = 'page_seen'
) AS r
WHERE
  r.entry_at <= CAST($tick_at AS TIMESTAMP)
  AND r.entry_at >= $earliest
  AND NOT r.entry_ref IS NULL
  AND NOT EXISTS(
    SELECT
      1
    FROM penstock_dev.candidates AS k
    WHERE
      k.workflow = 'rows' AND k.entry_ref = r.entry_ref
  );

-- 2 · entry
-- candidates among them
CREATE OR REPLACE TEMPORARY TABLE tick_candidates AS
SELECT
  f.contact_id,
  f.key AS key,
  CAST(f.entry_ref AS TEXT) AS entry_ref,
  f.entry_at AS candidate_at,
  f.entry
FROM (
  WITH base AS (
    SELECT
      r.*,
      COALESCE(c.tz, 'UTC') AS tz
    FROM tick_rows AS r
    JOIN tick_contacts AS c
      ON c.contact_id = r.contact_id
  )
  SELECT
    f.*
  FROM base AS f
) AS f
WHERE
  f.r_activity = 'page_seen';

-- 3 · frame
-- one row per due enrollment with everything its conditions read, computed once
CREATE OR REPLACE TEMPORARY TABLE tick_frame AS
WITH base AS (
  SELECT
    s.enrollment_id,
    s.contact_id,
    s.key,
    s.entry_ref,
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
    ('mail', 0)) AS g(step, p0)
    ON g.step = s.position
)
SELECT
  f.*,
  EXISTS(
    SELECT
      1
    FROM penstock_dev.contact_tags AS v
    WHERE
      v.contact_id = f.contact_id AND v.tag = 'reader'
  ) AS "tag_reader"
FROM base AS f;

-- 4 · stage 1
-- every due enrollment walks on, one layer per step, until it rests or ends; acts: mail
CREATE OR REPLACE TEMPORARY TABLE tick_stage_0 AS
WITH l0 AS NOT MATERIALIZED (
  SELECT
    "f"."log_at",
    "f"."tag_reader",
    "f"."tick_at",
    f.p0 AS "p",
    f.logical_at AS "l"
  FROM tick_frame AS f
), l1 AS NOT MATERIALIZED (
  SELECT
    "f"."log_at",
    CASE WHEN "f"."p" = 0 THEN 1 ELSE "f"."p" END AS "p",
    CASE WHEN "f"."p" = 0 AND f.tick_at > "f"."l" + INTERVAL '3600' SECOND THEN f.tick_at ELSE "f"."l" END AS "l",
    CASE WHEN "f"."p" = 0 THEN "f"."l" ELSE CAST(NULL AS TIMESTAMP) END AS "a0",
    CASE WHEN "f"."p" = 0 THEN COALESCE(NOT f.tag_reader, FALSE) ELSE FALSE END AS "k0"
  FROM l0 AS f
)
SELECT
  "f"."a0",
  "f"."k0",
  "f"."l",
  "f"."p",
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
FROM l1 AS f
JOIN tick_frame AS s
  ON s.log_at = f.log_at;

-- 5 · action mail
-- email thanks through post: who reached it in this tick
SELECT
  f.log_at,
  f.enrollment_id,
  f.contact_id,
  f.key,
  'mail' AS step,
  'email' AS kind,
  'thanks' AS what,
  f.a0 AS due,
  CASE
    WHEN NOT (
      f.k0
    )
    THEN 'skipped(condition)'
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
  NOT f.a0 IS NULL;

-- 6 · moves
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
    COALESCE(CASE WHEN f.p = 0 THEN 'mail' END, f.position) AS position,
    f.l AS logical_at,
    CAST(NULL AS TIMESTAMP) AS due_at,
    f.steps AS steps,
    CAST(NULL AS JSON) AS arms,
    CAST(NULL AS JSON) AS visits,
    FALSE AS back,
    CASE WHEN f.p = 1 THEN 'completed' END AS exit,
    f.p <> f.p0 AS moved,
    f.due_at AS due_before
  FROM tick_stage_0 AS f
) AS x
WHERE
  x.moved OR NOT x.exit IS NULL OR x.due_at IS DISTINCT FROM x.due_before;
