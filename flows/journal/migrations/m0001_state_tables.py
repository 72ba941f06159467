"""Create the state tables."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from flows.journal.schema import create_schema, create_table, create_union_view, state_table

_INTENT = (
    "action_id uuid!, enrollment_id uuid!, workflow text!, version integer!, contact_id text!, key text, step text!, "
    "visit integer!, kind text!, what text!, destination text, template_hash text, payload json, due timestamp, "
    "decided_at timestamp, tick bigint, seq bigint, expires_at timestamp, transactional boolean, state text!, "
    "worker text, fence bigint, attempts integer!, next_attempt_at timestamp, code text, reason text, "
    "updated_at timestamp"
)

OUTBOX = state_table("outbox", _INTENT, primary_key=("action_id",))
OUTBOX_CLOSED = state_table("outbox_closed", _INTENT)

TABLES = (
    state_table("meta", "workspace text!, state_id uuid!, schema_version integer!, written_by text!"),
    state_table("migrations", "number integer!, name text!, applied_at timestamp!"),
    state_table("lease", "id integer!, holder text, fence bigint!, acquired_at timestamp, expires_at timestamp"),
    state_table(
        "workflow_versions",
        "workflow text!, version integer!, hash text!, definition json!, source text!, published_at timestamp!, "
        "activated_at timestamp!, retired_at timestamp, published_by text",
    ),
    state_table("templates", "name text!, hash text!, source text!, published_at timestamp!"),
    state_table("config_versions", "version integer!, hash text!, config json!, published_at timestamp!"),
    state_table(
        "controls", "control_id uuid!, scope text!, action text!, who text, because text, created_at timestamp!"
    ),
    state_table(
        "ticks",
        "tick bigint!, tick_at timestamp!, fence bigint, watermarks json, counts json, checksum text, "
        "started_at timestamp, finished_at timestamp",
    ),
    state_table(
        "journal",
        "tick bigint!, seq bigint!, executed_at timestamp!, workflow text, version integer, enrollment_id uuid, "
        "contact_id text, key text, step text, kind text!, what text, outcome text, due timestamp, action_id uuid, "
        "cause text, details json",
    ),
    state_table(
        "candidates",
        "candidate_id uuid!, workflow text!, contact_id text!, key text, entry_ref text, candidate_at timestamp, "
        "verdict text!, tick bigint!",
    ),
    state_table(
        "enrollments",
        "enrollment_id uuid!, workflow text!, version integer!, contact_id text!, key text, entry_ref text, "
        "entry json, entry_at timestamp!, position text, logical_at timestamp, due_at timestamp, steps json, "
        "arms json, visits json, entered_tick bigint!, moved_tick bigint, exit text, exited_at timestamp",
    ),
    state_table(
        "audience_members",
        "name text!, contact_id text!, member boolean!, since timestamp, edge bigint!, flips_at timestamp",
    ),
    state_table(
        "events",
        "event_id text!, seq bigint!, contact_id text, action_id text, email text, phone text, name text!, "
        "event_time timestamp!, loaded_at timestamp!, data json, source text!",
    ),
    state_table(
        "event_seen",
        "source text!, event_id text!, seen_tick bigint!, arrived_tick bigint, event_time timestamp, "
        "loaded_at timestamp",
    ),
    state_table("contact_tags", "contact_id text!, tag text!, since timestamp, cause uuid"),
    state_table("contact_untags", "contact_id text!, tag text!, since timestamp, cause uuid"),
    state_table("contact_fields", "contact_id text!, name text!, value text, since timestamp, cause uuid"),
    state_table("contact_merges", "from_id text!, into_id text!, merged_at timestamp!"),
    state_table(
        "suppressions",
        "suppression_id uuid!, contact_id text, address_hash text, channel text, scope text!, action text!, "
        "reason text, source text, created_at timestamp!",
    ),
    OUTBOX,
    OUTBOX_CLOSED,
    state_table(
        "attempts",
        "action_id uuid!, attempt integer!, started_at timestamp, finished_at timestamp, outcome text, code text, "
        "ambiguous boolean!, worker text, receipt json",
    ),
)


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements that bring a schema of version 0, which may not exist yet, to version 1."""
    yield create_schema(schema)
    for definition in TABLES:
        yield create_table(schema, definition)
    yield create_union_view(schema, "deliveries", (OUTBOX, OUTBOX_CLOSED))
