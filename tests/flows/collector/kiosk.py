"""The kiosk of the kill tests with a collector: its events come in over HTTP, or straight from a buffer file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.collecting import collector
from flows.collector.buffer import Buffer
from flows.collector.service import Collector, Configuration
from flows.collector.tokens import Keyring
from flows.engine.clock import SystemClock
from flows.project import Project
from flows.runner import Runner
from tests.flows.collector.serving import BROWSER_KEY, SECRET, SERVER_KEY, SHOP, running
from tests.flows.killing import Kiosk

_NOTHING = Configuration({}, Keyring([]))
SECRETS = {"KIOSK_WRITE_KEY": SERVER_KEY, "KIOSK_WEB_KEY": BROWSER_KEY, "KIOSK_LINKS": SECRET}
SETTINGS = f"""
collector:
  secrets: ["{{{{ env_var('KIOSK_LINKS') }}}}"]
  keys:
    backend: {{key: "{{{{ env_var('KIOSK_WRITE_KEY') }}}}", rate: 1000000}}
    web: {{key: "{{{{ env_var('KIOSK_WEB_KEY') }}}}", browser: true, origins: ["{SHOP}"]}}
"""


def with_collector(kiosk: Kiosk, settings: str = SETTINGS) -> Runner:
    """Give the kiosk a collector and publish that."""
    file = kiosk.folder / "penstock.yaml"
    file.write_text(file.read_text(encoding="utf-8") + settings, encoding="utf-8")
    runner = Runner(kiosk.project)
    runner.apply()
    return runner


@contextmanager
def collecting(kiosk: Kiosk) -> Iterator[str]:
    """Serve the kiosk's collector; gives its address."""
    with running(collector(kiosk.project)) as port:
        yield f"http://127.0.0.1:{port}"


def arrives(
    kiosk: Kiosk, *events: dict[str, Any], source: str = "server", name: str = "backend", at: datetime | None = None
) -> None:
    """Put events into the kiosk's buffer as a collector does, in a file of their own."""
    keep(kiosk.project, *events, source=source, name=name, at=at)


def keep(
    project: Project, *events: dict[str, Any], source: str = "server", name: str = "backend",
    at: datetime | None = None,
) -> None:  # fmt: skip
    """Put events into a project's buffer as a collector does, in a file of their own."""
    moment = at or SystemClock().now()

    async def write() -> None:
        buffer = Buffer(project.buffer, SystemClock().now)
        collector_ = Collector(_NOTHING, buffer, lambda: moment, lambda: 0.0)
        async with buffer:
            await collector_.keep(source, name, list(events))

    asyncio.run(write())


def buffer_files(kiosk: Kiosk) -> list[Path]:
    """The files of the buffer."""
    return sorted(kiosk.project.buffer.glob("*"))
