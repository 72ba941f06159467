"""Every destination under every fault: nothing lost, nothing twice where it can be helped, and the page is true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from destinations import REGISTRY
from tests.destinations.conformance import PAGE, ROWS, Row, outcome, secrets_in, table
from tests.destinations.judge import problems
from tests.destinations.vendors import VENDORS, settings

cells = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
columns = pytest.mark.parametrize("name", VENDORS)


def test_every_type_that_speaks_http_is_here() -> None:
    types = {settings(vendor, "http://x")["type"] for vendor in VENDORS.values()}
    assert types == set(REGISTRY) - {"recorder", "smtp"}


@columns
@cells
def test_nothing_is_lost_and_nothing_happens_twice(name: str, row: Row) -> None:
    """F42–F50: what was said to be sent happened, what is tried again happens once, what is held at most once."""
    found = outcome(name, row)
    final = {verdict.action_id: verdict for verdict in (*found.first, *found.last)}
    bad = {verdict.action_id for verdict in final.values() if verdict.status == "failed"}
    most = row.copies if found.on_unknown == "hold" else 1
    for action, verdict in final.items():
        happened = found.effects.get(action, 0)
        match verdict.status:
            case "sent":
                assert 1 <= happened <= most, (action, verdict, happened)
            case "unknown":
                assert happened <= 1 and found.on_unknown == "hold", (action, verdict, happened)
            case "failed":
                assert happened == 0, (action, verdict, happened)
            case _:
                pytest.fail(f"{action} has no end: {verdict}")
    if row.poisoned:
        assert bad == {"a-1"}


@columns
@cells
def test_verdicts_hold_no_secret_and_no_address(name: str, row: Row) -> None:
    found = outcome(name, row)
    text = repr((found.first, found.last))
    assert secrets_in(text) == []
    assert "@example.test" not in text
    assert all(len(verdict.message) <= 500 for verdict in found.first)


@columns
def test_credentials_stop_the_destination_at_once(name: str) -> None:
    """F48: one refused request, not one per contact."""
    row = next(row for row in ROWS if row.name == "401")
    found = outcome(name, row)
    assert {(verdict.status, verdict.stop) for verdict in found.first[:1]} == {("retry", "credentials")}


@columns
def test_retry_after_is_honoured(name: str) -> None:
    row = next(row for row in ROWS if row.name.startswith("429 with "))
    (pause, *_) = (verdict.retry_after for verdict in outcome(name, row).first)
    assert pause is not None and pause.total_seconds() == 7


def test_the_page_is_what_the_tests_found() -> None:
    assert PAGE.read_text() == table(), "make docs"


@pytest.mark.parametrize("name", [name for name, vendor in VENDORS.items() if vendor.spec is not None])
def test_requests_fit_the_vendors_own_description(name: str) -> None:
    """And the judge does reject what is wrong."""
    folder, file = VENDORS[name].spec or ("", "")
    requests = [request for row in ROWS[:3] for request in outcome(name, row).requests]
    assert requests and problems(folder, file, requests) == []
    spoiled = [replace(requests[0], body=b'{"wrong": 1}'), replace(requests[0], path="/nowhere")]
    assert all(problems(folder, file, [request]) for request in spoiled)
