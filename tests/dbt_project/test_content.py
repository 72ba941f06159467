"""The shipped workflows, templates and journeys agree with each other and with the shop."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from compiler.content import parse_template, render
from compiler.parser import parse_workflow, unsupported
from compiler.workflow import BaseStep, EmailStep, Workflow, arms
from studio.demo.customers import EFFECTS, LANDING
from studio.demo.world import PRICES

PROJECT = Path(__file__).resolve().parent.parent.parent / "dbt_project"
NAMES = (
    "abandoned_cart", "behavioral_high_intent", "lead_nurturing", "post_purchase", "re_engagement", "welcome_series",
)  # fmt: skip
VALUES = {
    "contact": {"first_name": "Zoë <b>"},
    "entry": {"cart_id": "K-000001", "order_id": "O-000001", "amount": 24.5, "item_count": 2},
    "steps": {},
}


def _workflow(name: str) -> Workflow:
    file = PROJECT / "workflows" / f"{name}.yaml"
    document = parse_workflow(file.read_text(), file.name)
    assert not unsupported(document)
    return document.workflow


def _steps(steps: tuple[BaseStep, ...]) -> Iterator[BaseStep]:
    for step in steps:
        yield step
        for _, inner in arms(step):
            yield from _steps(inner)


def _templates() -> list[str]:
    return sorted(file.stem for file in (PROJECT / "templates").glob("*.mjml"))


def _seed(name: str) -> list[dict[str, str]]:
    with (PROJECT / "seeds" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def _cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
        (PROJECT / "workflow_tests" / f"{name}.yaml").read_text()
    )
    return loaded


def test_the_six_workflows_are_there() -> None:
    assert tuple(sorted(file.stem for file in (PROJECT / "workflows").glob("*.yaml"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_complete(name: str) -> None:
    workflow = _workflow(name)
    assert workflow.workflow == name
    assert workflow.description and workflow.owner and workflow.tags
    assert all(step.id for step in _steps(workflow.steps)), "ids keep positions stable when a workflow is edited"
    sent = {step.email for step in _steps(workflow.steps) if isinstance(step, EmailStep)}
    assert sent <= set(_templates())


@pytest.mark.parametrize("name", _templates())
def test_a_template_renders(name: str) -> None:
    source = (PROJECT / "templates" / f"{name}.mjml").read_text()
    template = parse_template(name, {".mjml": source}, f"templates/{name}.mjml")
    values = {**VALUES, **({"discount": 15} if "discount:" in source else {})}
    message = render(template, values)
    assert message.subject and "{{" not in message.subject
    assert message.html and "Zoë &lt;b&gt;" in message.html
    assert message.text and "Zoë <b>" in message.text
    assert "<mj-" not in message.html


def test_seeds_say_what_the_code_does() -> None:
    assert tuple(float(row["unit_price"]) for row in _seed("products")) == PRICES
    sent = {
        (str(step.email), name) for name in NAMES for step in _steps(_workflow(name).steps)
        if isinstance(step, EmailStep)
    }  # fmt: skip
    assert {(row["template"], row["workflow"]) for row in _seed("mail_templates") if row["workflow"]} == sent
    assert {template for template, _ in sent} == set(_templates()) == LANDING.keys()
    assert EFFECTS.keys() <= LANDING.keys()


@pytest.mark.parametrize("name", NAMES)
def test_journeys_speak_of_the_workflow(name: str) -> None:
    cases = _cases(name)
    assert 2 <= len(cases) <= 3
    steps = {str(step.id) for step in _steps(_workflow(name).steps)}
    for case in cases:
        assert case["workflows"] == [name]
        contacts = {contact["id"] for contact in case["contacts"]}
        times = []
        for row in case["expect"]:
            executed, due, contact, step, outcome = (part.strip() for part in row.split("|"))
            times.append(datetime.fromisoformat(executed))
            assert re.sub(r"\[.*\]", "", contact) in contacts, row
            assert step == "-" or step in steps, row
            assert due == "-" or datetime.fromisoformat(due) <= times[-1], row
            assert outcome, row
        assert times == sorted(times), case["id"]


def test_journeys_reach_every_step() -> None:
    """Actions that no journey executes are not proven."""
    for name in NAMES:
        shown = {row.split("|")[3].strip() for case in _cases(name) for row in case["expect"]}
        quiet = {"wait", "wait_for", "exit"}
        acting = {
            str(step.id) for step in _steps(_workflow(name).steps)
            if not arms(step) and not quiet & step.model_fields_set and step.model_fields_set - {"id"}
        }  # fmt: skip
        assert acting <= shown, name
