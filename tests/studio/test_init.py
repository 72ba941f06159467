"""`penstock init`: in somebody's own dbt project, where nothing is called as in ours, and in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from compiler.catalog import Relation
from studio import cli
from studio.guess import guess_contacts, guess_events
from tests.studio.projects import FILES, write

# The same models without declared columns, and one order that is placed whenever dbt builds.
OWN = {
    **FILES,
    "models/schema.yml": "version: 2\nmodels: [{name: people}, {name: activity}]\n",
    "models/activity.sql": FILES["models/activity.sql"]
    + " union all select 'a' || now()::text, 'p1', 'order_placed', now() at time zone 'UTC', now() at time zone 'UTC'",
}


def _penstock(project: Path, *line: str) -> int:
    return cli.run(["--project-dir", str(project), "--quiet", *line])


def test_the_first_workflow_of_somebodys_own_project_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = write(tmp_path, OWN)
    assert cli.run(["init", str(project), "--no-input"]) == 2
    assert "no model of this dbt project has known columns yet" in capfd.readouterr().err
    _build(project)
    assert cli.run(["init", str(project), "--no-input"]) == 0
    mapping = YAML(typ="safe").load((project / "penstock.yaml").read_text())
    assert mapping["contact"] == {
        "model": "ref('people')", "id": "person_id", "email": "email_address", "timezone": "tz",
        "updated_at": "changed_at",
    }  # fmt: skip
    assert mapping["events"]["at"] == "happened_at"
    assert 'event: "order_placed"' in (project / "workflows/welcome.yaml").read_text()
    assert _penstock(project, "validate", "--strict") == 0
    assert _penstock(project, "apply") == 0
    assert _penstock(project, "dbt", "build", "--quiet") == 0
    assert _penstock(project, "run") == 0
    capfd.readouterr()
    assert _penstock(project, "logs", "-o", "json") == 0
    rows = json.loads(capfd.readouterr().out)
    assert [(row["contact"], row["step"], row["outcome"]) for row in rows] == [
        ("p1", None, "enter"), ("p1", "hello", "email:welcome sent"),
    ]  # fmt: skip
    messages = [file.read_text() for file in (project / ".penstock/dev/outbox").rglob("*") if file.suffix == ".eml"]
    assert len(messages) == 1
    assert "ann@example.com" in messages[0]


def _build(project: Path) -> None:
    """What the person did before: a plain `dbt build`."""
    import subprocess
    import sys

    line = [sys.executable, "-m", "dbt.cli.main", "--quiet", "build", "--profiles-dir", "."]
    subprocess.run(line, cwd=project, check=True, timeout=120)


def test_the_test_that_comes_with_the_first_workflow_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = write(tmp_path, FILES)
    assert cli.run(["init", str(project), "--no-input"]) == 0
    assert _penstock(project, "test") == 0


def test_init_overwrites_nothing_and_says_what_it_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = {
        ".vscode/settings.json": "{}\n",
        ".gitignore": "target/",
        "templates/welcome.mjml": "---\nsubject: Mine\n---\n<mjml><mj-body></mj-body></mjml>\n",
    }
    project = write(tmp_path, FILES, mine)
    assert cli.run(["init", str(project), "--no-input", "-o", "json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["kept"] == ["templates/welcome.mjml", ".vscode/settings.json"]
    assert (project / ".vscode/settings.json").read_text() == "{}\n"
    assert "subject: Mine" in (project / "templates/welcome.mjml").read_text()
    assert (project / ".gitignore").read_text() == "target/\n.penstock/\n"
    assert (project / ".penstock/schemas/workflow.json").is_file()
    assert cli.run(["init", str(project), "--no-input"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_new_folder_becomes_a_project_that_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init", str(tmp_path / "shop"), "--no-input", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["new_project"]
    assert _penstock(tmp_path / "shop", "validate") == 0
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo.txt").write_text("milk")
    assert cli.run(["init", str(tmp_path / "notes"), "--no-input"]) == 2
    assert "is neither empty nor a dbt project" in capsys.readouterr().err


def _relation(name: str, /, **columns: str) -> Relation:
    return Relation(name, ("main", name), columns)


@pytest.mark.parametrize(
    ("contacts", "events"),
    [
        (_relation("dim_customers", customer_id="INTEGER", e_mail="VARCHAR", email_opt_out="BOOLEAN"),
         _relation("fct_tracks", id="VARCHAR", customer_id="INTEGER", event="VARCHAR", ts="TIMESTAMP WITH TIME ZONE")),
        (_relation("subscribers", id="VARCHAR", email="VARCHAR", modified_on="TIMESTAMP"),
         _relation("interactions", interaction_id="UUID", subscriber_id="VARCHAR", action="VARCHAR",
                   occurred_at="TIMESTAMP", payload="JSON", _loaded_at="TIMESTAMP")),
    ],
)  # fmt: skip
def test_models_are_known_by_names_and_types(contacts: Relation, events: Relation) -> None:
    others = [
        _relation("stg_customers", customer_id="INTEGER", email="VARCHAR"),
        _relation("orders", order_id="INTEGER", customer_id="INTEGER", status="VARCHAR", ordered_at="TIMESTAMP"),
        _relation("products", product_id="INTEGER", name="VARCHAR"),
    ]
    relations = [*others, contacts, events]
    contact = guess_contacts(relations)[0]
    assert contact.relation is contacts
    event = guess_events(relations, contact)[0]
    assert event.relation is events
    assert {"id", "contact", "name", "at", "loaded_at"} <= event.columns.keys()
