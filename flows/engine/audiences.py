"""Audience triggers and named audiences: all evaluated together, and who became a member since the tick before.

Both have their members in `audience_members`; only triggers have edges (language §1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime

import pyarrow as pa

from compiler.audience import Group
from compiler.errors import PenstockError
from compiler.event_scan import CHANGED, REPEATED, SAMPLE, SOME_EVENTS, TORN, EventScan
from flows.engine.deployment import Deployed
from flows.engine.guard import SMALL_AUDIENCE, too_few_remain, too_many_enter
from flows.engine.work import Work
from flows.journal.tables import stage

BLOCK = 4096
"""About so many events have their ids in one block."""


class AudiencesFailed(Exception):
    """Audiences could not be evaluated: one of them, or some together and then it is not known which."""

    def __init__(self, workflows: tuple[str, ...], error: PenstockError) -> None:
        super().__init__(", ".join(workflows))
        self.workflows = workflows
        self.error = error


def find_edges(
    work: Work, started: frozenset[str], *, apart: bool = False, previous: datetime | None = None,
    evaluated: frozenset[str] = frozenset(),
) -> tuple[int, frozenset[str]]:  # fmt: skip
    """Evaluate audiences and update `audience_members`; fills `tick_edges`.

    Args:
        work: the tick.
        started: workflows that were evaluated before.
        apart: evaluate each in a statement of its own, to learn which of them fails.
        previous: the time of the tick before.
        evaluated: statements that the tick before evaluated, so that those of which it can be told need to be evaluated
            only for the contacts that may have changed.

    Returns:
        The number of edges, and the statements whose results stand in `audience_masks` now.

    Raises:
        AudiencesFailed: a statement failed, and the transaction with it.
    """
    work.run("CREATE OR REPLACE TEMP TABLE tick_edges (workflow TEXT, contact_id TEXT, edge BIGINT)")
    deployment = work.deployment
    groups = deployment.audience_groups
    if apart:
        groups = tuple(Group((each,), deployment.catalog) for group in groups for each in group.audiences)
    found, statements = 0, frozenset[str]()
    for group in groups:
        evaluation = _Evaluation(work, group, started)
        names = tuple(audience.name for audience in group.audiences)
        try:
            if evaluation.statement in evaluated and previous is not None and not work.counts.get("merged"):
                found += evaluation.again(previous)
            else:
                found += evaluation.first()
        except PenstockError as error:
            raise AudiencesFailed(names, error) from error
        statements |= {evaluation.statement}
    if found and deployment.audiences:
        found -= work.run(_NO_EDGES, names=[audience.name for audience in deployment.audiences])
    if statements - evaluated or evaluated - statements:
        work.run(_NO_LONGER_ASKED, statements=sorted(statements))
    return found, statements


class _Evaluation:
    """The evaluation of one group of audiences in one tick."""

    def __init__(self, work: Work, group: Group, started: frozenset[str]) -> None:
        self.work = work
        self.group = group
        self.started = started
        named = {audience.name for audience in work.deployment.audiences}
        self.audiences = {
            audience.name: None if audience.name in named else work.deployment.workflows[audience.name]
            for audience in group.audiences
        }  # fmt: skip
        """Each with its workflow; None of a named one."""
        self.key = [f"{name}:{deployed.current if deployed else ''}" for name, deployed in self.audiences.items()]
        text = work.texts.text(("audiences", *self.key), lambda: group.masks(own=True), work.warehouse)
        self.statement = hashlib.md5("|".join((*self.key, text)).encode(), usedforsecurity=False).hexdigest()

    def first(self) -> int:
        """Evaluate for everybody, whatever was known."""
        work, found = self.work, 0
        masks(work, self.group, self.key)
        for place, (name, deployed) in enumerate(self.audiences.items()):
            work.run(_MEMBERS, bit=1 << place)
            found += _edges(work, name, deployed, first=name not in self.started)
        work.run(_FORGET_ALL, statement=self.statement)
        work.run(_KEEP_ALL, statement=self.statement)
        return found

    def again(self, previous: datetime) -> int:
        """Evaluate for those who may have changed since the tick before; everybody where that cannot be told."""
        work, group, held = self.work, self.group, self.work.holding.before
        known = {"statement": self.statement, "previous_at": previous}
        if group.told:
            some = work.make(CHANGED, group.changed, *self.key, parameters=known)
            if some:
                masks(work, group, self.key, among=True)
        else:
            masks(work, group, self.key)
            some = work.run(_DIFFERING, **known)
        flips = work.run(_FLIPS, **known) if some else 0
        if some:
            work.run(_FORGET, **known)
            work.run(_KEEP, **known)
        moved = self._crossed() if flips else {}
        closely = {name for name, (_, leaving) in moved.items()
                   if work.deployment.guard and leaving >= SMALL_AUDIENCE // 2}  # fmt: skip
        closely |= {name for name in self.audiences if name in held}
        found = self._cross({name: each for name, each in moved.items() if name not in closely})
        for place, (name, deployed) in enumerate(self.audiences.items()):
            if name in closely:
                work.run(_KEPT_MEMBERS, bit=1 << place, **known)
                found += _edges(work, name, deployed, first=False)
        return found

    def _crossed(self) -> dict[str, tuple[int, int]]:
        """Fill `tick_crossed`; of the audiences that somebody entered or left: how many entered, and how many left."""
        bits = {name: 1 << place for place, name in enumerate(self.audiences)}
        stage(self.work.warehouse, "tick_bits", pa.table(
            {"name": list(bits), "bit": list(bits.values())}, pa.schema([("name", pa.string()), ("bit", pa.int64())])
        ))  # fmt: skip
        if self.work.run(_CROSSED) and self.work.number(_FRESH):
            self.work.run(_NOT_CROSSED)
        return {row["name"]: (int(row["entering"]), int(row["leaving"])) for row in self.work.rows(_MOVED)}

    def _cross(self, moved: Mapping[str, tuple[int, int]]) -> int:
        """Enter and leave some audiences by what was crossed alone."""
        work, names = self.work, list(moved)
        if not names:
            return 0
        for name, (entering, _) in moved.items():
            deployed = self.audiences[name]
            plan = deployed.admitting if deployed is not None else None
            if plan is not None and too_many_enter(work, plan, entering):
                work.run(_NOBODY_ENTERS, name=name)
        # all who leave have a row, so what is changed beyond them are those who are back
        back = work.run(_CROSS, names=names) > sum(leaving for _, leaving in moved.values())
        edges = work.run(_EDGES_BACK, names=names) if back else 0
        new = work.run(_NEW_BY_CROSSING, names=names)
        return edges + (work.run(_EDGES_NEW, names=names) if new else 0)


def masks(work: Work, group: Group, key: list[str], *, among: bool = False) -> None:
    """Make `tick_masks` of a group; `among`: of the contacts in `tick_changed`."""
    own = prepare_masks(work, group, key, among=among)
    which = "among" if among else "all"
    work.make("tick_masks", lambda: group.masks(own=own, among=among), which, "own" if own else "model", *key)


def prepare_masks(work: Work, group: Group, key: list[str], *, among: bool = False) -> bool:
    """Make the tables that the statement of a group's masks reads; gives whether it reads more than the model."""
    names = sorted(group.needs.events)
    if not names or group.joined:
        return False
    merges = work.deployment.catalog.contact.merges is not None
    found = work.rows(_OWN, names=names, merges=merges)[0]
    if among:
        work.make(SOME_EVENTS, group.scan.some_events, *key)
    repeated = _find_repeated(work, group.scan, key, among=among, own=found["own"])
    if (found["own"] or found["merged"]) and repeated is None:
        work.make(REPEATED, lambda: group.scan.repeated(model=False, own=False))
    return bool(found["own"] or found["merged"] or repeated)


