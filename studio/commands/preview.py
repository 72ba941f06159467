"""`penstock preview`: one contact walks through a workflow on a copy; messages become files, nothing is sent."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlglot import exp

from compiler.catalog import Catalog
from compiler.condition import relation_table
from compiler.errors import ProjectError
from compiler.graph import flow
from compiler.parser import canonical
from compiler.planner import Settings, plan
from compiler.workflow import Duration, EnrollStep, Workflow
from destinations.base import Action
from destinations.recorder import Recorder, RecorderConfig
from flows.engine.clock import SystemClock
from flows.engine.contact_copy import copy_contact
from flows.engine.preview import Moment, Walk, Walked, assumed, walk
from flows.engine.rendering import renderer
from flows.journal.migrations import read_meta
from flows.mapping import references
from flows.project import Project, load_project
from flows.relations import take_snapshot
from studio.console import Console
from studio.moment import instant, present
from studio.options import Options
from studio.state import LOOK, check_there

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


@dataclass(frozen=True)
class Previewed:
    """A walk, where its messages are, and whose wall clock tells the time."""

    workflow: str
    contact: str
    zone: str
    walked: Walked
    files: tuple[Path | None, ...]


def run(options: Options, *, workflow: str, contact: str, at: str | None, assume: Sequence[str], until: str) -> int:
    """Walk one contact through a workflow, as its file says now.

    Returns:
        The exit code 0.
    """
    project = load_project(options.project_dir, options.target)
    moment = instant(at, "--at") if at is not None else None
    try:
        length = Duration.parse(until).elapsed
    except ValueError:
        raise ProjectError(f"--until {until}: this is no length", code="E515", hint="write it as 30d") from None
    found = preview(project, workflow, contact, moment, assume, length)
    Console(options).result(_data(found), lambda out: _show(found, project.folder, out))
    return 0


def preview(
    project: Project, workflow: str, contact: str, at: datetime | None, assume: Sequence[str], until: timedelta
) -> Previewed:  # fmt: skip
    """The walk of a contact from its newest trigger at `at` (now when None), for at most `until`.

    Raises:
        ProjectError: E508, no such workflow; E510, no warehouse; E516, no such contact; E517 and E518, see `walk`.
        DefinitionError: a definition is refused.
    """
    definition = project.definitions.workflow(workflow)
    others = _enrolled(project, definition)
    taken = [assumed(text) for text in assume]
    check_there(project)
    policy = project.settings.effective_policy
    with project.open_warehouse(read_only=True, wait=LOOK) as live:
        catalog = project.catalog_with(take_snapshot(live, project.state_schema))
        compiled = plan(definition, catalog, Settings(policy))
        stated = read_meta(live, project.state_schema) is not None
        when = at or (present(live, project.state_schema) if stated else SystemClock().now())
        chain = {name: (each, plan(each, catalog, Settings(policy))) for name, each in others.items()}
        texts = [canonical(each) for each in (definition, *others.values())]
        named = references("\n".join([*texts, policy.model_dump_json(),
                                      json.dumps(project.settings.audiences)]))  # fmt: skip
        copy = copy_contact(
            live, catalog, contact, workspace=project.workspace, workflow=workflow, named=named, at=when
        )
    folder = _empty(project.local / "preview" / f"{workflow}-{re.sub(r'[^A-Za-z0-9_]+', '_', contact)}")
    recorders = {
        name: Recorder(name, RecorderConfig(folder=str(folder))) for name in project.settings.destinations
    }  # fmt: skip
    templates = project.definitions.templates
    zone = policy.default_timezone or "UTC"
    with copy.warehouse:
        walked = walk(copy, Walk(
            definition, compiled, catalog, project.workspace, zone,
            {name: template.digest for name, template in templates.items()},
            renderer({template.digest: template for template in templates.values()}), recorders, contact, taken,
            chain,
        ), when, until)  # fmt: skip
        zone = _zone(copy.warehouse.rows(_contact_row(catalog)), catalog, zone)
    return Previewed(workflow, contact, zone, walked, tuple(_file(folder, action) for action in walked.actions))


def _enrolled(project: Project, workflow: Workflow) -> dict[str, Workflow]:
    """The workflows that `enroll` steps of it lead to, and those of these."""
    found: dict[str, Workflow] = {}
    waiting = [workflow]
    while waiting:
        for node in flow(waiting.pop()).nodes:
            name = node.step.enroll if isinstance(node.step, EnrollStep) else workflow.workflow
            if name != workflow.workflow and name not in found:
                found[name] = project.definitions.workflow(name)
                waiting.append(found[name])
    return found


def _empty(folder: Path) -> Path:
    """The folder of this preview, without the files of the one before."""
    if folder.is_dir():
        shutil.rmtree(folder)
    return folder


def _contact_row(catalog: Catalog) -> Any:
    return exp.select("m.*").from_(relation_table(catalog.contact.relation, "m")).limit(1)


def _zone(rows: list[dict[str, Any]], catalog: Catalog, default: str) -> str:
    name = rows[0].get(catalog.contact.timezone or "") if rows else None
    try:
        return ZoneInfo(str(name)).key if name else default
    except (ZoneInfoNotFoundError, ValueError):
        return default


def _file(folder: Path, action: Action) -> Path | None:
    found = sorted(folder.glob(f"*-{action.action_id.replace('-', '_')}.*"))
    return next((file for file in found if file.suffix == ".html"), found[0] if found else None)


# ---------------------------------------------------------------- output


def _data(found: Previewed) -> dict[str, object]:
    walked = found.walked
    return {
        "workflow": found.workflow, "contact": found.contact, "timezone": found.zone, "start": walked.start,
        "end": walked.end, "entered": walked.entered, "exit": walked.exit,
        "timeline": [
            {"at": item.at, "kind": item.kind, "step": item.step, "text": item.text,
             "workflow": item.workflow or found.workflow, "until": item.until,
             "subject": _subject(found, item), "file": _written(found, item)}
            for item in walked.timeline
        ],
        "actions": len(walked.actions),
    }  # fmt: skip


def _subject(found: Previewed, item: Moment) -> str | None:
    if item.message is None:
        return None
    subject = found.walked.actions[item.message].payload.get("subject")
    return None if subject is None else str(subject)


def _written(found: Previewed, item: Moment) -> Path | None:
    return found.files[item.message] if item.message is not None else None


def _show(found: Previewed, folder: Path, out: RichConsole) -> None:
    walked = found.walked
    zone = ZoneInfo(found.zone)
    out.print(f"{found.contact} · {found.workflow} · {found.zone}", markup=False)
    for item in walked.timeline:
        step = item.step or "-" if item.workflow is None else f"{item.workflow}/{item.step or '-'}"
        parts = [f" {_local(item.at, zone)}  {step:<16} {item.text}"]
        subject, file = _subject(found, item), _written(found, item)
        if subject is not None:
            parts.append(f'"{subject}"')
        if file is not None:
            parts.append(f"→ {file.relative_to(folder)}")
        if item.kind == "rest" and item.until is not None:
            parts.append(f"until {_local(item.until, zone)}")
        if item.kind == "assumed":
            parts.append("(assumed)")
        out.print("  ".join(parts), markup=False)
    days = (walked.end - walked.start).total_seconds() / 86400
    ending = f"exit {walked.exit}" if walked.exit else "still in the workflow" if walked.entered else "did not enter"
    acted = f"{len(walked.actions)} action{'' if len(walked.actions) == 1 else 's'} written"
    out.print(f" {ending} after {days:.1f} d · {acted} · nothing was sent", markup=False)
    if not walked.entered:
        out.print(f" why: penstock explain {found.workflow} --contact {found.contact}", markup=False)


def _local(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.replace(tzinfo=UTC).astimezone(zone):%a %d %b %H:%M}"
