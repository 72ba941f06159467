"""`penstock apply`: publish workflows, templates and configuration to a target."""

from __future__ import annotations

import getpass

from compiler.errors import ProjectError
from flows.project import Project, load_project
from flows.publication import Change
from flows.runner import Runner
from studio.console import Console
from studio.options import Options


def run(options: Options, *, yes: bool) -> int:
    """Publish what changed; a live target asks for its name first.

    Returns:
        The exit code 0.

    Raises:
        DefinitionError: a definition is wrong; nothing was published.
        ProjectError: E512, a live target was not confirmed.
    """
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    if project.deliver == "live" and not yes:
        _confirm(project, console)
    runner = Runner(project)
    changes = runner.apply(who=who())
    for note in runner.notes:
        console.note(note)
    console.result(
        {"target": project.target, "deliver": project.deliver, "schema": project.state_schema,
         "changes": [as_data(change) for change in changes]},
        "\n".join([*map(described, changes), _summary(project, changes)]),
    )  # fmt: skip
    return 0


def as_data(change: Change) -> dict[str, object]:
    """A change as plain values."""
    return {"kind": change.kind, "name": change.name, "version": change.version, "action": change.action}


def described(change: Change) -> str:
    """A change as one line."""
    sign = "-" if change.action == "retired" else "+"
    version = f" v{change.version}" if change.version is not None else ""
    return f"{sign} {change.kind} {change.name}{version} {change.action}"


def _summary(project: Project, changes: list[Change]) -> str:
    where = f"{project.target} (schema {project.state_schema}, deliver: {project.deliver})"
    return f"{len(changes)} published to {where}" if changes else f"nothing changed on {where}"


def who() -> str:
    """The name of whoever runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _confirm(project: Project, console: Console) -> None:
    if not console.err.is_terminal:
        raise ProjectError(
            f"target '{project.target}' is live: publishing reaches real people", code="E512",
            hint="confirm with --yes, or publish from a terminal",
        )  # fmt: skip
    console.err.print(f"Target [bold]{project.target}[/] is live: messages will reach real people.")
    if console.err.input(f"Type its name to continue [{project.target}]: ").strip() != project.target:
        raise ProjectError(f"target '{project.target}' was not confirmed; nothing was published", code="E512")
