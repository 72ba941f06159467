"""Simulations read `include:` files from the folder `steps` beside them."""

from pathlib import Path

import pytest

from compiler.errors import DefinitionError
from flows.engine.simulation import read_cases
from flows.engine.simulator import run_case

CASE = """\
contacts: [{id: ann}]
events: [[e1, ann, start, 2025-03-03T10:00Z]]
workflows:
- {version: 1, workflow: w, trigger: {event: start}, steps: [{id: a, tag: a}, {include: steps/tail.yaml}]}
ticks: [2025-03-03T10:00Z]
"""


def test_included_steps_run_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "tail.yaml").write_text("- {id: b, tag: b}\n")
    (case,) = read_cases(tmp_path / "case.yaml", CASE)
    assert [row.split(" | ")[3:] for row in run_case(case).log] == [
        ["-", "enter"], ["a", "tag:a ok"], ["b", "tag:b ok"], ["-", "exit completed"],
    ]  # fmt: skip


def test_a_mistake_is_named_in_the_included_file(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "tail.yaml").write_text("- {id: b, tag: b}\n- include: steps/tail.yaml\n")
    with pytest.raises(DefinitionError) as refused:
        read_cases(tmp_path / "case.yaml", CASE)
    (problem,) = refused.value.problems
    assert (problem.code, problem.file, problem.line) == ("E109", "steps/tail.yaml", 2)
