"""The Prefect flow around dbt: builds the models that workflows read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect import flow

from flows.build import run_dbt
from flows.project import load_project


@flow(name="penstock-transform", description="dbt build of a target, under the warehouse's lock.")
async def transform(project_dir: str, target: str | None = None, select: str | None = None) -> None:
    """Build the dbt project.

    Args:
        project_dir: folder with penstock.yaml, on the worker.
        target: the dbt target, by default the profile's.
        select: dbt's `--select`, everything when None.

    Raises:
        RuntimeError: dbt failed; its own messages stand in the log.
    """
    project = load_project(Path(project_dir), target)
    arguments = ["build", *(["--select", select] if select else [])]
    # dbt changes the working folder while it runs, so this flow shares its process with no other.
    outcome = await asyncio.to_thread(run_dbt, project, arguments)
    if outcome.exit_code:
        raise RuntimeError(f"dbt build ended with {outcome.exit_code} {outcome.message}".rstrip())
