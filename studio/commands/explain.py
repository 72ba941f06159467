"""`penstock explain`: why a contact entered or did not, what it waits for, and what every condition is worth."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from compiler.errors import ProjectError, nearest
from compiler.graph import flow
from flows.engine.deployment import BEGINNING
from flows.engine.explanation import Answer, Explanation, Standing, Subjects, Value, explain
from flows.journal.migrations import read_meta
from flows.project import Project, load_project
from flows.publication import load_published
from flows.warehouse.base import Warehouse
from studio.console import Console, to_json
from studio.moment import instant, present
from studio.options import Options
from studio.state import state_of

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "yellow")}
_NOTHING = {"event": "no event that triggers it", "row": "no row of the model", "enrollment": "not reached",
            "contact": "not reached"}  # fmt: skip
_WIDTH = 48


def run(options: Options, *, workflow: str, contact: str, at: str | None, step: str | None) -> int:
    """Explain one contact in one workflow.

    Returns:
        The exit code 0.
    """
    project = load_project(options.project_dir, options.target)
    moment = instant(at, "--at") if at is not None else None
    with state_of(project) as warehouse:
        subjects = published_subjects(project, warehouse, workflow)
        _check_step(subjects, step)
        when = moment or present(warehouse, project.state_schema)
        found = explain(warehouse, subjects, contact, when, present=moment is None, step=step)
    Console(options).result(_data(found), lambda out: _show(found, out))
    return 0


def _check_step(subjects: Subjects, step: str | None) -> None:
    known = {node.id for definition in subjects.versions.values() for node in flow(definition).nodes}
    if step is not None and step not in known:
        raise ProjectError(f"{subjects.name} has no step '{step}'", code="E508", hint=nearest(step, known))


def published_subjects(project: Project, warehouse: Warehouse, workflow: str) -> Subjects:
    """The published versions of a workflow, ready to be asked.

    Raises:
        ProjectError: E508, no workflow of that name is published.
    """
    published = load_published(warehouse, project.state_schema)
    versions = [version for version in published.versions if version.workflow == workflow]
    if not versions:
        known = sorted({version.workflow for version in published.versions})
        hint = (
            "`penstock apply` publishes it" if workflow in project.definitions.workflows else nearest(workflow, known)
        )
        raise ProjectError(f"no workflow '{workflow}' is published", code="E508", hint=hint)
    current = next((version for version in versions if version.current), None)
    meta = read_meta(warehouse, project.state_schema)
    backfill = (current or versions[-1]).definition.entry.backfill
    return Subjects(
        workflow, {version.version: version.definition for version in versions},
        current.version if current is not None else None,
        _earliest(min(version.activated_at for version in versions), backfill),
        published.catalog(warehouse), published.settings.effective_policy, str(meta.state_id) if meta else "",
    )  # fmt: skip


def _earliest(activated: datetime, backfill: Any) -> datetime:
    if backfill is True:
        return BEGINNING
    span: timedelta = backfill.elapsed if backfill else timedelta()
    try:
        return activated - span
    except OverflowError:
        return BEGINNING


# ---------------------------------------------------------------- output


def _data(found: Explanation) -> dict[str, object]:
    return {
        "workflow": found.workflow, "contact": found.contact, "at": found.at, "version": found.version,
        "state": found.state, "trigger": found.trigger,
        "enrollments": [asdict(item) for item in found.enrollments],
        "conditions": [
            {"place": answer.place, "about": answer.subject, "text": answer.text, "value": answer.value,
             "parts": [{"text": part.text, "value": part.value, "operands": dict(part.operands),
                        "unknown": list(part.unknown)} for part in answer.parts]}
            for answer in found.answers
        ],
        "considered": [asdict(item) | {"meaning": item.meaning} for item in found.considered],
        "intents": [dict(item) for item in found.intents],
        "log": [row.as_json() for row in found.log],
    }  # fmt: skip


def _show(found: Explanation, out: RichConsole) -> None:
    version = f"version {found.version}" if found.version is not None else "retired: nobody enters"
    out.print(
        f"{found.state} · {found.workflow}, {found.contact} · evaluated {_moment(found.at)} UTC, {version}",
        markup=False,
    )
    for standing in found.enrollments[:1]:
        _show_standing(standing, out)
    if found.trigger is not None:
        out.print(f"trigger    {found.trigger}", markup=False)
    for answer in found.answers:
        _show_answer(answer, out)
    if found.considered:
        out.print("candidates")
    for item in found.considered:
        when = _moment(item.at) if item.at is not None else "–"
        out.print(f"  {when}  {item.meaning}  (tick at {_moment(item.considered_at)})", markup=False)
    if found.intents:
        out.print("decided and not final")
    for intent in found.intents:
        said = " · ".join(str(value) for value in intent.values() if value not in (None, 0))
        out.print(f"  {said}", markup=False)
    if found.log:
        out.print("last rows")
    for row in found.log:
        out.print(f"  {_moment(row.executed_at)}  {row.contact}  {row.step or '-'}  {row.outcome}", markup=False)
    out.print(f"History: penstock logs --workflow {found.workflow} --contact {found.contact}", markup=False)


def _show_standing(standing: Standing, out: RichConsole) -> None:
    key = f" with key {standing.key}" if standing.key is not None else ""
    out.print(f"entered    {_moment(standing.entry_at)}{key}, tick at {_moment(standing.entered_at)}, "
              f"version {standing.version}", markup=False)  # fmt: skip
    if standing.exit is not None:
        ended = _moment(standing.exited_at) if standing.exited_at is not None else "–"
        out.print(f"ended      {ended}, exit {standing.exit}", markup=False)
        return
    since = f" since {_moment(standing.logical_at)}" if standing.logical_at is not None else ""
    waits = f" · {standing.waits}" if standing.waits is not None else ""
    until = f" · until {_moment(standing.due_at)}" if standing.due_at is not None else ""
    out.print(f"stands at  {standing.position or '–'}{since}{waits}{until}", markup=False)


def _show_answer(answer: Answer, out: RichConsole) -> None:
    from rich.text import Text

    if not answer.parts:
        mark, color = MARKS[None]
        out.print(Text.assemble(f"{answer.place}\n  ", (mark, color), f" {_NOTHING[answer.subject]}"))
        return
    out.print(answer.place, markup=False)
    for part in answer.parts:
        mark, color = MARKS[part.value]
        out.print(Text.assemble("  ", (mark, color), f" {part.text:<{_WIDTH}} {_said(part)}".rstrip()))


def _said(part: Value) -> str:
    if part.unknown:
        return f"unknown: {', '.join(part.unknown)} is NULL"
    values = {name: value for name, value in part.operands.items() if name != part.text}
    if len(values) == 1:
        return _literal(next(iter(values.values())))
    return ", ".join(f"{name} = {_literal(value)}" for name, value in values.items())


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case str():
            return f"'{value}'"
        case datetime():
            return _moment(value)
        case _:
            return to_json(value)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
