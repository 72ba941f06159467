"""`penstock test`: exit codes, machine output, one broken case among others, `--update`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.cli import run

GOOD = """
- id: tagged
  contacts: [{id: ann}]
  events: [[e1, ann, joined, 2026-01-01T00:00Z]]
  workflows: [{version: 1, workflow: w, trigger: {event: joined}, steps: [{id: t, tag: y}]}]
  ticks: [2026-01-01T00:00Z]
  expect:   # kept
  - "2026-01-01T00:00Z | 2026-01-01T00:00Z | ann | - | enter"
  - "2026-01-01T00:00Z | 2026-01-01T00:00Z | ann | t | tag:y ok"
  - "2026-01-01T00:00Z | - | ann | - | exit completed"
"""
LATER = """
- id: later
  contacts: [{id: ann}]
  workflows: [{version: 1, workflow: w, trigger: {event: e}, steps: [{email: x, send: {at: best_time, within: 6h}}]}]
  ticks: [2026-01-01T00:00Z]
"""


def written(folder: Path, text: str) -> str:
    file = folder / "journeys.yaml"
    file.write_text(text, "utf-8")
    return str(file)


def test_all_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, GOOD)
    assert run(["test", file, "--output", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["file"] == file
    (case,) = data["cases"]
    assert case["id"] == "tagged" and case["passed"] is True
    assert case["log"] == case["expected"]


def test_a_difference_is_shown_row_by_row_and_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, GOOD.replace("tag:y ok", "tag:z ok"))
    assert run(["test", file]) == 1
    out = capsys.readouterr().out
    assert "- 2026-01-01T00:00Z | 2026-01-01T00:00Z | ann | t | tag:z ok" in out
    assert "+ 2026-01-01T00:00Z | 2026-01-01T00:00Z | ann | t | tag:y ok" in out
    assert run(["test", file, "--update"]) == 1
    assert run(["test", file]) == 0
    assert "# kept" in Path(file).read_text("utf-8")


def test_a_broken_case_does_not_keep_the_others_from_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, LATER + GOOD)
    assert run(["test", file, "--output", "json"]) == 2
    later, tagged = json.loads(capsys.readouterr().out)["cases"]
    assert later["passed"] is False and later["error"]["code"] == "E900"
    assert tagged["passed"] is True


def test_a_file_that_is_no_simulation_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", written(tmp_path, "contacts: [{id: ann}]\nworkflows: []\n")]) == 2
    assert "missing key 'ticks'" in capsys.readouterr().out
    assert run(["test", written(tmp_path, "- [")]) == 2
    assert run(["test", str(tmp_path / "nowhere.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
