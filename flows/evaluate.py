"""The Prefect flow of one tick: what is due and what arrived becomes decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact

from flows.engine.evaluator import TickReport
from flows.project import load_project
from flows.runner import run_tick


# An async flow has no heartbeat thread, which would cost a second per tick; the tick itself works in a thread.
@flow(name="penstock-evaluate", description="One tick of a target.")
async def evaluate(project_dir: str, target: str | None = None) -> dict[str, int]:
    """Run one tick.

    Args:
        project_dir: folder with penstock.yaml, on the worker.
        target: the dbt target, by default the profile's.

    Returns:
        What was counted. Nothing about a contact leaves the warehouse.

    Raises:
        RuntimeError: a workflow was set aside, so that the run is shown as failed; the others were evaluated.
    """
    project = load_project(Path(project_dir), target)
    report = await asyncio.to_thread(run_tick, project)
    await acreate_markdown_artifact(key="penstock-tick", markdown=summary(report, project.workspace))
    if report.set_aside:
        raise RuntimeError(f"set aside in tick {report.tick}: {', '.join(sorted(report.set_aside))}; penstock logs")
    return dict(report.counts)


def observed(tick: Callable[[], TickReport], workspace: str) -> TickReport:
    """Run a tick of this process as a flow run, so that the configured Prefect API shows it."""
    reports: list[TickReport] = []

    @flow(name=evaluate.name, description=evaluate.description)
    async def evaluate_here() -> dict[str, int]:
        report = await asyncio.to_thread(tick)
        reports.append(report)
        await acreate_markdown_artifact(key="penstock-tick", markdown=summary(report, workspace))
        return dict(report.counts)

    asyncio.run(evaluate_here())
    return reports[0]


def summary(report: TickReport, workspace: str) -> str:
    """The figures of a tick as a Markdown table; counts only."""
    lines = [f"## {workspace}: tick {report.tick}", "", f"{report.tick_at:%Y-%m-%d %H:%M:%S} UTC", "",
             "| what | rows |", "| --- | ---: |"]  # fmt: skip
    lines += [f"| {name} | {number:,} |" for name, number in sorted(report.counts.items())]
    lines += [f"| set aside: {workflow} | – |" for workflow in sorted(report.set_aside)]
    return "\n".join(lines)
