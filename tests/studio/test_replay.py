"""`penstock replay`: all is well as long as nothing was changed behind the log, and what was is named."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from flows.engine.clock import VirtualClock
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced, write

START = datetime(2026, 3, 1, 8)
FILES = {
    "workflows/thanks.yaml": """
        version: 1
        workflow: thanks
        trigger: {event: order_placed, where: "given_name <> 'Zoe'"}
        steps:
          - {id: arms, split: {A: 50, B: 50}, arms: {A: [{id: a, tag: a}], B: [{id: b, tag: b}]}}
          - {id: pause, wait: 1h}
          - {id: mail, email: thanks}
    """,
    "workflows/berliners.yaml": """
        version: 1
        workflow: berliners
        trigger: {audience: "tz = 'Europe/Berlin' and did('order_placed')"}
        steps: [{id: mark, tag: berlin}, {id: rest, wait: 1d}, {id: gone, untag: berlin}]
    """,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ann ordered at 09:00, loaded at 09:05. Ticks 1 to 5; before the fourth a longer wait was published."""
    folder = write(built(tmp_path), FILES)
    clock = VirtualClock(START)
    Runner(load_project(folder), clock).apply(who="test")
    for number, minutes in enumerate((0, 65, 130, 135, 1560), 1):
        clock.advance_to(START + timedelta(minutes=minutes))
        if number == 4:
            replaced(folder / "workflows/thanks.yaml", "wait: 1h", "wait: 2h")
            Runner(load_project(folder), clock).apply(who="test")
        runner = Runner(load_project(folder), clock)
        runner.tick()
        runner.deliver()
    monkeypatch.chdir(folder)
    return folder


def change(project: Path, statement: str) -> None:
    with duckdb.connect(str(project / "bakery.duckdb")) as connection:
        connection.execute(statement)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.run(["replay", *arguments, "--output", "json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_tick_comes_out_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Enter, arm, tag and rest of the one; enter, tag and rest of the other at tick 2; the mail and the end at 3."""
    found = told(capsys, "last", "--since", "1")
    assert [tick["decisions"] for tick in found["ticks"]] == [0, 7, 2, 0, 2]
    assert (found["same"], found["accuracy"]) == (11, 1.0)
    assert told(capsys, "2")["decisions"] == 7
    assert told(capsys, "2", "--contact", "p2")["decisions"] == 0
    assert len(told(capsys, "last", "--since", "23h")["ticks"]) == 1


def test_a_row_that_was_changed_since_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "update shop.people set given_name = 'Zoe', changed_at = timestamp '2026-03-02 12:00:00'")
    found = told(capsys, "2", code=1)["ticks"][0]
    assert (found["decisions"], found["same"], found["intact"]) == (7, 3, True)
    causes = {item["cause"] for item in found["differences"]}
    assert causes == {"the contact's row was changed at 2026-03-02 12:00:00"}
    assert cli.run(["replay", "2"]) == 1
    assert "7 decisions worked out again · 4 differ · accuracy 42.86 %" in capsys.readouterr().out


def test_an_event_that_is_gone_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "delete from shop.activity where activity_id = 'a1'")
    found = told(capsys, "2", "--contact", "p1", code=1)["ticks"][0]
    assert {item["cause"] for item in found["differences"]} == {"event a1 is gone from the events model"}


def test_a_log_that_was_changed_is_noticed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "update penstock_dev.journal set outcome = 'goal' where kind = 'exit' and workflow = 'thanks'")
    found = told(capsys, "3", code=1)["ticks"][0]
    assert not found["intact"]
    assert {(item["only"], item["outcome"]) for item in found["differences"]} == {
        ("log", "goal"), ("replay", "completed"),
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [("99",), ("2", "--since", "3"), ("2", "--since", "0")])
def test_there_is_no_such_tick(project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert cli.run(["replay", *arguments]) == 2
    assert "E521" in capsys.readouterr().err
