"""What workflows and processes share at an outside system: limits of its account, and whether it rests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from destinations.base import Action, Capabilities, Clock, Destination, Limit, SecretLookup, Status, Verdict
from flows.engine.breaker import FAILING_CALLS, REFUSED_ACTIONS, Circuit
from flows.engine.dispatcher import DeliveryReport
from tests.flows.engine.deliveries import START, Outbox, recorder

Answer = Callable[[Action], Verdict]


class Scripted(Destination):
    """An outside system that answers as told and remembers whom it was asked about."""

    type = "scripted"
    capabilities = Capabilities(frozenset({"email"}), "none")

    def __init__(self, name: str = "mail", answer: Answer | None = None, **able: Any) -> None:
        self.name = name
        self.capabilities = Capabilities(frozenset({"email"}), "none", **able)
        self.asked: list[str] = []
        self.calls: list[int] = []
        self.answer: Answer = answer or says("sent")

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        return cls(name, **config)

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        self.asked += [action.contact_id for action in batch]
        self.calls.append(len(batch))
        return [self.answer(action) for action in batch]


def says(status: Status, code: str = "200", **more: Any) -> Answer:
    return lambda action: Verdict(action.action_id, status, code, **more)


@pytest.fixture(params=["duckdb", "postgres"])
def outbox(tmp_path: Path, request: pytest.FixtureRequest) -> Outbox:
    if request.param == "duckdb":
        return Outbox(tmp_path)
    return Outbox(tmp_path, database=request.getfixturevalue("postgres_server").database())


def fill(outbox: Outbox, number: int, **more: Any) -> list[str]:
    return [outbox.add(f"c{n}", **more) for n in range(number)]


def other_process(outbox: Outbox, *destinations: Destination) -> DeliveryReport:
    """A pass of a worker on another machine, without this one's memory and attempt log."""
    outbox.local = outbox.local.with_name("elsewhere")
    return outbox.deliver(*destinations)


def test_a_quota_is_shared_by_all_processes_and_starts_anew_with_its_window(outbox: Outbox) -> None:
    """The day of the tests starts at 09:00; 5 of 8 leave, the rest tomorrow, whoever delivers."""
    fill(outbox, 8)
    daily: dict[str, Any] = {"limits": (Limit(5, timedelta(days=1)),)}
    report = outbox.deliver(Scripted(**daily))
    assert report.counts == {"sent": 5}
    assert report.paused == {"mail": "limit of 5 per day used up, until 2026-03-03 00:00 UTC"}
    assert other_process(outbox, Scripted(**daily)).counts == {}
    outbox.clock.advance_to(datetime(2026, 3, 3))
    assert other_process(outbox, Scripted(**daily)).counts == {"sent": 3}


def test_a_quota_counts_requests_and_not_actions(outbox: Outbox) -> None:
    fill(outbox, 7)
    destination = Scripted(limits=(Limit(2, timedelta(hours=1)),), max_batch=3)
    assert outbox.deliver(destination).counts == {"sent": 6}
    assert destination.calls == [3, 3]


def test_destinations_of_one_account_share_its_limit(outbox: Outbox) -> None:
    fill(outbox, 3)
    other = [outbox.add(f"o{n}", destination="other") for n in range(3)]
    able: dict[str, Any] = {"limits": (Limit(4, timedelta(days=1)),), "account": "acme"}
    outbox.deliver(Scripted(**able))
    report = outbox.deliver(Scripted(**able), Scripted("other", **able))
    assert report.counts == {"sent": 1}
    assert sorted(outbox.states()[action] for action in other) == ["pending", "pending", "sent"]


def test_a_pace_is_one_process_s_at_a_time(outbox: Outbox) -> None:
    """2/s: one turn is at most ten seconds long, and while it lasts nobody else has one."""
    fill(outbox, 30)
    fast: dict[str, Any] = {"limits": (Limit(20, timedelta(seconds=10)),), "max_batch": 1, "concurrency": 8}
    report = outbox.deliver(Scripted(**fast))
    assert report.counts == {"sent": 20}
    assert report.paused == {"mail": "its pace of 20 per 10 s is taken until 09:00:10 UTC"}
    assert other_process(outbox, Scripted(**fast)).counts == {}
    outbox.clock.advance_to(outbox.clock.now() + timedelta(seconds=10))
    assert other_process(outbox, Scripted(**fast)).counts == {"sent": 10}


def test_who_waits_for_it_goes_first(outbox: Outbox) -> None:
    fill(outbox, 4)
    outbox.add("urgent", transactional=True)
    destination = Scripted(limits=(Limit(2, timedelta(days=1)),))
    outbox.deliver(destination)
    assert destination.asked == ["urgent", "c0"]


