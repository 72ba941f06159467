"""`penstock pause`, `resume` and `approve`: hold a workflow, and let a paused, quarantined or guarded one go on."""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

import pyarrow as pa

from compiler.errors import ProjectError, nearest
from flows.engine.clock import SystemClock
from flows.engine.overview import guarded
from flows.journal.tables import StateTables
from flows.project import Project, load_project
from flows.warehouse.base import Warehouse
from studio.commands.apply import who
from studio.console import Console
from studio.options import Options

EVERY = "all"
CHANNELS = ("email", "sms", "push", "crm", "task", "notify", "webhook")
_SAID = {
    "pause": "{} is paused: nobody enters, nothing is sent",
    "resume": "{} takes part in the next tick",
    "approve": "{} is let go at the next tick",
}
_SAID_DELIVERY = {"pause": "nothing is sent to {} until it is resumed", "resume": "{} goes on with the next delivery"}
_STATES = {"pause": "paused", "resume": "resumed", "approve": "approved"}


def run(options: Options, *, action: Literal["pause", "resume", "approve"], workflow: str, because: str) -> int:
    """Pause a workflow, lift its pause or quarantine, or let go what the size guard holds of it.

    Args:
        options: of the command line.
        action: what to do.
        workflow: its name, or, but for an approval, `all`, `destination:<name>` or `channel:<kind>`.
        because: why, for the record.

    Raises:
        ProjectError: E514, no such workflow is published, no such destination or channel, or nothing of it is held.
    """
    project = load_project(options.project_dir, options.target)
    state = StateTables(project.state_schema)
    console = Console(options)
    if action != "approve" and workflow.startswith(("destination:", "channel:")):
        _deliver(project, state, action, workflow, because)
        said = _SAID_DELIVERY[action].format(workflow)
        console.result({"scope": workflow, "state": _STATES[action]}, said)
        return 0
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
        with warehouse.transaction():
            _control(warehouse, state, workflow if everything else f"workflow:{workflow}", action, because)
    text = _SAID[action].format("every workflow" if everything else workflow)
    said = f"{text}: {held.said}" if action == "approve" and held is not None else text
    console.result({"workflow": workflow, "state": _STATES[action]}, said)
    return 0


def _deliver(project: Project, state: StateTables, action: str, scope: str, because: str) -> None:
    """Hold or let go the deliveries of a destination or a channel; a destination that rests is asked again at once."""
    kind, _, name = scope.partition(":")
    known = CHANNELS if kind == "channel" else tuple(project.settings.destinations)
    if name not in known:
        raise ProjectError(f"no {kind} '{name}'", code="E514", hint=nearest(name, known))
    with project.open_warehouse() as warehouse, warehouse.transaction():
        _control(warehouse, state, scope, action, because)
        if action == "resume" and kind == "destination":
            account = str(project.settings.destinations[name].get("account", name))
            text = state.statement(warehouse, "DELETE FROM breakers WHERE account = $account")
            warehouse.execute(text, {"account": account})


def _control(warehouse: Warehouse, state: StateTables, scope: str, action: str, because: str) -> None:
    row = {
        "control_id": str(uuid4()), "scope": scope, "action": action, "who": who(), "because": because,
        "created_at": SystemClock().now(),
    }  # fmt: skip
    warehouse.load(state.place("controls"), pa.Table.from_pylist([row]))


def _workflows(warehouse: Warehouse, state: StateTables) -> list[str]:
    """Published workflows, and named audiences that were quarantined."""
    return [row["name"] for row in warehouse.rows(state.statement(warehouse, _KNOWN))]


_KNOWN = """
    SELECT v.workflow AS name FROM workflow_versions AS v
    UNION SELECT replace(c.scope, 'workflow:', '') AS name FROM controls AS c WHERE c.action = 'quarantine'
    ORDER BY name
"""
