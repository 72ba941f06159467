"""Let a server find by indexes what a tick and a delivery read of large tables."""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp

from flows.journal.schema import located

_INDEXES = """
CREATE INDEX ticks_tick ON ticks (tick);
CREATE INDEX journal_tick ON journal (tick);
CREATE INDEX journal_contact ON journal (contact_id);
CREATE INDEX enrollments_due ON enrollments (due_at) WHERE exit IS NULL;
CREATE INDEX enrollments_contact ON enrollments (contact_id);
CREATE INDEX enrollments_id ON enrollments (enrollment_id);
CREATE INDEX candidates_id ON candidates (candidate_id);
CREATE INDEX candidates_open ON candidates (workflow) WHERE verdict IN ('asked', 'waiting');
CREATE INDEX events_seq ON events (seq);
CREATE INDEX events_contact ON events (contact_id);
CREATE INDEX event_seen_event ON event_seen (event_id);
CREATE INDEX event_seen_pending ON event_seen (seen_tick) WHERE arrived_tick IS NULL;
CREATE INDEX outbox_enrollment ON outbox (enrollment_id);
CREATE INDEX outbox_closed_contact ON outbox_closed (contact_id);
CREATE INDEX outbox_closed_updated ON outbox_closed (updated_at);
CREATE INDEX attempts_action ON attempts (action_id);
CREATE INDEX suppressions_contact ON suppressions (contact_id);
CREATE INDEX suppressions_address ON suppressions (address_hash);
CREATE INDEX contact_tags_contact ON contact_tags (contact_id);
CREATE INDEX audience_members_contact ON audience_members (name, contact_id);
CREATE INDEX audience_masks_contact ON audience_masks (statement, contact_id);
"""


def up(schema: str) -> Iterator[exp.Expr]:
    """The statements from version 4 to version 5 everywhere: none."""
    yield from ()


def on_server(schema: str) -> Iterator[exp.Expr]:
    """The statements where rows are found by indexes."""
    for tree in sqlglot.parse(_INDEXES, dialect="postgres"):
        if tree is not None:
            yield located(tree, schema)
