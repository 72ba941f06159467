"""The figures of a demo, as data: funnels, totals, and what its servers saw. All of them are read from what ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.engine.log import log_rows
from flows.engine.overview import Overview
from flows.journal.tables import StateTables
from flows.runner import Runner
from studio.demo.audit.compare import Audit, audit
from studio.demo.run import Demo
from studio.funnel import Funnel, funnels


@dataclass(frozen=True)
class Totals:
    """All workflows together.

    Attributes:
        workflows: how many.
        entered, ended, done: enrollments, those that ended, and those that ended as written.
        sent, failed: outward actions that were accepted, and that failed for good.
        retries: attempts that had to be repeated.
        open: outward actions without a final outcome.
        messages: e-mails that reached a mailbox.
        reasons: code of a final failure -> actions.
    """

    workflows: int
    entered: int
    ended: int
    done: int
    sent: int
    failed: int
    retries: int
    open: int
    messages: int
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Servers:
    """What the servers answered: requests and faults of each, and repetitions that had no second effect."""

    mail_accepted: int
    mail_faults: dict[str, int]
    crm_requests: int
    crm_faults: dict[str, int]
    crm_repeats: int
    hook_requests: int
    hook_faults: dict[str, int]
    hook_repeats: int


@dataclass(frozen=True)
class Figures:
    """Everything that a demo measures; `set_aside` are workflows that the engine had to leave out, and why."""

    ticks: int
    rows_landed: int
    decided: int
    funnels: tuple[Funnel, ...]
    totals: Totals
    servers: Servers
    audit: Audit
    set_aside: dict[str, str] = field(default_factory=dict)


def figures(demo: Demo, runner: Runner) -> Figures:
    """Read the figures while the warehouse is still open."""
    project = demo.project
    with runner.open() as warehouse:
        catalog = project.catalog()
        workflows = [document.workflow for _, document in sorted(project.definitions.workflows.items())]
        found = funnels(warehouse, project.state_schema, catalog, workflows, demo.scale.end)
        state = StateTables(project.state_schema)
        retries = warehouse.rows(state.statement(warehouse, _RETRIES))[0]["n"]
        log = log_rows(warehouse, project.state_schema)
    demo.progress.begin("audit", "work out again who should have got what")
    checked = audit(demo, log)
    demo.progress.finish(f"{checked.expected:,} rows of the log worked out again from the raw rows")
    seen = demo.overview(runner)
    counts = demo.counts
    totals = _totals(seen, int(retries), len(demo.stage.arrivals))
    return Figures(counts.ticks, counts.landed, counts.decided, tuple(found), totals, _servers(demo), checked,
                   dict(counts.set_aside))  # fmt: skip


def _totals(seen: Overview, retries: int, messages: int) -> Totals:
    def total(name: str) -> int:
        return sum(getattr(workflow, name) for workflow in seen.workflows)

    return Totals(
        len(seen.workflows), total("entered"), total("ended"), total("done"), total("sent"), total("failed"), retries,
        sum(seen.open_actions.values()), messages, dict(seen.failed_actions),
    )  # fmt: skip


def _servers(demo: Demo) -> Servers:
    stage = demo.stage
    return Servers(
        len(stage.arrivals), _counted(stage.refusals.values()),
        len(stage.crm_answers), _counted(a.outcome for a in stage.crm_answers if not a.outcome.startswith("2")),
        stage.crm.counters.repeats, len(stage.hook_answers),
        _counted(a.outcome for a in stage.hook_answers if a.outcome != "204"), stage.hooks.repeats,
    )  # fmt: skip


def _counted(words: Any) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def share(part: int, whole: int, digits: int = 0) -> str:
    """`44%`, or `–` without a whole."""
    return f"{100 * part / whole:.{digits}f}%" if whole else "–"


def funnel_lines(funnel: Funnel, width: int = 30) -> Sequence[tuple[str, int, str, str]]:
    """The lines of a funnel: name, number, bar, remark."""

    def bar(number: int) -> str:
        return "█" * round(width * number / funnel.entered) if funnel.entered else ""

    lines = [("entered", funnel.entered, bar(funnel.entered), "")]
    for step in funnel.steps:
        told = ""
        if step.opened is not None and step.clicked is not None and step.done:
            told = f"opened {share(step.opened, step.done)}   clicked {share(step.clicked, step.done)}"
        lines.append((step.step, step.done, bar(step.done), told))
    if funnel.goal:
        lines.append((funnel.goal, funnel.goals, bar(funnel.goals), share(funnel.goals, funnel.entered, 1)))
    return lines


def closing_lines(found: Figures) -> Sequence[str]:
    """The totals and the audit, one line each."""
    totals, checked = found.totals, found.audit
    final = totals.sent + totals.failed
    faults = sum(found.servers.mail_faults.values()) + sum(found.servers.crm_faults.values())
    faults += sum(found.servers.hook_faults.values())
    wrong = len(checked.differences)
    ended = f"completed {share(totals.done, totals.ended, 1)} of {totals.ended:,} ended"
    ok = f"actions ok {share(totals.sent, final, 2)} ({totals.sent:,} of {final:,}; {totals.failed} dead letters)"
    trouble = f"{totals.retries} retries after {faults} refusals, errors and timeouts"
    differ = f"{checked.expected:,} log rows worked out again: {wrong:,} differ"
    return (
        f"{f'{totals.workflows} workflows':<15}{ended} · {ok}",
        f"{'delivery':<15}{totals.messages:,} e-mails arrived · {trouble} · {totals.open} still open",
        f"{'audit':<15}{differ} · {checked.duplicates} duplicates · accuracy {100 * checked.accuracy:.2f}%",
    )


_RETRIES = "SELECT count(*) AS n FROM attempts WHERE outcome = 'retry'"
