-- Workflow audience: what every tick runs for it, in this order.
-- Written by `penstock compile`; the engine runs the same statements.
-- $tick_at: instant of the tick · $earliest: what is older is no candidate · $fresh: the workflow is new.
--
-- Conditions as written:
--   trigger.audience: contact.tz = 'Europe/Paris' and event_count('page_seen', within => '30d') >= 1
--   steps.0.if: contact.person_id in (select a.person_id from ref('activity') as a where a.activity = 'page_seen')

-- 1 · entry
-- members of the audience now; who was none at the tick before is a candidate; evaluated together with other audiences, for contacts that may have changed
CREATE OR REPLACE TEMPORARY TABLE tick_members AS
SELECT
  f.contact_id
FROM (
  WITH base AS (
    SELECT
      m."person_id" AS contact_id,
      m."tz" AS "c_tz",
      COALESCE(z.name, 'UTC') AS tz,
      m."email_address" AS m_email,
      CAST(NULL AS TEXT) AS m_phone,
      CAST(NULL AS TEXT) AS m_push,
      COALESCE(sc.bounced, FALSE) OR COALESCE(sa.bounced, FALSE) AS m_bounced,
      COALESCE(sc.unsubscribed, FALSE) OR COALESCE(sa.unsubscribed, FALSE) AS m_unsubscribed,
      LIST_CONCAT(COALESCE(sc.groups, CAST([] AS TEXT[])), COALESCE(sa.groups, CAST([] AS TEXT[]))) AS m_groups,
      FALSE AS m_bounced_sms,
      FALSE AS m_unsubscribed_sms,
      CAST([] AS TEXT[]) AS m_groups_sms,
      FALSE AS m_bounced_push,
      FALSE AS m_unsubscribed_push,
      CAST([] AS TEXT[]) AS m_groups_push
    FROM "shop"."people" AS m
    LEFT JOIN iana_zones AS z
      ON z.name = m."tz"
    LEFT JOIN (
      SELECT
        t.who,
        BOOL_OR(CAST(t.is_bounce AS BOOLEAN)) AS bounced,
        BOOL_OR(CAST(t.scope = 'all' AND NOT t.is_bounce AS BOOLEAN)) AS unsubscribed,
        ARRAY_AGG(t.scope) FILTER(WHERE
          NOT t.scope = 'all') AS groups
      FROM (
        SELECT
          s.contact_id AS who,
          s.scope,
          s.action,
          s.reason IN ('bounced', 'hard_bounce') AS is_bounce
        FROM penstock_dev.suppressions AS s
        WHERE
          NOT s.contact_id IS NULL
          AND s.created_at <= CAST($tick_at AS TIMESTAMP)
          AND (
            s.channel IS NULL OR s.channel = 'email'
          )
        QUALIFY
          ROW_NUMBER() OVER (
            PARTITION BY s.contact_id, s.channel, s.scope, s.reason IN ('bounced', 'hard_bounce')
            ORDER BY s.created_at DESC, s.suppression_id DESC
          ) = 1
      ) AS t
      WHERE
        t.action = 'add'
      GROUP BY
        t.who
    ) AS sc
      ON sc.who = m."person_id"
    LEFT JOIN (
      SELECT
        t.who,
        BOOL_OR(CAST(t.is_bounce AS BOOLEAN)) AS bounced,
        BOOL_OR(CAST(t.scope = 'all' AND NOT t.is_bounce AS BOOLEAN)) AS unsubscribed,
        ARRAY_AGG(t.scope) FILTER(WHERE
          NOT t.scope = 'all') AS groups
      FROM (
        SELECT
          s.address_hash AS who,
          s.scope,
          s.action,
          s.reason IN ('bounced', 'hard_bounce') AS is_bounce
        FROM penstock_dev.suppressions AS s
        WHERE
          NOT s.address_hash IS NULL
          AND s.created_at <= CAST($tick_at AS TIMESTAMP)
          AND (
            s.channel IS NULL OR s.channel = 'email'
          )
        QUALIFY
          ROW_NUMBER() OVER (
            PARTITION BY s.address_hash, s.channel, s.scope, s.reason IN ('bounced', 'hard_bounce')
            ORDER BY s.created_at DESC, s.suppression_id DESC
          ) = 1
      ) AS t
      WHERE
        t.action = 'add'
      GROUP BY
        t.who
    ) AS sa
      ON sa.who = MD5(CAST($address_key AS TEXT) || ':' || LOWER(TRIM(m."email_address")))
  ), looked AS (
    SELECT
      f.contact_id AS row_id,
      COUNT(
        CASE
          WHEN e.name = 'page_seen' AND e.event_time >= CAST($tick_at AS TIMESTAMP) - INTERVAL '2592000' SECOND
          THEN 1
        END
      ) AS event_count_page_seen_d02344
    FROM base AS f
    JOIN (
      SELECT
        e.*
      FROM (
        SELECT
          m."activity_id" AS event_id,
          m."person_id" AS contact_id,
          m."activity" AS name,
          m."happened_at" AS event_time,
          m."arrived_at" AS loaded_at,
          'model' AS source,
          CAST(NULL AS BIGINT) AS seq
        FROM "shop"."activity" AS m
        WHERE
          NOT m."person_id" IS NULL
        UNION ALL
        SELECT
          o.event_id AS event_id,
          o.contact_id AS contact_id,
          o.name AS name,
          o.event_time AS event_time,
          o.loaded_at AS loaded_at,
          'penstock' AS source,
          o.seq AS seq
        FROM penstock_dev.events AS o
        WHERE
          NOT o.contact_id IS NULL
      ) AS e
      WHERE
        (
          e.loaded_at <= CAST($tick_at AS TIMESTAMP) AND e.event_time <= CAST($tick_at AS TIMESTAMP)
        )
        AND e.name = 'page_seen'
      QUALIFY
        ROW_NUMBER() OVER (PARTITION BY e.event_id ORDER BY e.loaded_at, e.source) = 1
    ) AS e
      ON e.contact_id = f.contact_id AND e.name = 'page_seen'
    GROUP BY
      f.contact_id
  )
  SELECT
    f.*,
    k.event_count_page_seen_d02344
  FROM base AS f
  LEFT JOIN looked AS k
    ON k.row_id = f.contact_id
) AS f
WHERE
  f.c_tz = 'Europe/Paris' AND COALESCE(f.event_count_page_seen_d02344, 0) >= 1;

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
    CASE
      WHEN NOT EXISTS(
        SELECT
          1
        FROM penstock_dev.audience_members AS v
        WHERE
          v.name = 'audience' AND v.contact_id = f.contact_id AND v.member
      )
      THEN 'left_audience'
    END AS reason
  FROM (
    WITH base AS (
      SELECT
        s.*,
        COALESCE(c.tz, 'UTC') AS tz
      FROM tick_scope AS s
      LEFT JOIN tick_contacts AS c
        ON c.contact_id = s.contact_id
    )
    SELECT
      f.*
    FROM base AS f
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
    s.position,
    s.logical_at,
    s.due_at,
    s.steps,
    s.tick_at,
    s.log_at,
    "c"."c_person_id",
    COALESCE(c.tz, 'UTC') AS tz,
    g.p0
  FROM tick_scope AS s
  LEFT JOIN tick_contacts AS c
    ON c.contact_id = s.contact_id
  LEFT JOIN (VALUES
    ('small', 0),
    ('mark', 1)) AS g(step, p0)
    ON g.step = s.position
)
SELECT
  f.*
