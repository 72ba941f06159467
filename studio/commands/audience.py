"""`penstock audience`: who a condition holds for now, a sample of them, and the SQL that found them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from sqlglot import exp

from compiler import frames
from compiler.audience import audience
from compiler.catalog import Catalog
from compiler.condition import relation_table
from compiler.errors import ConditionError, DefinitionError, Problem, ProjectError, nearest
from compiler.graph import flow
from compiler.lookup import tick_at
from compiler.parser import Document
from compiler.workflow import AudienceTrigger
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.project import Project, load_project
from flows.relations import take_snapshot
from flows.warehouse.base import Warehouse
from studio.console import Console
from studio.moment import instant, present
from studio.options import Options
from studio.problems import as_data, show_problems
from studio.state import state_of

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

Kind = Literal["condition", "audience", "trigger", "in_flight", "step"]
TYPED = "condition"
"""What problems call a condition of the command line."""
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STEP = re.compile(r"(?P<workflow>[a-z][a-z0-9_]{0,63})\.(?P<step>\S+)")
_TITLES: Mapping[Kind, str] = {
    "condition": "for whom the condition holds", "audience": "in audience {what}",
    "trigger": "in the audience that triggers {what}", "in_flight": "in flight in {what}",
    "step": "standing at {what}",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Who is asked for: `members` selects contact ids, `given` are parameters beside the time."""

    kind: Kind
    what: str
    condition: str | None
    members: exp.Select
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """What stands in `audience_members` of a named audience as of the last tick, and what moved in a day before it."""

    at: datetime
    members: int
    joined: int
    left: int


@dataclass(frozen=True)
class Answer:
    """How many they are at an instant, some of them with the contact model's columns, and the query.

    `kept`: of a named audience that a tick has evaluated, when no other instant was asked for.
    """

    question: Question
    at: datetime
    count: int
    sample: tuple[Mapping[str, Any], ...]
    sql: str
    kept: Kept | None = None


def run(options: Options, *, what: str, limit: int, at: str | None) -> int:
    """Count and show the contacts of a condition, a named audience, a workflow or a step.

    Returns:
        The exit code: 1 when the condition is refused.
    """
    project = load_project(options.project_dir, options.target)
    moment = instant(at, "--at") if at is not None else None
    console = Console(options)
    try:
        answer = ask(project, what, limit, moment)
    except DefinitionError as error:
        problems = error.problems
        console.result(
            {"problems": [as_data(problem) for problem in problems]},
            lambda out: show_problems(problems, project.folder, out, texts={TYPED: what}),
        )
        return 1
    console.result(_data(what, answer), lambda out: _show(answer, out))
    return 0


def ask(project: Project, what: str, limit: int, moment: datetime | None) -> Answer:
    """The answer about a condition, a named audience, a workflow or a `workflow.step`.

    Raises:
        DefinitionError: the condition is refused.
        ProjectError: E510, there is no state to read.
    """
    with state_of(project) as warehouse:
        catalog = project.catalog_with(take_snapshot(warehouse, project.state_schema))
        question = _question(project, catalog, what)
        at = moment or present(warehouse, project.state_schema)
        meta = read_meta(warehouse, project.state_schema)
        key = str(meta.state_id) if meta is not None else ""
        given = {**question.given, "tick_at": at, frames.ADDRESS_KEY: key}
        answer = _answer(warehouse, catalog, question, given, limit)
        if question.kind != "audience" or moment is not None:
            return answer
        return replace(answer, kept=_kept(warehouse, StateTables(project.state_schema), what))


def _kept(warehouse: Warehouse, state: StateTables, name: str) -> Kept | None:
    found = warehouse.rows(state.statement(warehouse, _KEPT), {"name": name})[0]
    return Kept(found["at"], found["members"], found["joined"], found["left_"]) if found["rows_"] else None


def _answer(
    warehouse: Warehouse, catalog: Catalog, question: Question, given: Mapping[str, Any], limit: int
) -> Answer:  # fmt: skip
    contact = catalog.contact
    identity = frames.text(contact.relation, contact.id, "m")
    inside = exp.In(this=identity, query=exp.Subquery(this=question.members.copy()))
    rows = exp.select("m.*").from_(relation_table(contact.relation, "m")).where(inside)
    counting = rows.copy().select(exp.Count(this=exp.Star()).as_("n"), append=False)
    count = int(warehouse.rows(counting, given)[0]["n"])
    sample = warehouse.rows(rows.order_by(identity.copy()).limit(limit), given) if limit else []
    sql = question.members.sql(dialect=warehouse.dialect, pretty=True, comments=False, max_text_width=100)
    return Answer(question, given["tick_at"], count, tuple(sample), sql)


# ---------------------------------------------------------------- what is asked for


def _question(project: Project, catalog: Catalog, what: str) -> Question:
    """Names come before conditions: an audience, then a workflow, then a step."""
    zone = project.settings.effective_policy.default_timezone or "UTC"
    audiences, workflows = project.settings.audiences, project.definitions.workflows
    if what in audiences:
        text = audiences[what]
        try:
            return Question("audience", what, text, audience(text, catalog, zone), {})
        except ConditionError as error:
            raise DefinitionError([project.file.condition_problem(("audiences", what), error)]) from None
    if what in workflows:
        return _of_workflow(workflows[what], catalog, zone)
    step = _STEP.fullmatch(what)
    if step is not None and step["workflow"] in workflows:
        return _of_step(workflows[step["workflow"]], step["step"], catalog)
    try:
        return Question("condition", what, what, audience(what, catalog, zone), {})
    except ConditionError as error:
        hint = error.hint
        if _WORD.fullmatch(what):
            hint = nearest(what, [*audiences, *workflows, *catalog.contact.relation.columns])
        raise DefinitionError([_in_line(what, error, hint)]) from None


