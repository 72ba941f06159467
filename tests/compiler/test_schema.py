"""The JSON Schema says yes and no as the parser does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from compiler.catalog import Catalog, ContactModel, DestinationInfo, EventModel, Relation, TemplateInfo
from compiler.schema import workflow_schema
from compiler.yaml import read_yaml

RELATION = Relation("m", ("main", "m"), {"id": "VARCHAR"})
CATALOG = Catalog(
    contact=ContactModel(RELATION, "id"),
    events=EventModel(RELATION, "id", "c", "n", "t", "l", properties={"signup": {}}),
    destinations={
        "crm": DestinationInfo("crm", frozenset({"crm"})),
        "hook": DestinationInfo("hook", frozenset({"webhook"})),
    },
    templates={"welcome": TemplateInfo("welcome", "0")},
)


def valid(data: Any, schema: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(data))


def workflow(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "workflow": "w", "trigger": {"event": "signup"}, "steps": list(steps)}


def test_schema_itself_is_valid_and_describes_every_key() -> None:
    schema = workflow_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, model in {"Workflow": schema, **schema["$defs"]}.items():
        assert model.get("description"), name
        for key, field in model.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


def test_seed_workflows_are_valid() -> None:
    file = Path(__file__).parent / "seed_workflows.yaml"
    tree, _ = read_yaml(file.read_text(encoding="utf-8"), file.name)
    for data in tree.plain:
        assert valid(data, workflow_schema())


@pytest.mark.parametrize(
    "broken",
    [
        workflow({"wait": 2}),
        workflow({"wait": "2 hours"}),
        workflow({"emial": "welcome"}),
        workflow({"email": "welcome", "tag": "x"}),
        workflow({"if": "a = 1", "then": [{"wait": "2h", "if": "b = 1"}]}),
        {**workflow(), "version": 2},
        {**workflow(), "entry": {"reentri": "once"}},
        {**workflow(), "trigger": {"event": "a", "audience": "b"}},
        {"version": 1, "workflow": "w", "steps": []},
    ],
)
def test_broken_workflow_is_invalid(broken: dict[str, Any]) -> None:
    assert not valid(broken, workflow_schema())


def test_catalog_offers_the_names_of_the_project() -> None:
    schema = workflow_schema(CATALOG)
    assert valid(workflow({"email": "welcome", "to": "crm"}), schema)
    assert not valid(workflow({"email": "welcom"}), schema)
    assert not valid(workflow({"webhook": "crm"}), schema)
    assert schema["$defs"]["EventTrigger"]["properties"]["event"]["examples"] == ["signup"]
