"""Exposures: what dbt's lineage learns of workflows."""

from __future__ import annotations

import pytest

from compiler.errors import DefinitionError
from compiler.exposure import Drift, drift, exposure, render_exposures
from compiler.parser import parse_workflow
from compiler.workflow import Workflow

TEXT = """version: 1
workflow: carts
description: "Win back carts: created, not bought."
owner: dana@acme.example
tags: [revenue]
trigger: {from: "ref('fct_carts')", key: cart_id, contact: contact_id, at: created_at}
steps: []
"""


def carts() -> Workflow:
    return parse_workflow(TEXT, "carts.yaml").workflow


def test_exposure_names_what_the_workflow_reads() -> None:
    assert exposure(carts(), ["ref('dim_contacts')", "source('raw', 'events')"]) == {
        "name": "workflow_carts", "label": "carts", "type": "application",
        "description": "Win back carts: created, not bought.",
        "owner": {"name": "dana", "email": "dana@acme.example"},
        "depends_on": ["ref('dim_contacts')", "ref('fct_carts')", "source('raw', 'events')"],
        "config": {"tags": ["penstock", "revenue"]},
    }  # fmt: skip


def test_text_does_not_depend_on_the_order_and_reads_back() -> None:
    one = exposure(carts(), ["ref('dim_contacts')"])
    two = {**one, "name": "workflow_a"}
    assert render_exposures([one, two]) == render_exposures([two, one])
    assert not drift(render_exposures([one, two]), [two, one])


def test_drift_names_each_difference() -> None:
    one = exposure(carts(), [])
    text = render_exposures([one, {**one, "name": "workflow_gone"}])
    changed = {**one, "description": "other"}
    assert drift(text, [changed, {**one, "name": "workflow_new"}]) == Drift(
        missing=("workflow_new",), changed=("workflow_carts",), stale=("workflow_gone",)
    )
    assert drift(None, [one]).missing == ("workflow_carts",)
    with pytest.raises(DefinitionError, match="E520"):
        drift("models: []\n", [one])


def test_other_references_are_refused() -> None:
    with pytest.raises(ValueError, match="not a reference"):
        exposure(carts(), ["main.fct_carts"])
