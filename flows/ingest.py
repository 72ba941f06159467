"""The Prefect flow that takes in what the collector of this machine has."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect import flow

from flows.project import load_project
from flows.runner import run_ingest


@flow(name="penstock-ingest", description="What the collector took, into the warehouse of a target.")
async def ingest(project_dir: str, target: str | None = None) -> dict[str, int]:
    """Take in what waits. A tick does the same before it evaluates; this is for a machine that only collects.

    Args:
        project_dir: folder with penstock.yaml, on the machine of the collector.
        target: the dbt target, by default the profile's.

    Returns:
        What was counted. Nothing about a contact leaves the warehouse.
    """
    project = load_project(Path(project_dir), target)
    report = await asyncio.to_thread(run_ingest, project)
    return dict(vars(report))
