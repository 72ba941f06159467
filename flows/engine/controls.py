"""Controls: what people (and quarantine) wrote into `controls` about workflows; the last row of a scope decides."""

from __future__ import annotations

from flows.engine.work import Work


def paused(work: Work) -> frozenset[str]:
    """The workflows that are paused at the tick, by their own name or all of them."""
    scopes = {row["scope"] for row in work.rows(_PAUSED)}
    if "all" in scopes:
        return frozenset(work.deployment.workflows)
    return frozenset(name for name in work.deployment.workflows if f"workflow:{name}" in scopes)


_PAUSED = """
    SELECT c.scope FROM (
        SELECT scope, action, row_number() OVER (PARTITION BY scope ORDER BY created_at DESC, control_id DESC) AS place
        FROM controls WHERE action IN ('pause', 'resume') AND created_at <= $tick_at
    ) AS c WHERE c.place = 1 AND c.action = 'pause'
"""
