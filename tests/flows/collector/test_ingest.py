"""From the buffer into the warehouse, on both: whom an event is about, what counts once, opt-outs before the claim."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pytest

from flows.collector.incoming import Intake
from flows.engine.claims import address_hash
from flows.engine.clock import SystemClock
from flows.runner import Runner
from tests.flows.collector.kiosk import SECRETS, arrives, buffer_files, collecting, with_collector
from tests.flows.collector.serving import BROWSER_KEY, KEYRING, SERVER_KEY
from tests.flows.killing import ENVIRONMENT, Kiosk


@pytest.fixture(params=["duckdb", "postgres"])
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Kiosk]:
    for name, value in {**ENVIRONMENT, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    on_server = request.param == "postgres"
    with Kiosk(tmp_path, request.getfixturevalue("postgres_server").database() if on_server else None) as opened:
        yield opened


@pytest.fixture
def runner(kiosk: Kiosk) -> Runner:
    found = with_collector(kiosk)
    kiosk.add(2, "letter")
    return found


def rows(kiosk: Kiosk, sql: str) -> list[dict[str, Any]]:
    with kiosk.open() as warehouse:
        return warehouse.rows(sql)


def events(kiosk: Kiosk, columns: str = "event_id, contact_id, name") -> list[tuple[Any, ...]]:
    found = rows(kiosk, f"select {columns} from penstock.events where source like '%:%' order by seq")
    return [tuple(row.values()) for row in found]


def people(kiosk: Kiosk, *pairs: tuple[str, str]) -> None:
    table = pa.table({"person_id": [who for who, _ in pairs], "mail": [mail for _, mail in pairs]})
    with kiosk.project.warehouse.location.open("", wait=timedelta(seconds=30)) as warehouse:
        warehouse.load(("shop", "people"), table)


def test_an_event_over_http_starts_a_workflow_at_the_next_tick_and_its_mail_goes_out(
    kiosk: Kiosk, runner: Runner
) -> None:
    with collecting(kiosk) as url:
        answer = httpx.post(f"{url}/v1/events", json={"name": "rang", "email": " P0001@mail.example"},
                            headers={"authorization": f"Bearer {SERVER_KEY}"}, trust_env=False)  # fmt: skip
        assert answer.status_code == 202
        runner.tick()
        assert runner.taken_in.events == 1
    runner.deliver()
    found = rows(kiosk, "select contact_id, step, state from penstock.deliveries where workflow = 'urgent'")
    assert found == [{"contact_id": "p0001", "step": "alarm", "state": "sent"}]
    runner.ingest()
    assert buffer_files(kiosk) == [], "what is in the warehouse needs no file"


def test_whom_an_event_is_about(kiosk: Kiosk, runner: Runner) -> None:
    runner.tick()
    [action] = rows(kiosk, "select action_id from penstock.outbox where contact_id = 'p0000' and step = 'confirm'")
    arrives(
        kiosk, {"id": "1", "name": "a", "contact_id": "p0001"}, {"id": "2", "name": "b", "email": "P0000@mail.example"},
        {"id": "3", "name": "email_opened", "action_id": action["action_id"], "properties": {"step": "forged", "x": 1}},
        {"id": "4", "name": "d", "email": "nobody@mail.example"}, {"id": "5", "name": "e", "anonymous_id": "v1"},
        {"id": "6", "name": "f", "contact_id": "p9999", "email": "p0000@mail.example"},
    )  # fmt: skip
    assert runner.ingest().events == 6
    assert events(kiosk) == [
        ("1", "p0001", "a"), ("2", "p0000", "b"), ("3", "p0000", "email_opened"), ("4", None, "d"), ("5", None, "e"),
        ("6", "p9999", "f"),
    ]  # fmt: skip
    [opened] = rows(
        kiosk, "select data ->> 'template' as template, data ->> 'step' as step, data ->> 'x' as x, email "
        "from penstock.events where event_id = '3'",
    )  # fmt: skip
    assert opened == {"template": "confirm", "step": "confirm", "x": "1", "email": None}


def test_an_event_counts_once_however_often_it_comes(kiosk: Kiosk, runner: Runner) -> None:
    arrives(kiosk, {"id": "e1", "name": "a", "contact_id": "p0000"}, {"id": "e1", "name": "b", "contact_id": "p0000"})
    arrives(kiosk, {"id": "e1", "name": "c", "contact_id": "p0001"}, {"name": "d", "contact_id": "p0001"})
    arrives(kiosk, {"id": "e1", "name": "stolen"}, source="browser", name="web")
    report = runner.ingest()
    assert (report.events, report.repeated) == (3, 2)
    assert [(who, name) for _, who, name in events(kiosk)] == [("p0000", "a"), ("p0001", "d"), (None, "stolen")]
    assert runner.ingest().events == 3, "the report grows until the caller clears it"
    seqs = [seq for (seq,) in events(kiosk, "seq")]
    assert seqs == sorted(set(seqs))


def test_what_another_process_took_in_meanwhile_is_not_taken_in_again(kiosk: Kiosk, runner: Runner) -> None:
    with collecting(kiosk) as url:  # its file stays open, so its position counts

        def post(*names: str) -> None:
            body = [{"name": name} for name in (*names, "no!")]
            httpx.post(
                f"{url}/v1/events", json=body, headers={"authorization": f"Bearer {SERVER_KEY}"}, trust_env=False
            )

        post("a")
        runner.ingest()
        post("b")
        Runner(kiosk.project).ingest()
        post("c")
        runner.ingest()
    assert [name for _, _, name in events(kiosk)] == ["a", "b", "c"]
    assert len(rows(kiosk, "select * from penstock.events_rejected")) == 3


def test_impossible_times_become_the_time_of_arrival_and_say_so(kiosk: Kiosk, runner: Runner) -> None:
    at = datetime(2026, 3, 2, 9)
    given = ["1970-01-01T00:00:00Z", "9999-12-31T00:00:00", "2026-03-03T09:00:01Z", "2026-03-03T09:00:00Z",
             "2026-03-02T10:00:00+02:00"]  # fmt: skip
    arrives(kiosk, *({"id": str(n), "name": "a", "contact_id": "p0000", "time": t} for n, t in enumerate(given)), at=at)
    runner.ingest()
    assert events(kiosk, "event_time, data ->> 'time_given' as given") == [
        (at, given[0]), (at, given[1]), (at, given[2]), (at + timedelta(hours=24), None),
        (datetime(2026, 3, 2, 8), None),
    ]  # fmt: skip


def test_an_event_that_comes_before_its_contact_is_given_to_it_and_starts_its_workflow(
    kiosk: Kiosk, runner: Runner
) -> None:
    runner.tick()
    arrives(kiosk, {"id": "early", "name": "rang", "email": "new@mail.example"})
    runner.tick()
    assert events(kiosk) == [("early", None, "rang")]
    people(kiosk, ("p0100", "New@Mail.example"))
    report = runner.tick()
    assert report.counts["entered"] == 1
    assert events(kiosk, "event_id, contact_id, email") == [("early", "p0100", None)]


def test_a_visitor_who_says_who_they_are_gets_what_they_did_before(kiosk: Kiosk, runner: Runner) -> None:
    first = [{"id": "1", "name": "seen", "anonymous_id": "v1"}, {"id": "2", "name": "seen", "anonymous_id": "v2"}]
    arrives(kiosk, *first, source="browser", name="web")
    runner.ingest()
    named = {"id": "4", "name": "identified", "anonymous_id": "v1", "contact_id": "p0001"}
    arrives(kiosk, {"id": "3", "name": "seen", "anonymous_id": "v1"}, named, source="browser", name="web")
    assert runner.ingest().found == 2
    assert {event: who for event, who, _ in events(kiosk)} == {
        "web:1": "p0001", "web:2": None, "web:3": "p0001", "web:4": "p0001",
    }  # fmt: skip


def test_what_was_refused_is_kept_with_its_reason(kiosk: Kiosk, runner: Runner) -> None:
    with collecting(kiosk) as url:
        body = [{"name": "a", "contact_id": "p0000"}, {"name": "b", "contact_id": "p0000"}, {"name": "no!"}]
        httpx.post(f"{url}/v1/events", json=body, headers={"authorization": f"Bearer {SERVER_KEY}"}, trust_env=False)
        httpx.post(f"{url}/v1/events", json=[{"name": "c"}, {"name": "email_opened"}],
                   headers={"authorization": f"Bearer {BROWSER_KEY}"}, trust_env=False)  # fmt: skip
    with buffer_files(kiosk)[0].open("ab") as file:
        file.write(b'{"id": "x", "at": "2026-03-02T09:00:00", "source"\x00: }\n{"torn')
    report = runner.ingest()
    assert (report.events, report.refused) == (3, 3)
    found = rows(kiosk, "select source, reason, content from penstock.events_rejected order by reason")
    assert [(row["source"], row["reason"]) for row in found] == [
        ("server:backend", "bad_name"), ("buffer", "damaged_line"), ("browser:web", "reserved_name"),
    ]  # fmt: skip
    assert found[2]["content"] == '{"name":"email_opened"}'
    assert buffer_files(kiosk) == []


# ---------------------------------------------------------------- opt-outs


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("email_unsubscribed", "skipped(unsubscribed)"), ("email_complained", "skipped(unsubscribed)"),
        ("email_bounced", "skipped(bounced)"),
    ],
)  # fmt: skip
def test_an_opt_out_that_comes_between_decision_and_claim_stops_the_message(
    kiosk: Kiosk, runner: Runner, name: str, outcome: str
) -> None:
    runner.tick()
    arrives(kiosk, {"id": "1", "name": name, "email": "p0000@mail.example"})
    runner.deliver()
    found = rows(
        kiosk, "select contact_id, outcome from penstock.journal where kind = 'delivery' and step = 'confirm' "
        "order by contact_id",
    )  # fmt: skip
    assert found == [{"contact_id": "p0000", "outcome": outcome}, {"contact_id": "p0001", "outcome": "sent"}]
    [row] = rows(kiosk, "select contact_id, address_hash, channel, scope, action, source from penstock.suppressions")
    [meta] = rows(kiosk, "select state_id from penstock.meta")
    assert row == {
        "contact_id": "p0000", "address_hash": address_hash(meta["state_id"], "p0000@mail.example"), "channel": "email",
        "scope": "all", "action": "add", "source": "server:backend",
    }  # fmt: skip


def test_an_opt_out_that_comes_while_a_pass_is_under_way_stops_what_is_claimed_later(
    kiosk: Kiosk, runner: Runner
) -> None:
    kiosk.add(1, "letter", "urgent")
    runner.tick()

    def leaves() -> None:
        kiosk.on_mail = lambda: None
        arrives(kiosk, {"name": "email_unsubscribed", "contact_id": "p0002"})

    rows(kiosk, "select 1 as one")
    with kiosk.open() as warehouse:  # its confirmation is not due yet when the pass begins
        warehouse.execute("update penstock.outbox set state = 'held' where contact_id = 'p0002' and step = 'confirm'")

    def wakes() -> None:
        leaves()
        with kiosk.open() as warehouse:
            warehouse.execute("update penstock.outbox set state = 'pending' where state = 'held'")

    kiosk.on_mail = wakes
    runner.deliver()
    [found] = rows(
        kiosk, "select state, reason from penstock.deliveries where contact_id = 'p0002' and step = 'confirm'"
    )
    assert found == {"state": "cancelled", "reason": "unsubscribed"}


def test_nothing_is_sent_while_opt_outs_cannot_be_read(kiosk: Kiosk, runner: Runner) -> None:
    runner.tick()
    arrives(kiosk, {"name": "email_unsubscribed", "contact_id": "p0000"})
    with kiosk.open() as warehouse:
        warehouse.execute("drop table penstock.collected_files")
    report = Runner(kiosk.project).deliver()
    assert report.messages_blocked.startswith("opt-outs that came in cannot be read")
    assert kiosk.mail.messages == []


def test_a_public_key_cannot_unsubscribe_anybody(kiosk: Kiosk, runner: Runner) -> None:
    arrives(kiosk, {"name": "email_unsubscribed", "contact_id": "p0000"}, source="browser", name="web")
    runner.ingest()
    assert rows(kiosk, "select * from penstock.suppressions") == []


def test_groups_can_be_left_and_joined_again_and_a_complaint_is_not_undone_by_a_click(
    kiosk: Kiosk, runner: Runner
) -> None:
    def came(name: str, minute: int, group: str | None = None) -> None:
        properties = {"properties": {"group": group}} if group else {}
        arrives(kiosk, {"name": name, "contact_id": "p0000", **properties}, at=datetime(2026, 3, 2, 9, minute))

    came("email_unsubscribed", 1, "news")
    came("email_unsubscribed", 2)
    came("email_resubscribed", 3, "news")
    came("email_resubscribed", 4)
    runner.ingest()
    came("email_complained", 5)
    came("email_resubscribed", 6)
    runner.ingest()
    came("email_resubscribed", 7)
    runner.ingest()
    found = rows(kiosk, "select scope, action, reason, created_at from penstock.suppressions order by created_at")
    assert [(row["created_at"].minute, row["scope"], row["action"]) for row in found] == [
        (1, "news", "add"), (2, "all", "add"), (3, "news", "lift"), (4, "all", "lift"), (5, "all", "add"),
    ]  # fmt: skip


def test_an_identity_is_a_contact_of_this_collector_only() -> None:
    token = KEYRING.identity("p0000")
    assert KEYRING.contact(token) == "p0000"
    assert KEYRING.opened("leave", token) is None


def test_loaded_is_when_it_was_taken_in(kiosk: Kiosk, runner: Runner) -> None:
    before = SystemClock().now()
    arrives(kiosk, {"name": "a", "contact_id": "p0000"}, at=datetime(2026, 3, 2, 9))
    runner.ingest()
    [(happened, loaded)] = events(kiosk, "event_time, loaded_at")
    assert happened == datetime(2026, 3, 2, 9)
    assert before <= loaded <= SystemClock().now()


def test_whatever_is_taken_can_be_stored(kiosk: Kiosk, runner: Runner) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    intake = Intake("server", KEYRING)
    sent = [_odd(chance) for _ in range(400)]
    body = [event for event in map(_through_json, sent) if event is not None]
    taken, _ = intake.split(body, 10**9, odd=True)
    assert len(taken) > 50
    for number, event in enumerate(taken):
        event["id"] = f"odd-{number}"
    arrives(kiosk, *taken)
    assert runner.ingest().events == len(taken)
    assert len(events(kiosk)) == len(taken)
    runner.tick()


def _through_json(event: Any) -> Any:
    try:
        return orjson.loads(json.dumps(event))
    except ValueError:
        return None


def _odd(chance: random.Random) -> dict[str, Any]:
    """An event as a careless or hostile client would send it."""
    texts = ["", "a", "'; drop table events; --", "\x00", "\x1f\x7f", "\u2028", "\ud800", "😀", '"', "\\", "\\u0000",
             "$1", "{{ x }}", "é" * 50, "null", "%s", "2026-01-01", "=1+1", "\uffff", "\u202e"]  # fmt: skip
    numbers = [0, -0.0, 1e308, 10**30, -(2**63), 2**64 - 1, 0.1, float("inf"), True, None]

    def value(depth: int = 0) -> Any:
        match chance.randrange(2 if depth > 4 else 4):
            case 0:
                return chance.choice(texts)
            case 1:
                return chance.choice(numbers)
            case 2:
                return [value(depth + 1) for _ in range(3)]
            case _:
                return {key(): value(depth + 1) for _ in range(3)}

    def key() -> str:
        return chance.choice([*texts, "group", "anonymous_id", "template", "__proto__"])

    return {
        "name": chance.choice(["rang", "email_unsubscribed", "a b", "x.y:z/1"]),
        "properties": {key(): value() for _ in range(chance.randrange(6))},
        **({"contact_id": chance.choice(texts)} if chance.random() < 0.3 else {}),
        **({"email": chance.choice([*texts, " P0000@mail.example"])} if chance.random() < 0.3 else {}),
        **({"time": chance.choice(["0001-01-01", "9999-12-31T23:59:59Z", "2026-03-02T09:00:00+14:00", "x",
                                    "9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00"])}
           if chance.random() < 0.3 else {}),
    }  # fmt: skip
