"""What failed or is held is tried again by hand, once more, and checked like everything else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.engine.dead_letters import Choice, try_again
from flows.journal.tables import StateTables
from tests.flows.engine.deliveries import SCHEMA, START, Outbox, recorder, sent
from tests.flows.engine.test_accounts import Scripted, says


@pytest.fixture(params=["duckdb", "postgres"])
def outbox(tmp_path: Path, request: pytest.FixtureRequest) -> Outbox:
    if request.param == "duckdb":
        return Outbox(tmp_path)
    return Outbox(tmp_path, database=request.getfixturevalue("postgres_server").database())


def again(outbox: Outbox, **choice: Any) -> int:
    with outbox.open() as warehouse, warehouse.transaction():
        made = Choice(choice.pop("states", ["failed", "dead"]), **choice)
        return try_again(warehouse, StateTables(SCHEMA), made, outbox.clock.now(), who="kim", because="mended")


def test_a_dead_letter_is_tried_once_more_with_the_same_key(outbox: Outbox) -> None:
    ann, bob, cat = outbox.add("ann"), outbox.add("bob"), outbox.add("cat")
    mail = recorder(answers={"ann": [400, 503], "cat": [503, 503]}, retry_after=[])
    outbox.deliver(mail)
    assert outbox.states() == {ann: "failed", bob: "sent", cat: "dead"}
    assert again(outbox) == 2
    assert outbox.states() == {ann: "retry", bob: "sent", cat: "retry"}
    outbox.deliver(mail)
    assert outbox.states() == {ann: "dead", bob: "sent", cat: "dead"}
    assert again(outbox, actions=[ann, cat]) == 2
    outbox.deliver(mail)
    assert outbox.states() == dict.fromkeys([ann, bob, cat], "sent")
    assert sent(mail)[-2:] == [("ann", "welcome", 3), ("cat", "welcome", 3)]
    assert [line for line in outbox.log() if "by hand" in line] == [
        "ann email:welcome retry(by hand)", "cat email:welcome retry(by hand)",
    ] * 2  # fmt: skip
    (details,) = outbox.rows(
        "select distinct details ->> 'who' as who, details ->> 'because' as why from penstock.journal "
        "where outcome = 'retry(by hand)'"
    )
    assert details == {"who": "kim", "why": "mended"}


def test_what_is_held_is_let_go_and_what_waits_behind_it_follows(outbox: Outbox) -> None:
    held, behind = outbox.add("ann"), outbox.add("ann", "second", destination="other")
    mail, other = recorder(on_unknown="hold", answers={"ann": ["timeout"]}), recorder("other")
    outbox.deliver(mail, other)
    assert outbox.states() == {held: "unknown", behind: "pending"}
    assert again(outbox) == 0
    assert again(outbox, states=["unknown"]) == 1
    outbox.deliver(mail, other)
    assert outbox.states() == {held: "sent", behind: "sent"}


def test_an_opt_out_and_the_age_limit_hold_when_it_is_tried_again(outbox: Outbox) -> None:
    """G5: trying again is no way around what became true meanwhile."""
    out = outbox.add("ann")
    old = outbox.add("bob", expires_at=START + timedelta(hours=1))
    mail = recorder(answers={"ann": [400], "bob": [400]})
    outbox.deliver(mail)
    outbox.insert(
        "suppressions", suppression_id="00000000-0000-4000-8000-000000000001", contact_id="ann", channel="email",
        scope="all", action="add", created_at=START,
    )  # fmt: skip
    outbox.clock.advance_to(START + timedelta(hours=2))
    assert again(outbox) == 2
    outbox.deliver(mail)
    assert outbox.states() == {out: "cancelled", old: "expired"}
    assert len(mail.actions) == 2


def test_an_action_is_not_sent_again_after_its_key_was_forgotten(outbox: Outbox) -> None:
    """G3: within the lifetime of the key a repetition is safe; later a person has to look first."""
    soon, late = outbox.add("ann"), outbox.add("bob")
    lost = says("unknown", "timeout")
    pauses = (timedelta(hours=20), timedelta(hours=20))
    able: dict[str, Any] = {"on_unknown": "retry", "key_lifetime": timedelta(hours=24), "retry_after": pauses}
    outbox.deliver(Scripted(answer=lost, **able))
    outbox.clock.advance_to(START + timedelta(hours=21))
    twice = Scripted(answer=lambda action: says("sent" if action.contact_id == "ann" else "unknown")(action), **able)
    outbox.deliver(twice)
    assert (outbox.states(), sorted(twice.asked)) == ({soon: "sent", late: "retry"}, ["ann", "bob"])
    outbox.clock.advance_to(START + timedelta(hours=42))
    well = Scripted(**able)
    outbox.deliver(well)
    assert (outbox.states()[late], well.asked) == ("unknown", [])
    assert outbox.rows("select reason from penstock.outbox") == [{"reason": "key_expired"}]
    assert again(outbox, states=["unknown"]) == 1
    outbox.deliver(well)
    assert (outbox.states()[late], well.asked) == ("sent", ["bob"])


def test_only_what_was_chosen(outbox: Outbox) -> None:
    actions = [outbox.add(name, destination=where) for name, where in (("a", "mail"), ("b", "mail"), ("c", "other"))]
    answers: dict[str, Any] = {"a": [400], "b": ["550 5.1.1"], "c": [400]}
    outbox.deliver(recorder(answers=answers), recorder("other", answers=answers))
    assert again(outbox, destination="mail", code="400") == 1
    assert again(outbox, actions=[actions[2]]) == 1
    assert again(outbox, workflow="another") == 0
    assert again(outbox, since=START + timedelta(hours=1)) == 0
    assert [outbox.states()[action] for action in actions] == ["retry", "failed", "retry"]
