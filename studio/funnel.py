"""Funnels: how many entered a workflow, reached each of its actions, opened, clicked and met the goal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from compiler import frames
from compiler.catalog import Catalog
from compiler.graph import flow
from compiler.workflow import ActionStep, Workflow
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

_REACTIONS = {"email_opened": "opened", "email_clicked": "clicked"}


@dataclass(frozen=True)
class FunnelStep:
    """One action of a workflow.

    Attributes:
        step: its id.
        kind: the key of the step, such as `email`.
        what: the word after it, such as the template.
        done: how often it was performed: accepted by its destination, or done by the tick.
        opened, clicked: of those, how many were opened and clicked by a person; None for what is no e-mail.
    """

    step: str
    kind: str
    what: str
    done: int
    opened: int | None = None
    clicked: int | None = None


@dataclass(frozen=True)
class Funnel:
    """What became of those who entered a workflow.

    Attributes:
        workflow: its name.
        entered: enrollments.
        in_flight: of those, how many have not ended.
        steps: its actions in the order of the file.
        goal: the name of the (first) goal, None without goals.
        endings: reason of the exit -> enrollments.
    """

    workflow: str
    entered: int
    in_flight: int
    steps: tuple[FunnelStep, ...]
    goal: str | None = None
    endings: Mapping[str, int] = field(default_factory=dict)

    @property
    def goals(self) -> int:
        """Enrollments that met a goal."""
        return self.endings.get("goal", 0)


def funnels(
    warehouse: Warehouse, schema: str, catalog: Catalog, workflows: Iterable[Workflow], now: datetime
) -> list[Funnel]:
    """Read the funnels of workflows, over everything that happened so far.

    Args:
        warehouse: an open connection; reading is enough.
        schema: of the state tables.
        catalog: the project's names; its events model tells who opened and clicked, by `action_id`.
        workflows: the definitions, for names and order of the steps.
        now: events that are loaded later do not count.
    """
    state = StateTables(schema)

    def rows(text: str) -> list[dict[str, Any]]:
        return warehouse.rows(state.statement(warehouse, text))

    reactions = _reactions(warehouse, catalog, now)
    done: dict[tuple[str, str], list[str]] = defaultdict(list)
    words: dict[tuple[str, str], str] = {}
    for row in rows(_DONE):
        done[row["workflow"], row["step"]].append(row["action_id"])
        words[row["workflow"], row["step"]] = row["what"]
    entered: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows(_ENROLLMENTS):
        entered[row["workflow"]][row["exit"] or ""] += row["n"]
    return [_funnel(workflow, done, words, entered[workflow.workflow], reactions) for workflow in workflows]


def _funnel(
    workflow: Workflow, done: Mapping[tuple[str, str], list[str]], words: Mapping[tuple[str, str], str],
    endings: Counter[str], reactions: Mapping[str, set[str]],
) -> Funnel:  # fmt: skip
    name = workflow.workflow
    steps = []
    for node in flow(workflow).nodes:
        if not isinstance(node.step, ActionStep):
            continue
        actions = done.get((name, node.id), [])
        mail = node.kind == "email"
        told = {word: sum(action in ids for action in actions) if mail else None for word, ids in reactions.items()}
        what = words.get((name, node.id), "").partition(":")[2]
        steps.append(FunnelStep(node.id, node.kind, what, len(actions), told["opened"], told["clicked"]))
    goal = (workflow.goals[0].name or "goal") if workflow.goals else None
    return Funnel(
        name, sum(endings.values()), endings.get("", 0), tuple(steps), goal,
        {reason: number for reason, number in sorted(endings.items()) if reason},
    )  # fmt: skip


def _reactions(warehouse: Warehouse, catalog: Catalog, now: datetime) -> dict[str, set[str]]:
    """Action ids that were opened and clicked."""
    rows = frames.event_rows(catalog, {"action_id": "text"}, names=sorted(_REACTIONS))
    found: dict[str, set[str]] = {word: set() for word in _REACTIONS.values()}
    for row in warehouse.fetch(rows, {"tick_at": now}).select(["name", "p_action_id"]).to_pylist():
        found[_REACTIONS[row["name"]]].add(str(row["p_action_id"]))
    return found


_DONE = """
    SELECT workflow, step, what, action_id FROM journal
    WHERE kind = 'delivery' AND outcome = 'sent' OR kind = 'action' AND outcome = 'ok'
"""
_ENROLLMENTS = "SELECT workflow, exit, count(*) AS n FROM enrollments GROUP BY workflow, exit"
