"""Durable events a second: the collector with all its limits against a bare append, in turn, under the same load.

32 connections of one process post batches of 100 events as fast as they are acknowledged; then every acknowledged event
must stand in the files.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import orjson
import uvloop

KEY = "a key for the bench, of enough characters"
CONNECTIONS = 32
BATCH = 100
SHARE = 0.4
"""Of the bare append; the target."""


@dataclass(frozen=True)
class Rates:
    """Acknowledged events a second, run by run, and events per second of the server's processor time."""

    collector: Sequence[float]
    bare: Sequence[float]
    collector_cpu: Sequence[float]
    bare_cpu: Sequence[float]


def measure(seconds: float, runs: int) -> Rates:
    """Measure both sides in turn.

    Raises:
        RuntimeError: an acknowledged event is missing in the files.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        sides = {
            "collector": _started(stack, "tests.load.limited", str(folder / "buffer"), KEY),
            "bare": _started(stack, "tests.load.bare", str(folder / "bare.ndjson")),
        }
        found: dict[str, list[float]] = {name: [] for name in sides}
        by_cpu: dict[str, list[float]] = {name: [] for name in sides}
        acknowledged = dict.fromkeys(sides, 0)
        for run in range(runs + 1):
            for name, (pid, port) in sides.items():
                before = _cpu_seconds(pid)
                count = uvloop.run(_load(port, seconds))
                acknowledged[name] += count
                if run:  # the first one warms up
                    found[name].append(count / seconds)
                    by_cpu[name].append(count / max(_cpu_seconds(pid) - before, 0.01))
        kept = {
            "collector": sum(
                len(orjson.loads(line)["events"])
                for path in (folder / "buffer").iterdir() for line in path.read_bytes().splitlines()
            ),
            "bare": (folder / "bare.ndjson").read_bytes().count(b"\n"),
        }  # fmt: skip
    if lost := {name: count - kept[name] for name, count in acknowledged.items() if count > kept[name]}:
        raise RuntimeError(f"acknowledged and not in the files: {lost}")
    return Rates(found["collector"], found["bare"], by_cpu["collector"], by_cpu["bare"])


def told(rates: Rates) -> str:
    """The figures as a line."""
    share = median(rates.collector) / median(rates.bare)
    by_cpu = median(rates.collector_cpu) / median(rates.bare_cpu)
    return (
        f"collector, batches of {BATCH}, durable, all limits: {_thousands(rates.collector)} events/s; bare Starlette "
        f"append {_thousands(rates.bare)}; share of medians {share:.0%} (by cpu {by_cpu:.0%}); target >= {SHARE:.0%}: "
        f"{'met' if share >= SHARE else 'missed'}"
    )


def _thousands(rates: Sequence[float]) -> str:
    return f"{min(rates):,.0f} – {median(rates):,.0f} – {max(rates):,.0f}"


def _started(stack: ExitStack, module: str, *arguments: str) -> tuple[int, int]:
    """Start a server; gives its process id and port. It ends with the stack."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)

    def end() -> None:
        process.terminate()
        process.communicate(timeout=30)

    stack.callback(end)
    assert process.stdout is not None
    return process.pid, int(process.stdout.readline())


def _cpu_seconds(pid: int) -> float:
    """Processor seconds of a process so far, its own and the system's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _load(port: int, seconds: float) -> int:
    """Post batches for a while; how many events were acknowledged."""
    ended = asyncio.Event()
    clients = [_Client(number, time.perf_counter() + seconds, ended) for number in range(CONNECTIONS)]
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
    while not all(client.done for client in clients):
        ended.clear()
        await ended.wait()
    return sum(client.acknowledged for client in clients) * BATCH


class _Client(asyncio.Protocol):
    """One connection: the next request goes out when the last one was acknowledged."""

    def __init__(self, number: int, until: float, ended: asyncio.Event) -> None:
        self.acknowledged = 0
        self.done = False
        self._request = _request(number)
        self._until, self._ended = until, ended
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"}"):
            return
        if b" 202 " not in self._answer[:20]:
            raise RuntimeError(self._answer.decode())
        self._answer = b""
        self.acknowledged += 1
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done = True
        self._ended.set()


def _same(client: _Client) -> _Client:
    return client


def _request(number: int) -> bytes:
    events = [
        {"id": f"e{number}-{each}", "contact_id": str(number * 1000 + each), "name": "page_viewed",
         "time": "2026-06-15T12:00:00Z", "properties": {"campaign": f"c{each % 40}", "client": "web"}}
        for each in range(BATCH)
    ]  # fmt: skip
    body = orjson.dumps(events)
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
