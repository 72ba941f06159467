"""A PostgreSQL server that crashes while an engine works on it: it goes on by itself; nothing lost, nothing twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.flows.killing import ENVIRONMENT, Kiosk, penstock_loop, started
from tests.flows.warehouse.postgres_server import Server, server, why_not


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that may crash, and keeps what it committed."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with server(durable=True) as running:
        yield running


@pytest.fixture
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_server: Server) -> Iterator[Kiosk]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with Kiosk(tmp_path, own_server.database()) as opened:
        yield opened


def test_an_engine_outlives_crashes_of_its_server(kiosk: Kiosk, own_server: Server) -> None:
    print(_crashed(kiosk, own_server, crashes=3, contacts=4))


@pytest.mark.soak
def test_an_engine_outlives_thirty_crashes_of_its_server(kiosk: Kiosk, own_server: Server) -> None:
    print(_crashed(kiosk, own_server, crashes=30, contacts=12))


def _crashed(kiosk: Kiosk, running: Server, *, crashes: int, contacts: int) -> str:
    """Crash the server while mails go out, at a random moment after the first of them."""
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    engine = started(penstock_loop, kiosk)
    said = kiosk.folder / "loop.out"
    for _ in range(crashes):
        before = len(kiosk.mail.messages)
        kiosk.add(contacts)
        _await_mail(engine, kiosk, before)
        engine.join(chance.uniform(0, 0.4))
        running.crash()
        assert engine.is_alive(), said.read_text()
    engine.terminate()
    engine.join(60)
    assert engine.exitcode == 0, said.read_text()
    kiosk.finish()
    waited = said.read_text().count("waiting:")
    return f"\nseed {seed}  crashes {crashes}  rounds that waited {waited}\n{kiosk.settled(0)}"


def _await_mail(engine: BaseProcess, kiosk: Kiosk, before: int) -> None:
    for _ in range(1200):
        if len(kiosk.mail.messages) > before:
            return
        engine.join(0.05)
    raise AssertionError((kiosk.folder / "loop.out").read_text())
