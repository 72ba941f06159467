"""Lints over several workflows, the policy or the contact model: a case that finds, and one that nearly does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.linter.across import Surroundings, lint_across
from compiler.parser import parse_workflow
from compiler.workflow import Duration, FrequencyCap, Policy
from tests.compiler.test_allowlist import CATALOG

HEAD = "version: 1\nworkflow: {name}\n"
PING = HEAD + "trigger: {{event: ping}}\nsteps: [{{id: s, emit: pong}}]\n"
PONG = HEAD + "trigger: {{event: pong}}\nsteps: [{{id: s, enroll: ping}}]\n"
MAIL = HEAD + "trigger: {{event: [joined, x]}}\nsteps: [{before}{{id: m, email: hello}}]\n"
AUDIENCE = HEAD + 'trigger: {{audience: "{audience}"}}\nsteps: [{{id: m, email: hello{more}}}]\n'


def _around(*texts: str, policy: Policy | None = None) -> Surroundings:
    documents = [parse_workflow(text, f"workflows/{text.split()[3]}.yaml") for text in texts]
    relation = replace(
        CATALOG.contact.relation, columns={**CATALOG.contact.relation.columns, "email_consent": "BOOLEAN"}
    )
    catalog = replace(CATALOG, contact=replace(CATALOG.contact, relation=relation))
    return Surroundings({document.workflow.workflow: document for document in documents}, policy or Policy(), catalog)


def _codes(around: Surroundings, name: str) -> list[tuple[str, int]]:
    return [(finding.problem.code, finding.problem.line) for finding in lint_across(around.documents[name], around)]


def test_two_workflows_that_trigger_each_other_are_named_at_their_steps() -> None:
    around = _around(PING.format(name="ping"), PONG.format(name="pong"))
    assert _codes(around, "ping") == [("W120", 4)]
    assert _codes(around, "pong") == [("W120", 4)]


def test_a_chain_without_a_way_back_is_no_circle() -> None:
    around = _around(PING.format(name="other"), PONG.format(name="pong"))
    assert _codes(around, "other") == _codes(around, "pong") == []


@pytest.mark.parametrize(
    ("before", "policy", "found"),
    [
        ("", Policy(), [("W121", 4)]),
        ("{id: w, wait: 1h}, ", Policy(), []),
        ("", Policy(cap=FrequencyCap(max=1, per=Duration("1d"))), []),
    ],
)
def test_two_messages_on_one_event(before: str, policy: Policy, found: list[tuple[str, int]]) -> None:
    around = _around(MAIL.format(name="a", before=before), MAIL.format(name="b", before=""), policy=policy)
    assert _codes(around, "a") == found
    assert _codes(around, "b") == []


def test_many_messages_on_one_event_are_one_finding() -> None:
    around = _around(*(MAIL.format(name=name, before="") for name in "abcdef"))
    (finding,) = lint_across(around.documents["a"], around)
    assert finding.problem.message.startswith("each of 'b', 'c', 'd' and 2 more sends email on the same event")


@pytest.mark.parametrize(
    ("audience", "more", "policy", "found"),
    [
        ("plan = 'pro'", "", Policy(), [("W122", 4)]),
        ("plan = 'pro' and email_consent", "", Policy(), []),
        ("plan = 'pro'", ", transactional: true", Policy(), []),
        ("plan = 'pro'", ", if: contact.email_consent", Policy(), []),
        ("plan = 'pro'", "", Policy(require={"email": "email_consent"}), []),
    ],
)
def test_a_message_to_an_audience_asks_for_consent(
    audience: str, more: str, policy: Policy, found: list[tuple[str, int]]
) -> None:
    around = _around(AUDIENCE.format(name="a", audience=audience, more=more), policy=policy)
    assert _codes(around, "a") == found
