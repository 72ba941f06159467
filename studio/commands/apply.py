"""`penstock apply`: publish workflows, templates and configuration to a target."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from compiler.diff import Moves
from compiler.errors import ProjectError
from flows.planning import WorkflowChange, concerned, planned
from flows.project import Project, load_project
from flows.publication import Change, InFlight
from flows.runner import Runner
from studio.commands.validate import counted
from studio.console import Console
from studio.options import Options
from studio.problems import as_data as problem_data


def run(options: Options, *, yes: bool, in_flight: InFlight) -> int:
    """Publish what changed; a live target asks first for the number of messages that are expected, or for its name.

    With `migrate` contacts in flight move to the new versions of the changed workflows, else they finish on theirs.

    Returns:
        The exit code 0.

    Raises:
        DefinitionError: a definition is wrong; nothing was published.
        ProjectError: E512, a live target was not confirmed.
    """
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    runner = Runner(project)
    if project.deliver == "live" and not yes:
        _confirm(runner, console, in_flight)
    changes = runner.apply(who=who(), in_flight=in_flight)
    going = {item.change.name: item for item in concerned(runner, changes)}
    for note in runner.notes:
        console.note(note)
    if in_flight == "migrate":
        for problem in (problem for item in going.values() for problem in item.warnings):
            console.note(f"! {problem}")
    lines = [line for change in changes for line in _lines(change, going, in_flight)]
    console.result(
        {"target": project.target, "deliver": project.deliver, "schema": project.state_schema, "in_flight": in_flight,
         "changes": [as_data(change) | _effect(change, going) for change in changes]},
        "\n".join([*lines, _summary(project, changes)]),
    )  # fmt: skip
    return 0


def _lines(change: Change, going: Mapping[str, WorkflowChange], in_flight: InFlight) -> Iterator[str]:
    yield described(change)
    item = going.get(change.name) if change.kind == "workflow" else None
    contacts = sum(item.in_flight.values()) if item is not None else 0
    if item is None or not contacts:
        return
    if item.moves is not None and in_flight == "migrate":
        yield f"    in flight: {moved(item.moves)}"
    else:
        yield f"    in flight: {counted(contacts, 'contact')} on earlier versions, to the end"


def _effect(change: Change, going: Mapping[str, WorkflowChange]) -> dict[str, object]:
    item = going.get(change.name) if change.kind == "workflow" else None
    if item is None:
        return {}
    return {"in_flight": dict(item.in_flight), "migrating": asdict(item.moves) if item.moves else None,
            "warnings": [problem_data(problem) for problem in item.warnings]}  # fmt: skip


def moved(moves: Moves) -> str:
    """Where migrating takes contacts in flight, in words."""
    said = [
        *([f"{moves.kept:,} at an unchanged step"] if moves.kept else []),
        *([f"{moves.changed:,} at a changed step"] if moves.changed else []),
        *(f"{contacts:,} to {step}" for step, contacts in moves.redirected.items()),
        *([f"{moves.removed:,} exit step_removed"] if moves.removed else []),
    ]
    return ", ".join(said)


def as_data(change: Change) -> dict[str, object]:
    """A change as plain values."""
    return {"kind": change.kind, "name": change.name, "version": change.version, "action": change.action}


def described(change: Change) -> str:
    """A change as one line."""
    sign = "-" if change.action == "retired" else "+" if change.new else "~"
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


def _confirm(runner: Runner, console: Console, in_flight: InFlight) -> None:
    project = runner.project
    if not console.err.is_terminal:
        raise ProjectError(
            f"target '{project.target}' is live: publishing reaches real people", code="E512",
            hint="confirm with --yes, or publish from a terminal",
        )  # fmt: skip
    ahead = planned(runner, ahead=True, in_flight=in_flight).forecast
    sends = ahead.sends if ahead is not None and not ahead.failed else 0
    console.err.print(f"Target [bold]{project.target}[/] is live: messages will reach real people.")
    wanted = str(sends) if sends else project.target
    what = "the number of sends expected in the next 24 hours" if sends else "its name"
    if console.err.input(f"Type {what} to continue [{wanted}]: ").strip().replace(",", "") != wanted:
        raise ProjectError(f"target '{project.target}' was not confirmed; nothing was published", code="E512")
