"""The demo: it runs, repeats itself, is audited, reports, and names commands that work."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import ProjectError
from flows.engine.log import LogRow, log_rows
from flows.runner import Runner
from studio import cli
from studio.demo import shop
from studio.demo.audit.compare import Answers, Audit, compare
from studio.demo.audit.conditions import AuditError, parse
from studio.demo.audit.definitions import read_definitions
from studio.demo.audit.history import History
from studio.demo.audit.reference import Outcome, expected_log
from studio.demo.figures import Figures, figures
from studio.demo.project import TARGET
from studio.demo.report import gather, write_report
from studio.demo.run import Demo, Quiet, Scale, clear, groups

SCALE = Scale(contacts=600, days=8, every=timedelta(hours=12))


@dataclass
class Ran:
    """A demo that has run, with its figures, its log and what the audit expects."""

    demo: Demo
    figures: Figures
    log: list[LogRow]
    expected: Outcome
    report: Path

    def audit(self, log: list[LogRow]) -> Audit:
        return compare(self.expected, log, self.demo.stage)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    demo = Demo(tmp_path_factory.mktemp("demo") / "demo", SCALE, Quiet())
    kept: dict[str, Any] = {}

    def close(runner: Runner) -> None:
        kept["figures"] = figures(demo, runner)
        with runner.open() as warehouse:
            kept["log"] = log_rows(warehouse, demo.project.state_schema)
        kept["report"] = write_report(demo.folder, demo, kept["figures"], gather(demo, runner))

    demo.run(close)
    history = History(demo.world, demo.customers, demo.stage.messages(), list(SCALE.ticks()), groups())
    expected = expected_log(read_definitions(demo.project_folder, TARGET), history, Answers(demo.stage))
    return Ran(demo, kept["figures"], kept["log"], expected, kept["report"])


def test_the_audit_finds_nothing_to_object_to(ran: Ran) -> None:
    audit = ran.figures.audit
    assert [str(difference) for difference in audit.differences] == []
    assert audit.accuracy == 1.0
    assert audit.expected == audit.found == len(ran.log) > 100
    assert audit.received["mail"] == ran.figures.totals.messages > 20


def test_the_audit_sees_what_is_missing_extra_and_late(ran: Ran) -> None:
    sent = next(row for row in ran.log if row.outcome.startswith("email:") and row.outcome.endswith(" sent"))
    rest = [row for row in ran.log if row is not sent]
    assert _kinds(ran.audit(rest)) == {"missing": 1}
    assert _kinds(ran.audit([*ran.log, sent])) == {"extra": 1}
    late = replace(sent, executed_at=sent.executed_at + SCALE.every)
    assert _kinds(ran.audit([*rest, late])) == {"wrong time": 1}
    early = replace(sent, due=sent.executed_at - timedelta(days=1))
    assert _kinds(ran.audit([*rest, early])) == {"wrong time": 1}
    wrong = replace(sent, outcome=sent.outcome.replace(" sent", " skipped(goal)"))
    found = ran.audit([*rest, wrong])
    assert _kinds(found) == {"missing": 1, "extra": 1}
    assert found.accuracy == 1 - 2 / found.expected
    assert sent.contact in str(found.differences[0])


def test_the_audit_sees_what_servers_got_twice_or_never(ran: Ran) -> None:
    stage = ran.demo.stage
    arrivals = list(stage.arrivals)
    try:
        stage.arrivals.append(arrivals[0])
        assert _kinds(ran.audit(ran.log)) == {"duplicate": 1}
        stage.arrivals[:] = arrivals[1:]
        assert _kinds(ran.audit(ran.log)) == {"lost": 1}
        stage.arrivals[:] = [*arrivals, replace(arrivals[0], action_id="nobody-knows")]
        assert _kinds(ran.audit(ran.log)) == {"stray": 1}
        stage.arrivals[:] = [replace(arrivals[0], address="somebody@else.example"), *arrivals[1:]]
        assert _kinds(ran.audit(ran.log)) == {"payload": 1}
    finally:
        stage.arrivals[:] = arrivals


def _kinds(audit: Audit) -> dict[str, int]:
    return dict(Counter(difference.kind for difference in audit.differences))


def test_figures_are_those_of_the_log(ran: Ran) -> None:
    entered = Counter(row.workflow for row in ran.log if row.outcome == "enter")
    assert {funnel.workflow: funnel.entered for funnel in ran.figures.funnels if funnel.entered} == dict(entered)
    sent = Counter((row.workflow, row.step) for row in ran.log if re.fullmatch(r"\S+:.* (sent|ok)", row.outcome))
    for funnel in ran.figures.funnels:
        assert {step.step: step.done for step in funnel.steps if step.done} == {
            step: number for (workflow, step), number in sent.items() if workflow == funnel.workflow
        }
        assert funnel.in_flight + sum(funnel.endings.values()) == funnel.entered
    assert ran.figures.ticks == 16
    assert len(ran.figures.funnels) == 6


class _Loads(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.charts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.charts += tag == "svg"
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data")]
        self.loads += [tag] if tag in ("script", "link", "iframe", "img") else []


def test_the_report_stands_alone(ran: Ran) -> None:
    text = ran.report.read_text(encoding="utf-8")
    page = _Loads()
    page.feed(text)
    assert page.loads == []
    assert "url(" not in text and "@import" not in text
    assert page.charts > 10
    for funnel in ran.figures.funnels:
        assert funnel.workflow in text
    assert "prefers-color-scheme: dark" in text
    assert "nan" not in text.lower().replace("nancy", "")


def test_the_same_seed_gives_the_same_numbers(ran: Ran, tmp_path: Path) -> None:
    kept: list[Figures] = []
    logs: list[list[LogRow]] = []
    demo = Demo(tmp_path / "again", SCALE, Quiet())

    def close(runner: Runner) -> None:
        kept.append(figures(demo, runner))
        with runner.open() as warehouse:
            logs.append(log_rows(warehouse, demo.project.state_schema))

    demo.run(close)
    assert logs[0] == ran.log
    assert kept[0] == ran.figures


def test_the_command_prints_what_happened_and_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "demo --contacts 120 --days 3 --every 12 --output json"
    assert cli.run(shlex.split(line)) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["accuracy"] == 1.0 and found["ticks"] == 6
    assert "every 12 h" in told.err and "dbt build" in told.err
    assert Path(found["report"]).is_file()
    assert len(found["next"]) == 3
    for command in found["next"]:
        program, *arguments = shlex.split(command)
        assert program == "penstock"
        assert cli.run(arguments) == 0, (command, capsys.readouterr().err)
    assert "abandoned_cart" in capsys.readouterr().out


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_text("mine")
    with pytest.raises(ProjectError, match="no demo made"):
        clear(tmp_path)
    assert (tmp_path / "warehouse.duckdb").read_text() == "mine"
    clear(tmp_path / "new")
    (tmp_path / "new" / "old").write_text("of an earlier demo")
    clear(tmp_path / "new")
    assert not (tmp_path / "new" / "old").exists()


# ---------------------------------------------------------------- the audit's own conditions


class _Somebody:
    def __init__(self, **contact: object) -> None:
        self.contact = contact
        self.entry = {"page": "pricing", "amount": 120.0, "nothing": None}

    def times(self, look: Any) -> Iterator[datetime]:
        yield from (shop.START for name in ("visit", "visit", "open") if name in look.names)

    def rows(self, relation: str) -> list[dict[str, object]]:
        assert relation == "fct_orders"
        return [{"contact_id": "C-1", "amount": 350.0}, {"contact_id": "C-2", "amount": 20.0}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("entry.page = 'pricing' and entry.amount >= 100", True),
        ("entry.page <> 'pricing' or contact.plan = 'pro'", True),
        ("plan in ('free', 'pro')", True),
        ("not (plan = 'pro')", False),
        ("entry.nothing > 1", None),
        ("entry.nothing > 1 or plan = 'pro'", True),
        ("entry.nothing > 1 and plan = 'free'", False),
        ("entry.nothing is null and plan is not null", True),
        ("did('visit')", True),
        ("did('visit', at_least => 3)", False),
        ("not did(['buy', 'sell'], within => '30d')", True),
        ("contact.contact_id not in (select o.contact_id from ref('fct_orders') as o where o.amount >= 300)", False),
        ("'C-3' in (select o.contact_id from ref('fct_orders') as o)", False),
        ("entry.nothing in ('a')", None),
        ("'it''s' = 'it''s'", True),
    ],
)
def test_the_audit_reads_conditions(text: str, value: bool | None) -> None:
    assert parse(text).value(_Somebody(contact_id="C-1", plan="pro"), {}) is value


@pytest.mark.parametrize("text", ["score('churn') > 0.7", "a = 1 +", "did('x', until => '3d')", "a ~ 'b'", "a = 1 b"])
def test_the_audit_says_what_it_does_not_know(text: str) -> None:
    with pytest.raises(AuditError):
        parse(text)
