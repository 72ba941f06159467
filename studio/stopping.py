"""The end of a verb that goes on until it is interrupted."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from types import FrameType
from typing import Any


class Stop:
    """SIGINT and SIGTERM end the loop after what is in flight; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

    def is_set(self) -> bool:
        """Whether it was interrupted."""
        return self._event.is_set()

    def wait(self, interval: timedelta) -> bool:
        """Wait so long, or until it is interrupted, and say whether it was."""
        return self._event.wait(interval.total_seconds())

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._event.set()
