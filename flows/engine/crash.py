"""Named points at which a test can end the process as `kill -9` would, or pause it."""

from __future__ import annotations

import os
import signal
from typing import Literal

CrashPoint = Literal[
    "before_tick", "in_tick", "after_commit", "before_mark", "in_recovery", "after_recovery", "after_claim",
    "before_send", "after_send", "before_receipts", "in_receipts", "after_receipts",
    "in_append", "before_acknowledge", "before_ingest", "in_ingest", "after_ingest",
]  # fmt: skip
"""Where the engine, and the collector, can be stopped, in the order in which they pass the points."""


def crash_point(name: CrashPoint) -> None:
    """Kill this process, without any clean-up, when the environment variable CRASH_AT names the point.

    `CRASH_AT=after_send` dies at the first pass, `CRASH_AT=after_send:3` at the third. STOP_AT, likewise, pauses the
    process there until it gets SIGCONT.
    """
    for variable, number in (("CRASH_AT", signal.SIGKILL), ("STOP_AT", signal.SIGSTOP)):
        wanted, _, count = os.environ.get(variable, "").partition(":")
        if wanted != name:
            continue
        passes = int(count or "1")
        if passes:
            os.environ[variable] = f"{name}:{passes - 1}"
        if passes == 1:
            os.kill(os.getpid(), number)