def _find_repeated(work: Work, scan: EventScan, key: list[str], *, among: bool, own: bool) -> int | None:
    """Make the table of events that stand there twice; None, and no table, when there can be none."""
    if not scan.counted:
        return None
    torn = None if among or not scan.whole_ids else _torn(work, scan, key)
    parts = {"among": among, "torn": bool(torn), "model": torn != 0, "own": own}
    if not (parts["model"] or own):
        return None
    which = [name for name, chosen in parts.items() if chosen]
    return work.make(REPEATED, lambda: scan.repeated(**parts), *which, "of", *key, parameters={"bits": torn})


def _torn(work: Work, scan: EventScan, key: list[str]) -> int | None:
    """Make the table of blocks of ids in which one may stand twice.

    Gives how many bits of an id are its place in the block, 0 when there is no such block; None, and no table, when ids
    do not ascend, so that it is less work to count each of them.
    """
    text = work.texts.text(("ascent", *key), scan.ascent, work.warehouse)
    sample = work.warehouse.rows(text, work.parameters)[0]
    if sample["n"] < SAMPLE or sample["rising"] < 0.9 * sample["n"]:
        return None
    bits = (BLOCK * max(1, (sample["high"] - sample["low"]) // sample["n"])).bit_length()
    return bits if work.make(TORN, scan.torn, *key, parameters={"bits": bits}) else 0


def _edges(work: Work, name: str, deployed: Deployed | None, *, first: bool) -> int:
    """Compare the members, who are in `tick_members`, with who was one."""
    plan = deployed.admitting if deployed is not None else None
    if first and plan is not None and plan.rules.backfill == 0:
        work.run(_BASELINE, name=name)
        return 0
    if plan is not None and too_few_remain(work, plan):
        return 0
    edges = work.run(_EDGES, name=name)
    work.run(_LEFT, name=name)
    if plan is not None and edges and too_many_enter(work, plan, edges):
        work.run(_NO_EDGES, names=[name])
        return 0
    if edges:
        work.run(_BACK, name=name)
        work.run(_NEW_MEMBERS, name=name)
    return edges


def end_audiences(work: Work, names: Collection[str]) -> None:
    """Let everybody leave named audiences that are no more."""
    if names:
        work.run(_ENDED, names=sorted(names))


_OWN = """
    SELECT EXISTS (SELECT 1 FROM events AS o WHERE list_contains($names, o.name)) AS own,
        $merges AND EXISTS (SELECT 1 FROM contact_merges) AS merged
"""
_MEMBERS = """
    CREATE OR REPLACE TEMP TABLE tick_members AS
    SELECT m.contact_id FROM tick_masks AS m WHERE (m.mask & CAST($bit AS BIGINT)) <> 0
"""
_BASELINE = """
    INSERT INTO audience_members
    SELECT $name, m.contact_id, TRUE, $tick_at, 0, NULL FROM tick_members AS m
"""
_EDGES = """
    INSERT INTO tick_edges
    SELECT $name, m.contact_id, coalesce(a.edge, 0) + 1
    FROM tick_members AS m LEFT JOIN audience_members AS a ON a.name = $name AND a.contact_id = m.contact_id
    WHERE NOT coalesce(a.member, FALSE)
"""
_NO_EDGES = "DELETE FROM tick_edges WHERE list_contains($names, workflow)"
_LEFT = """
    UPDATE audience_members SET member = FALSE, since = $tick_at
    WHERE name = $name AND member AND contact_id NOT IN (SELECT contact_id FROM tick_members)
"""
_BACK = """
    UPDATE audience_members SET member = TRUE, since = $tick_at, edge = g.edge
    FROM tick_edges AS g
    WHERE g.workflow = $name AND audience_members.name = $name AND audience_members.contact_id = g.contact_id
"""
_NEW_MEMBERS = """
    INSERT INTO audience_members
    SELECT $name, g.contact_id, TRUE, $tick_at, g.edge, NULL FROM tick_edges AS g
    WHERE g.workflow = $name
        AND g.contact_id NOT IN (SELECT contact_id FROM audience_members WHERE name = $name)
"""
_ENDED = """
    UPDATE audience_members SET member = FALSE, since = $tick_at WHERE list_contains($names, name) AND member
"""
_NO_LONGER_ASKED = "DELETE FROM audience_masks WHERE NOT list_contains($statements, statement)"
_FORGET_ALL = "DELETE FROM audience_masks WHERE statement = $statement"
_KEEP_ALL = "INSERT INTO audience_masks SELECT $statement, m.contact_id, m.mask, m.digest FROM tick_masks AS m"
_DIFFERING = """
    CREATE OR REPLACE TEMP TABLE tick_changed AS
    SELECT coalesce(m.contact_id, k.contact_id) AS contact_id
    FROM tick_masks AS m FULL JOIN (
        SELECT a.contact_id, a.mask FROM audience_masks AS a WHERE a.statement = $statement
    ) AS k ON k.contact_id = m.contact_id
    WHERE m.mask IS DISTINCT FROM k.mask
"""
_FLIPS = """
    CREATE OR REPLACE TEMP TABLE tick_flips AS
    SELECT c.contact_id, coalesce(m.mask, 0) AS mask, k.mask AS before
    FROM tick_changed AS c LEFT JOIN tick_masks AS m ON m.contact_id = c.contact_id
    LEFT JOIN audience_masks AS k ON k.statement = $statement AND k.contact_id = c.contact_id
    WHERE k.mask IS DISTINCT FROM coalesce(m.mask, 0)
"""
_FORGET = """
    DELETE FROM audience_masks
    WHERE statement = $statement AND contact_id IN (SELECT c.contact_id FROM tick_changed AS c)
"""
_KEEP = """
    INSERT INTO audience_masks
    SELECT $statement, m.contact_id, m.mask, m.digest FROM tick_masks AS m
    WHERE m.contact_id IN (SELECT c.contact_id FROM tick_changed AS c)
"""
_KEPT_MEMBERS = """
    CREATE OR REPLACE TEMP TABLE tick_members AS
    SELECT m.contact_id FROM audience_masks AS m
    WHERE m.statement = $statement AND (m.mask & CAST($bit AS BIGINT)) <> 0
"""
_CROSSED = """
    CREATE OR REPLACE TEMP TABLE tick_crossed AS
    SELECT b.name, f.contact_id, (f.mask & b.bit) <> 0 AS inside, f.before IS NULL AS fresh
    FROM tick_flips AS f JOIN tick_bits AS b ON f.before IS NULL OR (f.mask & b.bit) <> (f.before & b.bit)
"""
# Members are who the masks say, but of a contact that is new to `audience_masks` that is not known.
_FRESH = "SELECT count(*) FROM tick_crossed AS c WHERE c.fresh"
_NOT_CROSSED = """
    DELETE FROM tick_crossed WHERE fresh AND inside = EXISTS (
        SELECT 1 FROM audience_members AS a
        WHERE a.name = tick_crossed.name AND a.contact_id = tick_crossed.contact_id AND a.member
    )
"""
_MOVED = """
    SELECT c.name, count(CASE WHEN c.inside THEN 1 END) AS entering, count(CASE WHEN NOT c.inside THEN 1 END) AS leaving
    FROM tick_crossed AS c GROUP BY c.name ORDER BY c.name
"""
_NOBODY_ENTERS = "DELETE FROM tick_crossed WHERE name = $name AND inside"
_CROSS = """
    UPDATE audience_members SET member = c.inside, since = $tick_at, edge = edge + CASE WHEN c.inside THEN 1 ELSE 0 END
    FROM tick_crossed AS c
    WHERE list_contains($names, c.name) AND audience_members.name = c.name
        AND audience_members.contact_id = c.contact_id AND audience_members.member <> c.inside
"""
# The time is read first, and hardly any row has that of this tick.
_EDGES_BACK = """
    INSERT INTO tick_edges
    SELECT a.name, a.contact_id, a.edge FROM audience_members AS a
    JOIN tick_crossed AS c ON c.name = a.name AND c.contact_id = a.contact_id
    WHERE a.since = $tick_at AND a.member AND c.inside AND list_contains($names, c.name)
"""
_ENTERED_ANEW = """
    SELECT c.name, c.contact_id FROM tick_crossed AS c WHERE list_contains($names, c.name) AND c.inside AND NOT EXISTS (
        SELECT 1 FROM tick_edges AS g WHERE g.workflow = c.name AND g.contact_id = c.contact_id
    )
"""
_NEW_BY_CROSSING = f"""
    INSERT INTO audience_members
    SELECT x.name, x.contact_id, TRUE, $tick_at, 1, NULL FROM ({_ENTERED_ANEW}) AS x
"""
_EDGES_NEW = f"INSERT INTO tick_edges SELECT x.name, x.contact_id, 1 FROM ({_ENTERED_ANEW}) AS x"
