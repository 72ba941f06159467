"""The Prefect flows and their deployments, against an ephemeral Prefect server."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort
from prefect.testing.utilities import prefect_test_harness
from prefect.utilities.importtools import import_object

from compiler.errors import ProjectError
from flows.deliver import deliver
from flows.deliver import observed as observed_delivery
from flows.deployments import Timetable, register
from flows.evaluate import evaluate, summary
from flows.evaluate import observed as observed_tick
from flows.ingest import ingest
from flows.project import Project, load_project
from flows.runner import Runner
from flows.transform import transform
from tests.flows.collector.kiosk import keep
from tests.studio.projects import built

# Prefect leaves its client's sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
SECRET = "PENSTOCK_SMTP_PASSWORD"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the server's libraries while it starts
        with prefect_test_harness(server_startup_timeout=60):
            yield
        gc.collect()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return load_project(built(tmp_path_factory.mktemp("bakery")))


async def _known() -> list[DeploymentResponse]:
    async with get_client() as client:
        return await client.read_deployments(limit=10, sort=DeploymentSort.NAME_ASC)


def test_deploying_twice_leaves_three_scheduled_deployments_without_secrets(
    server: None, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "s3cr3t-value")
    first = asyncio.run(register(project, work_pool="ovens", environment={"DO_NOT_TRACK": "1"}))
    often = Timetable(evaluate=timedelta(minutes=5))
    again = asyncio.run(register(project, work_pool="ovens", timetable=often, environment={"DO_NOT_TRACK": "1"}))
    assert [item.deployment_id for item in again] == [item.deployment_id for item in first]
    known = {deployment.entrypoint: deployment for deployment in asyncio.run(_known())}
    assert set(known) == {"flows.transform.transform", "flows.evaluate.evaluate", "flows.deliver.deliver"}
    for entrypoint, deployment in known.items():
        assert import_object(str(entrypoint)) in (transform, evaluate, deliver)
        assert deployment.name == "bakery-dev"
        assert deployment.parameters == {"project_dir": str(project.folder), "target": "dev"}
        assert set(deployment.tags) == {"penstock", "project:bakery", "target:dev"}
        assert deployment.global_concurrency_limit is not None
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.job_variables["env"] == {"DO_NOT_TRACK": "1"}
        assert "s3cr3t" not in deployment.model_dump_json()
    assert _interval(known["flows.evaluate.evaluate"]) == timedelta(minutes=5)
    assert _schedule(known["flows.transform.transform"]).cron == "5 * * * *"


def test_where_a_collector_is_its_ingest_is_deployed_too_and_takes_in_what_came(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built(tmp_path)
    file = folder / "penstock.yaml"
    file.write_text(
        file.read_text(encoding="utf-8") + "\ncollector: {keys: {backend: {key: \"{{ env_var('K') }}\"}}}\n"
    )
    project = load_project(folder)
    Runner(project).apply()
    made = asyncio.run(register(project, work_pool="bakers"))
    assert [item.entrypoint for item in made][3:] == ["flows.ingest.ingest"]
    keep(project, {"name": "rang", "contact_id": "p1"})
    counts = asyncio.run(ingest(str(folder), "dev"))
    assert counts == {"events": 1, "repeated": 0, "refused": 0, "opt_outs": 0, "found": 0}


def _schedule(deployment: DeploymentResponse) -> Any:
    assert len(deployment.schedules) == 1
    return deployment.schedules[0].schedule


def _interval(deployment: DeploymentResponse) -> timedelta:
    interval: timedelta = _schedule(deployment).interval
    return interval


def test_flows_tick_and_deliver_what_is_published(server: None, project: Project) -> None:
    Runner(project).apply(who="test")
    counts = asyncio.run(evaluate(str(project.folder), "dev"))
    assert counts == {}
    assert asyncio.run(deliver(str(project.folder), "dev")) == {}
    report = Runner(project).tick()
    assert report.tick == 2, "the flow was tick 1"
    assert "bakery/dev: tick 2" in summary(report, project.workspace)


def test_without_a_server_deploy_says_how_to_get_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(ProjectError, match="no Prefect server"):
        asyncio.run(register(project, work_pool="ovens"))


def test_a_failed_build_fails_the_flow(server: None, tmp_path: Path) -> None:
    folder = built(tmp_path)
    (folder / "models/people.sql").write_text("select no_such_column")
    with pytest.raises(RuntimeError, match="dbt build ended with 1"):
        asyncio.run(transform(str(folder), "dev", select="people"))


def test_a_loop_of_this_process_is_seen_by_prefect(server: None, project: Project) -> None:
    runner = Runner(project)
    runner.apply()
    before = runner.tick().tick
    assert observed_tick(runner.tick, project.workspace).tick == before + 1
    assert dict(observed_delivery(runner.deliver).counts) == {}
