"""The collector as a process of its own, for its measurement: every limit is on. The port is printed.

python -m tests.load.limited FOLDER KEY
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import uvicorn

from flows.collector.buffer import Buffer
from flows.collector.server import configured, listening
from flows.collector.service import Collector, Configuration, WriteKey, digest
from flows.collector.tokens import Keyring
from flows.engine.clock import SystemClock

if __name__ == "__main__":
    now = SystemClock().now
    keys = {digest(sys.argv[2]): WriteKey("bench", "server", 10_000_000)}
    collector = Collector(Configuration(keys, Keyring([])), Buffer(Path(sys.argv[1]), now), now, time.monotonic)
    with listening("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(configured(collector.app)).run(sockets=[listener])
