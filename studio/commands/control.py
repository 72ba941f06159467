"""`penstock pause` and `penstock resume`: hold a workflow, and let a held or quarantined one go on."""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

import pyarrow as pa

from compiler.errors import ProjectError, nearest
from flows.engine.clock import SystemClock
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
}


def run(options: Options, *, action: Literal["pause", "resume"], workflow: str, because: str) -> int:
    """Pause a workflow, or lift its pause or quarantine; its enrollments go on where they stand.

    Args:
        options: of the command line.
        action: what to do.
        workflow: its name, or `all`.
        because: why, for the record.

    Raises:
        ProjectError: E514, no such workflow is published.
    """
    project = load_project(options.project_dir, options.target)
    state = StateTables(project.state_schema)
    with project.open_warehouse() as warehouse:
        known = _workflows(warehouse, state)
        if workflow not in known and workflow != EVERY:
            raise ProjectError(
                f"no workflow '{workflow}' is published on {project.target}", code="E514", hint=nearest(workflow, known)
            )
        row = {
            "control_id": str(uuid4()), "scope": workflow if workflow == EVERY else f"workflow:{workflow}",
            "action": action, "who": who(), "because": because, "created_at": SystemClock().now(),
        }  # fmt: skip
        with warehouse.transaction():
            warehouse.load(state.place("controls"), pa.Table.from_pylist([row]))
    text = _SAID[action].format("every workflow" if workflow == EVERY else workflow)
    Console(options).result({"workflow": workflow, "state": f"{action}d"}, text)
    return 0


def _workflows(warehouse: Warehouse, state: StateTables) -> list[str]:
    rows = warehouse.rows(state.statement(warehouse, "SELECT DISTINCT workflow FROM workflow_versions"))
    return [row["workflow"] for row in rows]