def test_a_throttled_account_is_left_alone_by_everybody_and_others_go_on(outbox: Outbox) -> None:
    """F42: `Retry-After: 7` after the first call; the other rows keep their attempts."""
    actions = fill(outbox, 4)
    fine = outbox.add("o", destination="fine")
    busy = Scripted(answer=says("retry", "429", retry_after=timedelta(seconds=7)))
    report = outbox.deliver(busy, Scripted("fine"))
    assert (busy.asked, outbox.states()[fine]) == (["c0"], "sent")
    assert report.paused == {"mail": "throttled (429), until 2026-03-02 09:00:07 UTC"}
    well = Scripted()
    assert other_process(outbox, well).paused == report.paused
    assert well.asked == []
    outbox.clock.advance_to(outbox.clock.now() + timedelta(seconds=7))
    assert other_process(outbox, well).counts == {"sent": 4}
    assert {row["attempts"] for row in outbox.rows("select attempts from penstock.outbox_closed")} == {1, 2}
    assert outbox.rows("select * from penstock.breakers") == []
    assert set(outbox.states()[action] for action in actions) == {"sent"}


def test_a_system_that_is_down_is_not_asked_for_every_contact(outbox: Outbox) -> None:
    """F43, F48: after some calls in a row it rests; then one call finds out whether it is well again."""
    fill(outbox, 20)
    down = Scripted(answer=says("retry", "503"))
    report = outbox.deliver(down)
    assert len(down.asked) == FAILING_CALLS
    assert report.paused == {"mail": "server (503), until 2026-03-02 09:00:30 UTC"}
    assert report.counts == {"retry": FAILING_CALLS, "pending": 20 - FAILING_CALLS}
    outbox.clock.advance_to(outbox.clock.now() + timedelta(seconds=30))
    assert outbox.deliver(down).paused == {"mail": "server (503), until 2026-03-02 09:01:30 UTC"}
    assert len(down.asked) == FAILING_CALLS + 1
    outbox.clock.advance_to(outbox.clock.now() + timedelta(minutes=10))
    well = Scripted()
    assert outbox.deliver(well).counts == {"sent": 20}


def test_refused_credentials_keep_the_destination_resting_in_the_next_pass(outbox: Outbox) -> None:
    """F48."""
    fill(outbox, 3)
    wrong = Scripted(answer=says("retry", "401", stop="credentials"))
    assert outbox.deliver(wrong).paused == {"mail": "credentials (401), until 2026-03-02 09:01:00 UTC"}
    assert (outbox.deliver(wrong).counts, wrong.asked) == ({}, ["c0"])
    outbox.clock.advance_to(outbox.clock.now() + timedelta(minutes=1))
    assert other_process(outbox, Scripted()).counts == {"sent": 3}


def test_a_recorder_reaches_nobody_and_never_rests(outbox: Outbox) -> None:
    fill(outbox, 12)
    answers = {f"c{n}": [503, 429] for n in range(12)}
    assert outbox.deliver(recorder(answers=answers)).counts == {"retry": 12}


# ---------------------------------------------------------------- the breaker alone


def verdicts(number: int, status: Status, code: str = "200", **more: Any) -> list[Verdict]:
    return [Verdict(f"a-{n}", status, code, **more) for n in range(number)]


def test_every_error_in_a_row_doubles_the_pause_up_to_a_limit() -> None:
    circuit, now, pauses = Circuit("a"), START, []
    for _ in range(10):
        opened = circuit.observe(verdicts(1, "retry", "401", stop="credentials"), now)
        assert opened is not None and opened.since == START
        pauses.append((opened.until - now).total_seconds() / 60)
        now = opened.until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert circuit.observe(verdicts(1, "sent"), now) is None
    assert circuit.breaker is None


def test_an_answer_in_between_starts_the_count_anew() -> None:
    circuit = Circuit("a")
    for _ in range(3):
        for _ in range(FAILING_CALLS - 1):
            assert circuit.observe(verdicts(1, "unknown", "timeout"), START) is None
        assert circuit.observe(verdicts(1, "sent"), START) is None


def test_many_refused_actions_in_a_row_are_a_mistake_of_the_definition() -> None:
    """F51, F55: nothing was taken; the others are kept until somebody has looked."""
    circuit = Circuit("a")
    for _ in range(REFUSED_ACTIONS // 10 - 1):
        assert circuit.observe(verdicts(10, "failed", "400"), START) is None
    opened = circuit.observe(verdicts(10, "failed", "400"), START)
    assert opened is not None and opened.reason == "payload"


def test_one_taken_action_is_enough_for_a_healthy_account() -> None:
    circuit = Circuit("a")
    for _ in range(REFUSED_ACTIONS):
        assert circuit.observe([*verdicts(9, "failed", "400"), *verdicts(1, "sent")], START) is None


def test_what_comes_back_while_it_rests_changes_nothing() -> None:
    circuit = Circuit("a")
    opened = circuit.observe(verdicts(1, "retry", "429", retry_after=timedelta(seconds=60)), START)
    assert circuit.observe(verdicts(1, "retry", "429", retry_after=timedelta(seconds=5)), START) is None
    assert circuit.resting(START + timedelta(seconds=59)) == opened
    assert circuit.resting(START + timedelta(seconds=60)) is None
