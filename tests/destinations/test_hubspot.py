"""HubSpot against a stateful fake; recorded requests are judged by the API description."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from jsonschema import Draft4Validator  # type: ignore[import-untyped]
from pytest_httpserver import HTTPServer

from destinations import Action, Verdict
from studio.demo.fake_crm import CrmFault, CrmRequest, FakeCrm
from tests.destinations.conftest import LOOPBACK, crm, make, run, send, spec, task


def config(url: str, **more: Any) -> dict[str, Any]:
    base = {"type": "hubspot", "base_url": url, "token": "{{ env_var('TOKEN') }}", "allow_hosts": LOOPBACK}
    return base | {"rate": "10000/s", "timeout": "5s"} | more


def statuses(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def test_hubspot_upserts_contacts_in_batches_of_a_hundred() -> None:
    actions = [crm(f"a-{n}", f"c{n}", lifecyclestage="lead", score=n, vip=n % 2 == 0, left=None) for n in range(250)]
    with FakeCrm() as fake:
        verdicts = send(config(fake.url), *actions)
    assert set(statuses(verdicts)) == {"sent"}
    assert [verdict.action_id for verdict in verdicts] == [action.action_id for action in actions]
    assert (fake.counters.requests, fake.counters.effects, len(fake.contacts)) == (3, 250, 250)
    by_email = {contact["email"]: contact for contact in fake.contacts}
    assert by_email["c7@example.test"] == {
        "email": "c7@example.test",
        "lifecyclestage": "lead",
        "score": "7",
        "vip": "false",
        "left": "",
    }
    # Every row carries the id of its own record, though the fake answers in reverse.
    ids = {verdict.receipt["id"]: verdict.action_id for verdict in verdicts}
    stored = {record_id: item["score"] for record_id, item in fake.objects["contacts"].items()}
    assert {record_id: f"a-{score}" for record_id, score in stored.items()} == ids


def test_hubspot_one_bad_row_is_one_verdict() -> None:
    bad = Action("a-2", "crm", "contact", "bad", 1, {"set": {}, "contact": {"id": "bad", "email": "not an address"}})
    with FakeCrm() as fake:
        verdicts = send(config(fake.url), crm("a-1", "ann"), bad, crm("a-3", "cat"))
    assert statuses(verdicts) == ["sent", "failed", "sent"]
    assert verdicts[1].code == "207 VALIDATION_ERROR"
    assert "INVALID_EMAIL" in verdicts[1].message
    assert "not an address" not in verdicts[1].message


def test_hubspot_bad_batch_is_bisected() -> None:
    """F46: one row that spoils the batch costs at most 2·log2(n)+1 more calls and only itself."""
    actions = [crm(f"a-{n}", f"c{n}", **({"gone": "x"} if n == 37 else {"plan": "pro"})) for n in range(100)]
    with FakeCrm(removed=frozenset({"gone"})) as fake:
        verdicts = send(config(fake.url), *actions)
    assert [n for n, verdict in enumerate(verdicts) if verdict.status == "failed"] == [37]
    assert (verdicts[37].code, set(statuses(verdicts))) == ("400", {"sent", "failed"})
    assert fake.counters.requests <= 1 + 2 * 7 + 1
    assert len(fake.contacts) == 99


def test_hubspot_same_contact_twice_keeps_the_order() -> None:
    with FakeCrm() as fake:
        verdicts = send(config(fake.url), crm("a-1", plan="free"), crm("a-2", "bob"), crm("a-3", plan="pro"))
    assert statuses(verdicts) == ["sent"] * 3
    assert {contact["email"]: contact.get("plan") for contact in fake.contacts}["ann@example.test"] == "pro"


def test_hubspot_contact_without_the_id_property_fails_alone() -> None:
    nobody = Action("a-2", "crm", "contact", "x", 1, {"set": {}, "contact": {"id": "x", "email": None}})
    company = Action("a-3", "crm", "deal", "x", 1, {"object": "deal", "set": {}, "contact": {"id": "x"}})
    with FakeCrm() as fake:
        verdicts = send(config(fake.url), crm("a-1"), nobody, company)
        by_id = send(config(fake.url, id_property="penstock_contact_id"), nobody)
    assert [(verdict.status, verdict.code) for verdict in verdicts[1:]] == [
        ("failed", "no_address"),
        ("failed", "unsupported_object"),
    ]
    assert statuses(by_id) == ["sent"]


def test_hubspot_tasks_are_tied_to_their_contacts() -> None:
    with FakeCrm() as fake:
        send(config(fake.url), crm("a-0", "ann"))
        verdicts = send(
            config(fake.url, owners={"kim": "42"}),
            task("t-1", "ann", owner="kim", body="Ask for the size", due=datetime(2026, 3, 4, 15, 0)),
            task("t-2", "bob", due=date(2026, 3, 5)),
            task("t-3", "bob", owner="nobody"),
        )
    assert [(verdict.status, verdict.code) for verdict in verdicts] == [
        ("sent", "200"),
        ("sent", "200"),
        ("failed", "unknown_owner"),
    ]
    assert fake.tasks[0] == {
        "penstock_action_id": "t-1",
        "hs_task_subject": "Call",
        "hs_task_body": "Ask for the size",
        "hs_timestamp": "2026-03-04T15:00:00.000Z",
        "hs_task_status": "NOT_STARTED",
        "hs_task_type": "TODO",
        "hubspot_owner_id": "42",
    }
    assert fake.tasks[1]["hs_timestamp"] == "2026-03-05"
    emails = {record_id: contact["email"] for record_id, contact in fake.objects["contacts"].items()}
    subjects = {record_id: item["penstock_action_id"] for record_id, item in fake.objects["tasks"].items()}
    assert {(subjects[one], emails[other]) for one, other in fake.associations} == {
        ("t-1", "ann@example.test"),
        ("t-2", "bob@example.test"),
    }


def company(action_id: str, contact: str, **fields: Any) -> Action:
    who = {"id": contact, "email": f"{contact}@example.test"}
    return Action(action_id, "crm", "company", contact, 1, {"object": "company", "set": fields, "contact": who})


def listed(action_id: str, contact: str, **fields: Any) -> Action:
    who = {"id": contact, "email": f"{contact}@example.test"}
    return Action(action_id, "crm", "list", contact, 1, {"object": "list", "set": fields, "contact": who})


def test_hubspot_companies_are_upserted_by_domain_and_tied_to_their_contacts() -> None:
    with FakeCrm() as fake:
        verdicts = send(
            config(fake.url),
            company("a-1", "ann", domain="acme.test", industry="ANVILS"),
            company("a-2", "bob", domain="acme.test", tier="gold"),
            company("a-3", "cat", industry="?"),
        )
        again = send(config(fake.url), company("a-1", "ann", domain="acme.test", industry="ANVILS"))
    assert [(verdict.status, verdict.code) for verdict in verdicts] == [
        ("sent", "200"), ("sent", "200"), ("failed", "no_key"),
    ]  # fmt: skip
    assert list(fake.objects["companies"].values()) == [{"domain": "acme.test", "industry": "ANVILS", "tier": "gold"}]
    emails = {record: contact["email"] for record, contact in fake.objects["contacts"].items()}
    assert sorted(emails[contact] for _, contact in fake.associations) == ["ann@example.test", "bob@example.test"]
    assert (statuses(again), fake.counters.duplicates, len(fake.associations)) == (["sent"], 0, 2)


def test_hubspot_lists_take_contacts_and_let_them_go() -> None:
    actions = [listed(f"a-{n}", f"c{n}", list="7", member=True) for n in range(3)]
    with FakeCrm() as fake:
        first = send(config(fake.url), *actions, listed("b-1", "c0", list="8"), listed("b-2", "c0", list="news"))
        second = send(config(fake.url), *actions, listed("a-9", "c1", list="7", member=False))
        emails = {record: contact["email"] for record, contact in fake.objects["contacts"].items()}
    assert statuses(first) == ["sent", "sent", "sent", "sent", "failed"]
    assert (first[4].code, statuses(second)) == ("no_key", ["sent"] * 4)
    assert {emails[one] for one in fake.lists["7"]} == {"c0@example.test", "c2@example.test"}
    assert {emails[one] for one in fake.lists["8"]} == {"c0@example.test"}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("fault", ["500", "drop after", "429"])
def test_hubspot_list_is_repeated_whole_when_a_request_of_it_fails(position: int, fault: CrmFault) -> None:
    with FakeCrm(script=[None] * position + [fault]) as fake:
        first = send(config(fake.url), listed("a-1", "ann", list="7"))
        second = send(config(fake.url), listed("a-1", "ann", list="7"))
    assert (first[0].status in ("retry", "unknown"), second[0].status) == (True, "sent")
    assert (len(fake.contacts), [len(one) for one in fake.lists.values()]) == (1, [1])


AFTER: list[CrmFault] = ["500 after", "502 after", "hang after", "drop after"]


@pytest.mark.parametrize("fault", AFTER)
@pytest.mark.parametrize("kind", ["crm", "task"])
def test_hubspot_retry_after_a_lost_answer_has_no_second_effect(fault: CrmFault, kind: str) -> None:
    """F44, G3: what was committed before the answer was lost is not done twice."""
    action = crm("a-1", plan="pro") if kind == "crm" else task("a-1")
    with FakeCrm(script=[fault]) as fake:
        first = send(config(fake.url, timeout="200ms"), action)
        second = send(config(fake.url), action)
    assert first[0].status in ("retry", "unknown")
    assert statuses(second) == ["sent"]
    assert (fake.counters.duplicates, len(fake.tasks) + len(fake.contacts)) == (0, 1 if kind == "crm" else 2)
    assert len(fake.associations) == (0 if kind == "crm" else 1)


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("fault", ["500", "drop after", "429"])
def test_hubspot_task_is_repeated_whole_when_its_association_fails(position: int, fault: CrmFault) -> None:
    """The task stands, then reading, creating or tying the contact fails: retry, and still one task, one tie."""
    with FakeCrm(script=[None] * position + [fault]) as fake:
        first = send(config(fake.url), task("a-1"))
        second = send(config(fake.url), task("a-1"))
    assert (first[0].status in ("retry", "unknown"), second[0].status) == (True, "sent")
    assert (len(fake.tasks), len(fake.contacts), len(fake.associations)) == (1, 1, 1)
    assert fake.counters.duplicates == 0


@pytest.mark.parametrize(
    ("fault", "status", "code", "pause"),
    [
        ("429", "retry", "429", timedelta(seconds=10)),
        ("429 daily", "retry", "429", timedelta(hours=14, minutes=30)),
        ("423", "retry", "423", timedelta(seconds=2)),
        ("477", "retry", "477", timedelta(seconds=60)),
        ("500", "retry", "500", None),
        ("redirect", "failed", "302", None),
        ("drop", "unknown", "reset", None),
        ("empty", "retry", "no_row_verdict", None),
        ("huge", "unknown", "unreadable_answer", None),
        ("trickle", "unknown", "unreadable_answer", None),
        ("hang after", "unknown", "timeout", None),
    ],
)
def test_hubspot_faults(fault: CrmFault, status: str, code: str, pause: timedelta | None) -> None:
    with FakeCrm(script=[fault]) as fake:
        verdicts = send(config(fake.url, timeout="500ms"), crm("a-1"), crm("a-2", "bob"))
    assert {(v.status, v.code, v.retry_after, v.stop) for v in verdicts} == {(status, code, pause, None)}
    assert fake.counters.faults["redirect followed"] == 0


def test_hubspot_daily_limit_ends_at_midnight_of_the_account() -> None:
    """09:30 UTC is 04:30 in New York."""
    with FakeCrm(script=["429 daily"]) as fake:
        (verdict,) = send(config(fake.url, account_timezone="America/New_York"), crm())
    assert verdict.retry_after == timedelta(hours=19, minutes=30)


@pytest.mark.parametrize("fault", ["401", "403"])
def test_hubspot_stops_after_the_first_refused_request(fault: CrmFault) -> None:
    """F48: nothing more is sent, and no row is lost."""
    with FakeCrm(script=[fault]) as fake:
        verdicts = send(config(fake.url, max_batch=2), *(crm(f"a-{n}", f"c{n}") for n in range(6)), task("t-1"))
    assert {(verdict.status, verdict.stop) for verdict in verdicts} == {("retry", "credentials")}
    assert fake.counters.requests == 1


def test_hubspot_rolling_limit_of_the_fake() -> None:
    now = [0.0]
    with FakeCrm(window_limit=2, monotonic=lambda: now[0]) as fake:
        found = config(fake.url, max_batch=1)
        verdicts = send(found, *(crm(f"a-{n}", f"c{n}") for n in range(3)))
        now[0] = 10.0
        again = send(found, crm("a-2", "c2"))
    assert statuses(verdicts) == ["sent", "sent", "retry"]
    assert (verdicts[2].retry_after, statuses(again)) == (timedelta(seconds=10), ["sent"])
    assert fake.counters.throttled == 1


def test_hubspot_row_is_found_without_trace_ids(receiver: HTTPServer) -> None:
    """Some answers name the property only; some name a row nowhere; errors may come as transient categories."""
    data = {
        "status": "COMPLETE",
        "results": [{"id": "9", "properties": {"email": "BOB@example.test"}}],
        "errors": [
            {"category": "RATE_LIMITS", "message": "slow", "context": {"objectWriteTraceId": ["a-3"]}},
            {"category": "CONFLICT", "message": "taken", "context": {"objectWriteTraceId": "a-4"}},
            {"category": "CONFLICT", "message": "whose?"},
        ],
    }
    receiver.expect_request("/crm/v3/objects/contacts/batch/upsert").respond_with_json(data, 207)
    actions = [crm("a-1"), crm("a-2", "bob"), crm("a-3", "cat"), crm("a-4", "dan")]
    verdicts = send(config(receiver.url_for("").rstrip("/"), allow_hosts=["127.0.0.1", "localhost"]), *actions)
    assert [(verdict.status, verdict.code) for verdict in verdicts] == [
        ("retry", "no_row_verdict"),
        ("sent", "207"),
        ("retry", "207 RATE_LIMITS"),
        ("failed", "207 CONFLICT"),
    ]
    assert verdicts[1].receipt == {"id": "9"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hubspot_with_many_faults_ends_with_each_effect_once(seed: int) -> None:
    """Retried until done under a third of failing requests: every contact and task once, no second effect."""
    shares: dict[CrmFault, float] = {"429": 0.1, "500": 0.05, "500 after": 0.1, "drop after": 0.1}
    actions = [crm(f"a-{n}", f"c{n}", plan="pro") for n in range(30)] + [task(f"t-{n}", f"c{n}") for n in range(10)]

    async def work(url: str) -> int:
        open_, rounds = actions, 0
        async with make(config(url, max_batch=2)) as destination:
            while open_ and rounds < 50:
                verdicts = await destination.send(open_)
                done = {verdict.action_id for verdict in verdicts if verdict.status == "sent"}
                assert not [verdict for verdict in verdicts if verdict.status == "failed"]
                open_ = [action for action in open_ if action.action_id not in done]
                rounds += 1
        return len(open_)

    with FakeCrm(seed=seed, shares=shares) as fake:
        assert run(work(fake.url)) == 0, f"seed {seed}"
    assert (len(fake.contacts), len(fake.tasks), len(fake.associations)) == (30, 10, 10)
    assert fake.counters.duplicates == 0
    assert sum(fake.counters.faults.values()) > 3


def test_hubspot_requests_fit_the_api_description() -> None:
    description = spec("hubspot", "authored_hubspot_crm.openapi.json")
    actions = [
        crm("a-1", plan="pro", n=1, none=None), crm("a-2", "bob"), task("t-1", owner="7"), task("t-2", "new"),
        company("o-1", "ann", domain="acme.test"), listed("l-1", "ann", list="7"),
        listed("l-2", "ann", list="8", member=False),
    ]  # fmt: skip
    with FakeCrm(keep_requests=True) as fake:
        assert set(statuses(send(config(fake.url), *actions))) == {"sent"}
    assert len(fake.requests) == 12
    for request in fake.requests:
        assert request.headers["authorization"] == "Bearer demo-token"
        assert list(_problems(description, request)) == []
    # The judge does reject what is wrong.
    spoiled = CrmRequest("POST", fake.requests[0].path, {}, b'{"inputs": [{"id": 7, "properties": {"n": 1}}]}')
    assert list(_problems(description, spoiled)) != []


def _problems(description: Mapping[str, Any], request: CrmRequest) -> list[str]:
    for template, operations in description["paths"].items():
        parts = template.strip("/").split("/")
        given = request.path.strip("/").split("/")
        if len(parts) == len(given) and all(p == g or p.startswith("{") for p, g in zip(parts, given, strict=True)):
            schema = operations[request.method.lower()]["requestBody"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": description["components"]}
            return [error.message for error in Draft4Validator(whole).iter_errors(json.loads(request.body))]
    return [f"no such path: {request.path}"]
