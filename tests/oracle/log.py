"""The rows, put in the order of the simulation format."""

from dataclasses import dataclass, field
from datetime import datetime

from tests.oracle.clock import shown
from tests.oracle.enrollment import Enrollment, label
from tests.oracle.workflow import Workflow

MOVES, EXITS, ENTRIES, EXITS_AGAIN, STEPS = range(5)


@dataclass
class Log:
    """Collects rows; `prefixed` when the case has workflows of several names."""

    prefixed: bool
    tick: datetime = datetime.min
    entries: list[tuple[tuple[datetime, int, int, int, int], str]] = field(default_factory=list)

    def write(
        self, phase: int, enrollment: Enrollment, place: int, due: datetime | None, step: str, outcome: str
    ) -> None:
        """A row of an enrollment."""
        self._add(phase, enrollment.number, place, due, enrollment.workflow, enrollment.label(), step, outcome)

    def reject(self, workflow: Workflow, contact: str, key: object, due: datetime, reason: str) -> None:
        """A row of a candidate that was refused."""
        number = len(self.entries)
        self._add(ENTRIES, 0, number, due, workflow, label(contact, key, workflow), "-", f"rejected {reason}")

    def enter(self, enrollment: Enrollment) -> None:
        """The row of an entry; those of one tick stand in the order of candidates."""
        outcome = (enrollment.entered, enrollment.workflow, enrollment.label(), "-", "enter")
        self._add(ENTRIES, 0, len(self.entries), *outcome)

    def _add(
        self,
        phase: int,
        number: int,
        place: int,
        due: datetime | None,
        workflow: Workflow,
        who: str,
        step: str,
        outcome: str,
    ) -> None:
        name = f"{workflow.name}/{who}" if self.prefixed else who
        row = f"{shown(self.tick)} | {shown(due) if due else '-'} | {name} | {step} | {outcome}"
        self.entries.append(((self.tick, phase, number, place, len(self.entries)), row))

    def rows(self) -> list[str]:
        """All rows in order."""
        return [row for _, row in sorted(self.entries)]
