"""Projects: where they are found, what a target changes, and where columns come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.errors import DefinitionError, ProjectError
from flows.project import find_project, load_project, snapshot_catalog
from flows.warehouse.duckdb import DuckDBWarehouse
from flows.warehouse.location import FileLocation, ServerLocation
from tests.flows.projects import PENSTOCK, build_models, write_project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "PENSTOCK_PROJECT_DIR",
        "DBT_PROFILES_DIR",
        "SHOP_TARGET",
        "SHOP_FILE",
        "SHOP_MISSING",
        "SHOP_PORT",
        "SHOP_PASSWORD",
    ):
        monkeypatch.delenv(name, raising=False)
    return write_project(tmp_path / "shop")


def test_the_project_is_named_found_upwards_or_in_dbt_project(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "models")
    assert find_project() == folder
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match="penstock init"):
        raise_with_hint(tmp_path)
    (tmp_path / "dbt_project").symlink_to(folder)
    assert find_project() == folder
    other = write_project(tmp_path / "other")
    monkeypatch.setenv("PENSTOCK_PROJECT_DIR", str(other))
    assert find_project() == other
    assert find_project(folder) == folder


def raise_with_hint(folder: Path) -> None:
    try:
        find_project(folder)
    except ProjectError as error:
        raise ProjectError(f"{error.message} {error.hint}") from error


def test_a_target_decides_warehouse_state_and_overrides(folder: Path) -> None:
    dev, prod = load_project(folder), load_project(folder, "prod")
    assert (dev.workspace, dev.deliver, dev.state_schema) == ("shop/dev", "outbox", "penstock_dev")
    assert (prod.workspace, prod.deliver, prod.state_schema) == ("shop/prod", "live", "penstock")
    assert dev.warehouse.location == FileLocation(folder / "shop.duckdb")
    assert (dev.warehouse.schema, prod.warehouse.location) == ("marts", FileLocation(folder / "prod.duckdb"))
    assert dev.settings.destinations["mail"]["host"] == "{{ env_var('MAIL_HOST', 'localhost') }}"
    assert prod.settings.destinations["mail"]["host"] == "mail.shop.example"
    assert prod.settings.destinations["mail"]["notify_to"] == {"sales": "sales@shop.example"}
    assert prod.file.target.max_sends_per_day == 100
    assert dev.local == folder / ".penstock" / "dev"
    assert dev.dbt_variables == {"penstock_schema": "penstock_dev"}


def test_variables_choose_target_and_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TARGET", "prod")
    assert load_project(folder).target == "prod"
    monkeypatch.setenv("SHOP_FILE", "/data/other.duckdb")
    assert load_project(folder, "dev").warehouse.location == FileLocation(Path("/data/other.duckdb"))


def test_a_server_is_read_as_dbt_reads_it_and_its_password_is_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "{{ s3cret }}")
    monkeypatch.setenv("SHOP_PORT", "6543")
    project = load_project(folder, "server")
    location = project.warehouse.location
    assert isinstance(location, ServerLocation)
    assert dict(location.parameters) == {
        "host": "db.example", "port": "6543", "user": "shop", "password": "{{ s3cret }}", "dbname": "sales",
        "sslmode": "require", "connect_timeout": 10, "options": "-c search_path=marts,\\ public",
    }  # fmt: skip
    assert (location.role, project.warehouse.schema, project.warehouse.type) == ("writer", "marts", "postgres")
    assert location.label == "PostgreSQL database sales on db.example:6543"
    assert "s3cret" not in repr(project)


def test_profiles_are_looked_for_where_dbt_looks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / ".dbt"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home.parent))
    (folder / "profiles.yml").rename(home / "profiles.yml")
    assert load_project(folder).target == "dev"
    named = tmp_path / "named"
    named.mkdir()
    with pytest.raises(ProjectError, match="named"):
        load_project(folder, profiles_dir=named)


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("pord", "E503", "no target 'pord'"),
        ("cloud", "E505", "snowflake"),
        ("memory", "E505", "no file"),
        ("secret", "E503", "environment variable SHOP_MISSING"),
        ("bare", "E505", "has no host"),
        ("jinja", "E503", "cannot read the value of 'pass'"),
    ],
)
def test_a_target_that_cannot_be_used_is_an_error(folder: Path, target: str, code: str, says: str) -> None:
    with pytest.raises(ProjectError, match=says) as caught:
        load_project(folder, target)
    assert (caught.value.code, bool(caught.value.hint)) == (code, True)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("id: person_id, email", "idd: person_id, email", 2, "unknown key 'idd' in contact"),
        ("warmth: {model:", "warmth: {modell:", 6, "unknown key 'modell' in scores.warmth"),
        ("deliver: live", "deliver: real", 12, "deliver"),
        ("{mail: {host: mail.shop.example}}", "{mail: 1}", 12, "destinations.mail"),
        ("ref('people')", "people", 2, "a relation is ref"),
        ("churn: {model: ", "churn: {points: 1, model: ", 5, "exactly one of model, points"),
    ],
)
def test_mistakes_in_penstock_yaml_are_named_with_their_place(
    folder: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in PENSTOCK
    (folder / "penstock.yaml").write_text(PENSTOCK.replace(old, new))
    with pytest.raises(DefinitionError) as caught:
        load_project(folder)
    assert [problem.line for problem in caught.value.problems if says in problem.message] == [line]


def test_columns_come_from_the_schema_files_before_anything_was_built(folder: Path) -> None:
    catalog = load_project(folder).catalog()
    assert catalog.contact.relation.place == ("marts", "people")
    assert catalog.contact.relation.type_of("mail_ok") == "boolean"
    assert catalog.events.relation.place == ("marts_facts", "happenings")
    assert catalog.events.relation.zoned("happened_at")
    assert catalog.events.loaded_at == "happened_at"
    assert catalog.relations["shop.carts"].place == ("landing", "raw_carts")
    assert catalog.relations["late"].columns == {}
    assert (set(catalog.scores), catalog.scores["churn"].scored_at) == ({"churn", "warmth"}, None)
    assert catalog.destinations["mail"].targets == frozenset({"sales"})
    assert catalog.workflows == {"greet"}
    assert catalog.templates["hello"].contact == {"person_id"}


def test_what_dbt_built_wins_over_schema_files_and_the_warehouse_over_both(folder: Path) -> None:
    project = load_project(folder)
    (folder / "target").mkdir()
    node = {"resource_type": "model", "name": "people", "alias": "persons", "schema": "built",
            "columns": {"person_id": {"name": "person_id"}}, "config": {"materialized": "table"}}  # fmt: skip
    types = {name: {"name": name, "type": "VARCHAR"} for name in ("person_id", "mail", "country")}
    (folder / "target" / "manifest.json").write_text(json.dumps({"nodes": {"model.shop.people": node}}))
    (folder / "target" / "catalog.json").write_text(json.dumps({"nodes": {"model.shop.people": {"columns": types}}}))
    people = project.catalog().contact.relation
    assert (people.place, list(people.columns)) == (("built", "persons"), ["person_id", "mail", "country"])
    (folder / "target" / "manifest.json").unlink()
    with DuckDBWarehouse(None) as warehouse:
        build_models(warehouse)
        catalog = snapshot_catalog(warehouse, project)
    assert "plan" in catalog.contact.relation.columns
    assert catalog.relations["shop.carts"].columns == {"cart_id": "BIGINT"}
    assert catalog.events.relation.columns["happened_at"] == "TIMESTAMP WITH TIME ZONE"
    assert load_project(folder).catalog() == catalog


def test_a_mapping_that_names_what_does_not_exist_is_refused_at_its_place(folder: Path) -> None:
    text = PENSTOCK.replace("email: mail", "email: mial").replace("type: smtp", "type: smpt")
    (folder / "penstock.yaml").write_text(text.replace("ref('churn')", "ref('chrun')", 1))
    with pytest.raises(DefinitionError) as caught:
        load_project(folder).catalog()
    found = {(problem.line, problem.message): problem.hint for problem in caught.value.problems}
    assert list(found) == [
        (2, "people has no column 'mial'"), (5, "no model 'chrun' in the dbt project"),
        (9, "destination mail has the unknown type 'smpt'"),
    ]  # fmt: skip
    assert all("did you mean" in hint for hint in found.values())


def test_a_model_without_known_columns_says_what_to_do(folder: Path) -> None:
    (folder / "penstock.yaml").write_text(PENSTOCK.replace("ref('people')", "ref('late')"))
    with pytest.raises(ProjectError, match="columns of 'late' are unknown") as caught:
        load_project(folder).catalog()
    assert "penstock dbt build" in caught.value.hint


def test_problems_of_definition_files_are_collected_and_good_files_stay(folder: Path) -> None:
    (folder / "workflows" / "bad.yaml").write_text("version: 1\nworkflow: bad\n")
    (folder / "templates" / "bad.txt").write_text("{{ nobody }}")
    definitions = load_project(folder).definitions
    assert (set(definitions.workflows), set(definitions.templates)) == ({"greet"}, {"hello"})
    assert {problem.file for problem in definitions.problems} == {"workflows/bad.yaml", "templates/bad.txt"}
