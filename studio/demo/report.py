"""The demo's report: one HTML file with charts, readable without network, in light and dark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from flows.journal.tables import StateTables
from flows.runner import Runner
from studio.demo import shop
from studio.demo.charts import bars, columns, histogram, share_bar
from studio.demo.figures import Figures, share
from studio.demo.people import PERSONAS
from studio.demo.run import Demo
from studio.funnel import Funnel

REPORT = "report.html"
_SHOWN = 200
_DELIVERED = (
    ("sent", "good"),
    ("sent after a retry", "fair"),
    ("withdrawn", "calm"),
    ("failed", "bad"),
    ("open", "base"),
)


@dataclass(frozen=True)
class Habits:
    """Opens of one kind of people by hour of their own day, and the hour that was planted (None: no habit)."""

    persona: str
    hours: tuple[int, ...]
    peak: float | None


@dataclass(frozen=True)
class ReportData:
    """What the charts show besides the figures: e-mails per day and workflow, habits, outcomes per destination."""

    days: tuple[str, ...]
    mails: Mapping[str, tuple[int, ...]]
    habits: tuple[Habits, ...]
    outcomes: Mapping[str, Mapping[str, int]]


def gather(demo: Demo, runner: Runner) -> ReportData:
    """Read what the charts show, while the warehouse is still open."""
    days = tuple(f"{shop.START + timedelta(days=day):%Y-%m-%d}" for day in range(demo.scale.days))
    with runner.open() as warehouse:
        state = StateTables(demo.project.state_schema)
        sent: Counter[tuple[str, str]] = Counter()
        for row in warehouse.rows(state.statement(warehouse, _MAILS)):
            sent[row["workflow"], f"{row['executed_at']:%Y-%m-%d}"] += 1
        workflows = sorted(demo.project.definitions.workflows)
        mails = {name: tuple(sent[name, day] for day in days) for name in workflows}
        outcomes: dict[str, Counter[str]] = {}
        for row in warehouse.rows(state.statement(warehouse, _OUTCOMES)):
            outcomes.setdefault(row["destination"] or "-", Counter())[_outcome(row)] += row["n"]
        opens = pl.DataFrame(warehouse.fetch(state.statement(warehouse, _OPENS)))
    return ReportData(days, mails, _habits(demo, opens), outcomes)


def write_report(folder: Path, demo: Demo, figures: Figures, data: ReportData) -> Path:
    """Write report.html into a folder and give its path."""
    file = folder / REPORT
    file.write_text(_page(demo, figures, data), encoding="utf-8")
    return file


def _outcome(row: Mapping[str, Any]) -> str:
    match row["state"]:
        case "sent":
            return "sent" if row["attempts"] <= 1 else "sent after a retry"
        case "failed" | "dead" | "unknown":
            return "failed"
        case "cancelled" | "expired" | "skipped":
            return "withdrawn"
        case _:
            return "open"


def _habits(demo: Demo, opens: pl.DataFrame) -> tuple[Habits, ...]:
    truth = demo.world.truth.select("contact_id", "persona", "peak_hour", "true_time_zone")
    joined = opens.unique("event_id").join(truth, on="contact_id")
    utc = pl.col("occurred_at").dt.replace_time_zone("UTC")
    hours = [
        part.select("persona", utc.dt.convert_time_zone(str(zone)).dt.hour())
        for (zone,), part in joined.partition_by("true_time_zone", as_dict=True).items()
    ]  # fmt: skip
    local = pl.concat(hours) if hours else pl.DataFrame(schema={"persona": pl.String, "occurred_at": pl.Int8})
    counts = Counter(local.iter_rows())
    found = []
    for persona in PERSONAS:
        peak = None if persona == "none" else truth.filter(pl.col("persona") == persona)["peak_hour"].median()
        by_hour = tuple(counts[persona, hour] for hour in range(24))
        found.append(Habits(persona, by_hour, None if peak is None else float(str(peak))))
    return tuple(found)


# ---------------------------------------------------------------- the page


def _page(demo: Demo, figures: Figures, data: ReportData) -> str:
    hours = demo.scale.every // timedelta(hours=1)
    scale = (
        f"{demo.scale.contacts:,} contacts · {shop.START:%Y-%m-%d} → {demo.scale.end:%Y-%m-%d} · "
        f"{figures.ticks:,} ticks, one every {hours} h · seed {demo.scale.seed}"
    )
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">', "<title>Penstock demo</title>",
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style>", "</head>", "<body>", "<main>",
        f'<header><h1>Penstock demo</h1><p class="dim">{escape(scale)}</p></header>',
        _tiles(figures), _funnels(figures.funnels), _mails(data), _opens(data.habits), _deliveries(figures, data),
        _audit(figures), "</main>", "</body>", "</html>", "",
    ])  # fmt: skip


def _section(title: str, what: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p class='dim'>{escape(what)}</p>{''.join(parts)}</section>"


def _tiles(figures: Figures) -> str:
    totals, audit = figures.totals, figures.audit
    final = totals.sent + totals.failed
    tiles = (
        (f"{totals.entered:,}", "entered a workflow", f"{totals.ended:,} of them have ended"),
        (share(totals.done, totals.ended, 1), "completed", "of those that ended"),
        (f"{totals.messages:,}", "e-mails arrived", "over real SMTP"),
        (share(totals.sent, final, 2), "actions ok", f"{totals.sent:,} of {final:,}; {totals.retries} retries"),
        (f"{100 * audit.accuracy:.2f}%", "accuracy", f"{len(audit.differences)} of {audit.expected:,} rows differ"),
    )
    return '<div class="tiles">' + "".join(
        f"<div><b>{escape(number)}</b><span>{escape(what)}</span><small>{escape(more)}</small></div>"
        for number, what, more in tiles
    ) + "</div>"  # fmt: skip


def _funnels(found: Iterable[Funnel]) -> str:
    legend = _legend((("base", "performed"), ("opened", "opened"), ("clicked", "clicked")))
    return _section("Funnels", "How many entered, what was done for them, and how they reacted.", legend,
                    *(_funnel(funnel) for funnel in found))  # fmt: skip


def _funnel(funnel: Funnel) -> str:
    rows: list[tuple[str, int, Sequence[tuple[str, int]], str]] = [("entered", funnel.entered, (), "")]
    for step in funnel.steps:
        parts: list[tuple[str, int]] = []
        remark = f"{step.kind} {step.what}".strip()
        if step.opened is not None and step.clicked is not None:
            parts = [("opened", step.opened), ("clicked", step.clicked)]
            remark += f" · opened {share(step.opened, step.done)}, clicked {share(step.clicked, step.done)}"
        rows.append((step.step, step.done, parts, remark))
    if funnel.goal:
        rows.append(
            (funnel.goal, funnel.goals, (("good", funnel.goals),), f"goal · {share(funnel.goals, funnel.entered, 1)}")
        )
    endings = ", ".join(f"{reason} {number:,}" for reason, number in funnel.endings.items())
    ended = f"{funnel.in_flight:,} still on their way" + (f" · ended: {endings}" if endings else "")
    return f"<h3>{escape(funnel.workflow)}</h3>{bars(rows, funnel.entered)}<p class='dim'>{escape(ended)}</p>"


def _mails(data: ReportData) -> str:
    legend = _legend([(f"c{number}", name) for number, name in enumerate(data.mails)])
    return _section(
        "E-mails per day", "Accepted by the mail server, by workflow.", legend, columns(data.days, data.mails)
    )


def _opens(found: Iterable[Habits]) -> str:
    parts = []
    for habits in found:
        told = f"planted around {habits.peak:.0f}:00" if habits.peak is not None else "no habit planted"
        chart = histogram(habits.hours, habits.peak, "opened")
        head = f"<h3>{escape(habits.persona)}</h3><p class='dim'>{sum(habits.hours):,} opens · {told}</p>"
        parts.append(f"<div>{head}{chart}</div>")
    return _section(
        "Opens by hour", "The hour of the contact's own day at which messages were opened that had waited two hours "
        "or more, in history and simulated weeks. People were given habits; the line is the hour that was planted.",
        f'<div class="pair">{"".join(parts)}</div>',
    )  # fmt: skip


def _deliveries(figures: Figures, data: ReportData) -> str:
    legend = _legend([(kind, name) for name, kind in _DELIVERED])
    rows = []
    for destination, outcomes in sorted(data.outcomes.items()):
        parts = [(kind, name, outcomes.get(name, 0)) for name, kind in _DELIVERED]
        numbers = ", ".join(f"{name} {number:,}" for _, name, number in parts if number)
        rows.append((destination, share_bar(parts), numbers))
    table = "".join(f"<tr><th>{escape(name)}</th><td class='wide'>{bar}</td><td>{escape(numbers)}</td></tr>"
                    for name, bar, numbers in rows)  # fmt: skip
    servers = figures.servers
    faults = [
        ("mail server", servers.mail_accepted, servers.mail_faults, 0),
        ("CRM", servers.crm_requests, servers.crm_faults, servers.crm_repeats),
        ("webhooks", servers.hook_requests, servers.hook_faults, servers.hook_repeats),
    ]
    seen = "".join(
        f"<tr><th>{name}</th><td>{number:,}</td><td>{escape(_counted(found)) or 'none'}</td>"
        f"<td>{repeats or '–'}</td></tr>"
        for name, number, found, repeats in faults
    )
    return _section(
        "Delivery", "What became of every outward action, and how the servers behaved.", legend,
        f"<table>{table}</table><h3>Faults of the servers</h3>",
        '<table><tr class="head"><th>Server</th><th>Accepted / requests</th><th>Faults</th>'
        f"<th>Repeated without effect</th></tr>{seen}</table>",
    )  # fmt: skip


def _audit(figures: Figures) -> str:
    audit = figures.audit
    kinds, received = _numbers(audit.kinds), _numbers(audit.received)
    wrong = Counter(difference.kind for difference in audit.differences)
    verdict = _counted(wrong) or "nothing differs"
    shown = "".join(f"<li>{escape(str(difference))}</li>" for difference in audit.differences[:_SHOWN])
    more = len(audit.differences) - _SHOWN
    rest = f"<p class='dim'>… and {more:,} more</p>" if more > 0 else ""
    return _section(
        "Accuracy audit", "Who should have got what, worked out again from the raw rows in plain Python that shares no "
        "code with the compiler or the engine; compared with the log row by row, and with what the servers received.",
        f"<p><b>{audit.expected:,}</b> rows expected, <b>{audit.found:,}</b> found, {escape(verdict)} · "
        f"{audit.duplicates} duplicates · accuracy <b>{100 * audit.accuracy:.2f}%</b></p>",
        f'<div class="pair"><table><tr class="head"><th>Rows of the log</th><th>Expected</th></tr>{kinds}</table>'
        f'<table><tr class="head"><th>Received exactly once</th><th>Actions</th></tr>{received}</table></div>',
        f"<ul>{shown}</ul>{rest}" if shown else "",
    )  # fmt: skip


def _numbers(found: Mapping[str, int]) -> str:
    return "".join(f"<tr><th>{escape(name)}</th><td>{number:,}</td></tr>" for name, number in found.items())


def _legend(items: Iterable[tuple[str, str]]) -> str:
    box = '<svg viewBox="0 0 10 10"><rect class="{}" width="10" height="10" rx="2"/></svg>'
    marks = "".join(f"<span>{box.format(kind)}{escape(name)}</span>" for kind, name in items)
    return f'<p class="legend">{marks}</p>'


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ×{number:,}" for name, number in sorted(found.items()))


_STYLE = Path(__file__).with_suffix(".css")
_MAILS = """
    SELECT workflow, executed_at FROM journal WHERE kind = 'delivery' AND outcome = 'sent' AND what LIKE 'email:%'
"""
_OUTCOMES = "SELECT destination, state, attempts, count(*) AS n FROM deliveries GROUP BY destination, state, attempts"
_OPENS = """
    SELECT o.event_id, o.contact_id, o.occurred_at FROM raw.mail_events AS o
    JOIN (
        SELECT message_id, min(occurred_at) AS sent_at FROM raw.mail_events
        WHERE event_type IN ('sent', 'delivered') GROUP BY message_id
    ) AS s ON s.message_id = o.message_id
    WHERE o.event_type = 'opened' AND o.occurred_at > s.sent_at + INTERVAL 2 HOURS
"""
