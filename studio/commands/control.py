"""`penstock pause`, `resume` and `approve`: hold a workflow, and let a paused, quarantined or guarded one go on."""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

import pyarrow as pa

from compiler.errors import ProjectError, nearest
from flows.engine.clock import SystemClock
from flows.engine.overview import guarded
from flows.journal.tables import StateTables
from flows.project import load_project
from flows.warehouse.base import Warehouse
from studio.commands.apply import who
from studio.console import Console
from studio.options import Options

EVERY = "all"
_SAID = {
    "pause": "{} is paused: nobody enters, nothing is sent",
    "resume": "{} takes part in the next tick",
    "approve": "{} is let go at the next tick",
}
_STATES = {"pause": "paused", "resume": "resumed", "approve": "approved"}


def run(options: Options, *, action: Literal["pause", "resume", "approve"], workflow: str, because: str) -> int:
    """Pause a workflow, lift its pause or quarantine, or let go what the size guard holds of it.

    Args:
        options: of the command line.
        action: what to do.
        workflow: its name, or, but for an approval, `all`.
        because: why, for the record.

    Raises:
        ProjectError: E514, no such workflow is published, or nothing of it is held.
    """
    project = load_project(options.project_dir, options.target)
    state = StateTables(project.state_schema)
    everything = workflow == EVERY and action != "approve"
    with project.open_warehouse() as warehouse:
        known = _workflows(warehouse, state)
        if workflow not in known and not everything:
            raise ProjectError(
                f"no workflow '{workflow}' is published on {project.target}", code="E514", hint=nearest(workflow, known)
            )
        held = guarded(warehouse, state).get(workflow)
        if action == "approve" and held is None:
            raise ProjectError(f"nothing of {workflow} is held", code="E514", hint="penstock status")
        row = {
            "control_id": str(uuid4()), "scope": workflow if everything else f"workflow:{workflow}",
            "action": action, "who": who(), "because": because, "created_at": SystemClock().now(),
        }  # fmt: skip
        with warehouse.transaction():
            warehouse.load(state.place("controls"), pa.Table.from_pylist([row]))
    text = _SAID[action].format("every workflow" if everything else workflow)
    said = f"{text}: {held.said}" if action == "approve" and held is not None else text
    Console(options).result({"workflow": workflow, "state": _STATES[action]}, said)
    return 0


def _workflows(warehouse: Warehouse, state: StateTables) -> list[str]:
    """Published workflows, and named audiences that were quarantined."""
    return [row["name"] for row in warehouse.rows(state.statement(warehouse, _KNOWN))]


_KNOWN = """
    SELECT v.workflow AS name FROM workflow_versions AS v
    UNION SELECT replace(c.scope, 'workflow:', '') AS name FROM controls AS c WHERE c.action = 'quarantine'
    ORDER BY name
"""
