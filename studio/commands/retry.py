"""`penstock retry`: try again what failed, ran out of attempts, or is held because nobody knows what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.errors import ProjectError, nearest
from flows.engine.clock import SystemClock
from flows.engine.dead_letters import Choice, try_again
from flows.journal.tables import StateTables
from flows.project import load_project
from studio.commands.apply import who
from studio.console import Console
from studio.options import Options


def run(
    options: Options, *, actions: Sequence[str], failed: bool, unknown: bool, destination: str | None,
    workflow: str | None, code: str | None, because: str,
) -> int:  # fmt: skip
    """Put deliveries back into the outbox.

    Returns:
        The exit code 0.

    Raises:
        ProjectError: E529, nothing says which deliveries, or there is no such destination.
    """
    project = load_project(options.project_dir, options.target)
    if not (actions or failed or unknown):
        raise ProjectError("say which: --failed, --unknown, or ids of actions", code="E529",
                           hint="penstock retry --failed --destination NAME --because \"mended\"")  # fmt: skip
    if destination is not None and destination not in project.settings.destinations:
        hint = nearest(destination, project.settings.destinations)
        raise ProjectError(f"no destination '{destination}'", code="E529", hint=hint)
    chosen = (["failed", "dead"] if failed or not unknown else []) + (["unknown"] if unknown or not failed else [])
    choice = Choice(chosen, destination, workflow, code, actions=actions)
    state = StateTables(project.state_schema)
    with project.open_warehouse() as warehouse, warehouse.transaction():
        number = try_again(warehouse, state, choice, SystemClock().now(), who=who(), because=because)
    said = f"{number:,} {'action is' if number == 1 else 'actions are'} tried again with the next delivery"
    Console(options).result({"actions": number}, said if number else "nothing fits; see penstock logs --failed")
    return 0
