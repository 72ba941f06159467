"""`penstock approve`: what the size guard holds is said by run and status, and goes on after an approval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio import cli
from tests.studio.projects import built, replaced


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The past order of Ann enters by backfill; not a single entry is taken for usual."""
    folder = built(tmp_path)
    replaced(folder / "workflows/thanks.yaml", "trigger:", "entry: {backfill: true}\ntrigger:")
    replaced(folder / "penstock.yaml", "targets:", "guards: {minimum: 0}\ntargets:")
    monkeypatch.chdir(folder)
    return folder


def test_held_until_somebody_approves(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run"]) == 3
    assert "held thanks: 1 would enter, usual are 0 a day → penstock approve thanks" in capsys.readouterr().err
    assert cli.run(["status", "--output", "json"]) == 0
    (workflow,) = json.loads(capsys.readouterr().out)["workflows"]
    assert (workflow["state"], workflow["entered"]) == ("held", 0)
    assert workflow["because"] == "1 would enter, usual are 0 a day"
    cli.run(["status"])
    assert "1 would enter, usual are 0 a day → penstock approve thanks" in capsys.readouterr().out

    assert cli.run(["approve", "thanks", "--because", "we want them all"]) == 0
    assert "thanks is let go at the next tick: 1 would enter" in capsys.readouterr().out
    assert cli.run(["run"]) == 0
    assert cli.run(["approve", "thanks", "--because", "again"]) == 2
    assert "E514: nothing of thanks is held" in capsys.readouterr().err
    cli.run(["status", "--output", "json"])
    (workflow,) = json.loads(capsys.readouterr().out)["workflows"]
    assert (workflow["state"], workflow["entered"]) == ("live", 1)


def test_a_paused_workflow_says_who_paused_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["apply"]) == 0
    assert cli.run(["pause", "thanks", "--because", "new copy"]) == 0
    capsys.readouterr()
    assert cli.run(["status"]) == 0
    text = capsys.readouterr().out
    assert "thanks is paused" in text and "new copy → penstock resume thanks" in text
