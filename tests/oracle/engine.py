"""Runs a case on the engine under test."""

from pathlib import Path
from typing import Any

from compiler.yaml import Value
from flows.engine.simulation import Case, Draft
from flows.engine.simulator import run_case


def read(case: dict[str, Any]) -> Case:
    """A case as the engine reads it from a file; without the text, whose parsing takes long for a pure parser."""
    return Draft(str(case.get("id")), (), Path("random.yaml"), 1, _value(case)).read()


def engine_log(case: dict[str, Any]) -> list[str]:
    """The engine's log of a case."""
    return list(run_case(read(case)).log)


def _value(plain: Any) -> Value:
    if isinstance(plain, dict):
        return Value({key: _value(child) for key, child in plain.items()})
    return Value([_value(child) for child in plain] if isinstance(plain, list) else plain)
