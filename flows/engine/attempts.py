"""What a worker remembers outside the warehouse: the attempt log and the high-water mark.

The attempt log is written before and after each send, so that a crash leaves no send unknown: a line
`S <action id> <attempt> <time> .` before, `O <action id> <attempt> <status> <code> .` after. An S without its O is an
attempt with an unknown outcome. The high-water mark says how far the state had come; a state that is older than the
mark was restored or copied, and nothing may be sent from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from compiler.errors import DeliveryError, StateError
from flows.journal.ids import instant

LOG_FILE = "attempts.log"
MARK_FILE = "high_water.json"
WORKER_FILE = "worker"
_END = " ."  # a line without its end was torn


@dataclass(frozen=True)
class Attempt:
    """One attempt of the log; `status` and `code` are None while its outcome is not recorded."""

    action_id: str
    attempt: int
    status: str | None = None
    code: str | None = None


class AttemptLog:
    """The append-only log of one worker's sends, in the target's local folder; a context manager.

    One process appends at a time: the file is locked while it is open. `worker` is the name under which it claims.

    Raises:
        DeliveryError: E701, the log cannot be written, so nothing may be sent; E702, another process has it open.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            raise DeliveryError(
                f"another process delivers with {self.path}", code="E702", hint="wait until it has finished, or stop it"
            ) from error
        self._torn = True
        self.worker = self._read_worker(folder / WORKER_FILE)

    def __enter__(self) -> AttemptLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of it; a second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def starting(self, attempts: Iterable[tuple[str, int]], now: datetime) -> None:
        """Record (action id, attempt) pairs that are about to be sent; durable when this returns.

        Raises:
            DeliveryError: E701; nothing may be sent then.
        """
        self._append(
            "".join(f"S {action} {attempt} {instant(now)}{_END}\n" for action, attempt in attempts), durable=True
        )

    def finished(self, attempts: Iterable[Attempt]) -> None:
        """Record outcomes. Not forced to the disk: a process that dies keeps them, and a lost one counts as unknown.

        Raises:
            DeliveryError: E701.
        """
        lines = (
            f"O {a.action_id} {a.attempt} {a.status} {(a.code or '-').replace(chr(10), ' ')}{_END}\n" for a in attempts
        )
        self._append("".join(lines), durable=False)

    def attempts(self) -> dict[str, Attempt]:
        """The last attempt of each action in the log; a torn or damaged line counts as not written."""
        found: dict[str, Attempt] = {}
        for line in os.pread(self._handle, os.fstat(self._handle).st_size, 0).decode(errors="replace").splitlines():
            attempt = _read_line(line)
            known = found.get(attempt.action_id) if attempt is not None else None
            if attempt is not None and (known is None or attempt.attempt >= known.attempt):
                found[attempt.action_id] = attempt
        return found

    def clear(self) -> None:
        """Start anew, after the receipts of everything in it were committed.

        Raises:
            DeliveryError: E701.
        """
        try:
            if not os.fstat(self._handle).st_size:
                return
            os.ftruncate(self._handle, 0)
            os.fsync(self._handle)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _read_worker(self, file: Path) -> str:
        """The name under which this folder's worker claims; the folder's own, so that its next process knows it."""
        try:
            if file.is_file() and (name := file.read_text(encoding="utf-8").strip()):
                return name
            name = f"{socket.gethostname()}-{uuid4().hex[:12]}"
            file.write_text(name + "\n", encoding="utf-8")
        except OSError as error:
            raise _unwritable(file, error) from error
        return name

    def _ends_torn(self) -> bool:
        size = os.fstat(self._handle).st_size
        return bool(size) and os.pread(self._handle, 1, size - 1) != b"\n"

    def _append(self, text: str, *, durable: bool) -> None:
        try:
            # A crash or a full disk may have torn the last line; what follows must not be read as its end.
            data = (b"\n" if self._torn and self._ends_torn() else b"") + text.encode()
            self._torn = True
            while data:
                data = data[os.write(self._handle, data) :]
            self._torn = False
            if durable:
                os.fdatasync(self._handle)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> DeliveryError:
    return DeliveryError(
        f"the attempt log {path} cannot be written: {error.strerror}", code="E701",
        hint="nothing is sent without it; free space or mend the permissions, then run again",
    )  # fmt: skip


def _read_line(line: str) -> Attempt | None:
    if not line.endswith(_END):
        return None
    match line.removesuffix(_END).split(" ", 4):
        case ["S", action, attempt, _] if attempt.isdecimal():
            return Attempt(action, int(attempt))
        case ["O", action, attempt, status, code] if attempt.isdecimal():
            return Attempt(action, int(attempt), status, code)
        case _:
            return None


@dataclass(frozen=True)
class HighWater:
    """How far a state had come when this machine last saw it."""

    workspace: str
    state_id: str
    schema_version: int
    tick: int
    fence: int


def read_high_water(folder: Path) -> HighWater | None:
    """The mark in a folder; None when there is none.

    Raises:
        StateError: E624, the file is damaged.
    """
    file = folder / MARK_FILE
    try:
        return HighWater(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise StateError(
            f"the high-water mark {file} cannot be read: {error}", code="E624",
            hint=f"make sure which state is the right one, then remove {file}: the next run writes it anew",
        ) from error  # fmt: skip


def write_high_water(folder: Path, mark: HighWater) -> None:
    """Replace the mark; durable when this returns, and never half written.

    Raises:
        StateError: E625, it cannot be written.
    """
    file = folder / MARK_FILE
    partial = file.with_name(file.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(asdict(mark), stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StateError(f"the high-water mark {file} cannot be written: {error.strerror}", code="E625") from error


def check_high_water(folder: Path, state: HighWater) -> str | None:
    """Compare the state with this machine's mark; returns what to tell people, None when all is as expected.

    A missing mark is written, and that is said.

    Raises:
        StateError: E622, the state is older than the mark; E623, it is another project's or target's state.
    """
    mark = read_high_water(folder)
    if mark is None:
        write_high_water(folder, state)
        return f"{folder / MARK_FILE} was missing and is written now: tick {state.tick}"
    if (mark.workspace, mark.state_id) != (state.workspace, state.state_id):
        raise StateError(
            f"this folder belongs to state {mark.state_id} of {mark.workspace}, the warehouse holds state "
            f"{state.state_id} of {state.workspace}", code="E623",
            hint=f"was the file or the project copied? To take the warehouse's state, remove {folder / MARK_FILE}",
        )  # fmt: skip
    if state.tick < mark.tick or state.fence < mark.fence or state.schema_version < mark.schema_version:
        raise StateError(
            f"state is behind: journal says tick {state.tick}, high-water mark says {mark.tick}", code="E622",
            hint="the file was restored or replaced; nothing is sent, because what was sent in between would be sent "
            "again. Bring the newer file back",
        )  # fmt: skip
    return None
