"""How long `penstock explain` takes in a large warehouse: one contact, with its conditions over all its events."""

from __future__ import annotations

from functools import partial
from statistics import median

from compiler.parser import parse_workflow
from compiler.workflow import Policy
from flows.engine.deployment import BEGINNING
from flows.engine.explanation import Subjects, explain
from tests.load import scaling
from tests.load.scaling import START, Bench, Spent, measured

CONTACTS = 1_000_000
EVENTS = 10_000_000
STATE_ID = "00000000-0000-0000-0000-000000000003"
WORKFLOW = """
version: 1
workflow: nurture
trigger: {event: asked, where: contact.plan <> 'free'}
goals: [{name: bought, when: "did('bought', since => 'entry')"}]
exit_when: ["event_count('seen', within => '7d') > 1000"]
policy: {require: "days_since('seen') < 30"}
steps:
- {id: pause, wait: 1h}
- {id: rest, wait: 7d}
- id: keen
  if: did('seen', within => '30d', at_least => 2) and contact.plan = 'pro'
  then: [{id: mark, tag: keen}]
  else: []
"""


def times(contacts: int, events: int, runs: int) -> list[Spent]:
    """Seconds of explaining one contact each time, in flight, after one that is not counted."""
    given = {"waiting": 0, "idle": contacts // 2, "recent": events}
    bench = Bench(contacts, {"nurture": WORKFLOW}, (scaling.IDLE, scaling.RECENT, _ENTERED), **given)
    workflow = parse_workflow(WORKFLOW, "nurture.yaml").workflow
    subjects = Subjects("nurture", {1: workflow}, 1, BEGINNING, scaling.catalog(bench.warehouse), Policy(), STATE_ID)
    spent = []
    for run in range(runs + 1):
        contact = str((run + 1) * 7919 % (contacts // 2))
        found, answer = measured(partial(explain, bench.warehouse, subjects, contact, START, present=True))
        if answer.state != "in flight" or len(answer.answers) < 5:
            raise RuntimeError(f"{contact} is {answer.state}, with {len(answer.answers)} answers")
        spent.append(found)
    bench.warehouse.close()
    return spent[1:]


def told(spent: list[Spent], contacts: int, events: int, target: float) -> str:
    """The line that is printed."""
    wall, cpu = (median(getattr(each, name) for each in spent) for name in ("wall", "cpu"))
    low, high = min(each.wall for each in spent), max(each.wall for each in spent)
    return (f"explaining one contact of {contacts:,} with {events:,} events and {contacts:,} rows of the journal: "
            f"{low:.2f} – {wall:.2f} – {high:.2f} s (cpu {cpu:.2f}); target <= {target} s: "
            f"{'met' if wall <= target else 'missed'}")  # fmt: skip


# Everybody in flight has entered and come to rest.
_ENTERED = """
    INSERT INTO penstock.journal
    SELECT k.tick, n.nth, n.entry_at, 'nurture', 1, n.enrollment_id, n.contact_id, NULL, NULL, k.kind, NULL, k.kind,
        n.entry_at, NULL, n.entry_ref, NULL
    FROM (SELECT *, row_number() OVER () AS nth FROM penstock.enrollments) AS n
    CROSS JOIN (VALUES (1, 'enter'), (1, 'rest')) AS k(tick, kind)
"""
