"""`penstock compile`: the SQL, plan and picture of every workflow, the exposures for dbt and the editor's schemas."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from compiler.diagram import mermaid
from compiler.explainer import describe, script, statements
from compiler.plan import Plan
from compiler.planner import Settings, plan
from compiler.workflow import Workflow
from flows.project import Project, load_project
from flows.warehouse.location import DIALECTS
from studio.commands.validate import counted
from studio.console import Console, to_json
from studio.exposures import exposures, exposures_drift, exposures_file, write_exposures
from studio.options import Options
from studio.problems import as_data, show_problems
from studio.schemas import write_schemas
from studio.selection import selected
from studio.validation import check_project


@dataclass(frozen=True)
class Compiled:
    """One workflow and its plan."""

    workflow: Workflow
    plan: Plan


def compiled(project: Project, select: Collection[str] = ()) -> list[Compiled]:
    """The plans of a project's workflows, as files are now.

    Raises:
        DefinitionError: a workflow is refused.
        ProjectError: `select` names no workflow.
    """
    catalog, settings = project.catalog(), Settings(project.settings.effective_policy)
    documents = project.definitions.workflows
    return [
        Compiled(documents[name].workflow, plan(documents[name].workflow, catalog, settings))
        for name in selected(documents, select)
    ]


def run(options: Options, *, select: Collection[str], dialect: str | None, check: bool) -> int:
    """Compile and write; with `check` only compare the exposures file.

    Returns:
        The exit code: 1 when a workflow is refused, or the exposures file differs with `check`.
    """
    started = perf_counter()
    project = load_project(options.project_dir, options.target)
    warehouse = dialect or project.warehouse.type
    dialect = DIALECTS[warehouse]
    console = Console(options)
    report = check_project(project, select=select)
    if report.errors:
        problems = [problem for problem in report.problems if problem.severity == "error"]
        console.result(
            {"problems": [as_data(problem) for problem in problems]},
            lambda out: show_problems(problems, project.folder, out),
        )
        return 1
    plans = compiled(project, select)
    if check:
        return _check(project, plans, console)
    files = [_write(project, item, dialect) for item in plans]
    written = [] if select else [write_exposures(project, exposures(project, [(c.workflow, c.plan) for c in plans]))]
    written += write_schemas(project.folder, project.catalog())
    lines = [_line(item, file, project.folder) for item, file in zip(plans, files, strict=True)]
    lines += [f"wrote {file.relative_to(project.folder)}" for file in written]
    lines.append(f"{counted(len(plans), 'workflow')} compiled to {warehouse} · {perf_counter() - started:.1f}s")
    data = {
        "workflows": [{"workflow": item.plan.workflow, "sql": file, "plan": file.with_suffix(".json"),
                       "diagram": file.with_suffix(".mmd")} for item, file in zip(plans, files, strict=True)],
        "written": written,
    }  # fmt: skip
    if select and len(plans) == 1 and not options.json:
        # One workflow was asked for: its SQL is the answer, and can be piped; the rest is a note.
        console.result(data, script(plans[0].plan, dialect).rstrip("\n"))
        console.note("\n".join(lines))
    else:
        console.result(data, "\n".join(lines))
    return 0


def _check(project: Project, plans: list[Compiled], console: Console) -> int:
    found = exposures_drift(project, exposures(project, [(item.workflow, item.plan) for item in plans]))
    file = exposures_file(project).relative_to(project.folder)
    if not found:
        console.result({"file": file, "drift": asdict(found)}, f"{file} is up to date")
        return 0
    parts = [f"{what} {', '.join(names)}" for what, names in asdict(found).items() if names]
    console.result({"file": file, "drift": asdict(found)}, f"{file} differs from the workflows: {'; '.join(parts)}")
    console.note("  hint: `penstock compile` writes it")
    return 1


def _write(project: Project, item: Compiled, dialect: str) -> Path:
    folder = project.folder / project.dbt.target_path / "penstock"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{item.plan.workflow}.sql"
    file.write_text(script(item.plan, dialect), encoding="utf-8")
    file.with_suffix(".json").write_text(to_json(describe(item.plan, dialect)) + "\n", encoding="utf-8")
    file.with_suffix(".mmd").write_text(mermaid(item.workflow), encoding="utf-8")
    return file


def _line(item: Compiled, file: Path, folder: Path) -> str:
    made = item.plan
    return (
        f"{made.workflow:<28} {counted(made.steps, 'step'):>9}  {counted(len(made.actions), 'action'):>10}  "
        f"{counted(len(statements(made)), 'statement'):>13}  {file.relative_to(folder)}"
    )
