"""Delivery killed at its named points, in processes of their own: nothing lost, nothing silently sent twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from flows.engine.claims import CLAIM_LIFE
from tests.flows.engine.deliveries import START, Outbox, recorder

SCRIPT = """
import sys
from pathlib import Path
from tests.flows.engine.deliveries import Outbox, recorder
folder = Path(sys.argv[1])
Outbox(folder, new=False).deliver(recorder(folder=str(folder / "sent"), on_unknown=sys.argv[2], max_batch=1))
"""


def run(folder: Path, policy: str, crash_at: str = "") -> int:
    environment = {**os.environ, "CRASH_AT": crash_at}
    return subprocess.run([sys.executable, "-c", SCRIPT, str(folder), policy], env=environment, check=False).returncode


@pytest.mark.parametrize(
    ("point", "policy"),
    [
        ("after_claim", "hold"), ("before_send", "hold"), ("before_send", "retry"), ("after_send:2", "hold"),
        ("after_send:2", "retry"), ("before_receipts", "hold"), ("after_receipts", "hold"),
    ],
)  # fmt: skip
def test_a_kill_at_any_point_loses_nothing_and_hides_no_second_copy(tmp_path: Path, point: str, policy: str) -> None:
    outbox = Outbox(tmp_path)
    for contact in ("ann", "bob", "cat"):
        outbox.add(contact)
    assert run(tmp_path, policy, point) == -signal.SIGKILL
    assert run(tmp_path, policy) == 0
    outbox.clock.advance_to(START + timedelta(minutes=5))
    outbox.deliver(recorder(folder=str(tmp_path / "sent"), on_unknown=policy, max_batch=1))
    states = sorted(outbox.states().values())
    in_flight = point.startswith(("before_send", "after_send"))
    assert states == (["sent", "sent", "unknown"] if in_flight and policy == "hold" else ["sent"] * 3)
    ambiguous = outbox.rows("select count(*) n from penstock.attempts where ambiguous")[0]["n"]
    assert ambiguous == in_flight
    copies = len(list((tmp_path / "sent").glob("*.eml")))
    assert copies == (2 if point == "before_send" and policy == "hold" else 3)
    assert timedelta(minutes=5) < CLAIM_LIFE, "the rows above came back by the log, not by their age"
