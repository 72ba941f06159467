"""`penstock deploy`: transform, evaluate and deliver of a target as scheduled Prefect deployments."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import timedelta

from compiler.errors import ProjectError
from compiler.workflow import Duration
from flows.project import load_project
from studio.analytics import SWITCHES
from studio.console import Console
from studio.options import Options


def run(options: Options, *, work_pool: str, every: str, transform: str) -> int:
    """Register the deployments.

    Returns:
        The exit code 0.

    Raises:
        ProjectError: E513 `every` is no duration; E514 no Prefect server is configured.
    """
    project = load_project(options.project_dir, options.target)
    interval = _interval(every)
    # Prefect takes seconds to import, so what can be refused is refused before.
    from flows.deployments import Timetable, register

    timetable = Timetable(transform, interval, interval)
    found = asyncio.run(register(project, work_pool=work_pool, timetable=timetable, environment=SWITCHES))
    lines = [f"{item.name:<44} {item.schedule:<16} {item.entrypoint}" for item in found]
    lines.append(f"next  prefect worker start --pool {work_pool}")
    Console(options).result({"work_pool": work_pool, "deployments": [asdict(item) for item in found]}, "\n".join(lines))
    return 0


def _interval(every: str) -> timedelta:
    try:
        interval = Duration.parse(every).elapsed
    except ValueError as error:
        raise ProjectError(f"--every {every}: {error}", code="E513") from None
    if interval < timedelta(minutes=1):
        raise ProjectError(
            f"--every {every} is too often for deployments", code="E513", hint="`penstock run --every 10s` for seconds"
        )
    return interval
