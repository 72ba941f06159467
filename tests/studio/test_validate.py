"""`penstock validate`: what an author sees, a script reads, and what it must not need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from studio import cli
from tests.studio.projects import bakery, replaced

HEAVY = ("duckdb", "pyarrow", "httpx", "aiohttp", "prefect", "dbt", "sklearn", "pandas", "polars")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return bakery(tmp_path)


def _validate(project: Path, *arguments: str) -> int:
    return cli.run(["--project-dir", str(project), "validate", *arguments])


def test_a_sound_project_that_was_never_built_is_valid(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _validate(project) == 0
    assert capsys.readouterr().out.startswith("1 workflow, 4 steps, 1 condition · 0 errors, 0 warnings")
    assert not (project / "bakery.duckdb").exists()


def test_a_problem_shows_its_line_a_caret_and_the_nearest_word(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(project / "workflows/thanks.yaml", "did('order_placed'", "contact.tzz = 'x' and did('order_placed'")
    assert _validate(project) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✗ workflows/thanks.yaml:11:17  E203 people has no column 'tzz'"
    source = "if: contact.tzz = 'x' and did('order_placed', since => 'mail')"
    assert lines[2] == f"   11 │     {source}"
    assert lines[3].index("^") == lines[2].index("tzz")
    assert lines[4].startswith("   hint: did you mean 'tz'?")


def test_every_kind_of_file_is_checked_at_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(project / "workflows/thanks.yaml", "email: thanks", "email: thnks")
    replaced(project / "templates/thanks.mjml", "given_name", "given_nam")
    replaced(project / "penstock.yaml", "folder: .penstock", "foldr: .penstock")
    assert _validate(project, "--output", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [(p["file"], p["code"]) for p in report["problems"]] == [
        ("penstock.yaml", "D101"),
        ("templates/thanks.mjml", "E402"),
        ("workflows/thanks.yaml", "E404"),
    ]
    assert report["errors"] == 3


def test_a_crm_object_that_the_destination_does_not_take_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(
        project / "penstock.yaml",
        "  post: {type",
        "  crm: {type: hubspot, token: \"{{ env_var('T') }}\"}\n  post: {default: true, type",
    )
    replaced(project / "workflows/thanks.yaml", "email: thanks", "crm: {object: deal, set: {amount: 3}}\n    to: crm")
    assert _validate(project) == 1
    found = capsys.readouterr().out
    assert "workflows/thanks.yaml:9:19  E407 crm takes no CRM object 'deal'" in found
    assert "hint: what it takes: company, contact, list" in found


def test_a_broken_project_file_is_a_finding_with_its_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(project / "penstock.yaml", "destinations:", "destination:")
    assert _validate(project) == 1
    out = capsys.readouterr().out
    assert "penstock.yaml:6:1  E102 unknown key 'destination'" in out
    assert "did you mean 'destinations'?" in out


def test_a_step_is_named_before_it_can_have_happened(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(
        project / "workflows/thanks.yaml",
        "- id: pause\n    wait: 1h",
        "- {id: pause, if: \"did('x', since => 'mail')\", tag: a}",
    )
    assert _validate(project) == 1
    assert "E306 the condition names the step 'mail', which no path meets before 'pause'" in capsys.readouterr().out


def test_trust_expression_refuses_a_sub_select(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(
        project / "workflows/thanks.yaml",
        "did('order_placed', since => 'mail')",
        "exists (select 1 from ref('activity') as a where a.person_id = contact.person_id)",
    )
    assert _validate(project) == 0
    capsys.readouterr()
    assert _validate(project, "--trust", "expression") == 1
    assert "E201" in capsys.readouterr().out


def test_strict_makes_a_warning_a_finding(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(project / "workflows/thanks.yaml", "did('order_placed', since => 'mail')", "opened('mail')")
    assert _validate(project) == 0
    out = capsys.readouterr().out
    assert "! workflows/thanks.yaml:11:9  W101" in out
    assert "0 errors, 1 warning" in out
    assert _validate(project, "--strict") == 1


def test_select_looks_at_the_chosen_workflows_only(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "workflows/broken.yaml").write_text("version: 1\nworkflow: broken\n")
    assert _validate(project, "--select", "thanks") == 0
    assert _validate(project, "--select", "workflows/broken.yaml") == 1
    capsys.readouterr()
    assert _validate(project, "--select", "thank") == 2
    assert "did you mean 'thanks'?" in capsys.readouterr().err


def test_github_and_sarif_name_the_place(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / ".git").mkdir()
    replaced(project / "workflows/thanks.yaml", "email: thanks", "email: thnks")
    assert _validate(project, "--format", "github") == 1
    line = capsys.readouterr().out.strip()
    assert line.startswith("::error file=workflows/thanks.yaml,line=9,col=12,endColumn=13,title=E404::no template")
    assert _validate(project, "--format", "sarif") == 1
    result = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]
    assert (result["ruleId"], result["level"]) == ("E404", "error")
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 9


def test_validation_loads_no_engine_and_no_driver(project: Path) -> None:
    program = (
        "import sys; from studio.cli import run; code = run(['--project-dir', sys.argv[1], 'validate', '-q']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(project)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
