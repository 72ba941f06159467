"""`kill -9` of the collector and of the ingest: no acknowledged event is lost, none counts twice."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest
import uvicorn

from flows.collecting import collector
from flows.collector.server import configured, listening
from flows.project import load_project
from flows.runner import Runner
from tests.flows.collector.kiosk import SECRETS, with_collector
from tests.flows.collector.points import APPENDING, TAKING_IN
from tests.flows.collector.serving import SERVER_KEY
from tests.flows.killing import ENVIRONMENT, Kiosk, started

BATCH = 20


@pytest.fixture
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Kiosk]:
    for name, value in {**ENVIRONMENT, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    on_server = getattr(request, "param", "duckdb") == "postgres"
    database = request.getfixturevalue("postgres_server").database() if on_server else None
    with Kiosk(tmp_path, database) as opened:
        with_collector(opened)
        yield opened


class Load:
    """Clients that post batches until they are stopped, and remember which events were acknowledged."""

    def __init__(self, kiosk: Kiosk, crash_at: str = "", clients: int = 3, largest_file: str = "") -> None:
        self.acknowledged: set[str] = set()
        self.turned_away = threading.Event()
        self.process, self.port = collecting_process(kiosk, crash_at, largest_file)
        self._stop = threading.Event()
        self._prefix = f"{random.getrandbits(64):x}"
        self.some = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _post(self, number: int) -> None:
        headers = {"authorization": f"Bearer {SERVER_KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, headers=headers) as client:
            for turn in range(10_000):
                ids = [f"{self._prefix}-{number}-{turn}-{each}" for each in range(BATCH)]
                try:
                    answer = client.post("/v1/events", json=[{"id": i, "name": "a", "contact_id": "c"} for i in ids])
                except httpx.HTTPError:
                    return
                if answer.status_code == 503:
                    self.turned_away.set()
                    continue
                assert answer.status_code == 202, answer.text
                self.acknowledged.update(ids)
                self.some.set()
                if self._stop.is_set():
                    return

    def end(self) -> None:
        """Kill the process, if it lives, and wait for everybody."""
        self.process.kill()
        self.process.join()
        self._stop.set()
        for thread in self._threads:
            thread.join()


def collecting_process(kiosk: Kiosk, crash_at: str = "", largest_file: str = "") -> tuple[BaseProcess, int]:
    """A collector in a process of its own; gives its port."""
    told = kiosk.folder / "port"
    if not told.exists():
        os.mkfifo(told)
    handle = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    try:
        process = started(_collect, kiosk, crash_at, LARGEST_FILE=largest_file)
        assert select.select([handle], [], [], 60)[0], "the collector does not start"
        return process, int(os.read(handle, 100))
    finally:
        os.close(handle)


def _collect(folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if most := environment.get("LARGEST_FILE"):  # as on a full disk: a write gets through in part, then none does
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    served = collector(load_project(Path(folder)))
    with listening("127.0.0.1", 0) as opened:
        (Path(folder) / "port").write_text(str(opened.getsockname()[1]), encoding="ascii")
        uvicorn.Server(configured(served.app)).run(sockets=[opened])


def _take_in(folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    Runner(load_project(Path(folder))).ingest()


def take_in(kiosk: Kiosk, crash_at: str = "") -> BaseProcess:
    """An ingest in a process of its own."""
    return started(_take_in, kiosk, crash_at)


def check(kiosk: Kiosk, acknowledged: set[str]) -> int:
    """Take everything in, unharmed; how many events there are that nobody acknowledged."""
    Runner(kiosk.project).ingest()
    with kiosk.open() as warehouse:
        found = [row["event_id"] for row in warehouse.rows("select event_id from penstock.events where name = 'a'")]
        seqs = [row["seq"] for row in warehouse.rows("select seq from penstock.events")]
    assert len(set(found)) == len(found), "twice"
    assert len(set(seqs)) == len(seqs)
    missing = acknowledged - set(found)
    assert not missing, f"{len(missing)} acknowledged events are lost"
    return len(set(found) - acknowledged)


@pytest.mark.parametrize("crash_at", [point for pair in APPENDING for point in pair])
def test_a_collector_killed_while_it_writes_loses_nothing_it_acknowledged(kiosk: Kiosk, crash_at: str) -> None:
    load = Load(kiosk, crash_at)
    load.process.join(60)
    load.end()
    assert load.process.exitcode == -signal.SIGKILL
    check(kiosk, load.acknowledged)


@pytest.mark.parametrize(
    ("kiosk", "points"),
    [("duckdb", pair) for pair in TAKING_IN] + [("postgres", pair) for pair in TAKING_IN[1:]],
    indirect=["kiosk"],
)
def test_an_ingest_killed_at_a_named_point_and_killed_again(kiosk: Kiosk, points: tuple[str, str]) -> None:
    acknowledged: set[str] = set()
    for point in points:
        for _ in range(2):  # two files, so that the second pass of a point is in the middle of the work
            load = Load(kiosk, clients=1)
            assert load.some.wait(60)
            load.end()
            acknowledged |= load.acknowledged
        process = take_in(kiosk, point)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    check(kiosk, acknowledged)


def test_a_disk_that_takes_a_write_in_part_keeps_what_was_acknowledged(kiosk: Kiosk) -> None:
    load = Load(kiosk, largest_file="20000")
    assert load.turned_away.wait(60)
    load.end()
    assert load.acknowledged
    check(kiosk, load.acknowledged)


def killed_at_random(kiosk: Kiosk, seed: int, kills: int) -> str:
    """Post to a collector and kill it, take in and be killed in between; again and again."""
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    for number in range(kills):
        load = Load(kiosk)
        assert load.some.wait(60)
        taking = take_in(kiosk) if number % 2 else None
        load.process.join(chance.uniform(0, 0.3))
        assert load.process.is_alive()
        load.end()
        acknowledged |= load.acknowledged
        if taking is not None:
            taking.join(chance.uniform(0, 0.3))
            taking.kill()
            taking.join()
    unacknowledged = check(kiosk, acknowledged)
    return f"{kills} kills, {len(acknowledged):,} acknowledged, 0 lost, 0 twice, {unacknowledged:,} more kept"


def test_kills_at_random_times_lose_no_acknowledged_event(kiosk: Kiosk) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    print(killed_at_random(kiosk, seed, 6))


@pytest.mark.soak
@pytest.mark.parametrize("kiosk", ["duckdb", "postgres"], indirect=True)
def test_a_hundred_kills_lose_no_acknowledged_event(kiosk: Kiosk) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    print(killed_at_random(kiosk, seed, 120))
