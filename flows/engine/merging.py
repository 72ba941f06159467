"""Merging: a contact becomes part of another one, with everything that Penstock keeps about it (language §6).

Merges are taken in the order of their times. Those of one tick go in rounds, as sets: a contact that receives and is
then merged itself does so in a later round.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from sqlglot import exp

from compiler import frames
from compiler.catalog import Catalog, MergeModel
from compiler.condition import relation_table
from compiler.errors import ProjectError
from compiler.lookup import tick_at
from flows.engine.work import Work
from flows.journal.tables import StateTables, stage
from flows.warehouse.base import Warehouse


@dataclass(frozen=True)
class Found:
    """A row of the merges model that was not taken yet; `known`: there is such a contact to merge into."""

    source: str
    into: str
    at: datetime
    known: bool


@dataclass(frozen=True)
class Merge:
    """A merge to be made, in a round of the tick; `into` is whom that contact is by then."""

    source: str
    into: str
    at: datetime
    round: int


def merge_contacts(work: Work) -> None:
    """Make the merges that became visible; who is concerned is looked at in this tick."""
    model = work.deployment.catalog.contact.merges
    if model is None:
        return
    catalog = work.deployment.catalog
    rows = work.warehouse.rows(
        work.texts.text(("merges",), lambda: _new_merges(catalog, model), work.warehouse), work.parameters
    )
    if not rows:
        return
    targets = pa.table({"id": sorted({row["into_id"] for row in rows})}, pa.schema([("id", pa.string())]))
    stage(work.warehouse, "tick_targets", targets)
    there = work.texts.text(("merge_targets",), lambda: _contacts_there(catalog), work.warehouse)
    known = {row["id"] for row in work.warehouse.rows(there)}
    merges = in_rounds(Found(row["from_id"], row["into_id"], row["merged_at"], row["into_id"] in known) for row in rows)
    if not merges:
        return
    columns = {
        "from_id": [merge.source for merge in merges], "into_id": [merge.into for merge in merges],
        "merged_at": [merge.at for merge in merges], "round": [merge.round for merge in merges],
        "line": list(range(1, len(merges) + 1)),
    }  # fmt: skip
    stage(work.warehouse, "tick_merges", pa.table(columns, _MERGES))
    for number in range(1, max(merge.round for merge in merges) + 1):
        _round(work, number)
    work.count("merged", len(merges))


def in_rounds(found: Iterable[Found]) -> list[Merge]:
    """The merges that can be made, in order.

    Left out is one of a contact that was merged before, one that would go in a circle, and one into a contact that does
    not exist yet, which waits for it.
    """
    ordered = sorted(found, key=lambda row: (row.at, row.source, row.into))
    everything = _joined(ordered)
    known = {row.into for row in ordered if row.known}
    into: dict[str, str] = {}
    depth: dict[str, int] = {}
    merges: list[Merge] = []
    for row in ordered:
        target = _root(into, row.into)
        if row.source in into or target == row.source or _root(everything, row.into) not in known:
            continue
        into[row.source] = target
        depth[target] = max(depth.get(target, 1), depth.get(row.source, 0) + 1)
        merges.append(Merge(row.source, target, row.at, depth[target]))
    return merges


def merge_times(warehouse: Warehouse, catalog: Catalog) -> list[datetime]:
    """The times at which contacts become part of others, past and to come, each once."""
    model = catalog.contact.merges
    if model is None:
        return []
    at = frames.timestamp(model.relation, model.at, "m")
    rows = exp.select(at.as_("at", quoted=True)).distinct().from_(relation_table(model.relation, "m"))
    return sorted(row["at"] for row in warehouse.rows(rows) if row["at"] is not None)


def check_not_merged(warehouse: Warehouse, schema: str, contact: str) -> None:
    """Refuse to speak about a contact that is another one now.

    Raises:
        ProjectError: E516, it became part of another contact.
    """
    state = StateTables(schema)
    if warehouse.relation_exists(state.place("contact_merges")):
        for row in warehouse.rows(state.statement(warehouse, _MERGED_INTO), {"contact_id": contact}):
            became = f"contact '{contact}' was merged into '{row['into_id']}' at {row['merged_at']:%Y-%m-%d %H:%M}"
            raise ProjectError(became, code="E516", hint=f"ask about '{row['into_id']}'")


def _joined(ordered: Sequence[Found]) -> dict[str, str]:
    into: dict[str, str] = {}
    for row in ordered:
        target = _root(into, row.into)
        if row.source not in into and target != row.source:
            into[row.source] = target
    return into


def _root(into: Mapping[str, str], contact: str) -> str:
    while contact in into:
        contact = into[contact]
    return contact


def _new_merges(catalog: Catalog, model: MergeModel) -> exp.Select:
    """The visible rows of contacts that are not merged yet."""
    relation = model.relation
    merges = exp.table_("contact_merges", db=catalog.state_schema)
    merged, at = frames.text(relation, model.from_, "m"), frames.timestamp(relation, model.at, "m")
    # those that were made are sorted out first: nearly always all of them
    done = exp.In(this=merged.copy(), query=exp.Subquery(this=exp.select("from_id").from_(merges)))
    rows = exp.select(
        merged.as_("from_id"), frames.text(relation, model.into, "m").as_("into_id"), at.as_("merged_at")
    ).from_(relation_table(relation, "m"))
    rows = rows.where(exp.and_(exp.LTE(this=at.copy(), expression=tick_at()), exp.Not(this=done)))
    into = exp.Coalesce(this=exp.column("into_id", table="g"), expressions=[exp.column("into_id", table="n")])
    return (
        exp.select("n.from_id", into.as_("into_id"), "n.merged_at").from_(rows.subquery("n"))
        .join(exp.alias_(merges.copy(), "g", table=True), on="g.from_id = n.into_id", join_type="left")
        .where("n.from_id IS NOT NULL AND n.into_id IS NOT NULL")
    )  # fmt: skip


def _contacts_there(catalog: Catalog) -> exp.Select:
    """The contacts in `tick_targets` that exist."""
    contact = catalog.contact
    identity = frames.text(contact.relation, contact.id, "c")
    targets = exp.select("t.id").from_("tick_targets AS t")
    rows = exp.select(identity.as_("id")).from_(relation_table(contact.relation, "c"))
    return rows.where(exp.In(this=identity.copy(), query=exp.Subquery(this=targets)))


def _round(work: Work, number: int) -> None:
    work.run(_NOW, round=number)
    work.run(_SIDES)
    work.run(_OPT_OUTS)
    work.run(_KNOWN)
    work.run(_BECAME)
    _merge_enrollments(work)
    for statement in _CARRIED:
        work.run(statement)
    starts = json.dumps(dict(work.deployment.catalog.points))
    work.run(_POINTS, starts=starts)
    work.run(_ADD_POINTS)
    work.run(_FIRST_POINTS, starts=starts)
    for statement in _LEFT_BEHIND:
        work.run(statement)


def _merge_enrollments(work: Work) -> None:
    """End those that the other contact has too, move the others, and have all of the contact's looked at."""
    if work.run(_ENROLLED):
        work.count("exits", work.journal(_ENDED_JOURNAL))
        work.run(_ENDED)
        work.journal(_MOVED_JOURNAL)
        work.run(_MOVED)
    work.run(_WOKEN)


