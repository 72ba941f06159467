"""The yardstick of the collector's measurement: Starlette with an append and a shared `fdatasync`, and no limits.

    python -m tests.load.bare FILE

It checks four types per event, counts nothing, knows no key, and trusts whoever calls it. The port is printed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.collector.server import listening


def bare(handle: int) -> Starlette:
    """The application over an open file."""
    waiting: list[tuple[bytes, asyncio.Future[None]]] = []
    wake = asyncio.Event()

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fdatasync(handle)

    async def commit() -> None:
        while True:
            await wake.wait()
            wake.clear()
            batch, waiting[:] = waiting[:], []
            await asyncio.to_thread(write, b"".join(line for line, _ in batch))
            for _, done in batch:
                done.set_result(None)

    async def events(request: Request) -> Response:
        items = orjson.loads(await request.body())
        for item in items:
            if not all(isinstance(item[key], str) for key in ("id", "contact_id", "name", "time")):
                return Response(status_code=422)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items), done))
        wake.set()
        await done
        return Response(b'{"accepted":%d}' % len(items), 202, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(commit())
        yield
        task.cancel()

    return Starlette(routes=[Route("/v1/events", events, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    opened = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
    with listening("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(bare(opened), loop="uvloop", http="httptools", log_level="error", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
