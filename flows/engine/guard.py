"""The size guard: far more entries than usual, or an audience that is suddenly empty, wait for a person.

Held entries wait as candidates; a held audience is left as it was, so that nobody leaves it, and nobody enters it anew
when it is back. `penstock approve` is a row in `controls`; it lets go what is held when the next tick comes, once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from compiler.plan import AudienceEntry, Plan
from flows.engine.holding import Held, What
from flows.engine.work import Work

LOOK_BACK = timedelta(days=7)
"""How far back entries are counted for what is usual."""
SMALL_AUDIENCE = 100
"""A smaller audience may become empty."""


def too_many_enter(work: Work, plan: Plan, candidates: int, count: Callable[[], int] | None = None) -> bool:
    """Whether the entries of a workflow are held at this tick.

    Args:
        work: of the tick.
        plan: the version that admits.
        candidates: how many there are; no fewer than would enter.
        count: how many would enter, which costs a statement; None: all candidates.
    """
    guard = work.deployment.guard
    if guard is None or candidates <= min(guard.minimum, guard.max_entries or guard.minimum):
        return False
    entering = candidates if count is None else count()
    usual = _usual(work, plan.workflow)
    most = max(float(guard.minimum), guard.factor * usual)
    if guard.max_entries is not None:
        most = min(most, float(guard.max_entries))
    return entering > most and _hold(work, plan.workflow, "entries", entering, usual)


def too_few_remain(work: Work, plan: Plan) -> bool:
    """Whether an audience, whose members now are in `tick_members`, keeps the members it had."""
    guard = work.deployment.guard
    if guard is None or not isinstance(plan.entry, AudienceEntry):
        return False
    sizes = work.rows(_SIZES, workflow=plan.workflow)[0]
    before, now = int(sizes["before"]), int(sizes["now"])
    if before < SMALL_AUDIENCE or now * guard.factor >= before:
        return False
    return _hold(work, plan.workflow, "leaving", now, float(before))


def _usual(work: Work, workflow: str) -> float:
    """Entries a day, lately; of a state that is younger than a day, all of them."""
    found = work.rows(_USUAL, workflow=workflow, since=work.tick_at - LOOK_BACK)[0]
    age = work.tick_at - found["first"] if found["first"] is not None else timedelta()
    return int(found["entries"]) / max(1.0, min(age, LOOK_BACK) / timedelta(days=1))


def _hold(work: Work, workflow: str, what: What, number: int, usual: float) -> bool:
    """Hold it, unless a person has approved of this since it began."""
    before = work.holding.before.get(workflow)
    since = before.since if before is not None and before.what == what else work.tick_at
    held = Held(what, since, number, usual)
    if before is not None and before.what == what:
        approved = work.rows(_APPROVED, scope=f"workflow:{workflow}", since=since)
        if approved:
            said = f"{held.said}; {approved[0]['who']}: {approved[0]['because']}"
            work.journal(_NOTED, workflow=workflow, outcome="approved", why=said)
            return False
    else:
        work.journal(_NOTED, workflow=workflow, outcome="held", why=held.said)
    work.holding.now[workflow] = held
    return True


_USUAL = """
    SELECT (SELECT min(f.tick_at) FROM ticks AS f) AS first, (
        SELECT count(*) FROM enrollments AS n JOIN ticks AS t ON t.tick = n.entered_tick
        WHERE n.workflow = $workflow AND t.tick_at > $since
    ) AS entries
"""
_SIZES = """
    SELECT (SELECT count(*) FROM audience_members AS a WHERE a.name = $workflow AND a.member) AS before,
        (SELECT count(*) FROM tick_members) AS now
"""
_APPROVED = """
    SELECT who, because FROM controls
    WHERE scope = $scope AND action = 'approve' AND created_at >= $since AND created_at <= $tick_at
    ORDER BY created_at DESC LIMIT 1
"""
_NOTED = """
    SELECT $workflow AS workflow, NULL AS version, NULL AS enrollment_id, NULL AS contact_id, NULL AS key, NULL AS step,
        'workflow' AS kind, NULL AS what, $outcome AS outcome, NULL AS due, NULL AS action_id, $why AS cause,
        NULL AS details
"""
