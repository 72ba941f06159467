"""pytest collects simulation files: every YAML file in a folder `workflow_tests` is a module of journeys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

FOLDER = "workflow_tests"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take YAML files below `workflow_tests`."""
    if file_path.suffix in (".yaml", ".yml") and file_path.parent.name == FOLDER:
        return SimulationFile.from_parent(parent, path=file_path)
    return None


class SimulationFile(pytest.File):
    """One simulation file."""

    def collect(self) -> Iterable[pytest.Item]:
        """Its cases."""
        from flows.engine.simulation import read_drafts

        for draft in read_drafts(self.path, self.path.read_text("utf-8")):
            yield Journey.from_parent(self, name=draft.id, draft=draft)


class Journey(pytest.Item):
    """One case of a simulation file."""

    def __init__(self, *, draft: object, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.draft = draft

    def runtest(self) -> None:
        """Run the case and compare its log."""
        from flows.engine.simulation import Draft
        from flows.engine.simulator import run_case
        from studio.simulations import difference

        if not isinstance(self.draft, Draft):
            raise TypeError("a journey is made from a case")
        outcome = run_case(self.draft.read())
        if not outcome.passed:
            raise JourneyDiffers("\n".join(difference(outcome)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The rows that differ, without a traceback."""
        if isinstance(excinfo.value, JourneyDiffers):
            return str(excinfo.value)
        return str(excinfo.getrepr(style="short"))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the case stands."""
        return self.path, 0, f"journey {self.name}"


class JourneyDiffers(Exception):
    """The log of a journey is not the expected one."""
