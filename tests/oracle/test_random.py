"""The engine and the oracle write the same log for random cases; what fails is named by its seed."""

import ast
import json
from pathlib import Path

import pytest

from tests.oracle.compare import differences
from tests.oracle.conditions import text
from tests.oracle.engine import engine_log
from tests.oracle.generate import generate
from tests.oracle.interpreter import run
from tests.oracle.sql import parse
from tests.oracle.tally import count

FEW, MANY, BLOCK = 100, 2000, 10
HERE = Path(__file__).parent
OUTSIDE = {"engine.py", "planting.py", "mutations.py", "test_mutations.py", "test_properties.py"}


def check(seeds: range) -> None:
    """Both logs of every seed are equal."""
    told = []
    for seed in seeds:
        case = generate(seed)
        found = differences(log := run(case), engine_log(case))
        count("DuckDB", seed, case, log, found)
        if found:
            told.append("\n".join([f"seed {seed}: oracle -, engine +", *found, json.dumps(case)]))
    assert not told, "\n\n".join(told)


@pytest.mark.parametrize("first", range(0, FEW, BLOCK))
def test_the_engine_agrees(first: int) -> None:
    """The cases of every run."""
    check(range(first, first + BLOCK))


@pytest.mark.soak
@pytest.mark.parametrize("first", range(FEW, MANY, BLOCK))
def test_the_engine_agrees_for_long(first: int) -> None:
    """Many more."""
    check(range(first, first + BLOCK))


def test_the_cases_are_worth_something() -> None:
    """Every outcome occurs, and often enough."""
    words = [row.split(" | ")[4].split("(")[0].split(" ")[-1] for seed in range(FEW) for row in run(generate(seed))]
    for word in ("enter", "sent", "ok", "skipped", "retry", "failed", "completed", "goal", "exit_when"):
        assert words.count(word) >= 5, word


def test_conditions_are_read_as_they_were_made() -> None:
    """Text of a tree of a text is the text."""
    for seed in range(FEW):
        for workflow in generate(seed)["workflows"]:
            for goal in workflow.get("goals", []):
                assert text(parse(goal["when"])) == goal["when"]


def test_the_oracle_stands_alone() -> None:
    """Nothing of the project under test is imported where the expected log is made."""
    for file in HERE.glob("*.py"):
        if file.name in OUTSIDE:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"compiler", "flows", "studio", "destinations"}, file
