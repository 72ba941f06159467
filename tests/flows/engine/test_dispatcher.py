"""Delivery against the recorder: order, retries, checks at the claim, unknown outcomes, what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from compiler.content import RenderError
from compiler.errors import DeliveryError
from destinations.base import Action, Verdict
from destinations.recorder import Recorder
from flows.engine.attempts import Attempt, AttemptLog
from flows.engine.claims import CLAIM_LIFE, address_hash
from flows.engine.intents import Intent
from flows.journal.ids import identity
from flows.warehouse.base import Warehouse
from tests.flows.engine.deliveries import SCHEMA, START, Outbox, no_secrets, recorder, sent


@pytest.fixture(params=["duckdb", "postgres"])
def outbox(tmp_path: Path, request: pytest.FixtureRequest) -> Outbox:
    if request.param == "duckdb":
        return Outbox(tmp_path)
    return Outbox(tmp_path, database=request.getfixturevalue("postgres_server").database())


def test_one_pass_delivers_a_chain_of_one_enrollment_in_order(outbox: Outbox) -> None:
    for step in ("first", "second", "third"):
        outbox.add("ann", step)
    outbox.add("bob", "first")
    mail = recorder()
    report = outbox.deliver(mail)
    assert [what for contact, what, _ in sent(mail) if contact == "ann"] == ["first", "second", "third"]
    assert report.counts == {"sent": 4}
    assert outbox.log() == [
        "ann email:first sent",
        "bob email:first sent",
        "ann email:second sent",
        "ann email:third sent",
    ]
    assert outbox.rows("select count(*) n from penstock.outbox")[0]["n"] == 0


def test_a_chain_over_two_destinations_waits_for_the_first(outbox: Outbox) -> None:
    outbox.add("ann", "offer")
    outbox.add("ann", "tell", kind="notify", destination="team")
    mail, team = recorder("mail", answers={"ann": [503]}), recorder("team")
    outbox.deliver(mail, team)
    assert sent(team) == []
    outbox.clock.advance_to(START + timedelta(minutes=5))
    outbox.deliver(mail, team)
    assert sent(team) == [("ann", "tell", 1)]


def test_a_busy_destination_is_tried_again_on_schedule_with_the_same_key(outbox: Outbox) -> None:
    action = outbox.add("ann")
    mail = recorder(answers={"ann": [503, 503, 202]})
    assert outbox.deliver(mail).counts == {"retry": 1}
    outbox.clock.advance_to(START + timedelta(minutes=4, seconds=59))
    assert outbox.deliver(mail).counts == {}
    outbox.clock.advance_to(START + timedelta(minutes=5))
    outbox.deliver(mail)
    outbox.clock.advance_to(START + timedelta(minutes=15))
    outbox.deliver(mail)
    assert outbox.log() == ["ann email:welcome retry(503)", "ann email:welcome retry(503)", "ann email:welcome sent"]
    assert {a.action_id for a in mail.actions} == {action}
    assert [a.attempt for a in mail.actions] == [1, 2, 3]
    tries = outbox.rows("select attempt, outcome, ambiguous from penstock.attempts order by attempt")
    assert [(t["attempt"], t["outcome"], t["ambiguous"]) for t in tries] == [
        (1, "retry", False), (2, "retry", False), (3, "sent", False),
    ]  # fmt: skip


def test_the_answer_to_the_last_attempt_is_final(outbox: Outbox) -> None:
    action = outbox.add("ann")
    mail = recorder(answers={"ann": [503, 503, 503]})
    for minutes in (0, 5, 15):
        outbox.clock.advance_to(START + timedelta(minutes=minutes))
        outbox.deliver(mail)
    assert outbox.states() == {action: "dead"}
    assert outbox.log()[-1] == "ann email:welcome failed(503)"


def test_a_refused_action_ends_an_enrollment_that_asked_for_it(outbox: Outbox) -> None:
    enrollment = identity("enrollment", "ann")
    outbox.insert(
        "enrollments",
        enrollment_id=enrollment,
        workflow="nurture",
        version=1,
        contact_id="ann",
        entry_at=START,
        entered_tick=1,
    )
    outbox.add("ann", on_error="exit")
    outbox.deliver(recorder(answers={"ann": [400]}))
    assert outbox.log() == ["ann email:welcome failed(400)", "ann exit error"]
    assert outbox.rows("select exit, exited_at from penstock.enrollments") == [{"exit": "error", "exited_at": START}]


def test_a_sent_message_becomes_an_event_of_the_contact(outbox: Outbox) -> None:
    action = outbox.add("ann")
    outbox.add("ann", "tell", kind="notify")
    outbox.deliver(recorder())
    events = outbox.rows(
        "select event_id, seq, contact_id, action_id, name, data ->> 'template' t from penstock.events"
    )
    assert events == [
        {"event_id": identity(action, "email_sent"), "seq": 1, "contact_id": "ann", "action_id": action,
         "name": "email_sent", "t": "welcome"}
    ]  # fmt: skip


def test_a_hard_bounce_suppresses_the_address_of_everybody_who_has_it(outbox: Outbox) -> None:
    outbox.add("ann")
    outbox.deliver(recorder(answers={"ann": ["550 5.1.1"]}))
    found = outbox.rows("select contact_id, address_hash, channel, scope, action, reason from penstock.suppressions")
    key = identity("state")
    assert found == [
        {"contact_id": "ann", "address_hash": address_hash(key, "ann@example.test"), "channel": "email",
         "scope": "all", "action": "add", "reason": "bounced"}
    ]  # fmt: skip
    names = [row["name"] for row in outbox.rows("select name from penstock.events")]
    assert names == ["email_bounced"]
    outbox.add("ann", "again", transactional=True)
    mail = recorder()
    outbox.deliver(mail)
    assert (sent(mail), outbox.log()[-1]) == ([], "ann email:again skipped(bounced)")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"contact_id": "ann", "scope": "all"}, "unsubscribed"),
        ({"address_hash": address_hash(identity("state"), " ANN@example.test"), "scope": "all"}, "unsubscribed"),
        ({"contact_id": "ann", "scope": "offers", "channel": "email"}, "unsubscribed_group"),
    ],
)
def test_an_opt_out_before_the_claim_prevents_the_send(outbox: Outbox, row: Mapping[str, Any], reason: str) -> None:
    outbox.add("ann", group="offers")
    outbox.add("bob", group="offers")
    outbox.insert("suppressions", suppression_id=identity("s"), action="add", created_at=START, **row)
    mail = recorder()
    outbox.deliver(mail)
    assert sorted(outbox.log()) == [f"ann email:welcome skipped({reason})", "bob email:welcome sent"]


def test_the_last_row_of_a_scope_decides_and_other_channels_do_not_count(outbox: Outbox) -> None:
    outbox.add("ann")
    outbox.add("bob")
    for number, (contact, action, channel) in enumerate(
        [("ann", "add", "email"), ("ann", "lift", "email"), ("bob", "add", "sms")]
    ):
        outbox.insert(
            "suppressions", suppression_id=identity("s", number), contact_id=contact, channel=channel, scope="all",
            action=action, created_at=START + timedelta(seconds=number),
        )  # fmt: skip
    outbox.deliver(recorder())
    assert sorted(outbox.log()) == ["ann email:welcome sent", "bob email:welcome sent"]


def test_a_transactional_message_ignores_an_opt_out(outbox: Outbox) -> None:
    outbox.add("ann", transactional=True)
    outbox.insert(
        "suppressions", suppression_id=identity("s"), contact_id="ann", scope="all", action="add", created_at=START
    )
    outbox.deliver(recorder())
    assert outbox.log() == ["ann email:welcome sent"]


def test_goals_are_read_again_inside_the_claim_and_come_before_other_reasons(outbox: Outbox) -> None:
    action = outbox.add("ann", expires_at=START - timedelta(seconds=1))
    outbox.add("bob")

    def recheck(warehouse: Warehouse, action_ids: Sequence[str], now: Any) -> Mapping[str, str]:
        assert len(action_ids) == 2
        return {action: "goal"}

    outbox.deliver(recorder(), recheck=recheck)
    assert sorted(outbox.log()) == ["ann email:welcome skipped(goal)", "bob email:welcome sent"]
    assert outbox.states()[action] == "cancelled"


def test_what_is_too_old_is_skipped_and_the_next_step_goes_on(outbox: Outbox) -> None:
    late = outbox.add("ann", "late", expires_at=START - timedelta(seconds=1))
    outbox.add("ann", "just", expires_at=START)
    outbox.deliver(recorder())
    assert outbox.log() == ["ann email:late skipped(too_late)", "ann email:just sent"]
    assert outbox.states()[late] == "expired"


def test_when_goals_cannot_be_read_no_message_leaves_and_other_actions_do(outbox: Outbox) -> None:
    message = outbox.add("ann")
    outbox.add("bob", "tell", kind="notify")

    def recheck(warehouse: Warehouse, action_ids: Sequence[str], now: Any) -> Mapping[str, str]:
        raise RuntimeError("a text that may hold personal data")

    mail = recorder()
    report = outbox.deliver(mail, recheck=recheck)
    assert sent(mail) == [("bob", "tell", 1)]
    assert report.messages_blocked == "RuntimeError"
    assert outbox.states()[message] == "pending"


def test_when_suppressions_cannot_be_read_no_message_leaves(outbox: Outbox) -> None:
    outbox.add("ann")
    with outbox.open() as warehouse:
        warehouse.execute("alter table penstock.suppressions drop column address_hash")
    mail = recorder()
    report = outbox.deliver(mail)
    assert sent(mail) == []
    assert "address_hash" in report.messages_blocked


def test_a_message_that_cannot_be_rendered_is_skipped_and_others_go_out(outbox: Outbox) -> None:
    outbox.add("ann")
    outbox.add("bob")

    def render(intent: Intent) -> Mapping[str, Any]:
        if intent.contact_id == "ann":
            raise RenderError("'cart_url' is undefined")
        return outbox.render(intent)

    outbox.deliver(recorder(), render=render)
    assert sorted(outbox.log()) == [
        "ann email:welcome skipped(render_error: 'cart_url' is undefined)", "bob email:welcome sent",
    ]  # fmt: skip


def test_a_paused_workflow_is_not_delivered_until_it_resumes(outbox: Outbox) -> None:
    action = outbox.add("ann")
    outbox.insert("controls", control_id=identity("1"), scope="workflow:nurture", action="pause", created_at=START)
    outbox.deliver(recorder())
    assert outbox.states() == {action: "pending"}
    later = START + timedelta(seconds=1)
    outbox.insert("controls", control_id=identity("2"), scope="workflow:nurture", action="resume", created_at=later)
    outbox.deliver(recorder())
    assert outbox.states() == {action: "sent"}


def test_an_unknown_destination_keeps_its_rows_and_is_named(outbox: Outbox) -> None:
    action = outbox.add("ann", destination="gone")
    outbox.add("bob")
    report = outbox.deliver(recorder())
    assert report.paused == {"gone": "not configured in penstock.yaml"}
    assert report.waiting == {"gone": 1}
    assert outbox.states()[action] == "pending"


class Strict(Recorder):
    """Refuses its credentials from the second action on."""

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        verdicts = await super().send(batch)
        if len(self.actions) < 2:
            return verdicts
        return [Verdict(action.action_id, "retry", "401", stop="credentials") for action in batch]


def test_refused_credentials_pause_the_destination_and_cost_no_attempt(outbox: Outbox) -> None:
    for contact in ("ann", "bob", "cat", "dan"):
        outbox.add(contact)
    outbox.add("eve", destination="other")
    strict, other = Strict.from_config("mail", {"type": "recorder", "max_batch": 1}, no_secrets), recorder("other")
    report = outbox.deliver(strict, other)
    assert len(strict.actions) == 2
    assert report.paused == {"mail": "credentials (401)"}
    assert sorted(outbox.states().values()) == ["pending", "pending", "pending", "sent", "sent"]
    assert outbox.rows("select max(attempts) n from penstock.outbox")[0]["n"] == 0
    assert outbox.deliver(recorder(), other).counts == {"sent": 3}


def test_an_unknown_outcome_is_held_or_repeated_as_the_destination_says(outbox: Outbox) -> None:
    held = outbox.add("ann")
    following = outbox.add("ann", "second")
    urgent = outbox.add("bob", transactional=True)
    again = outbox.add("cat", destination="safe")
    lost = {contact: ["timeout"] for contact in ("ann", "bob", "cat")}
    mail, safe = recorder(on_unknown="hold", answers=lost), recorder("safe", on_unknown="retry", answers=lost)
    report = outbox.deliver(mail, safe)
    assert outbox.states() == {held: "unknown", following: "pending", urgent: "retry", again: "retry"}
    assert report.ambiguous == 3
    assert sorted(outbox.log()) == [
        "ann email:welcome unknown",
        "bob email:welcome retry(timeout)",
        "cat email:welcome retry(timeout)",
    ]


def test_after_a_crash_the_attempt_log_decides_what_became_of_claimed_rows(outbox: Outbox) -> None:
    with AttemptLog(outbox.local) as log:
        worker = log.worker
        claimed: Mapping[str, Any] = {"state": "claimed", "worker": worker, "fence": 1, "claimed_at": START}
        never, open_, done, refused = (outbox.add(contact, **claimed) for contact in ("ann", "bob", "cat", "dan"))
        log.starting([(open_, 1), (done, 1), (refused, 1)], START)
        log.finished([Attempt(done, 1, "sent", "250"), Attempt(refused, 1, "failed/bounced", "550 5.1.1")])
    mail = recorder(on_unknown="hold")
    report = outbox.deliver(mail)
    assert sent(mail) == [("ann", "welcome", 1)]
    assert outbox.states() == {never: "sent", open_: "unknown", done: "sent", refused: "failed"}
    assert (report.ambiguous, report.counts["pending"]) == (1, 1)
    assert [row["contact_id"] for row in outbox.rows("select contact_id from penstock.suppressions")] == ["dan"]
    assert (outbox.local / "attempts.log").stat().st_size == 0
    outbox.deliver(mail)
    assert len(mail.actions) == 1


def test_rows_of_a_worker_without_its_log_are_unknown_once_they_are_old(outbox: Outbox) -> None:
    action = outbox.add("ann", state="claimed", worker="elsewhere", fence=1, claimed_at=START)
    outbox.clock.advance_to(START + CLAIM_LIFE - timedelta(seconds=1))
    outbox.deliver(recorder(on_unknown="hold"))
    assert outbox.states() == {action: "claimed"}
    outbox.clock.advance_to(START + CLAIM_LIFE)
    outbox.deliver(recorder(on_unknown="hold"))
    assert outbox.states() == {action: "unknown"}


class Meddler(Recorder):
    """While it sends, another worker takes the row away."""

    outbox: Outbox

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        assert not self.outbox.is_open
        with self.outbox.open() as warehouse:
            warehouse.execute("update penstock.outbox set fence = fence + 1, worker = 'other'")
        return await super().send(batch)


def test_a_worker_that_lost_its_claim_writes_nothing(outbox: Outbox) -> None:
    action = outbox.add("ann")
    meddler = Meddler.from_config("mail", {"type": "recorder"}, no_secrets)
    meddler.outbox = outbox
    report = outbox.deliver(meddler)
    assert report.refused == 1
    assert outbox.states() == {action: "claimed"}
    assert outbox.log() == []


class Broken(Recorder):
    """Breaks its contract by raising."""

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        raise ConnectionError("broken")


def test_a_destination_that_raises_leaves_an_unknown_outcome_and_others_unharmed(outbox: Outbox) -> None:
    action = outbox.add("ann", destination="bad")
    good = outbox.add("bob")
    broken = Broken.from_config("bad", {"type": "recorder", "on_unknown": "hold"}, no_secrets)
    outbox.deliver(broken, recorder())
    assert outbox.states() == {action: "unknown", good: "sent"}


def test_on_a_full_disk_nothing_is_sent_and_the_rows_wait(outbox: Outbox) -> None:
    actions = [outbox.add("ann"), outbox.add("bob")]
    outbox.local.mkdir()
    (outbox.local / "attempts.log").symlink_to("/dev/full")
    mail = recorder()
    with pytest.raises(DeliveryError, match="No space left") as caught:
        outbox.deliver(mail)
    assert caught.value.code == "E701"
    assert (sent(mail), outbox.states()) == ([], dict.fromkeys(actions, "pending"))


def test_the_limit_per_day_stops_the_pass(outbox: Outbox) -> None:
    for contact in ("ann", "bob", "cat"):
        outbox.add(contact)
    report = outbox.deliver(recorder(), max_sends_per_day=2)
    assert report.counts == {"sent": 2}
    assert report.paused == {"mail": "max_sends_per_day: 2 reached"}
    outbox.clock.advance_to(START + timedelta(days=1))
    assert outbox.deliver(recorder(), max_sends_per_day=2).counts == {"sent": 1}


def test_many_rows_go_out_in_batches_of_the_destination(outbox: Outbox) -> None:
    for number in range(25):
        outbox.add(f"c{number}")
    mail = recorder(max_batch=10)
    report = outbox.deliver(mail, batch=15)
    assert report.counts == {"sent": 25}
    assert len({action.action_id for action in mail.actions}) == 25


def test_a_pass_that_is_asked_to_stop_claims_nothing_more(outbox: Outbox) -> None:
    outbox.add("ann", "first")
    outbox.add("ann", "second")
    mail = recorder()
    outbox.deliver(mail, stopping=lambda: bool(mail.actions))
    assert sent(mail) == [("ann", "first", 1)]
    assert outbox.rows(f"select state from {SCHEMA}.outbox") == [{"state": "pending"}]
