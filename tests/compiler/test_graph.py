"""The flow of steps: successors per outcome, and who comes before whom."""

from __future__ import annotations

from pathlib import Path

from compiler.graph import check, flow
from compiler.parser import canonical, from_canonical, parse_value, parse_workflow, unsupported
from compiler.workflow import Workflow
from compiler.yaml import read_yaml

HEAD = "version: 1\nworkflow: w\ntrigger: {event: signup}\n"


def workflow(steps: str) -> Workflow:
    return parse_workflow(HEAD + "steps:\n" + steps, "w.yaml").workflow


def test_every_path_of_nested_arms_ends_at_the_right_step() -> None:
    graph = flow(
        workflow(
            "- id: a\n  if: x = 1\n  then:\n  - id: b\n    wait_for: did('e')\n    within: 1d\n    else:\n    - id: c\n"
            "      exit: gone\n  - id: d\n    tag: x\n  else:\n  - id: e\n    tag: y\n- id: f\n  tag: z\n"
        )
    )
    names = {node.index: node.id for node in graph.nodes}
    shown = {
        node.id: {outcome: None if to is None else names[to] for outcome, to in node.successors.items()}
        for node in graph.nodes
    }
    assert shown == {
        "a": {"then": "b", "else": "e"}, "b": {"then": "d", "else": "c"}, "c": {}, "d": {"next": "f"},
        "e": {"next": "f"}, "f": {"next": None},
    }  # fmt: skip
    assert [node.index for node in graph.nodes] == list(range(6))
    assert all(to > node.index for node in graph.nodes for to in node.successors.values() if to is not None)


def test_before_knows_paths_not_lines() -> None:
    graph = flow(
        workflow("- if: x = 1\n  then:\n  - id: l\n    tag: x\n  else:\n  - id: r\n    tag: y\n- id: f\n  tag: z\n")
    )
    left, right, last = (graph.named(name) for name in "lrf")
    assert left and right and last
    assert left.index in graph.before(last.index)
    assert left.index not in graph.before(right.index)


def test_conditions_may_only_name_steps_that_can_precede() -> None:
    steps = "- id: hello\n  email: a\n- wait: 1d\n- id: ask\n  if: contact.x = 1\n- id: later\n  email: b\n"
    path = ("steps", 2, "if")
    found = check(workflow(steps), [(path, "hello"), (path, "later"), (path, "helo"), (("goals", 0, "when"), "later")])
    assert [(problem.code, problem.path) for problem in found] == [("E306", path), ("E305", path)]


def test_a_loop_that_waits_is_fine() -> None:
    assert check(workflow("- id: again\n  email: a\n- wait: 1d\n- goto: again\n  max: 3\n")) == []


def test_the_six_seed_workflows_pass_every_check() -> None:
    file = Path(__file__).parent / "seed_workflows.yaml"
    tree, problems = read_yaml(file.read_text(encoding="utf-8"), file.name)
    assert problems == []
    for index, data in enumerate(tree.plain):
        document = parse_value(data, file.name, source=tree, path=(index,))
        assert check(document.workflow) == []
        assert unsupported(document) == []
        assert from_canonical(canonical(document.workflow)) == document.workflow
