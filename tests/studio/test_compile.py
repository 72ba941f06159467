"""`penstock compile`: files that people read, dbt's lineage, and one workflow's SQL to pipe."""

import json
from pathlib import Path

import pytest
import sqlglot
from ruamel.yaml import YAML

from studio import cli
from tests.studio.projects import bakery, replaced


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return bakery(tmp_path)


def _compile(project: Path, *arguments: str) -> int:
    return cli.run(["--project-dir", str(project), "compile", *arguments])


def test_compile_writes_sql_plan_diagram_exposures_and_schemas(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _compile(project) == 0
    assert "1 workflow compiled to duckdb" in capsys.readouterr().out
    sql = (project / "target/penstock/thanks.sql").read_text()
    assert len(sqlglot.parse(sql, dialect="duckdb")) > 4
    plan = json.loads((project / "target/penstock/thanks.json").read_text())
    assert plan["entry"] == {"kind": "event", "events": ["order_placed"]}
    assert [action["step"] for action in plan["actions"]][0] == "mail"
    assert "flowchart TD" in (project / "target/penstock/thanks.mmd").read_text()
    exposures = YAML(typ="safe").load((project / "models/penstock_exposures.yml").read_text())["exposures"]
    assert exposures[0]["depends_on"] == ["ref('activity')", "ref('people')"]
    schema = json.loads((project / ".penstock/schemas/workflow.json").read_text())
    assert "thanks" in json.dumps(schema["$defs"]["EmailStep"])


def test_one_selected_workflow_goes_to_stdout_as_sql(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _compile(project, "--select", "thanks") == 0
    captured = capsys.readouterr()
    assert captured.out == (project / "target/penstock/thanks.sql").read_text()
    assert "1 workflow compiled" in captured.err
    assert not (project / "models/penstock_exposures.yml").exists()


def test_check_fails_until_the_exposures_are_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _compile(project, "--check") == 1
    assert "missing workflow_thanks" in capsys.readouterr().out
    assert _compile(project) == 0
    assert _compile(project, "--check") == 0
    replaced(project / "workflows/thanks.yaml", "owner: Baker", "owner: baker@bakery.example")
    capsys.readouterr()
    assert _compile(project, "--check", "--output", "json") == 1
    assert json.loads(capsys.readouterr().out)["drift"]["changed"] == ["workflow_thanks"]


def test_a_refused_workflow_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(project / "workflows/thanks.yaml", "email: thanks", "email: thnks")
    assert _compile(project) == 1
    assert "E404 no template 'thnks'" in capsys.readouterr().out
    assert not (project / "target").exists()


def test_the_shipped_exposures_fit_the_shipped_workflows(repository: Path) -> None:
    assert _compile(repository / "dbt_project", "--check") == 0