_MERGES = pa.schema([
    ("from_id", pa.string()), ("into_id", pa.string()), ("merged_at", pa.timestamp("us")), ("round", pa.int64()),
    ("line", pa.int64()),
])  # fmt: skip
_MERGED_INTO = "SELECT into_id, merged_at FROM contact_merges WHERE from_id = $contact_id"
_NOW = """
    CREATE OR REPLACE TEMP TABLE tick_merging AS
    SELECT m.from_id, m.into_id, m.merged_at, m.line FROM tick_merges AS m WHERE m.round = $round
"""
# Both sides of each merge; the contact that receives stands first.
_SIDES = """
    CREATE OR REPLACE TEMP TABLE tick_sides AS
    SELECT m.from_id AS id, m.into_id AS contact_id, m.line FROM tick_merging AS m
    UNION ALL SELECT DISTINCT m.into_id, m.into_id, 0 FROM tick_merging AS m
"""
# An opt-out of either side is written anew: so the last row of the scope decides, and a later lift can end it.
_OPT_OUTS = """
    INSERT INTO suppressions
    SELECT CAST(md5(concat_ws('|', 'merge', $tick, l.contact_id, coalesce(l.channel, '-'), l.scope)) AS UUID),
        l.contact_id, NULL, l.channel, l.scope, 'add', min(l.reason), 'merge', $tick_at
    FROM (
        SELECT t.contact_id, s.channel, s.scope, s.action, s.reason, row_number() OVER (
            PARTITION BY t.id, s.channel, s.scope ORDER BY s.created_at DESC, s.suppression_id DESC) AS place
        FROM suppressions AS s LEFT JOIN contact_merges AS g ON g.from_id = s.contact_id
        JOIN tick_sides AS t ON t.id = coalesce(g.into_id, s.contact_id)
        WHERE s.created_at <= $tick_at AND NOT coalesce(s.reason IN ('bounced', 'hard_bounce'), FALSE)
    ) AS l WHERE l.place = 1 AND l.action = 'add' GROUP BY l.contact_id, l.channel, l.scope
"""
_KNOWN = "INSERT INTO contact_merges SELECT m.from_id, m.into_id, m.merged_at FROM tick_merging AS m"
_BECAME = """
    UPDATE contact_merges SET into_id = m.into_id FROM tick_merging AS m WHERE contact_merges.into_id = m.from_id
"""
_ENROLLED = """
    CREATE OR REPLACE TEMP TABLE tick_merged AS
    SELECT n.enrollment_id, n.workflow, n.version, n.contact_id, n.key, n.position, n.logical_at, m.into_id,
        n.exit IS NULL AS active, n.exit IS NULL AND EXISTS (
            SELECT 1 FROM enrollments AS b JOIN tick_sides AS s ON s.id = b.contact_id
            WHERE s.contact_id = m.into_id AND s.line < m.line AND b.workflow = n.workflow
                AND b.key IS NOT DISTINCT FROM n.key
        ) AS ends
    FROM enrollments AS n JOIN tick_merging AS m ON m.from_id = n.contact_id
    WHERE n.exit IS NULL OR n.exit <> 'merged'
"""
_ENDED_JOURNAL = """
    SELECT x.workflow, x.version, x.enrollment_id, x.contact_id, x.key, NULL AS step, 'exit' AS kind, NULL AS what,
        'merged' AS outcome, NULL AS due, NULL AS action_id, x.into_id AS cause, NULL AS details
    FROM tick_merged AS x WHERE x.ends
"""
_ENDED = """
    UPDATE enrollments SET exit = 'merged', exited_at = $tick_at, moved_tick = $tick, due_at = NULL
    FROM tick_merged AS x WHERE enrollments.enrollment_id = x.enrollment_id AND x.ends
"""
_MOVED_JOURNAL = """
    SELECT x.workflow, x.version, x.enrollment_id, x.into_id AS contact_id, x.key,
        CASE WHEN x.active THEN x.position END AS step, 'merged' AS kind, NULL AS what, NULL AS outcome,
        CASE WHEN x.active THEN x.logical_at END AS due, NULL AS action_id, x.contact_id AS cause, NULL AS details
    FROM tick_merged AS x WHERE NOT x.ends
"""
_MOVED = """
    UPDATE enrollments SET contact_id = x.into_id
    FROM tick_merged AS x WHERE enrollments.enrollment_id = x.enrollment_id AND NOT x.ends
"""
_WOKEN = """
    UPDATE enrollments SET due_at = CASE WHEN due_at <= $tick_at THEN due_at ELSE $tick_at END
    WHERE exit IS NULL AND contact_id IN (SELECT m.into_id FROM tick_merging AS m)
"""
_CARRIED = (
    # what was decided goes on under the new id, but for what the ended enrollments had not sent yet
    """
    UPDATE outbox SET contact_id = m.into_id FROM tick_merging AS m
    WHERE outbox.contact_id = m.from_id AND outbox.enrollment_id NOT IN (
        SELECT n.enrollment_id FROM enrollments AS n WHERE n.exit = 'merged' AND n.contact_id = m.from_id
    )
    """,
    "UPDATE outbox_closed SET contact_id = m.into_id FROM tick_merging AS m WHERE outbox_closed.contact_id = m.from_id",
    """
    UPDATE candidates SET contact_id = m.into_id FROM tick_merging AS m
    WHERE candidates.contact_id = m.from_id AND candidates.verdict IN ('waiting', 'asked')
    """,
    """
    INSERT INTO contact_tags
    SELECT s.contact_id, t.tag, min(t.since), CAST(min(CAST(t.cause AS TEXT)) AS UUID)
    FROM contact_tags AS t JOIN tick_sides AS s ON s.id = t.contact_id AND s.line > 0
    WHERE NOT EXISTS (SELECT 1 FROM contact_tags AS k WHERE k.contact_id = s.contact_id AND k.tag = t.tag)
    GROUP BY s.contact_id, t.tag
    """,
    """
    INSERT INTO campaign_members
    SELECT s.contact_id, t.campaign, min(t.since), CAST(min(CAST(t.cause AS TEXT)) AS UUID)
    FROM campaign_members AS t JOIN tick_sides AS s ON s.id = t.contact_id AND s.line > 0
    WHERE NOT EXISTS (
        SELECT 1 FROM campaign_members AS k WHERE k.contact_id = s.contact_id AND k.campaign = t.campaign
    )
    GROUP BY s.contact_id, t.campaign
    """,
    # who was in an audience on either side is in it, so that nobody enters twice
    """
    CREATE OR REPLACE TEMP TABLE tick_carried AS
    SELECT a.name, s.contact_id, bool_or(a.member) AS member, max(a.since) AS since, max(a.edge) AS edge
    FROM audience_members AS a JOIN tick_sides AS s ON s.id = a.contact_id GROUP BY a.name, s.contact_id
    """,
    "DELETE FROM audience_members WHERE contact_id IN (SELECT s.id FROM tick_sides AS s)",
    "INSERT INTO audience_members SELECT c.name, c.contact_id, c.member, c.since, c.edge, NULL FROM tick_carried AS c",
    # of a field the value that was set last
    """
    CREATE OR REPLACE TEMP TABLE tick_carried AS
    SELECT c.contact_id, c.name, c.value, c.since, c.cause FROM (
        SELECT s.contact_id, f.name, f.value, f.since, f.cause,
            row_number() OVER (PARTITION BY s.contact_id, f.name ORDER BY f.since DESC, s.line) AS place
        FROM contact_fields AS f JOIN tick_sides AS s ON s.id = f.contact_id
    ) AS c WHERE c.place = 1
    """,
    "DELETE FROM contact_fields WHERE contact_id IN (SELECT s.id FROM tick_sides AS s)",
    "INSERT INTO contact_fields SELECT c.contact_id, c.name, c.value, c.since, c.cause FROM tick_carried AS c",
)
_START = "coalesce(CAST(json_extract_string(CAST($starts AS JSON), '$.\"' || /*name*/ || '\"') AS DOUBLE), 0)"
_POINTS = (
    """
    CREATE OR REPLACE TEMP TABLE tick_carried AS
    SELECT s.contact_id, p.name, sum(p.value - """
    + _START.replace("/*name*/", "p.name")
    + """) AS added, max(p.since) AS since, CAST(max(CAST(p.cause AS TEXT)) AS UUID) AS cause
    FROM contact_points AS p JOIN tick_sides AS s ON s.id = p.contact_id AND s.line > 0 GROUP BY s.contact_id, p.name
"""
)
_ADD_POINTS = """
    UPDATE contact_points SET value = contact_points.value + c.added, since = greatest(contact_points.since, c.since)
    FROM tick_carried AS c WHERE contact_points.contact_id = c.contact_id AND contact_points.name = c.name
"""
_FIRST_POINTS = (
    "INSERT INTO contact_points SELECT c.contact_id, c.name, c.added + "
    + _START.replace("/*name*/", "c.name")
    + ", c.since, c.cause FROM tick_carried AS c WHERE NOT EXISTS ("
    "SELECT 1 FROM contact_points AS k WHERE k.contact_id = c.contact_id AND k.name = c.name)"
)
_LEFT_BEHIND = (
    "DELETE FROM contact_tags WHERE contact_id IN (SELECT m.from_id FROM tick_merging AS m)",
    "DELETE FROM contact_untags WHERE contact_id IN (SELECT m.from_id FROM tick_merging AS m)",
    "DELETE FROM campaign_members WHERE contact_id IN (SELECT m.from_id FROM tick_merging AS m)",
    "DELETE FROM contact_points WHERE contact_id IN (SELECT m.from_id FROM tick_merging AS m)",
)
