"""Audience triggers: all of them evaluated together, and who became a member since the tick before (language §1)."""

from __future__ import annotations

from compiler.audience import REPEATED, Group, grouped
from compiler.errors import PenstockError
from compiler.plan import AudienceEntry
from flows.engine.deployment import Deployed
from flows.engine.guard import too_few_remain, too_many_enter
from flows.engine.work import Work


class AudiencesFailed(Exception):
    """Audiences could not be evaluated: one of them, or some together and then it is not known which."""

    def __init__(self, workflows: tuple[str, ...], error: PenstockError) -> None:
        super().__init__(", ".join(workflows))
        self.workflows = workflows
        self.error = error


def find_edges(work: Work, started: frozenset[str], *, apart: bool = False) -> int:
    """Evaluate audience triggers and update `audience_members`; fills `tick_edges` and gives the number of edges.

    Args:
        work: the tick.
        started: workflows that were evaluated before.
        apart: evaluate each in a statement of its own, to learn which of them fails.

    Raises:
        AudiencesFailed: a statement failed, and the transaction with it.
    """
    work.run("CREATE OR REPLACE TEMP TABLE tick_edges (workflow TEXT, contact_id TEXT, edge BIGINT)")
    triggers = {
        deployed.name: (deployed, entry.audience)
        for deployed in work.deployment.workflows.values()
        if deployed.admitting is not None
        and isinstance(entry := deployed.admitting.entry, AudienceEntry) and entry.audience is not None
    }  # fmt: skip
    catalog, audiences = work.deployment.catalog, [audience for _, audience in triggers.values()]
    found = 0
    for group in [Group((each,), catalog) for each in audiences] if apart else grouped(audiences, catalog):
        names = tuple(audience.name for audience in group.audiences)
        try:
            masks(work, group, [f"{name}:{triggers[name][0].current}" for name in names])
            for place, name in enumerate(names):
                found += _edges(work, triggers[name][0], 1 << place, first=name not in started)
        except PenstockError as error:
            raise AudiencesFailed(names, error) from error
    return found


def masks(work: Work, group: Group, key: list[str]) -> None:
    """Make `tick_masks` of a group."""
    names = sorted(group.needs.events)
    merges = work.deployment.catalog.contact.merges is not None
    own = bool(names) and bool(work.rows(_OWN, names=names, merges=merges)[0]["found"])
    if group.counted and work.make(REPEATED, group.repeated, *key):
        own = True
    elif own:
        work.run(_NOTHING_TWICE)
    work.make("tick_masks", lambda: group.masks(own=own), "own" if own else "model", *key)


def _edges(work: Work, deployed: Deployed, bit: int, *, first: bool) -> int:
    plan = deployed.admitting
    work.run(_MEMBERS, bit=bit)
    if first and plan is not None and plan.rules.backfill == 0:
        work.run(_BASELINE, workflow=deployed.name)
        return 0
    if plan is None or too_few_remain(work, plan):
        return 0
    edges = work.run(_EDGES, workflow=deployed.name)
    work.run(_LEFT, workflow=deployed.name)
    if edges and too_many_enter(work, plan, edges):
        work.run(_NO_EDGES, workflow=deployed.name)
        return 0
    if edges:
        work.run(_BACK, workflow=deployed.name)
        work.run(_NEW_MEMBERS, workflow=deployed.name)
    return edges


_OWN = """
    SELECT EXISTS (SELECT 1 FROM events AS o WHERE list_contains($names, o.name))
        OR $merges AND EXISTS (SELECT 1 FROM contact_merges) AS found
"""
_NOTHING_TWICE = "CREATE OR REPLACE TEMP TABLE tick_repeated_ids AS SELECT 'x' AS event_id, NULL AS id WHERE FALSE"
_MEMBERS = """
    CREATE OR REPLACE TEMP TABLE tick_members AS
    SELECT m.contact_id FROM tick_masks AS m WHERE (m.mask & CAST($bit AS BIGINT)) <> 0
"""
_BASELINE = """
    INSERT INTO audience_members
    SELECT $workflow, m.contact_id, TRUE, $tick_at, 0, NULL FROM tick_members AS m
"""
_EDGES = """
    INSERT INTO tick_edges
    SELECT $workflow, m.contact_id, coalesce(a.edge, 0) + 1
    FROM tick_members AS m LEFT JOIN audience_members AS a ON a.name = $workflow AND a.contact_id = m.contact_id
    WHERE NOT coalesce(a.member, FALSE)
"""
_NO_EDGES = "DELETE FROM tick_edges WHERE workflow = $workflow"
_LEFT = """
    UPDATE audience_members SET member = FALSE, since = $tick_at
    WHERE name = $workflow AND member AND contact_id NOT IN (SELECT contact_id FROM tick_members)
"""
_BACK = """
    UPDATE audience_members SET member = TRUE, since = $tick_at, edge = g.edge
    FROM tick_edges AS g
    WHERE g.workflow = $workflow AND audience_members.name = $workflow AND audience_members.contact_id = g.contact_id
"""
_NEW_MEMBERS = """
    INSERT INTO audience_members
    SELECT $workflow, g.contact_id, TRUE, $tick_at, g.edge, NULL FROM tick_edges AS g
    WHERE g.workflow = $workflow
        AND g.contact_id NOT IN (SELECT contact_id FROM audience_members WHERE name = $workflow)
"""
