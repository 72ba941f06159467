"""Runs a case on the engine under test."""

import json
from pathlib import Path
from typing import Any

from flows.engine.simulation import read_cases
from flows.engine.simulator import run_case


def engine_log(case: dict[str, Any]) -> list[str]:
    """The engine's log of a case, by the door that `penstock test` uses."""
    (read,) = read_cases(Path("random.yaml"), json.dumps(case))
    return list(run_case(read).log)
