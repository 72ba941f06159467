"""The recorder: what simulations script, and what an outbox folder holds."""

from __future__ import annotations

import json
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from destinations import Action, ConfigurationError
from destinations.recorder import Recorder
from tests.destinations.conftest import crm, email, make, run, send, task, webhook


@pytest.mark.parametrize(
    ("answer", "status", "suppress"),
    [
        (200, "sent", None),
        (202, "sent", None),
        (302, "failed", None),
        (400, "failed", None),
        (401, "failed", None),
        (403, "failed", None),
        (404, "failed", None),
        (408, "failed", None),
        (425, "failed", None),
        (429, "retry", None),
        (500, "retry", None),
        (502, "retry", None),
        (503, "retry", None),
        (504, "retry", None),
        ("timeout", "unknown", None),
        ("connect", "retry", None),
        ("451 4.7.1", "retry", None),
        ("550 5.1.1", "failed", "bounced"),
    ],
)
def test_scripted_answers_follow_the_language(answer: int | str, status: str, suppress: str | None) -> None:
    """2xx sent, 429, 5xx and network retried, every other 4xx failed at once; no answer pauses a simulation."""
    (verdict,) = send({"type": "recorder", "answers": {"ann": [answer]}}, email())
    assert (verdict.status, verdict.code, verdict.suppress, verdict.stop) == (status, str(answer), suppress, None)


def test_scripts_count_attempts_of_each_action_and_then_accept() -> None:
    found = {"type": "recorder", "answers": {"ann": [503, 429]}}
    actions = [email("a-1", attempt=attempt) for attempt in (1, 2, 3)] + [email("a-2", attempt=1)]
    other = replace(email("a-3"), contact_id="bob")
    assert [verdict.code for verdict in send(found, *actions, other)] == ["503", "429", "202", "503", "202"]


@pytest.mark.parametrize("answer", [99, 600, "nonsense", "550", ""])
def test_scripted_answers_are_checked(answer: Any) -> None:
    with pytest.raises(ConfigurationError, match="answers.ann"):
        make({"type": "recorder", "answers": {"ann": [answer]}})


def test_recorder_keeps_every_attempt() -> None:
    recorder = make({"type": "recorder"})
    assert isinstance(recorder, Recorder)
    run(recorder.send([email("a-1"), crm("a-2")]))
    run(recorder.send([task("a-3")]))
    assert [action.action_id for action in recorder.actions] == ["a-1", "a-2", "a-3"]


def test_outbox_holds_files_that_open(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    actions = [email("a-1", html="<p>Größe</p>"), webhook("a-2", {"who": "Zoë"}), email("a-3")]
    found = {"type": "recorder", "folder": str(folder), "answers": {"gone": [400]}}
    refused = replace(email("a-4"), contact_id="gone")
    send(found, *actions, refused)
    send(found, actions[0])
    assert sorted(path.name for path in folder.iterdir()) == [
        "email-welcome-a_1.eml",
        "email-welcome-a_1.html",
        "email-welcome-a_3.eml",
        "webhook-orders-a_2.json",
    ]
    parsed = message_from_bytes((folder / "email-welcome-a_1.eml").read_bytes(), policy=policy.default)
    assert (parsed["To"], parsed["Date"]) == ("ann@example.test", "Mon, 02 Mar 2026 09:30:00 +0000")
    assert (folder / "email-welcome-a_1.html").read_text() == "<p>Größe</p>"
    assert json.loads((folder / "webhook-orders-a_2.json").read_text())["payload"] == {"body": {"who": "Zoë"}}


@pytest.mark.parametrize("what", ["../../etc/passwd", "..", "/abs", "a/b\\c", "x" * 300, "", "\x00"])
def test_outbox_names_stay_in_the_folder(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "outbox"
    action = Action("../../a", "task", what, "ann", 1, {"title": "x"})
    (verdict,) = send({"type": "recorder", "folder": str(folder)}, action)
    assert verdict.status == "sent"
    assert [path.parent for path in tmp_path.rglob("*.json")] == [folder]


def test_outbox_refuses_what_smtp_would_refuse(tmp_path: Path) -> None:
    (verdict,) = send({"type": "recorder", "folder": str(tmp_path)}, email(subject="x\r\nBcc: evil@example.test"))
    assert (verdict.status, verdict.code, list(tmp_path.iterdir())) == ("failed", "unsafe_header", [])
