"""What is said to have changed between two versions of a workflow."""

from __future__ import annotations

import pytest

from compiler.diff import StepChange, difference
from compiler.parser import parse_workflow
from compiler.workflow import Workflow

HEAD = "version: 1\nworkflow: w\ntrigger: {event: joined}\n"
STEPS = "steps: [{id: a, wait: 1h}, {id: b, if: contact.plan = 'x', then: [{id: c, tag: t}]}, {id: d, email: hi}]"


def _workflow(text: str) -> Workflow:
    return parse_workflow(text, "workflows/w.yaml").workflow


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("wait: 1h", "wait: 2h", [StepChange("changed", "a", "wait", '{"wait": "1h"}', '{"wait": "2h"}')]),
        ("tag: t", "tag: u", [StepChange("changed", "c", "tag", '{"tag": "t"}', '{"tag": "u"}')]),
        (", {id: d, email: hi}", "", [StepChange("removed", "d", "email", before='{"email": "hi"}')]),
        ("{id: d,", "{id: n, wait: 1d}, {id: d,", [StepChange("added", "n", "wait", after='{"wait": "1d"}')]),
        ("{id: d, email: hi}]", "]", [StepChange("removed", "d", "email", before='{"email": "hi"}')]),
    ],
)
def test_steps(old: str, new: str, expected: list[StepChange]) -> None:
    assert old in STEPS
    found = difference(_workflow(HEAD + STEPS), _workflow(HEAD + STEPS.replace(old, new)))
    assert list(found.steps) == expected
    assert found.head == ()


def test_a_step_that_only_moved_is_one_change() -> None:
    steps = "steps: [{id: a, wait: 1h}, {id: b, wait: 2h}, {id: c, wait: 3h}, {id: d, email: hi}]"
    moved = "steps: [{id: b, wait: 2h}, {id: c, wait: 3h}, {id: a, wait: 1h}, {id: d, email: hi}]"
    assert difference(_workflow(HEAD + steps), _workflow(HEAD + moved)).steps == (StepChange("moved", "a", "wait"),)


def test_an_arm_that_became_longer_does_not_change_its_branch() -> None:
    longer = STEPS.replace("then: [", "then: [{id: n, tag: n}, ")
    found = difference(_workflow(HEAD + STEPS), _workflow(HEAD + longer))
    assert [(change.action, change.step) for change in found.steps] == [("added", "n")]


def test_the_head_names_its_changed_keys() -> None:
    before, after = HEAD + STEPS, HEAD + "entry: {reentry: always}\npolicy: {priority: 2}\n" + STEPS
    assert difference(_workflow(before), _workflow(after)).head == ("entry", "policy")
