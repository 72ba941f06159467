"""Two engines on one PostgreSQL database, each in a folder of its own as on two machines: nothing lost, nothing twice.

Processes are killed, and paused for longer than their lease lasts; the servers on the loopback say what arrived.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from flows.project import load_project
from flows.runner import Runner
from tests.flows.killing import ENVIRONMENT, Kiosk, check_ticks, started, work_beside
from tests.flows.warehouse.postgres_server import Server

LEASE = 1.0


@pytest.fixture
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_server: Server) -> Iterator[Kiosk]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "one").mkdir()
    with Kiosk(tmp_path / "one", postgres_server.database()) as opened:
        yield opened


def _engine(kiosk: Kiosk, folder: Path, stop_at: str = "") -> BaseProcess:
    return started(work_beside, kiosk, folder=folder, LEASE_SECONDS=str(LEASE), STOP_AT=stop_at)


def _is_paused(process: BaseProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _await_pause(process: BaseProcess) -> None:
    for _ in range(1500):
        if _is_paused(process):
            return
        process.join(0.02)
    raise AssertionError("the process does not come to the point where it stops")


def _await(process: BaseProcess, kiosk: Kiosk, query: str) -> None:
    """Until a query of the state gives a row."""
    for _ in range(600):
        with kiosk.project.open_warehouse(read_only=True) as warehouse:
            if warehouse.rows(query):
                return
        process.join(0.05)
    raise AssertionError(f"nothing of {query}")


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def _end(*processes: BaseProcess) -> None:
    for process in processes:
        process.kill()
        process.join()


def _refusals(*folders: Path) -> list[str]:
    files = [folder / "refused" for folder in folders]
    return [line for file in files if file.is_file() for line in file.read_text().splitlines()]


def _settle(kiosk: Kiosk, other: Path, kills: int) -> str:
    """Let both machines bring to an end what they had claimed; check every guarantee."""
    Runner(load_project(other)).deliver()
    kiosk.finish()
    return str(kiosk.settled(kills))


@pytest.mark.parametrize(
    ("point", "refused"),
    [("in_tick", "WarehouseAway"), ("in_receipts", "WarehouseAway"), ("before_tick", "LeaseLost")],
)
def test_an_engine_paused_for_longer_than_its_lease_is_refused(
    kiosk: Kiosk, tmp_path: Path, point: str, refused: str
) -> None:
    other = kiosk.beside(tmp_path / "other")
    kiosk.add(3)
    paused = _engine(kiosk, kiosk.folder, point)
    _await_pause(paused)
    kiosk.add(3)  # takes the lease over, when it has run out
    working = _engine(kiosk, other)
    _await(working, kiosk, "select 1 from penstock.outbox_closed where contact_id = 'p0005'")
    _signal(paused, signal.SIGCONT)
    for _ in range(600):
        if _refusals(kiosk.folder):
            break
        paused.join(0.05)
    _end(paused, working)
    assert [line.split()[0] for line in _refusals(kiosk.folder)[:1]] == [refused]
    print(f"\npaused {point}: {_settle(kiosk, other, kills=2)}")


def test_an_engine_paused_between_claim_and_send_sends_once(kiosk: Kiosk, tmp_path: Path) -> None:
    other = kiosk.beside(tmp_path / "other")
    kiosk.add(3)
    paused = _engine(kiosk, kiosk.folder, "after_claim")
    _await_pause(paused)
    kiosk.add(3)
    working = _engine(kiosk, other)
    _await(working, kiosk, "select 1 from penstock.outbox_closed where contact_id = 'p0005'")
    _signal(paused, signal.SIGCONT)
    _await(paused, kiosk, "select 1 from penstock.outbox_closed where contact_id = 'p0002'")
    _end(paused, working)
    print(f"\n{_settle(kiosk, other, kills=2)}")


def test_two_engines_killed_and_paused_at_random(kiosk: Kiosk, tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    print(_at_random(kiosk, kiosk.beside(tmp_path / "other"), seed, rounds=8, contacts=3))


@pytest.mark.soak
def test_two_engines_killed_and_paused_two_hundred_times(kiosk: Kiosk, tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    print(_at_random(kiosk, kiosk.beside(tmp_path / "other"), seed, rounds=200, contacts=6))


def _at_random(kiosk: Kiosk, other: Path, seed: int, *, rounds: int, contacts: int) -> str:
    """Add contacts and hit one of the engines: killed and started anew, or paused for up to twice its lease."""
    chance = random.Random(seed)
    folders = [kiosk.folder, other]
    engines = [_engine(kiosk, folder) for folder in folders]
    kills = pauses = 0
    for _ in range(rounds):
        kiosk.add(contacts)
        hit = chance.randrange(2)
        engines[hit].join(chance.uniform(0, 0.5))
        assert engines[hit].is_alive(), f"the engine ended by itself with {engines[hit].exitcode}"
        if chance.random() < 0.5:
            kills += 1
            _end(engines[hit])
            engines[hit] = _engine(kiosk, folders[hit])
        else:
            pauses += 1
            _signal(engines[hit], signal.SIGSTOP)
            engines[1 - hit].join(chance.uniform(0, 2 * LEASE))
            _signal(engines[hit], signal.SIGCONT)
        with kiosk.open() as warehouse:
            check_ticks(warehouse)
    _end(*engines)
    outcome = _settle(kiosk, other, kills + 2)
    ticks = _ticks(kiosk)
    return f"kills {kills}  pauses {pauses}  refused {len(_refusals(*folders))}  ticks {ticks}\n{outcome}"


def _ticks(kiosk: Kiosk) -> int:
    with kiosk.open() as warehouse:
        return int(warehouse.rows("select max(tick) as n from penstock.ticks")[0]["n"])
