"""The Prefect flow of one delivery pass: decided actions go to their destinations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from prefect import flow

from flows.engine.dispatcher import DeliveryReport
from flows.project import load_project
from flows.runner import run_delivery


@flow(name="penstock-deliver", description="One delivery pass of a target.")
async def deliver(project_dir: str, target: str | None = None) -> dict[str, int]:
    """Deliver what may be delivered now.

    Args:
        project_dir: folder with penstock.yaml, on the worker; secrets come from the worker's environment.
        target: the dbt target, by default the profile's.

    Returns:
        Outcome -> number of actions.
    """
    project = load_project(Path(project_dir), target)
    report = await asyncio.to_thread(run_delivery, project)
    return dict(report.counts)


def observed(delivery: Callable[[], DeliveryReport]) -> DeliveryReport:
    """Run a delivery pass of this process as a flow run, so that the configured Prefect API shows it."""
    reports: list[DeliveryReport] = []

    @flow(name=deliver.name, description=deliver.description)
    async def deliver_here() -> dict[str, int]:
        reports.append(await asyncio.to_thread(delivery))
        return dict(reports[0].counts)

    asyncio.run(deliver_here())
    return reports[0]