def _of_workflow(document: Document, catalog: Catalog, zone: str) -> Question:
    workflow = document.workflow
    if not isinstance(workflow.trigger, AudienceTrigger):
        return Question("in_flight", workflow.workflow, None, _standing(catalog, None), {"workflow": workflow.workflow})
    text = workflow.trigger.audience
    try:
        return Question("trigger", workflow.workflow, text, audience(text, catalog, zone), {})
    except ConditionError as error:
        raise DefinitionError([document.condition_problem(("trigger", "audience"), error)]) from None


def _of_step(document: Document, step: str, catalog: Catalog) -> Question:
    workflow = document.workflow
    steps = [node.id for node in flow(workflow).nodes]
    if step not in steps:
        raise ProjectError(
            f"no step '{step}' in {workflow.workflow}", code="E508", hint=nearest(step, steps) or ", ".join(steps)
        )
    given = {"workflow": workflow.workflow, "step": step, "first": steps[0]}
    return Question("step", f"{workflow.workflow}.{step}", None, _standing(catalog, step), given)


def _standing(catalog: Catalog, step: str | None) -> exp.Select:
    """Contacts with an enrollment that had begun and not ended at the instant; with `step` those who stand there."""
    state = StateTables(catalog.state_schema)
    began = exp.select("1").from_(exp.alias_(state["ticks"], "t", table=True)).where("t.tick = n.entered_tick")
    began = began.where(exp.LTE(this=exp.column("tick_at", table="t"), expression=tick_at()))
    ended = exp.column("exited_at", table="n")
    rows = exp.select("n.contact_id").from_(exp.alias_(state["enrollments"], "n", table=True)).where(exp.and_(
        exp.EQ(this=exp.column("workflow", table="n"), expression=exp.Placeholder(this="workflow")),
        exp.Exists(this=began),
        exp.or_(exp.Is(this=ended, expression=exp.Null()), exp.GT(this=ended.copy(), expression=tick_at())),
    ))  # fmt: skip
    if step is None:
        return rows
    # where an enrollment came to rest is a row of the journal; who never moved stands at the first step
    rested = exp.select("j.step").from_(exp.alias_(state["journal"], "j", table=True)).where(exp.and_(
        "j.enrollment_id = n.enrollment_id", "j.kind = 'rest'",
        exp.LTE(this=exp.column("executed_at", table="j"), expression=tick_at()),
    ))  # fmt: skip
    rested = rested.order_by("j.tick DESC", "j.seq DESC").limit(1)
    place = exp.Coalesce(this=exp.Subquery(this=rested), expressions=[exp.Placeholder(this="first")])
    return rows.where(exp.EQ(this=place, expression=exp.Placeholder(this="step")))


def _in_line(text: str, error: ConditionError, hint: str) -> Problem:
    """A refused condition of the command line, at its line and column."""
    before = text[: error.offset]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return Problem(error.code, error.message, TYPED, line, column, hint, length=error.length)


# ---------------------------------------------------------------- output


def _data(what: str, answer: Answer) -> dict[str, object]:
    question = answer.question
    return {
        "audience": what, "kind": question.kind, "condition": question.condition, "at": answer.at,
        "count": answer.count, "sample": [dict(row) for row in answer.sample], "sql": answer.sql,
        "parameters": dict(question.given), "kept": None if answer.kept is None else asdict(answer.kept),
    }  # fmt: skip


def _show(answer: Answer, out: RichConsole) -> None:
    from rich.table import Table
    from rich.text import Text

    question = answer.question
    noun = "contact" if answer.count == 1 else "contacts"
    title = _TITLES[question.kind].format(what=question.what)
    out.print(f"{answer.count:,} {noun} {title} · at {answer.at:%Y-%m-%d %H:%M:%S} UTC", markup=False)
    if question.condition is not None and question.kind != "condition":
        out.print(f"  {' '.join(question.condition.split())}", markup=False)
    if (kept := answer.kept) is not None:
        out.print(f"  audience_members at {kept.at:%Y-%m-%d %H:%M:%S}: {kept.members:,}; in the 24 hours before "
                  f"{kept.joined:,} joined and {kept.left:,} left", markup=False)  # fmt: skip
    if answer.sample:
        out.print()
        table = Table(*answer.sample[0], box=None, pad_edge=False, header_style="bold")
        for row in answer.sample:
            table.add_row(*(Text("–" if value is None else str(value)) for value in row.values()))
        out.print(table)
        if answer.count > len(answer.sample):
            out.print(f"… {answer.count - len(answer.sample):,} more (--limit)", markup=False)
    out.print(f"\n-- the contact ids; $tick_at is {answer.at:%Y-%m-%d %H:%M:%S}", markup=False)
    out.print(answer.sql, markup=False)


_KEPT = """
    SELECT max(t.tick_at) AS "at", count(*) AS rows_, count(CASE WHEN a.member THEN 1 END) AS members,
        count(CASE WHEN a.member AND a.since > t.tick_at - INTERVAL '24' HOUR THEN 1 END) AS joined,
        count(CASE WHEN NOT a.member AND a.since > t.tick_at - INTERVAL '24' HOUR THEN 1 END) AS left_
    FROM audience_members AS a CROSS JOIN (SELECT max(k.tick_at) AS tick_at FROM ticks AS k) AS t
    WHERE a.name = $name
"""
