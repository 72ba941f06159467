"""The oracle agrees with every hand-worked journey whose constructs it knows."""

from pathlib import Path
from typing import Any

import pytest

from tests.oracle.compare import differences, read
from tests.oracle.conditions import Unsupported
from tests.oracle.interpreter import run

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted((REPOSITORY / "tests" / "scenarios" / "workflow_tests").glob("*.yaml"))
SEED = REPOSITORY.parent / "shared" / "scenarios" / "seed_workflows.yaml"


def cases() -> list[Any]:
    """One parameter per journey."""
    found = []
    for file in [*FILES, *([SEED] if SEED.is_file() else [])]:
        found += [pytest.param(case, id=f"{file.stem}-{case['id']}") for case in read(file.read_text(encoding="utf-8"))]
    return found


@pytest.mark.parametrize("case", cases())
def test_journey(case: dict[str, Any]) -> None:
    """The interpreter's log is the one worked out by hand."""
    try:
        log = run(case)
    except Unsupported as reason:
        pytest.skip(f"not known to the oracle: {reason}")
    assert not differences([str(row) for row in case.get("expect", log)], log)
