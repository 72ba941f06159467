"""`penstock apply --in-flight`: contacts on their way finish on their version, or move to the new one."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.engine.clock import VirtualClock
from flows.engine.log import log_rows
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced

START = datetime(2026, 3, 1, 8)


class Shop:
    """The bakery, where Ann ordered at 09:00 and waits in the pause since the tick of 09:10; `pause`: that step."""

    def __init__(self, folder: Path, pause: str = "- id: pause\n    wait: 1h") -> None:
        self.folder = built(folder)
        self.workflow = self.folder / "workflows" / "thanks.yaml"
        replaced(self.workflow, "- id: pause\n    wait: 1h", pause)
        self.clock = VirtualClock(START)
        self.runner = Runner(load_project(self.folder), self.clock)
        self.runner.apply(who="test")
        self.tick(0)
        self.tick(70)

    def tick(self, minutes: int) -> None:
        self.clock.advance_to(START + timedelta(minutes=minutes))
        self.runner.tick()
        self.runner.deliver()

    def run(self, *words: str) -> int:
        return cli.run(["--project-dir", str(self.folder), *words])

    def log(self) -> list[str]:
        with self.runner.open() as warehouse:
            return [row.text(prefix=False) for row in log_rows(warehouse, "penstock_dev")][1:]

    def versions(self) -> list[int]:
        with self.runner.open() as warehouse:
            return [row["version"] for row in warehouse.rows("select version from penstock_dev.enrollments")]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def _moves(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)["changes"][0]["migrating"]


def test_who_is_pinned_finishes_on_the_old_version(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(shop.workflow, "wait: 1h", "wait: 3h")
    assert shop.run("apply") == 0
    assert "    in flight: 1 contact on earlier versions, to the end" in capsys.readouterr().out
    shop.tick(120)
    assert shop.versions() == [1]
    assert shop.log()[0] == "2026-03-01T10:00Z | 2026-03-01T10:00Z | p1 | mail | email:thanks sent"


def test_who_migrates_waits_as_the_new_version_says_from_when_the_wait_began(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(shop.workflow, "wait: 1h", "wait: 3h")
    assert shop.run("apply", "--in-flight", "migrate") == 0
    assert "    in flight: 1 at a changed step" in capsys.readouterr().out
    for minutes in (120, 240):
        shop.tick(minutes)
    assert shop.versions() == [2]
    assert shop.log() == [
        "2026-03-01T12:00Z | 2026-03-01T12:00Z | p1 | mail | email:thanks sent",
        "2026-03-01T12:00Z | - | p1 | - | exit completed",
    ]


def test_who_stands_at_a_removed_step_goes_where_redirect_says(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(shop.workflow, "- id: pause\n    wait: 1h", "- id: rest\n    wait: 2h")
    replaced(shop.workflow, "owner: Baker", "owner: Baker\nredirect: {pause: rest}")
    assert shop.run("apply", "--in-flight", "migrate", "--output", "json") == 0
    assert _moves(capsys) == {"kept": 0, "changed": 0, "redirected": {"rest": 1}, "removed": 0}
    for minutes in (120, 180):
        shop.tick(minutes)
    assert shop.log()[0] == "2026-03-01T11:00Z | 2026-03-01T11:00Z | p1 | mail | email:thanks sent"


def test_without_redirect_a_removed_step_is_an_exit(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(shop.workflow, "- id: pause", "- id: rest")
    assert shop.run("apply", "--in-flight", "migrate", "--output", "json") == 0
    assert _moves(capsys)["removed"] == 1
    shop.tick(120)
    assert shop.log() == ["2026-03-01T10:00Z | - | p1 | - | exit step_removed"]


def test_a_version_in_between_is_passed_through_though_no_tick_saw_it(shop: Shop) -> None:
    replaced(shop.workflow, "wait: 1h", "wait: 2h")
    assert shop.run("apply", "--in-flight", "migrate") == 0
    replaced(shop.workflow, "wait: 2h", "wait: 9h")
    assert shop.run("apply") == 0
    for minutes in (120, 180):
        shop.tick(minutes)
    assert shop.versions() == [2]
    assert shop.log()[0] == "2026-03-01T11:00Z | 2026-03-01T11:00Z | p1 | mail | email:thanks sent"


def test_a_later_version_takes_those_along_who_were_pinned(shop: Shop) -> None:
    replaced(shop.workflow, "wait: 1h", "wait: 2h")
    assert shop.run("apply", "--in-flight", "pin") == 0
    replaced(shop.workflow, "wait: 2h", "wait: 4h")
    assert shop.run("apply", "--in-flight", "migrate") == 0
    for minutes in (120, 300):
        shop.tick(minutes)
    assert shop.versions() == [3]
    assert shop.log()[0] == "2026-03-01T13:00Z | 2026-03-01T13:00Z | p1 | mail | email:thanks sent"


def test_a_redirect_to_a_step_that_is_not_there_is_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(shop.workflow, "owner: Baker", "owner: Baker\nredirect: {pause: mial}")
    assert shop.run("validate") == 1
    assert "E305" in (said := capsys.readouterr().out) and "'mail'" in said


def test_an_edit_that_moves_a_step_without_id_under_contacts_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path, "- wait: 1h")
    replaced(shop.workflow, "- wait: 1h", "- tag: thanked\n  - wait: 1h")
    assert shop.run("plan") == 0
    told = capsys.readouterr().out
    assert "W123 1 contact stands at 'wait_1'" in told and "give the step `id: wait_1`" in told
    assert shop.run("apply", "--in-flight", "migrate") == 0
    assert "W123" in capsys.readouterr().err
    replaced(shop.workflow, "- wait: 1h", "- id: wait_1\n    wait: 1h")
    assert shop.run("plan") == 0
    assert "W123" not in capsys.readouterr().out


def test_a_state_of_the_version_before_can_be_planned_for(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    with shop.runner.open() as warehouse:
        warehouse.execute("alter table penstock_dev.workflow_versions drop column in_flight")
    replaced(shop.workflow, "wait: 1h", "wait: 3h")
    assert shop.run("plan") == 0
    assert "thanks v1 → v2" in capsys.readouterr().out
