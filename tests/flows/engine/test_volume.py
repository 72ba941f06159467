"""A long workflow over many contacts: every contact gets every action once, at its hour."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.engine.simulation import read_cases
from flows.engine.simulator import SCHEMA, Simulation

START = datetime(2026, 3, 1)
HOURS = 30
KINDS = ({"email": "news"}, {"tag": "reached"}, {"notify": "sales", "text": "one more"})


def _case(contacts: int) -> str:
    """Thirty times an hour's wait and an action, entered by everybody at once."""
    steps = []
    for hour in range(HOURS):
        steps += [{"id": f"w{hour}", "wait": "1h"}, {"id": f"a{hour}", **KINDS[hour % len(KINDS)]}]
    at = START.isoformat() + "Z"
    last = (START + timedelta(hours=HOURS)).isoformat() + "Z"
    return json.dumps({
        "contacts": [{"id": f"c{number}"} for number in range(contacts)],
        "events": [[f"e{number}", f"c{number}", "joined", at] for number in range(contacts)],
        "workflows": [{"version": 1, "workflow": "long", "trigger": {"event": "joined"}, "steps": steps}],
        "ticks": [[at, last, "1h"]],
    })  # fmt: skip


@pytest.mark.parametrize("contacts", [50, pytest.param(10_000, marks=pytest.mark.soak)])
def test_everybody_gets_every_action_once_and_in_its_hour(contacts: int) -> None:
    with Simulation(read_cases(Path("case.yaml"), _case(contacts))[0]) as simulation:
        for moment in simulation.case.ticks:
            assert simulation.step(moment).set_aside == {}
        done = simulation.warehouse.rows(f"""
            SELECT step, executed_at, due, outcome, count(*) AS n, count(DISTINCT contact_id) AS contacts
            FROM {SCHEMA}.journal WHERE outcome IN ('ok', 'sent') GROUP BY ALL ORDER BY executed_at
        """)
    assert sum(row["n"] for row in done) == contacts * HOURS
    assert [(row["step"], row["executed_at"], row["due"]) for row in done] == [
        (f"a{hour}", START + timedelta(hours=hour + 1), START + timedelta(hours=hour + 1)) for hour in range(HOURS)
    ]
    assert {row["n"] for row in done} == {row["contacts"] for row in done} == {contacts}
