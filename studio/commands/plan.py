"""`penstock plan`: what `apply` would change on a target, step by step, and how many contacts in flight it concerns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from compiler.diff import StepChange
from flows.forecasting import Forecast
from flows.planning import Planned, WorkflowChange, planned
from flows.project import Project, load_project
from flows.publication import InFlight
from flows.runner import Runner
from studio.commands.apply import as_data, moved
from studio.commands.validate import counted
from studio.console import Console
from studio.options import Options
from studio.problems import as_data as problem_data

CHANGES = 2
"""Exit code with `--detailed-exitcode` when there are changes."""
_SIGNS = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}


def run(options: Options, *, detailed_exitcode: bool, ahead: bool, in_flight: InFlight) -> int:
    """Show what would change, and what would happen in the next 24 hours unless `ahead` is off.

    Returns:
        The exit code: 0, or 2 for changes with `detailed_exitcode`.

    Raises:
        DefinitionError: a definition is wrong and could not be published.
    """
    project = load_project(options.project_dir, options.target)
    found = planned(Runner(project), ahead=ahead, in_flight=in_flight)
    Console(options).result(_data(project, found), "\n".join(_lines(project, found)))
    return CHANGES if detailed_exitcode and found.any else 0


def _data(project: Project, found: Planned) -> dict[str, object]:
    return {
        "target": project.target, "schema": project.state_schema, "unchanged": found.unchanged,
        "workflows": [
            as_data(item.change) | {
                "before": item.before, "in_flight": dict(item.in_flight),
                "migrating": asdict(item.moves) if item.moves else None,
                "warnings": [problem_data(problem) for problem in item.warnings],
                "head": item.difference.head if item.difference else (),
                "steps": [asdict(step) for step in item.difference.steps] if item.difference else [],
            }
            for item in found.workflows
        ],
        "others": [as_data(change) for change in found.others],
        "forecast": None if found.forecast is None else asdict(found.forecast) | {"kinds": found.forecast.kinds},
    }  # fmt: skip


def _lines(project: Project, found: Planned) -> Iterator[str]:
    yield f"Compared with what {project.target} runs (schema {project.state_schema})"
    yield ""
    for item in found.workflows:
        yield from _workflow(item)
    for change in found.others:
        yield f"{'+' if change.new else '~'} {change.kind} {change.name}"
    yield f"= {found.unchanged} unchanged" if found.any else "nothing would change"
    if found.forecast is not None:
        yield ""
        yield from ahead_lines(found.forecast)
    if found.any:
        yield "`penstock apply` publishes it"


def ahead_lines(forecast: Forecast) -> Iterator[str]:
    """What the next 24 hours would bring, by channel, by workflow and step."""
    if forecast.failed:
        yield f"next 24 h   no forecast: {forecast.failed}"
        return
    limit = f" (at most {forecast.limit:,} a day)" if forecast.limit is not None else ""
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in forecast.kinds.items())
    yield f"next 24 h   {kinds or 'nothing is sent'}{limit}"
    for name, expected in forecast.workflows.items():
        at_once, entering = expected.entering
        parts = [f"{entering:,} enter, {at_once:,} of them at once"] if entering else []
        for step, sends in expected.sends.items():
            parts += [f"{step} {kind} {number:,}" for kind, number in sends.items()]
        parts += [f"skipped {reason} {number:,}" for reason, number in expected.skipped.items()]
        parts += [f"{expected.waiting:,} messages held back"] if expected.waiting else []
        if parts:
            yield f"    {name}  {' · '.join(parts)}"
        if expected.held:
            yield f"  ! {name}  {expected.held}; the size guard will hold it for `penstock approve`"


def _workflow(item: WorkflowChange) -> Iterator[str]:
    change = item.change
    waiting = sum(item.in_flight.values())
    if change.action == "retired":
        yield f"- {change.name} v{change.version} retired: nobody enters, {waiting} in flight finish"
        return
    if item.before is None or item.difference is None:
        yield f"+ {change.name} v{change.version} new"
        return
    yield f"~ {change.name} v{item.before} → v{change.version}"
    for key in item.difference.head:
        yield f"    ~ {key}"
    for step in item.difference.steps:
        yield f"    {_SIGNS[step.action]} {step.step}  {_said(step)}"
    if waiting:
        places = ", ".join(f"{step} {count:,}" for step, count in item.in_flight.items())
        yield f"    in flight  {counted(waiting, 'contact')} ({places})"
        if item.moves is not None:
            yield f"    migrating  {moved(item.moves)}"
    yield from (f"    ! {problem}" for problem in item.warnings)


def _said(step: StepChange) -> str:
    if step.action == "moved":
        return "stands elsewhere"
    return " → ".join(text for text in (step.before, step.after) if text is not None)
