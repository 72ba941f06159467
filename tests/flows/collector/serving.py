"""A collector on a free loopback port, in a thread of the test or in a process of its own to kill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvicorn

from flows.collector.buffer import Buffer, files
from flows.collector.server import configured, listening
from flows.collector.service import Collector, Configuration, Part, WriteKey, digest
from flows.collector.tokens import Keyring

NOW = datetime(2026, 3, 2, 9)
SERVER_KEY = "sentinel-server-key-0123456789abcdef"
BROWSER_KEY = "sentinel-browser-key-0123456789abcde"
SECRET = "sentinel-secret-0123456789abcdefghij"
SHOP = "https://shop.example"
KEYRING = Keyring([SECRET])


@dataclass
class Stopwatch:
    """Seconds that a test moves."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Served:
    """A collector that is being served, and a client of it."""

    folder: Path
    collector: Collector
    port: int
    watch: Stopwatch
    client: httpx.Client = field(repr=False)

    def post(
        self, body: Any, *, key: str | None = SERVER_KEY, path: str = "/v1/events", **headers: str
    ) -> httpx.Response:
        """POST a body, as JSON unless it is bytes."""
        sent = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.client.post(path, content=content, headers=sent | given)

    def lines(self) -> list[dict[str, Any]]:
        """What stands in the buffer."""
        return [orjson.loads(line) for path in files(self.folder) for line in path.read_bytes().splitlines()]

    def events(self) -> list[dict[str, Any]]:
        """The events in the buffer."""
        return [event for line in self.lines() for event in line["events"]]


def configuration(rate: int = 10_000) -> Configuration:
    """Two write keys: one of a server, one of the pages of a shop."""
    keys = {
        digest(SERVER_KEY): WriteKey("backend", "server", rate),
        digest(BROWSER_KEY): WriteKey("web", "browser", rate, frozenset({SHOP})),
    }
    return Configuration(keys, KEYRING)


@contextmanager
def served(
    folder: Path, settings: Configuration | None = None, now: Callable[[], datetime] = lambda: NOW,
    parts: Sequence[Part] = (),
) -> Iterator[Served]:  # fmt: skip
    """Serve a collector while the block runs."""
    watch = Stopwatch()
    collector = Collector(settings or configuration(), Buffer(folder, now), now, watch, parts)
    with running(collector) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield Served(folder, collector, port, watch, client)


@contextmanager
def running(collector: Collector) -> Iterator[int]:
    """Serve a collector in a thread; gives the port."""
    with listening("127.0.0.1", 0) as opened:
        server = uvicorn.Server(configured(collector.app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started and thread.is_alive() and time.monotonic() < until:
            thread.join(0.005)
        assert server.started
        try:
            yield int(opened.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
