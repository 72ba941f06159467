"""`penstock resume`: let a quarantined workflow take part in ticks again."""

from __future__ import annotations

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


def run(options: Options, *, workflow: str, because: str) -> int:
    """Lift the quarantine of a workflow; its enrollments go on where they stand.

    Raises:
        ProjectError: E514, no such workflow is published.
    """
    project = load_project(options.project_dir, options.target)
    state = StateTables(project.state_schema)
    with project.open_warehouse() as warehouse:
        known = _workflows(warehouse, state)
        if workflow not in known:
            raise ProjectError(
                f"no workflow '{workflow}' is published on {project.target}", code="E514", hint=nearest(workflow, known)
            )
        row = {
            "control_id": str(uuid4()), "scope": f"workflow:{workflow}", "action": "resume", "who": who(),
            "because": because, "created_at": SystemClock().now(),
        }  # fmt: skip
        warehouse.load(state.place("controls"), pa.Table.from_pylist([row]))
    Console(options).result({"workflow": workflow, "state": "resumed"}, f"{workflow} takes part in the next tick")
    return 0


def _workflows(warehouse: Warehouse, state: StateTables) -> list[str]:
    rows = warehouse.rows(state.statement(warehouse, "SELECT DISTINCT workflow FROM workflow_versions"))
    return [row["workflow"] for row in rows]
