"""Cases in which nothing depends on when ticks are: the promise of the language page §4, "Two clocks"."""

import copy
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.oracle.clock import moment, shown
from tests.oracle.generate import Generator

EXECUTED = frozenset(
    "event audience from wait wait_for if exit switch split wait_until goto tag untag set score campaign email sms "
    "push channel notify task crm webhook holdout".split()
)
GRACE = timedelta(hours=6)
STILL = ("grace", "allowed_lateness", "max_duration", "quiet_hours", "cap")
STEADY = ["contact.ok", "contact.ok is null", "contact.timezone = 'UTC'", "bucket('b') < 0.4"]


def calm(seed: int) -> dict[str, Any]:
    """A case in which no data is late and no condition flips; the ticks are still to come."""
    case = Generator(seed, EXECUTED).case()
    random = Random(seed)
    case["config"] = {key: value for key, value in case.get("config", {}).items() if key not in STILL}
    case["config"]["grace"] = "6h"
    case["events"] = list({row[0]: row[:5] for row in case["events"]}.values())
    case["models"]["carts"] = list({row["cart_id"]: row for row in case["models"]["carts"]}.values())
    for row in case["models"]["carts"]:
        row["visible_at"] = row["created_at"]
    for key in ("changes", "destination"):
        case.pop(key, None)
    for workflow in case["workflows"]:
        _still(workflow, random)
    return case


def _still(workflow: dict[str, Any], random: Random) -> None:
    for key in ("goals", "exit_when", "exit_on_leave"):
        workflow.pop(key, None)
    entry = workflow["entry"]
    entry.pop("max_age", None)
    if entry["reentry"] == "after_exit":  # whether the one before is over depends on who has looked
        entry["reentry"] = "always"
    if "audience" in workflow["trigger"]:
        workflow["trigger"]["audience"] = random.choice(STEADY)
        entry["backfill"] = True
    workflow.get("policy", {}).pop("cap", None)
    workflow.get("policy", {}).pop("quiet_hours", None)
    workflow.get("policy", {}).pop("grace", None)
    _steady(workflow["steps"], random)


def _steady(steps: list[dict[str, Any]], random: Random) -> None:
    for step in steps:
        step.pop("expires_after", None)
        if "if" in step:
            step["if"] = random.choice(STEADY)
        if "event(" in str(step.get("wait_until", "")):
            step["wait_until"] = "contact.renewal"
        for arm in step.get("switch", []):
            arm["if"] = random.choice(STEADY)
            _steady(arm.get("then", []), random)
        for inner in (step.get("then"), step.get("else"), *step.get("arms", {}).values()):
            _steady(inner or [], random)


def with_ticks(case: dict[str, Any], random: Random) -> dict[str, Any]:
    """The same case under other ticks, from the same first to the same last one, never further apart than grace."""
    first, last = moment(case["ticks"][0]), moment(case["ticks"][-1])
    longest = random.choice([GRACE, GRACE, GRACE / 2])
    found: list[datetime] = [first]
    while found[-1] < last:
        found.append(min(last, found[-1] + timedelta(minutes=random.randint(30, longest // timedelta(minutes=1)))))
    return {**copy.deepcopy(case), "ticks": [shown(each) for each in found]}


def told(rows: list[str]) -> list[str]:
    """A log without the ticks that wrote it."""
    return sorted(row.split(" | ", 1)[1] for row in rows)
