"""The sidecar lock: one process owns a warehouse file at a time, and a conflict names the holder.

An advisory `flock` on `<file>.lock`, held from before the file is opened until after it is closed. The holder writes
its process id and command into the lock file; the file's modification time says since when.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from compiler.errors import WarehouseError

LOGGER = logging.getLogger("penstock.warehouse")
DEFAULT_WAIT = timedelta(seconds=60)
"""How long to wait for somebody else who holds the warehouse file."""
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.5
_SIGNING_TRIES = 25
_SIGNING_PAUSE = 0.02
_SAY_AFTER = 1.0


def command_of(pid: int, otherwise: str) -> str:
    """The command line of a process, shortened, for a message; `otherwise` where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return otherwise
    return _short([word for word in words if word]) or otherwise


def _short(words: Sequence[str]) -> str:
    """A command and its first words: of a Python program its own name, not the interpreter's."""
    if len(words) > 1 and Path(words[0]).name.startswith("python") and not words[1].startswith("-"):
        words = words[1:]
    return " ".join([Path(words[0]).name, *words[1:3]])[:200] if words else ""


class Patience:
    """How long to wait for somebody else, with growing pauses between the attempts."""

    def __init__(self, wait: timedelta) -> None:
        self._until = time.monotonic() + wait.total_seconds()
        self._say_at = time.monotonic() + _SAY_AFTER
        self._pause = _FIRST_PAUSE

    def pause(self, holder: str) -> bool:
        """Sleep a little and return True; False, at once, when the time is over. Says once who is waited for."""
        now = time.monotonic()
        if now >= self._until:
            return False
        if now >= self._say_at:
            LOGGER.warning("waiting for the warehouse: %s", holder)
            self._say_at = self._until + 1
        time.sleep(min(self._pause, max(0.0, self._until - now)))
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return True


class SidecarLock:
    """The lock of one warehouse file; `shared` for readers that may read side by side."""

    def __init__(self, file: Path, *, shared: bool = False) -> None:
        self.path = file.with_name(file.name + ".lock")
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._handle: int | None = None
        self._last_seen = f"held by another process ({self.path} is locked)"

    def acquire(self, patience: Patience) -> bool:
        """Take the lock, waiting as long as `patience` allows; False when somebody else still holds it then.

        Raises:
            WarehouseError: the lock file cannot be opened (E601).
        """
        handle = self._open()
        while True:
            try:
                fcntl.flock(handle, self._mode | fcntl.LOCK_NB)
            except OSError:
                if patience.pause(self.holder()):
                    continue
                os.close(handle)
                return False
            self._handle = handle
            self._sign(handle)
            return True

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        if self._mode == fcntl.LOCK_EX:
            os.ftruncate(handle, 0)
        os.close(handle)

    def holder(self) -> str:
        """Who holds the lock, for a message: process id, command and since when."""
        signature = self._signature()
        if signature is None:
            return self._last_seen
        since = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        who = f"{signature['pid']} ({signature['command']})"
        self._last_seen = f"held by process {who} since {since:%Y-%m-%d %H:%M:%S} UTC"
        return self._last_seen

    def _signature(self) -> dict[str, str] | None:
        """What the holder wrote; between taking the lock and writing lies a moment, which is waited for."""
        for _ in range(_SIGNING_TRIES):
            try:
                found: dict[str, str] = json.loads(self.path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                time.sleep(_SIGNING_PAUSE)
            else:
                return found
        return None

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WarehouseError(
                f"cannot open the lock file {self.path}: {error.strerror}", code="E601",
                hint="the folder of the warehouse file must exist and be writable",
            ) from error  # fmt: skip

    def _sign(self, handle: int) -> None:
        command = _short([sys.argv[0] or "python", *sys.argv[1:]])
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "command": command}).encode(), 0)
