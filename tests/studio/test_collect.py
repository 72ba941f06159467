"""`penstock collect` and `penstock ingest` as commands: they serve, end well, and say what is wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.flows.collector.kiosk import SECRETS, buffer_files, with_collector
from tests.flows.collector.serving import SERVER_KEY
from tests.flows.killing import ENVIRONMENT, Kiosk


@pytest.fixture
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kiosk]:
    for name, value in {**ENVIRONMENT, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    with Kiosk(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_until_a_signal_and_what_came_is_taken_in(kiosk: Kiosk, workers: str) -> None:
    with_collector(kiosk)
    command = [*kiosk.command("collect"), "--port", "0", "--workers", workers]
    with subprocess.Popen(command, env=kiosk.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found is not None, said + process.stderr.read()
        events = [{"id": f"e{number}", "name": "rang", "contact_id": "p1"} for number in range(10)]
        headers = {"authorization": f"Bearer {SERVER_KEY}"}
        for event in events:
            answer = httpx.post(f"{found[0]}/v1/events", json=event, headers=headers, trust_env=False, timeout=60)
            assert answer.status_code == 202
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert (process.returncode, rest) == (0, "")

    def told(*words: str) -> str:
        return subprocess.run([*kiosk.command(*words)], env=kiosk.environment(), check=True, capture_output=True,
                              text=True).stdout  # fmt: skip

    assert re.search(r"collector  [\d,]+ bytes wait in \d files", told("status"))
    done = subprocess.run([*kiosk.command("ingest"), "--output", "json"], env=kiosk.environment(), check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert json.loads(done.stdout)["events"] == 10
    assert buffer_files(kiosk) == []
    assert json.loads(told("status", "--output", "json"))["collector"] == {
        "waiting_bytes": 0, "waiting_files": 0, "refused_24h": 0,
    }  # fmt: skip


def test_it_says_what_is_missing(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*arguments: str) -> str:
        done = subprocess.run([*kiosk.command("collect"), *arguments], env=kiosk.environment(), check=False,
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        assert done.returncode == 2
        return done.stderr

    assert "E540" in told()
    with_collector(kiosk)
    assert f"E542: port {kiosk.mail.port} on 127.0.0.1 is in use" in told("--port", str(kiosk.mail.port))
    monkeypatch.delenv("KIOSK_WRITE_KEY")
    assert "E541: collector.keys.backend.key: environment variable KIOSK_WRITE_KEY is not set" in told("--port", "0")
