"""`penstock backtest`: what it says of a small past, of two versions, and that the warehouse stays as it is."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import penstock
from flows.engine.clock import VirtualClock
from flows.project import load_project
from flows.runner import Runner
from studio import cli
from tests.studio.projects import built, replaced, write

PERIOD = ("--since", "3d", "--until", "2026-03-03T00:00Z")
FILES = {
    "workflows/thanks.yaml": """
        version: 1
        workflow: thanks
        trigger: {event: order_placed}
        steps:
          - id: pause
            wait: 1h
          - id: mail
            email: thanks
          - id: again
            if: did('order_placed', since => 'mail')
            then: [{id: regular, tag: regular}, {id: last, wait: 1d}]
            else: [{id: single, tag: single}]
    """,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ann ordered on 1 March at 09:00, loaded at 09:05; the version with one hour is published and in git."""
    folder = write(built(tmp_path), FILES)
    Runner(load_project(folder), VirtualClock(datetime(2026, 3, 2))).apply(who="test")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-c", "user.email=a@b", "-c", "user.name=a", *command], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON that the verb prints."""
    assert cli.run(["backtest", *arguments, "--output", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_would_have_happened(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One enters at the tick of 10:00, is sent the mail then, and ends; nobody reached the other arm."""
    before = hashlib.sha256((project / "bakery.duckdb").read_bytes()).hexdigest()
    found = told(capsys, "thanks", *PERIOD)
    (version,) = found["versions"]
    assert (version["ticks"], version["evaluated"]) == (73, 2)
    assert (version["entered"], version["sent"], version["exits"]) == (1, 1, {"completed": 1})
    assert {step["step"]: step["reached"] for step in version["steps"]} == {
        "pause": True, "mail": True, "again": True, "regular": False, "last": False, "single": True,
    }  # fmt: skip
    assert version["sends"] == [{"day": "2026-03-01", "kind": "email", "sent": 1}]
    assert [problem["code"] for problem in found["warnings"]] == ["W130", "W130"]
    assert hashlib.sha256((project / "bakery.duckdb").read_bytes()).hexdigest() == before


@pytest.mark.parametrize("other", ["HEAD", "1", "v1"])
def test_two_versions_person_by_person(project: Path, capsys: pytest.CaptureFixture[str], other: str) -> None:
    """A longer wait sends the same at another time; another template is another send."""
    replaced(project / "workflows/thanks.yaml", "wait: 1h", "wait: 2h")
    found = told(capsys, "thanks", *PERIOD, "--compare", other)["comparison"]
    assert found == {"same": 0, "differing": {"other times": {"contacts": 1, "sample": ["p1"]}}}
    replaced(project / "workflows/thanks.yaml", "email: thanks", "notify: post.shop\n    text: thanks")
    found = told(capsys, "thanks", *PERIOD, "--compare", other)["comparison"]
    assert found["differing"] == {"other sends": {"contacts": 1, "sample": ["p1"]}}
    replaced(project / "workflows/thanks.yaml", "event: order_placed}", 'event: order_placed, where: "1 = 2"}')
    found = told(capsys, "thanks", *PERIOD, "--compare", other)["comparison"]
    assert found["differing"] == {"only in the old one": {"contacts": 1, "sample": ["p1"]}}


def test_a_period_without_events_says_when_the_last_one_was(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = told(capsys, "thanks", "--since", "3d", "--until", "2026-05-03T00:00Z")["notes"][0]
    assert note == "no event lies in the period: the last one is of 2026-03-01 10:00; --until names another end"


def test_as_text(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["backtest", "thanks", *PERIOD]) == 0
    text = capsys.readouterr().out
    for part in ("1 entered (1 contacts) · 1 sent", "sends per day", "W130 no contact reached 'regular'",
                 "contact columns are as they are now"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nothing",), "E508"), (("thanks", "--compare", "7"), "E519"), (("thanks", "--compare", "nowhere"), "E519"),
        (("thanks", "--compare=--version"), "E519"), (("thanks", "--every", "1s"), "E519"),
        (("thanks", "--since", "long"), "E515"), (("thanks", "--since", "2027-01-01", *PERIOD[2:]), "E519"),
    ],
)  # fmt: skip
def test_what_cannot_be_run(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: str
) -> None:
    assert cli.run(["backtest", *arguments]) == 2
    assert code in capsys.readouterr().err


def test_in_python(project: Path) -> None:
    """The same as frames."""
    found = penstock.backtest("thanks", "3d", datetime(2026, 3, 3), compare="1")
    assert found.steps.filter(found.steps["step"] == "mail")["sent"].to_list() == [1, 1]
    assert found.log["outcome"].to_list() == ["enter", "sent", "ok", "exit"]
    assert found.differences.rows() == [("none", 1, [])]
    assert found.sends["sent"].sum() == 2
