"""The buffer between the collector and the warehouse: append-only files, one line per request, durable when told so.

Requests that wait at the same time share one `fdatasync` (group commit). A process writes a file of its own, which it
holds locked, and begins a new one when it is full, when writing failed, and when it starts; so a line that a crash tore
is always the last one of a file that nobody writes any more. Who reads takes whole lines only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Self
from uuid import uuid4

SUFFIX = ".ndjson"
FULL = 16_000_000
"""A file that is longer is followed by a new one."""
MOST_WAITING = 32_000_000
"""Bytes that may wait for the disk; who comes then is asked to come back."""
READ_AT_ONCE = 8_000_000

Point = Literal["in_append", "before_acknowledge"]
"""Where a test can end the process while it appends."""


class Busy(Exception):
    """More waits for the disk than may wait."""


class Unwritable(Exception):
    """The disk does not take it; nothing of it is acknowledged."""


class Buffer:
    """Appends lines to files in a folder; an async context manager.

    Args:
        folder: where the files are; made when missing.
        now: the time, for the names of files.
        point: called with the name of each point that is passed.
    """

    def __init__(
        self, folder: Path, now: Callable[[], datetime], point: Callable[[Point], None] = lambda name: None
    ) -> None:
        self.folder = folder
        self._now, self._point = now, point
        self._handle = -1
        self._size = 0
        self._begun = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._bytes = 0
        self._wake = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Self:
        # A thread of its own: the loop's are taken by whatever else is slow.
        self._thread = ThreadPoolExecutor(1, "collector-buffer")
        self._task = asyncio.create_task(self._commit())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        await self._task
        self._thread.shutdown()
        self._close()

    async def append(self, line: bytes) -> None:
        """Add one line, with its line feed; it is on the disk when this returns.

        Raises:
            Busy: too much waits.
            Unwritable: the disk is full or gone.
        """
        if self._bytes + len(line) > MOST_WAITING:
            raise Busy
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        self._bytes += len(line)
        self._wake.set()
        await done

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while not (self._closing and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            if not batch:
                continue
            try:
                await loop.run_in_executor(self._thread, self._write, b"".join(line for line, _ in batch))
            except OSError as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(Unwritable(error.strerror))
            else:
                self._point("before_acknowledge")
                for _, done in batch:
                    if not done.done():  # its client may have gone
                        done.set_result(None)
            self._bytes -= sum(len(line) for line, _ in batch)

    # ------------------------------------------------------------ in the thread

    def _write(self, data: bytes) -> None:
        try:
            if self._handle < 0 or self._size > FULL:
                self._begin()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
                self._point("in_append")
            os.fdatasync(self._handle)
            self._size += len(data)
        except OSError:
            # What may have got through was not acknowledged, and nothing is written behind it.
            self._close()
            raise

    def _begin(self) -> None:
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._now():%Y%m%dT%H%M%S%f}-{self._begun:06}-{uuid4().hex[:12]}{SUFFIX}"
        self._begun += 1
        self._handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        if not os.fstat(self._handle).st_nlink:  # a reader took it for a finished one, and removed it
            return self._begin()
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@dataclass(frozen=True)
class Chunk:
    """Whole lines of a file: its name, where the lines begin and end in it, and whether nothing will follow them."""

    file: str
    start: int
    end: int
    lines: tuple[bytes, ...]
    last: bool


def files(folder: Path) -> list[Path]:
    """The files of a buffer, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def chunk(path: Path, start: int) -> Chunk | None:
    """The next lines of a file behind `start`; None when there are none yet.

    A torn end of a finished file belongs to no line; the chunk that reaches it says that it is the last one.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        finished = _lockable(handle)
        size = os.fstat(handle).st_size
        data = os.pread(handle, READ_AT_ONCE, start)
    finally:
        os.close(handle)
    whole = data[: data.rfind(b"\n") + 1]
    last = finished and start + len(data) >= size
    if not whole and not last:
        return None
    return Chunk(path.name, start, start + len(whole), tuple(whole.splitlines()), last)


def remove(path: Path) -> None:
    """Remove a finished file whose lines are all in the warehouse; nothing happens while somebody writes it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _lockable(handle):
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def unread(folder: Path, read: Callable[[str], int]) -> Iterator[Path]:
    """The files in which something stands that was not read; `read` says how far a file was read."""
    for path in files(folder):
        try:
            if path.stat().st_size > read(path.name):
                yield path
        except FileNotFoundError:
            continue


def _lockable(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
