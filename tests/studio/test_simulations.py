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


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("changes: [{contact: ann, at: 2026-01-01T00:00Z, set: 3}]", "`set` is a map"),
        ("scores: [{contact: ann, name: churn, value: high, at: 2026-01-01T00:00Z}]", "a score is a number"),
        ("destination: {ann: [often]}", "answers.ann holds 'often'"),
        ("publish: [{at: 2026-01-01T00:00Z, workflow: {}}]", "missing key 'version'"),
        ("control: [{at: 2026-01-01T00:00Z, pause: v}]", "no workflow 'v'"),
        ("merges: [{from: ann, into: bob, at: 2026-01-01T00:00Z}]", "no contact 'bob'"),
        ("contact: []", "did you mean 'contacts'"),
    ],
)
def test_what_is_wrong_in_a_case_is_said_at_its_place(
    more: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, f"{GOOD}  {more}\n")
    assert run(["test", file]) == 2
    out = capsys.readouterr().out
    assert said in out and f"{file}:11:" in out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ticks: [2026-01-01T00:00Z]", "ticks: [[2026-01-02T00:00Z, 2026-01-01T00:00Z, 1h]]", "ends after it begins"),
        ("ticks: [2026-01-01T00:00Z]", "ticks: [[2026-01-01T00:00Z, 2026-01-02T00:00Z, 0s]]", "above zero"),
        ("ticks: [2026-01-01T00:00Z]", "ticks: [yesterday]", "expected a UTC time"),
        ("steps: [{id: t, tag: y}]", "steps: []", "at least one step"),
        ("{id: t, tag: y}", """{id: t, wait_for: "has_tag('x')", within: 1h}""", "wait_for cannot wait for has_tag()"),
        ("[e1, ann, joined, 2026-01-01T00:00Z]", "[e1, ann]", "an event is [id, contact, name, event_time"),
    ],
)
def test_a_mistake_in_a_case_is_no_crash(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["test", written(tmp_path, GOOD.replace(old, new))]) == 2
    assert said in capsys.readouterr().out


def test_rows_in_another_order_are_shown_as_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = GOOD.splitlines()
    rows[-2], rows[-3] = rows[-3], rows[-2]
    assert run(["test", written(tmp_path, "\n".join(rows))]) == 1
    out = capsys.readouterr().out
    assert "- 2026" in out and "+ 2026" in out
