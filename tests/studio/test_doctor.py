"""`penstock doctor` finds what keeps Penstock from working, and never shows a secret."""

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from flows.engine.clock import SystemClock
from studio import cli
from studio.doctor import Check, examine

PROFILES = "shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb, path: shop.duckdb}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DBT_PROFILES_DIR", raising=False)
    (tmp_path / "penstock.yaml").write_text("version: 1\n")
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text(PROFILES)
    return tmp_path


def _checks(project: Path, target: str | None = None) -> dict[str, Check]:
    return {check.name: check for check in examine(project, target).checks}


def test_a_sound_project_passes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    duckdb.connect(str(project / "shop.duckdb")).close()
    assert cli.run(["doctor", "--project-dir", str(project), "--output", "json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["name"]: check["status"] for check in checks} == dict.fromkeys(
        ("python", "packages", "git", "time zones", "analytics", "project", "clock", "secrets", "warehouse"), "ok"
    )


def test_without_a_project_the_next_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["doctor"]) == 1
    assert "penstock init" in capsys.readouterr().out


def test_the_project_is_found_from_a_folder_inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = project / "models" / "marts"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    checks = {check.name: check for check in examine(None, None).checks}
    assert checks["project"].detail == f"shop in {project}"


def test_missing_secrets_are_named_and_set_ones_never_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["a: \"{{ env_var('MAIL_KEY') }}\"", "# b: \"{{ env_var('UNUSED') }}\"", "c: \"{{ env_var('D', 'x') }}\""]
    (project / "penstock.yaml").write_text("\n".join([*lines, "e: \"{{ env_var('CRM_TOKEN') }}\""]))
    monkeypatch.setenv("CRM_TOKEN", "hidden-value")
    monkeypatch.delenv("MAIL_KEY", raising=False)
    assert _checks(project)["secrets"].detail == "not set: MAIL_KEY (penstock.yaml:1)"
    cli.run(["doctor", "--project-dir", str(project)])
    assert "hidden-value" not in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/locks").is_file(), reason="the kernel shows no table of locks here")
def test_the_holder_of_the_warehouse_is_named(project: Path) -> None:
    with duckdb.connect(str(project / "shop.duckdb")):
        check = _checks(project)["warehouse"]
    assert check.status == "warning"
    assert f"pid {os.getpid()}" in check.detail


def test_a_target_that_is_not_there_fails_with_the_ones_that_are(project: Path) -> None:
    check = _checks(project, "prod")["warehouse"]
    assert check.status == "failed"
    assert "dev" in check.hint


def test_a_clock_behind_the_files_fails(project: Path) -> None:
    ahead = (SystemClock().now() + timedelta(days=2) - datetime(1970, 1, 1)).total_seconds()
    os.utime(project / "penstock.yaml", (ahead, ahead))
    check = _checks(project)["clock"]
    assert check.status == "failed"
    assert "penstock.yaml" in check.detail
