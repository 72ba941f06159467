"""`kill -9` in the middle of `penstock run`, at every named point and at random times: nothing lost, nothing twice.

Contacts get mails (held when their outcome is unknown, or repeated), webhooks and CRM updates from real servers on the
loopback; the servers say what really arrived, the tables what Penstock believes.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from flows.engine.crash import CrashPoint
from tests.flows.collector.points import APPENDING, TAKING_IN
from tests.flows.killing import ENVIRONMENT, Kiosk, check_ticks, ran, started, work, work_once

# Each row is one history: the process dies at every point of it in turn, then a run ends well. Every named point is
# died at twice, the second time in the run that recovers from the first.
HISTORIES = (
    ("before_tick", "before_tick"), ("in_tick", "in_tick"), ("after_commit", "after_commit"),
    ("before_mark", "before_mark"), ("after_claim", "in_recovery", "after_claim"), ("before_send:3", "before_send"),
    ("after_send:4", "after_send"), ("after_send", "in_recovery", "in_recovery", "after_recovery"),
    ("before_receipts", "after_recovery", "before_receipts"), ("in_receipts", "in_receipts"),
    ("after_receipts", "after_receipts"),
)  # fmt: skip


# On a server as well: inside the tick, inside the receipts, and twice while recovering.
ON_BOTH = (HISTORIES[1], HISTORIES[7], HISTORIES[9])


@pytest.fixture
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Kiosk]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    on_server = getattr(request, "param", "duckdb") == "postgres"
    with Kiosk(tmp_path, request.getfixturevalue("postgres_server").database() if on_server else None) as opened:
        yield opened


def test_every_named_point_is_died_at_twice() -> None:
    everything = (*HISTORIES, *APPENDING, *TAKING_IN)
    died = [point.partition(":")[0] for history in everything for point in history]
    assert [point for point in get_args(CrashPoint) if died.count(point) < 2] == []


@pytest.mark.parametrize(
    ("kiosk", "history"),
    [("duckdb", history) for history in HISTORIES] + [("postgres", history) for history in ON_BOTH],
    indirect=["kiosk"],
)
def test_a_run_killed_at_a_named_point_and_killed_again_while_it_recovers(
    kiosk: Kiosk, history: tuple[str, ...]
) -> None:
    kiosk.add(4)
    for point in history:
        assert ran(kiosk, point) == -signal.SIGKILL, (kiosk.folder / "run.out").read_text()
        with kiosk.open() as warehouse:
            check_ticks(warehouse)
    report = kiosk.finish()
    outcome = kiosk.settled(len(history))
    print(f"\n{'+'.join(history)}: {outcome}")
    in_flight = history[-1].startswith(("before_send", "after_send"))
    assert bool(report.ambiguous) == in_flight, "the run that finds them says so"
    assert report.ambiguous <= outcome.ambiguous
    assert bool(outcome.ambiguous) == any(point.startswith(("before_send", "after_send")) for point in history)


def test_the_command_itself_killed_after_a_mail_server_accepted_and_run_again(kiosk: Kiosk) -> None:
    kiosk.add(3, "letter")
    assert kiosk.run(crash_at="after_send:2").returncode == -signal.SIGKILL
    again = kiosk.run("--output", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["ambiguous"] == 1
    kiosk.finish()
    outcome = kiosk.settled(1)
    assert (outcome.unknown, outcome.second_copies, outcome.repeats) == (1, 0, 0)
    assert len(kiosk.mail.messages) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_mails_are_sent_ends_after_the_one_in_flight(kiosk: Kiosk, number: signal.Signals) -> None:
    kiosk.add(12)
    command = [*kiosk.command("run"), "--every", "1h"]
    with subprocess.Popen(command, env=kiosk.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        once = iter([number])  # a second Ctrl-C would end it at once
        kiosk.on_mail = lambda: process.send_signal(next(once, 0))
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    assert b"stopped" in said
    arrived = len(kiosk.mail.messages)
    with kiosk.open() as warehouse:
        check_ticks(warehouse)
        states = warehouse.rows("select state, count(*) as n from penstock.deliveries group by state order by state")
        attempts = warehouse.rows("select count(*) as n from penstock.attempts where ambiguous")
    assert {row["state"] for row in states} == {"pending", "sent"}, "nothing is claimed, unknown or to be repeated"
    assert attempts == [{"n": 0}]
    assert arrived < 24, "what was claimed and not in flight is not sent any more"
    kiosk.finish()
    outcome = kiosk.settled(0)
    print(f"\n{number.name} after {arrived} of 24 mails: {outcome}")


@pytest.mark.parametrize(("kiosk", "kills"), [("duckdb", 24), ("postgres", 8)], indirect=["kiosk"])
def test_kills_at_random_times_lose_nothing_and_hide_nothing(kiosk: Kiosk, kills: int) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    print(killed_at_random(kiosk, seed, kills=kills, contacts=5))


@pytest.mark.soak
@pytest.mark.parametrize("kiosk", ["duckdb", "postgres"], indirect=True)
def test_two_hundred_kills_over_ten_thousand_actions(kiosk: Kiosk) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    print(killed_at_random(kiosk, seed, kills=200, contacts=12))


def killed_at_random(kiosk: Kiosk, seed: int, *, kills: int, contacts: int) -> str:
    """Add contacts, start a process that ticks and delivers, kill it; again and again, and check every guarantee.

    Half of the kills come at any time of a whole cycle, half of them shortly after the first mail arrived.
    """
    chance = random.Random(seed)
    for _ in range(2):  # the first one also pays for the imports
        kiosk.add(contacts)
        began = time.monotonic()
        started(work_once, kiosk).join()
        one_cycle = time.monotonic() - began
    arrived = threading.Event()
    kiosk.on_mail = arrived.set
    for _ in range(kills):
        kiosk.add(contacts)
        arrived.clear()
        process = started(work, kiosk)
        if chance.random() < 0.5:
            arrived.wait(one_cycle * 5)
            process.join(chance.uniform(0, 0.05))
        else:
            process.join(chance.uniform(0.05, 1.1) * one_cycle)
        assert process.is_alive(), f"the process ended by itself with {process.exitcode}"
        process.kill()
        process.join()
        with kiosk.open() as warehouse:
            check_ticks(warehouse)
    kiosk.finish()
    return str(kiosk.settled(kills))
