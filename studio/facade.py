"""What notebooks see through `penstock`: a project, its workflows, audiences, log and funnels, as polars frames."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import polars as pl
from sqlglot import exp

from compiler import frames
from compiler.condition import relation_table
from compiler.diagram import mermaid
from compiler.errors import DefinitionError, ProjectError, nearest
from compiler.explainer import describe, script
from compiler.graph import flow
from compiler.plan import AudienceEntry, Plan
from compiler.planner import Settings, plan
from compiler.workflow import AudienceTrigger, Duration
from compiler.workflow import Workflow as Definition
from flows.backtesting import Backtested
from flows.backtesting import backtest as run_backtest
from flows.engine.clock import SystemClock, naive_utc
from flows.engine.log import LogRow, log_rows
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.project import load_project
from flows.warehouse.base import Warehouse
from studio.funnel import Funnel, funnels
from studio.moment import present_of
from studio.state import LOOK, state_of

_OUTCOME = re.compile(r"(?:(?P<action>\S.*) )?(?P<word>\w+)(?:\((?P<reason>.*)\))?")
_SMALL = ("--contacts", "600", "--days", "10", "--every", "12", "--quiet")


class Project:
    """A project for one of its targets; `project["name"]` is a workflow, iterating gives their names.

    Args:
        path: the folder with penstock.yaml; None looks here and above.
        target: the dbt target; None is the profile's default.

    Raises:
        ProjectError: there is no such project or target.
    """

    def __init__(self, path: str | Path | None = None, target: str | None = None) -> None:
        self._project = load_project(Path(path) if path is not None else None, target)
        self._dialect = self._project.warehouse.location.dialect

    @property
    def name(self) -> str:
        """The name in dbt_project.yml."""
        return self._project.name

    @property
    def target(self) -> str:
        """The target's name."""
        return self._project.target

    @property
    def folder(self) -> Path:
        """Where penstock.yaml stands."""
        return self._project.folder

    @property
    def now(self) -> datetime:
        """The instant that audiences, `since` and funnels count from: the last tick, or now before the first one."""
        with state_of(self._project) as warehouse:
            return self._now(warehouse)

    def __getitem__(self, name: str) -> Workflow:
        found = self._project.definitions.workflows.get(name)
        if found is None:
            known = sorted(self._project.definitions.workflows)
            raise ProjectError(f"no workflow '{name}' in {self.name}", hint=nearest(name, known) or ", ".join(known))
        return Workflow(self, found.workflow)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._project.definitions.workflows))

    def __len__(self) -> int:
        return len(self._project.definitions.workflows)

    def __repr__(self) -> str:
        return f"<Project {self.name}, target {self.target}: {', '.join(self)}>"

    def audience(self, condition: str) -> Audience:
        """The contacts for whom a condition of the workflow language holds.

        Raises:
            DefinitionError: the condition is refused.
        """
        definition = Definition.model_validate({
            "version": 1, "workflow": "audience", "trigger": {"audience": condition}, "steps": [{"exit": "done"}],
        })  # fmt: skip
        return self._audience(definition, condition)

    def log(
        self, workflow: str | None = None, *, contact: str | None = None, step: str | None = None,
        since: str | datetime | None = None, limit: int | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """The log, oldest row first.

        Args:
            workflow: only this one.
            contact: only this contact id.
            step: only this step.
            since: a length before `now` such as `7d`, or an instant.
            limit: only so many rows, the newest.

        Returns:
            Columns executed_at, due (naive UTC), workflow, contact (with the entry key in brackets), step,
            action (`email:welcome`; None for entries and exits), outcome (`sent`, `skipped`, `exit` …) and reason.
        """
        with state_of(self._project) as warehouse:
            moment = self._since(since, warehouse)
            rows = log_rows(
                warehouse, self._project.state_schema, workflow=workflow, contact=contact, step=step, since=moment,
                limit=limit,
            )  # fmt: skip
        return _log_frame(rows)

    def funnel(self, workflow: str) -> pl.DataFrame:
        """How many entered a workflow, reached each action, opened and clicked, and met the goal.

        Returns:
            One row per stage in the order of the file: stage, kind, what, done, share (of those who entered), opened
            and clicked (None for what is no e-mail).
        """
        definition = self[workflow].definition
        with state_of(self._project) as warehouse:
            catalog, schema = self._project.catalog(), self._project.state_schema
            [found] = funnels(warehouse, schema, catalog, [definition], self._now(warehouse))
        return _funnel_frame(found)

    # ------------------------------------------------------------ inside

    def _plan(self, definition: Definition) -> Plan:
        settings = Settings(self._project.settings.effective_policy)
        return plan(definition, self._project.catalog(), settings)

    def _audience(self, definition: Definition, condition: str) -> Audience:
        entry = self._plan(definition).entry
        if not isinstance(entry, AudienceEntry):
            raise DefinitionError([])
        return Audience(self, condition, entry.members)

    def _members(self, members: exp.Select, columns: exp.Expr | None = None) -> pl.DataFrame:
        """The members with all columns of the contact model, or one aggregate over them."""
        contact = self._project.catalog().contact
        rows = exp.select(columns if columns is not None else "m.*").from_(relation_table(contact.relation, "m"))
        identity = frames.text(contact.relation, contact.id, "m")
        rows = rows.where(exp.In(this=identity, query=exp.Subquery(this=members.copy())))
        if columns is None:
            rows = rows.order_by(identity.copy())
        with state_of(self._project) as warehouse:
            meta = read_meta(warehouse, self._project.state_schema)
            key = meta.state_id if meta is not None else ""
            given = {"tick_at": self._now(warehouse), "address_key": key}
            frame = pl.from_arrow(warehouse.fetch(rows, given))
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()

    def _now(self, warehouse: Warehouse) -> datetime:
        state = StateTables(self._project.state_schema)
        last = warehouse.rows(state.statement(warehouse, "SELECT max(tick_at) AS tick_at FROM ticks"))[0]["tick_at"]
        return last if isinstance(last, datetime) else SystemClock().now()

    def _since(self, since: str | datetime | None, warehouse: Warehouse) -> datetime | None:
        match since:
            case None:
                return None
            case datetime():
                return naive_utc(since)
            case _ if re.fullmatch(r"\d+[smhdw]", since):
                length: timedelta = Duration.parse(since).elapsed
                return self._now(warehouse) - length
            case _:
                return naive_utc(datetime.fromisoformat(since))


@dataclass(frozen=True, repr=False)
class Workflow:
    """One workflow of a project, as its file says now."""

    project: Project = field(repr=False)
    definition: Definition

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.workflow

    @property
    def sql(self) -> str:
        """The statements of a tick, readable, in the order in which they run."""
        return script(self._plan, self.project._dialect)

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as plain data: entry, statements, actions."""
        return describe(self._plan, self.project._dialect)

    @property
    def diagram(self) -> str:
        """The flowchart, as Mermaid text."""
        return mermaid(self.definition)

    @property
    def steps(self) -> pl.DataFrame:
        """The steps in the order of the file: step, kind, depth."""
        nodes = [(node.id, node.kind, node.depth) for node in flow(self.definition).nodes]
        return pl.DataFrame(nodes, schema={"step": pl.String, "kind": pl.String, "depth": pl.Int64}, orient="row")

    def audience(self, condition: str | None = None) -> Audience:
        """The contacts for whom a condition holds; without one those of the workflow's own audience trigger.

        Raises:
            ProjectError: no condition, and the workflow is not triggered by an audience.
        """
        if condition is not None:
            return self.project.audience(condition)
        if not isinstance(self.definition.trigger, AudienceTrigger):
            raise ProjectError(f"{self.name} is not triggered by an audience", hint="give a condition")
        return self.project.audience(str(self.definition.trigger.audience))

    def funnel(self) -> pl.DataFrame:
        """See `Project.funnel`."""
        return self.project.funnel(self.name)

    def backtest(
        self, since: str | datetime = "90d", until: datetime | None = None, *, every: str = "1h",
        compare: str | None = None,
    ) -> Backtest:  # fmt: skip
        """Run the workflow over the past of the warehouse; nothing is sent or written.

        Args:
            since: a length before the end such as `90d`, or an instant.
            until: the end, by default now.
            every: how often a tick comes.
            compare: another version too: a published one (`3`), or a revision of git.
        """
        length: timedelta = Duration.parse(every).elapsed
        begin = since if isinstance(since, datetime) else Duration.parse(since).elapsed
        project = self.project._project
        return Backtest(run_backtest(
            project, self.name, since=naive_utc(begin) if isinstance(begin, datetime) else begin,
            until=naive_utc(until) if until is not None else None, every=length, now=present_of(project), wait=LOOK,
            against=compare, log=True,
        ))  # fmt: skip

    def log(self, **only: Any) -> pl.DataFrame:
        """The log of this workflow; arguments as in `Project.log`."""
        return self.project.log(self.name, **only)

    def __repr__(self) -> str:
        nodes = flow(self.definition).nodes
        lines = [f"<Workflow {self.name}: {self.definition.description or ''}".rstrip() + ">"]
        return "\n".join([*lines, *(f"  {'  ' * node.depth}{node.id} ({node.kind})" for node in nodes)])

    @cached_property
    def _plan(self) -> Plan:
        return self.project._plan(self.definition)


@dataclass(frozen=True, repr=False)
class Audience:
    """The contacts for whom a condition holds at the project's `now`."""

    project: Project = field(repr=False)
    condition: str
    members: exp.Select = field(repr=False)

    @property
    def sql(self) -> str:
        """The query that gives the contact ids, readable; `$tick_at` is the instant."""
        return self.members.sql(dialect=self.project._dialect, pretty=True, comments=False)

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The contacts with all columns of the contact model, by id."""
        return self.project._members(self.members)

    def count(self) -> int:
        """How many contacts."""
        return int(self.project._members(self.members, exp.Count(this=exp.Star()).as_("n")).item())

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        return f"<Audience of {self.count():,} contacts: {' '.join(self.condition.split())}>"

    def _repr_html_(self) -> str:
        head = escape(f"{self.frame.height:,} contacts: {' '.join(self.condition.split())}")
        sql = f"<details><summary>SQL</summary><pre>{escape(self.sql)}</pre></details>"
        return f"<p>{head}</p>{self.frame._repr_html_()}{sql}"


@dataclass(frozen=True, repr=False)
class Backtest:
    """A workflow over a period of the past; `compare` says how another version differs, person by person."""

    found: Backtested = field(repr=False)

    @property
    def steps(self) -> pl.DataFrame:
        """One row per step of each version: version, step, kind, contacts, reached, sent, skipped, other."""
        rows = [
            (version.name, s.step, s.kind, s.contacts, s.reached, *_outcomes(s.outcomes))
            for version in self._versions for s in version.summary.steps
        ]  # fmt: skip
        names = {"version": pl.String, "step": pl.String, "kind": pl.String, "contacts": pl.Int64,
                 "reached": pl.Boolean, "sent": pl.Int64, "skipped": pl.Int64, "other": pl.Int64}  # fmt: skip
        return pl.DataFrame(rows, schema=names, orient="row")

    @property
    def sends(self) -> pl.DataFrame:
        """What would have gone out: version, day, kind, sent."""
        rows = [(version.name, *row) for version in self._versions for row in version.summary.sends]
        names = {"version": pl.String, "day": pl.Date, "kind": pl.String, "sent": pl.Int64}
        return pl.DataFrame(rows, schema=names, orient="row")

    @property
    def exits(self) -> pl.DataFrame:
        """How enrollments ended: version, exit, enrollments."""
        rows = [(v.name, reason, n) for v in self._versions for reason, n in v.summary.exits.items()]
        return pl.DataFrame(rows, schema={"version": pl.String, "exit": pl.String, "enrollments": pl.Int64},
                            orient="row")  # fmt: skip

    @property
    def log(self) -> pl.DataFrame:
        """The log of the workflow as its file says now; columns as in `Project.log`."""
        return _log_frame(self.found.version.log)

    @property
    def differences(self) -> pl.DataFrame:
        """Two versions person by person: difference, contacts, some of their ids; empty without `compare`."""
        compared = self.found.comparison
        rows: list[tuple[str, int, list[str]]] = [] if compared is None else [("none", compared.same, [])]
        if compared is not None:
            rows += [(kind, n, list(ids)) for kind, (n, ids) in compared.differing.items()]
        names: dict[str, Any] = {"difference": pl.String, "contacts": pl.Int64, "sample": pl.List(pl.String)}
        return pl.DataFrame(rows, schema=names, orient="row")

    @property
    def _versions(self) -> tuple[Any, ...]:
        return tuple(version for version in (self.found.version, self.found.other) if version is not None)

    def __repr__(self) -> str:
        found, summary = self.found, self.found.version.summary
        days = f"{found.period.start:%Y-%m-%d} to {found.period.until:%Y-%m-%d}"
        head = f"<Backtest of {found.workflow}, {days}: {summary.entered:,} entered, {summary.sent:,} sent>"
        return "\n".join([head, *(f"  {note}" for note in found.notes)])


def backtest(
    workflow: str, since: str | datetime = "90d", until: datetime | None = None, *, every: str = "1h",
    compare: str | None = None, project: Project | None = None,
) -> Backtest:  # fmt: skip
    """Run a workflow over the past of its warehouse: `Workflow.backtest`, of the project found here by default."""
    return (project or Project())[workflow].backtest(since, until, every=every, compare=compare)


def demo(folder: str | Path | None = None) -> Project:
    """The project of the demo: that of `./.penstock/demo` (or `folder`) when there is one, else a small new one.

    The new one takes less than a minute and goes to `folder`, or to a temporary folder.
    """
    place = Path(folder) if folder is not None else Path(".penstock") / "demo"
    if not (place / "project" / "warehouse.duckdb").is_file():
        if folder is None:
            place = Path(tempfile.mkdtemp(prefix="penstock-demo-")) / "demo"
        # In a process of its own: a notebook's event loop runs already, and dbt leaves much behind in a process.
        command = [sys.executable, "-c", "from studio.cli import main; main()", "demo", "--folder", str(place), *_SMALL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProjectError(f"the demo failed: {done.stderr.strip()[-500:]}", hint="penstock demo")
    return Project(place / "project", "demo")


def identity(contact_id: str, secret: str) -> str:
    """The signed token by which a web page says who its visitor is, in `penstock.identify(…)`.

    Args:
        contact_id: as in the contact model.
        secret: the first of `collector.secrets`.
    """
    from flows.collector.tokens import Keyring

    return Keyring([secret]).identity(contact_id)


def _funnel_frame(found: Funnel) -> pl.DataFrame:
    rows: list[tuple[str, str, str | None, int, int | None, int | None]]
    rows = [("entered", "entry", None, found.entered, None, None)]
    rows += [(s.step, s.kind, s.what or None, s.done, s.opened, s.clicked) for s in found.steps]
    if found.goal:
        rows.append((found.goal, "goal", None, found.goals, None, None))
    names = {"stage": pl.String, "kind": pl.String, "what": pl.String, "done": pl.Int64, "opened": pl.Int64,
             "clicked": pl.Int64}  # fmt: skip
    frame = pl.DataFrame(rows, schema=names, orient="row")
    share = pl.col("done") / max(found.entered, 1)
    return frame.select("stage", "kind", "what", "done", share.alias("share"), "opened", "clicked")


def _log_frame(rows: Sequence[LogRow]) -> pl.DataFrame:
    found = [(r.executed_at, r.due, r.workflow, r.contact, r.step, *_outcome(r.outcome)) for r in rows]
    return pl.DataFrame(found, schema=_LOG_COLUMNS, orient="row")


def _outcomes(counts: Mapping[str, int]) -> tuple[int, int, int]:
    """Rows of a step: done or accepted, skipped, everything else."""
    done = sum(counts.get(word, 0) for word in ("sent", "ok"))
    skipped = sum(number for word, number in counts.items() if word.startswith("skipped"))
    return done, skipped, sum(counts.values()) - done - skipped


def _outcome(text: str) -> tuple[str | None, str, str | None]:
    """`email:welcome skipped(no_consent)` -> action, word, reason; `exit goal` -> None, exit, goal."""
    first, _, rest = text.partition(" ")
    if first in ("enter", "exit", "rejected") or first.startswith("split="):
        return None, first, rest or None
    match = _OUTCOME.fullmatch(text)
    return (None, text, None) if match is None else (match["action"], match["word"], match["reason"])


_LOG_COLUMNS: dict[str, Any] = {
    "executed_at": pl.Datetime("us"), "due": pl.Datetime("us"), "workflow": pl.String, "contact": pl.String,
    "step": pl.String, "action": pl.String, "outcome": pl.String, "reason": pl.String,
}  # fmt: skip
