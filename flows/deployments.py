"""Registers the flows with Prefect: transform, evaluate and deliver of a target, and ingest where a collector is.

They run on schedules, in a work pool. Prefect only starts them. The engine is right when a flow runs never, once or
twice at a time, so a schedule is a hint; a run that would overlap with one of the same deployment is cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from compiler.errors import ProjectError
from flows.deliver import deliver
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.project import Project
from flows.transform import transform

TAG = "penstock"


@dataclass(frozen=True)
class Timetable:
    """When the flows run; `transform` is a cron line in UTC, the others are intervals."""

    transform: str = "5 * * * *"
    evaluate: timedelta = timedelta(minutes=1)
    deliver: timedelta = timedelta(minutes=1)


@dataclass(frozen=True)
class Registered:
    """A deployment as Prefect knows it."""

    name: str
    entrypoint: str
    schedule: str
    deployment_id: UUID


async def register(
    project: Project,
    *,
    work_pool: str,
    timetable: Timetable | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Registered]:
    """Create or update the deployments of a target.

    Args:
        project: the project and its target; its folder must exist on the workers.
        work_pool: where runs are picked up; made, of type process, when it does not exist.
        timetable: when they run.
        environment: variables of the runs, such as those that switch analytics off; no secrets.

    Raises:
        ProjectError: E514, no Prefect server is configured.
    """
    if get_current_settings().api.url is None:
        raise ProjectError(
            "no Prefect server is configured", code="E514",
            hint="`prefect server start`, then export PREFECT_API_URL=http://127.0.0.1:4200/api; "
            "without a server `penstock run --every 10s` does the same",
        )  # fmt: skip
    when = timetable or Timetable()
    async with get_client() as client:
        await _ensure_pool(client, work_pool)
    schedules: list[tuple[Flow[..., Any], Schedule, str]] = [
        (transform, Cron(when.transform, timezone="UTC"), when.transform),
        (evaluate, Interval(when.evaluate), f"every {when.evaluate}"),
        (deliver, Interval(when.deliver), f"every {when.deliver}"),
    ]
    if project.settings.collector is not None:
        schedules.append((ingest, Interval(when.evaluate), f"every {when.evaluate}"))
    return [
        await _register(flow, schedule, shown, project, work_pool, dict(environment or {}))
        for flow, schedule, shown in schedules
    ]


async def _register(
    flow: Flow[..., Any], schedule: Schedule, shown: str, project: Project, work_pool: str, environment: dict[str, str]
) -> Registered:
    deployment = await flow.ato_deployment(
        name=f"{project.name}-{project.target}",
        schedule=schedule,
        # A later run does all that a queued one would have done.
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        parameters={"project_dir": str(project.folder), "target": project.target},
        description=flow.description,
        tags=[TAG, f"project:{project.name}", f"target:{project.target}"],
        work_pool_name=work_pool,
        job_variables={"env": environment, "working_dir": str(project.folder)},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    identity = await deployment.aapply()
    return Registered(f"{flow.name}/{deployment.name}", str(deployment.entrypoint), shown, identity)


async def _ensure_pool(client: PrefectClient, name: str) -> None:
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