FROM base AS f;

-- 4 · stage 1
-- every due enrollment walks on, one layer per step, until it rests or ends; acts: mark
CREATE OR REPLACE TEMPORARY TABLE tick_stage_0 AS
WITH l0 AS NOT MATERIALIZED (
  SELECT
    "f"."c_person_id",
    "f"."log_at",
    "f"."tick_at",
    f.p0 AS "p",
    f.logical_at AS "l"
  FROM tick_frame AS f
), l1 AS NOT MATERIALIZED (
  SELECT
    "f"."l",
    "f"."log_at",
    "f"."tick_at",
    CASE
      WHEN "f"."p" = 0
      THEN CASE
        WHEN f.c_person_id IN (
          SELECT
            q_a."person_id"
          FROM "shop"."activity" AS q_a
          WHERE
            q_a."activity" = 'page_seen'
        )
        THEN 1
        ELSE 2
      END
      ELSE "f"."p"
    END AS "p"
  FROM l0 AS f
), l2 AS NOT MATERIALIZED (
  SELECT
    "f"."log_at",
    CASE WHEN "f"."p" = 1 THEN 2 ELSE "f"."p" END AS "p",
    CASE WHEN "f"."p" = 1 AND f.tick_at > "f"."l" + INTERVAL '3600' SECOND THEN f.tick_at ELSE "f"."l" END AS "l",
    CASE WHEN "f"."p" = 1 THEN "f"."l" ELSE CAST(NULL AS TIMESTAMP) END AS "a1"
  FROM l1 AS f
)
SELECT
  "f"."a1",
  "f"."l",
  "f"."p",
  "s"."contact_id",
  "s"."due_at",
  "s"."enrollment_id",
  "s"."key",
  "s"."log_at",
  "s"."p0",
  "s"."position",
  "s"."steps"
FROM l2 AS f
JOIN tick_frame AS s
  ON s.log_at = f.log_at;

-- 5 · action mark
-- tag reader: who reached it in this tick
SELECT
  f.log_at,
  f.enrollment_id,
  f.contact_id,
  f.key,
  'mark' AS step,
  'tag' AS kind,
  'reader' AS what,
  f.a1 AS due,
  'ok' AS outcome,
  CAST(NULL AS JSON) AS payload,
  CAST(NULL AS TIMESTAMP) AS expires_at,
  1 AS visit
FROM tick_stage_0 AS f
WHERE
  NOT f.a1 IS NULL;

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
    COALESCE(CASE WHEN f.p = 0 THEN 'small' WHEN f.p = 1 THEN 'mark' END, f.position) AS position,
    f.l AS logical_at,
    CAST(NULL AS TIMESTAMP) AS due_at,
    f.steps AS steps,
    CAST(NULL AS JSON) AS arms,
    CAST(NULL AS JSON) AS visits,
    FALSE AS back,
    CASE WHEN f.p = 2 THEN 'completed' END AS exit,
    f.p <> f.p0 AS moved,
    f.due_at AS due_before
  FROM tick_stage_0 AS f
) AS x
WHERE
  x.moved OR NOT x.exit IS NULL OR x.due_at IS DISTINCT FROM x.due_before;
