"""The attempt log and the high-water mark: what survives, what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from compiler.errors import DeliveryError, StateError
from flows.engine.attempts import (
    LOG_FILE,
    MARK_FILE,
    Attempt,
    AttemptLog,
    HighWater,
    check_high_water,
    read_high_water,
    write_high_water,
)

NOW = datetime(2026, 3, 2, 9)
MARK = HighWater("shop/prod", "s-1", 1, 1040, 7)


def test_a_start_without_an_outcome_is_an_open_attempt(tmp_path: Path) -> None:
    with AttemptLog(tmp_path) as log:
        log.starting([("a", 1), ("b", 1)], NOW)
        log.finished([Attempt("a", 1, "sent", "250 2.0.0")])
        log.starting([("a2", 3)], NOW)
    with AttemptLog(tmp_path) as log:
        assert log.attempts() == {
            "a": Attempt("a", 1, "sent", "250 2.0.0"), "b": Attempt("b", 1), "a2": Attempt("a2", 3),
        }  # fmt: skip


def test_a_later_attempt_replaces_the_earlier_one(tmp_path: Path) -> None:
    with AttemptLog(tmp_path) as log:
        log.starting([("a", 1)], NOW)
        log.finished([Attempt("a", 1, "retry", "503")])
        log.starting([("a", 2)], NOW)
        assert log.attempts() == {"a": Attempt("a", 2)}


@pytest.mark.parametrize("kept", range(1, 60))
def test_a_line_torn_anywhere_never_swallows_the_next_one(tmp_path: Path, kept: int) -> None:
    with AttemptLog(tmp_path) as log:
        log.starting([("a", 1)], NOW)
        log.finished([Attempt("a", 1, "sent", "250")])
    file = tmp_path / LOG_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with AttemptLog(tmp_path) as log:
        log.starting([("b", 1)], NOW)
    with AttemptLog(tmp_path) as log:
        assert log.attempts()["b"] == Attempt("b", 1)
        assert log.attempts().get("a") in (None, Attempt("a", 1), Attempt("a", 1, "sent", "250"))


def test_the_log_starts_anew_after_its_receipts_are_written(tmp_path: Path) -> None:
    with AttemptLog(tmp_path) as log:
        log.starting([("a", 1)], NOW)
        log.clear()
        log.starting([("b", 1)], NOW)
        assert set(log.attempts()) == {"b"}


def test_the_folder_has_one_worker_with_a_lasting_name(tmp_path: Path) -> None:
    with AttemptLog(tmp_path) as log:
        name = log.worker
        with pytest.raises(DeliveryError) as caught:
            AttemptLog(tmp_path)
    assert caught.value.code == "E702"
    with AttemptLog(tmp_path) as log:
        assert log.worker == name
    with AttemptLog(tmp_path / "other") as log:
        assert log.worker != name


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeliveryError) as caught:
        AttemptLog(tmp_path / "file")
    assert caught.value.code == "E701"


def test_a_missing_mark_is_written_and_said(tmp_path: Path) -> None:
    said = check_high_water(tmp_path / "new", MARK)
    assert said is not None and "1040" in said
    assert read_high_water(tmp_path / "new") == MARK
    assert check_high_water(tmp_path / "new", MARK) is None


def test_a_state_ahead_of_the_mark_is_fine(tmp_path: Path) -> None:
    write_high_water(tmp_path, MARK)
    assert check_high_water(tmp_path, replace(MARK, tick=1041, fence=8, schema_version=2)) is None


@pytest.mark.parametrize(
    ("state", "code", "says"),
    [
        (replace(MARK, tick=812), "E622", "state is behind: journal says tick 812, high-water mark says 1040"),
        (replace(MARK, fence=6), "E622", "state is behind"),
        (replace(MARK, state_id="s-2"), "E623", "s-2"),
        (replace(MARK, workspace="shop/dev"), "E623", "shop/dev"),
    ],
)
def test_a_state_that_went_back_or_is_another_one_is_refused(
    tmp_path: Path, state: HighWater, code: str, says: str
) -> None:
    write_high_water(tmp_path, MARK)
    with pytest.raises(StateError, match=says) as caught:
        check_high_water(tmp_path, state)
    assert caught.value.code == code
    assert read_high_water(tmp_path) == MARK


def test_a_damaged_mark_is_an_error_and_not_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / MARK_FILE).write_text('{"workspace": "shop')
    with pytest.raises(StateError) as caught:
        check_high_water(tmp_path, MARK)
    assert caught.value.code == "E624"
