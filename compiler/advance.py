"""Predicated data flow: the steps of a workflow as layers of one SELECT over the due enrollments (architecture §4).

Every layer looks at one step. `p` is the index of the step where an enrollment stands, `l` its logical time; a layer
moves those with `p = n` that may pass. Without goto every successor stands further down, so one pass advances all
enrollments through as many steps as they can go. `u` is until when the step at hand waits: only for those who stand
there, because time zone arithmetic is dear. Long workflows are cut into stages, each one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from compiler.calendar import after, elapsed_more_than, next_time, opening, wall
from compiler.columns import (
    arm_column,
    campaign_column,
    enrolled_columns,
    points_column,
    status_column,
    tag_column,
    visit_column,
)
from compiler.condition import Condition
from compiler.graph import Flow, FlowNode, counted_steps
from compiler.identity import bucket_tree
from compiler.lookup import TICK_AT, first_between, frame, seconds
from compiler.messages import HELD, SENT, first_of, skips, status
from compiler.plan import FRAME, STAGE, Due
from compiler.workflow import (
    ActionStep,
    BranchStep,
    CampaignStep,
    ChooseStep,
    GotoStep,
    Moment,
    ScoreStep,
    SetStep,
    SplitStep,
    SwitchStep,
    TagStep,
    UnenrollStep,
    UntagStep,
    WaitForStep,
    WaitStep,
    WaitUntilStep,
    WindowStep,
)

STEPS_PER_STAGE = 100
_WRITING = TagStep | UntagStep | SetStep | ScoreStep | CampaignStep
_TIMED = WaitStep | WaitUntilStep | WindowStep
_NEVER = exp.cast(exp.null(), "timestamp")
BACK = "back"
"""The column that says who jumped back up in this pass."""
_NO_BUCKET = exp.cast(exp.null(), "double")
_P, _L, _U = (exp.column(name, table="f", quoted=True) for name in "plu")
_NOW = frame(TICK_AT)
_ALONG = ("p", "l", "u", SENT, BACK)
_ROW = "log_at"
"""The column that tells the enrollments of a pass apart."""


@dataclass(frozen=True)
class StepParts:
    """The compiled parts of one step.

    Attributes:
        test: the branch's condition, an action's `if`, or the timestamp of a wait_until.
        cases: the conditions of a switch, by outcome.
        repeated: whether the step can be met again after a jump back.
        waits: the awaited events' times, arrays of the frame (wait_for).
        values: an action's SQL values by key, e.g. the fields of `set`.
        require: the consent that a message needs, by channel.
        group: the subscription group of a message.
        holding: what holds a message in its step, in order, or skips it after all: (test, outcome).
        counted: whether the message counts against the workflow's frequency cap; None where it never does.
    """

    test: Condition | None = None
    cases: Mapping[str, Condition] = field(default_factory=dict)
    repeated: bool = False
    waits: tuple[exp.Expr, ...] = ()
    values: Mapping[str, Condition] = field(default_factory=dict)
    require: Mapping[str, exp.Expr] = field(default_factory=dict)
    group: str | None = None
    holding: tuple[tuple[exp.Expr, str], ...] = ()
    counted: exp.Expr | None = None


@dataclass(frozen=True)
class Timing:
    """What time means to a workflow: zone expression (None = UTC), grace and allowed lateness in seconds."""

    zone: exp.Expr | None
    grace: float
    lateness: float


@dataclass(frozen=True)
class LayeredStage:
    """One stage: its query, the steps in it, and the columns it reads of the table before or of the frame."""

    name: str
    query: exp.Select
    nodes: tuple[FlowNode, ...]
    reads: frozenset[str]


class Layers:
    """Builds the stages of a workflow."""

    def __init__(
        self,
        flow: Flow,
        parts: Mapping[str, StepParts],
        timing: Timing,
        tracked: frozenset[str],
        mutable: Sequence[str],
        leaving: Sequence[exp.Expr] = (),
        workflow: str = "",
    ) -> None:
        """`tracked`: steps whose logical time is kept as `s_<id>`; `mutable`: frame columns that steps may rewrite.

        `leaving`: goals and exits that a step of the same tick can make true, so they are read again before each send;
        who leaves by the first of them stands at `completed + 1`, by the next one at `completed + 2`, and so on; behind
        them stands who left by an `unenroll` of this workflow, whose name is `workflow`.
        """
        self._leaving = tuple(leaving)
        self._flow = flow
        self._workflow = workflow
        self._parts = parts
        self._timing = timing
        splits = [node.id for node in flow.nodes if isinstance(node.step, SplitStep)]
        visited = [visit_column(step) for step in counted_steps(flow)]
        self._kept = frozenset({*mutable, *(f"s_{step}" for step in tracked), *map(arm_column, splits), *visited})
        self._layers: list[tuple[str, dict[str, exp.Expr]]] = []
        self.completed = len(flow.nodes)

    def stage_of(self, node: FlowNode) -> str:
        """The name of the stage, which is its table, in which a step lies."""
        return f"{STAGE}_{node.index // STEPS_PER_STAGE}"

    @property
    def unenrolls(self) -> bool:
        """Whether some step ends the very enrollment that comes to it."""
        return any(isinstance(node.step, UnenrollStep) and node.step.unenroll == self._workflow
                   for node in self._flow.nodes)  # fmt: skip

    @property
    def last_stage(self) -> str:
        """The name of the last stage."""
        return self.stage_of(self._flow.nodes[-1])

    def stages(self, readers: Mapping[str, Sequence[exp.Expr]]) -> tuple[LayeredStage, ...]:
        """All stages in order. A stage's table has what its `readers`, trees over `f`, and the later stages read."""
        nodes = self._flow.nodes
        chunks = [nodes[start : start + STEPS_PER_STAGE] for start in range(0, len(nodes), STEPS_PER_STAGE)]
        found: list[LayeredStage] = []
        needed: set[str] = set()
        for number, chunk in reversed(list(enumerate(chunks))):
            name = f"{STAGE}_{number}"
            needed = needed | columns_read(readers.get(name, ()))
            query, needed = self._stage(chunk, needed, f"{STAGE}_{number - 1}" if number else None)
            found.append(LayeredStage(name, query, tuple(chunk), frozenset(needed)))
        return tuple(reversed(found))

    def due(self) -> exp.Expr:
        """When the step an enrollment rests at has to be looked at again; NULL where only an exit rests.

        What is decided anew in every tick is due since its logical time.
        """
        nodes = self._flow.nodes
        timed = [n.index for n in nodes if isinstance(n.step, _TIMED) and not self._anew(n)]
        waiting = [n.index for n in nodes if isinstance(n.step, WaitForStep) and n.step.within is not None]
        anew = [node.index for node in nodes if self._anew(node)]
        ifs = [
            exp.If(this=exp.In(this=_P.copy(), expressions=[exp.Literal.number(i) for i in indexes]), true=due.copy())
            for indexes, due in ((timed, _U), (waiting, _plus(_U, self._timing.lateness)), (anew, _L))
            if indexes
        ]
        return exp.Case(ifs=ifs) if ifs else _NEVER.copy()

    def dues(self) -> dict[str, Due]:
        """When who stands at a step that waits goes on, for each of these steps."""
        return {
            node.id: Due(self._goes_on(node), isinstance(node.step, WaitStep | WaitUntilStep) and not self._anew(node))
            for node in self._flow.nodes if isinstance(node.step, _TIMED | WaitForStep)
        }  # fmt: skip

    def _goes_on(self, node: FlowNode) -> exp.Select:
        self._layers = []
        self._timed(node)
        until: exp.Expr = exp.Coalesce(this=_U.copy(), expressions=[_L.copy()])
        if isinstance(node.step, WaitForStep):
            until = exp.Coalesce(this=frame(f"m{node.index}"), expressions=[_U.copy(), _L.copy()])
        due = exp.Greatest(this=_L.copy(), expressions=[until], ignore_nulls=True)
        query = exp.select(frame("enrollment_id"), due.as_("due")).from_(exp.to_table(self._last).as_("f"))
        query = query.where(self._here(node))
        return self._chain(query, columns_read([query]), None)[0]

    # ------------------------------------------------------------ one stage

    def _stage(self, nodes: Sequence[FlowNode], needed: set[str], before: str | None) -> tuple[exp.Select, set[str]]:
        """The query of a stage and what it reads of the table before; a layer hands on what later ones read.

        What no layer of it changes is joined to the last one: an engine makes room for each column of each layer.
        """
        self._layers = []
        for node in nodes:
            self._layer(node)
        changed = {*_ALONG, *(column for _, computed in self._layers for column in computed)}
        beside = needed - changed
        query = _read(_columns(needed & changed), self._last)
        query = query.select(*(exp.column(name, table="s", quoted=True) for name in sorted(beside)), copy=False)
        same = exp.EQ(this=exp.column(_ROW, table="s"), expression=frame(_ROW))
        query = query.join(exp.alias_(exp.to_table(before or FRAME), "s", table=True), on=same, copy=False)
        query, read = self._chain(query, (needed & changed) | {_ROW}, before)
        return query, read | beside

    @property
    def _last(self) -> str:
        """The name of the last layer."""
        return self._layers[-1][0] if self._layers else "l0"

    def _chain(self, query: exp.Select, needed: set[str], before: str | None) -> tuple[exp.Select, set[str]]:
        """A query over the last layer with all of them under it, and what they read of the table before."""
        handed = needed
        ctes: list[tuple[str, exp.Select]] = []
        for number, (name, computed) in reversed(list(enumerate(self._layers))):
            source = self._layers[number - 1][0] if number else "l0"
            new = {column: tree for column, tree in computed.items() if column in handed}
            selected = [tree.as_(column, quoted=True) for column, tree in new.items()]
            ctes.append((name, _read([*_columns(handed - {*new}), *selected], source)))
            handed = (handed - {*new}) | columns_read(new.values())
        none = exp.Literal.number(0)
        first = (
            {"p": frame("p0"), "l": frame("logical_at"), "u": _NEVER, SENT: none, BACK: exp.false()}
            if before is None
            else {}
        )
        start = [tree.copy().as_(column, quoted=True) for column, tree in first.items() if column in handed]
        ctes.append(("l0", _read([*_columns(handed - {*first}), *start], before or FRAME)))
        for name, cte in reversed(ctes):
            query = query.with_(name, as_=cte, materialized=False, copy=False)
        return query, (handed - {*first}) | columns_read(start)

    def _layer(self, node: FlowNode) -> None:
        match node.step:
            case WaitStep() | WaitUntilStep() | WindowStep():
                self._wait(node, at_least=isinstance(node.step, WindowStep))
            case WaitForStep():
                self._wait_for(node, node.step)
            case ActionStep():
                if self._leaving and not isinstance(node.step, _WRITING):
                    self._leave(node)
                self._action(node, node.step)
            case BranchStep():
                test = self._parts[node.id].test
                self._branch(node, [("then", test.tree if test else exp.false())])
            case SwitchStep():
                self._branch(node, [(outcome, test.tree) for outcome, test in self._parts[node.id].cases.items()])
            case ChooseStep():
                self._choose(node, node.step)
            case SplitStep():
                self._split(node, node.step)
            case GotoStep():
                self._goto(node, node.step)
            case _:
                pass

    def _add(self, node: FlowNode, columns: Mapping[str, exp.Expr], *, part: str = "") -> None:
        """One more layer: `columns` maps a name (p, l, u, a kept column, or one of its own) to its new value."""
        self._layers.append((f"l{node.index + 1}{part}", dict(columns)))

    def _here(self, node: FlowNode) -> exp.Expr:
        return _is(_P, node.index)

    def _target(self, node: FlowNode, outcome: str = "next") -> exp.Expr:
        successor = node.successors[outcome]
        return exp.Literal.number(self.completed if successor is None else successor)

    # ------------------------------------------------------------ kinds of steps

    def _timed(self, node: FlowNode) -> None:
        """Layers that set `u`, until when the step waits, and of a wait_for `m<n>`, when the awaited event was."""
        zone = self._timing.zone
        match node.step:
            case WaitStep(wait=duration):
                self._until(node, after(_L, duration, zone))
            case WaitUntilStep(wait_until=Moment() as moment):
                self._until(node, next_time(_L, self._shown(node, _L), moment.at, moment.days, zone))
            case WaitUntilStep():  # a timestamp; none, or one that is past, leaves `l`
                test = self._parts[node.id].test
                given = test.tree if test is not None else _NEVER
                self._until(node, _when(exp.GT(this=exp.paren(given), expression=_L), given, _L))
            case WindowStep(window=window):
                self._until(node, opening(_NOW.copy(), self._shown(node, _NOW.copy()), window, zone))
            case WaitForStep():
                self._until(node, after(_L, node.step.within, zone) if node.step.within else _NEVER)
                self._awaited(node, node.step)
            case _:
                pass

    def _wait(self, node: FlowNode, *, at_least: bool = False) -> None:
        """Wait until a moment, which becomes `l`; with `at_least` only where `l` is earlier."""
        self._timed(node)
        until, reached = _U, _later(_L, _U) if at_least else _U
        passed = exp.and_(self._here(node), exp.LTE(this=until, expression=_NOW.copy()))
        self._add(node, {
            "p": _when(passed, self._target(node), _P),
            "l": _when(passed, reached, _L),
            **self._track(node, lambda old: _when(passed, reached, old)),
        })  # fmt: skip

    def _shown(self, node: FlowNode, moment: exp.Expr) -> exp.Expr:
        """A layer with the wall clock at a moment, as `w<n>`, of those who stand at the step; gives that column."""
        name = f"w{node.index}"
        shown = exp.Case(ifs=[exp.If(this=self._here(node), true=wall(moment, self._timing.zone))])
        self._add(node, {name: shown}, part="w")
        return _column(name)

    def _until(self, node: FlowNode, moment: exp.Expr) -> None:
        """A layer that sets `u` for those who stand at the step."""
        self._add(node, {"u": _when(self._here(node), moment, _U)}, part="u")

    def _branch(self, node: FlowNode, tests: Sequence[tuple[str, exp.Expr]]) -> None:
        """A layer to the first outcome whose test holds, else to `else`."""
        ifs = [exp.If(this=test.copy(), true=self._target(node, outcome)) for outcome, test in tests]
        chosen = exp.Case(ifs=ifs, default=self._target(node, "else"))
        self._add(node, {
            "p": _when(self._here(node), chosen, _P),
            **self._track(node, lambda old: _when(self._here(node), _L, old)),
        })  # fmt: skip

    def _split(self, node: FlowNode, step: SplitStep) -> None:
        """Two layers: the arm, which is the stored one or follows from the contact's bucket, and the way into it."""
        here, arm = self._here(node), _column(arm_column(node.id))
        salt = step.salt if step.salt is not None else f"{self._workflow}:{node.id}"
        self._add(node, {f"b{node.index}": _when(here, bucket_tree(salt, frame("contact_id")), _NO_BUCKET)}, part="b")
        bucket, ifs, total = exp.Mul(this=frame(f"b{node.index}"), expression=exp.Literal.number(100)), [], 0.0
        for name, weight in step.split.items():
            total += weight
            below = exp.LT(this=bucket.copy(), expression=exp.Literal.number(f"{total:.6f}"))
            ifs.append(exp.If(this=below, true=exp.Literal.string(name)))
        drawn = exp.Case(ifs=ifs, default=exp.Literal.string(list(step.split)[-1]))
        stored = exp.In(this=arm.copy(), expressions=[exp.Literal.string(name) for name in step.split])
        self._add(node, {
            arm.name: _when(here, _when(stored, arm, drawn), arm),
            **self._visit(node, here),
            f"a{node.index}": _when(here, _L, _NEVER),
        }, part="a")  # fmt: skip
        ways = [
            exp.If(this=exp.and_(self._here(node), exp.EQ(this=arm.copy(), expression=exp.Literal.string(name))),
                   true=self._target(node, name))
            for name in step.split
        ]  # fmt: skip
        self._add(node, {
            "p": exp.Case(ifs=ways, default=_P.copy()),
            **self._track(node, lambda old: _when(here, _L, old)),
        })  # fmt: skip

    def _choose(self, node: FlowNode, step: ChooseStep) -> None:
        """Until models choose, the arm that is listed first."""
        arm = next((name for name in step.choose.from_ if name in node.successors), next(iter(node.successors)))
        self._add(node, {
            "p": _when(self._here(node), self._target(node, arm), _P),
            **self._track(node, lambda old: _when(self._here(node), _L, old)),
        })  # fmt: skip

    def _awaited(self, node: FlowNode, step: WaitForStep) -> None:
        match step.since:
            case None | "entry":
                lower: exp.Expr = frame("entry_at")
            case "step":
                lower = _L
            case named:
                lower = _column(f"s_{named}")
        times = [first_between(times, lower, _U if step.within else None) for times in self._parts[node.id].waits]
        earliest: exp.Expr = times[0] if times else _NEVER  # none of a condition that was refused
        if len(times) > 1:
            earliest = exp.Least(this=times[0], expressions=times[1:], ignore_nulls=True)
        self._add(node, {f"m{node.index}": _when(self._here(node), earliest, _NEVER)}, part="m")

    def _wait_for(self, node: FlowNode, step: WaitForStep) -> None:
        self._timed(node)
        here, n, deadline = self._here(node), node.index, _U if step.within else None
        matched = exp.Not(this=exp.Is(this=frame(f"m{n}"), expression=exp.Null()))
        ifs = [(exp.and_(here, matched), self._target(node, "then"), _later(_L, frame(f"m{n}")))]
        if deadline is not None:
            final = exp.LTE(this=_plus(deadline, self._timing.lateness), expression=_NOW.copy())
            ifs.append((exp.and_(here, final), self._target(node, "else"), deadline))

        def moved(old: exp.Expr) -> exp.Expr:
            return exp.Case(ifs=[exp.If(this=test.copy(), true=moment.copy()) for test, _, moment in ifs], default=old)

        self._add(node, {
            "p": exp.Case(ifs=[exp.If(this=test, true=target) for test, target, _ in ifs], default=_P),
            "l": moved(_L),
            **self._track(node, moved),
        })  # fmt: skip

    def _anew(self, node: FlowNode) -> bool:
        """Whether a step is looked at in every tick: a message may be held, a timestamp read from what changes."""
        parts = self._parts[node.id]
        if isinstance(node.step, WaitUntilStep) and parts.test is not None:
            return parts.test.state or parts.test.clock or bool(parts.test.events)
        return bool(parts.holding)

    def _goto(self, node: FlowNode, step: GotoStep) -> None:
        """A layer to the target while jumps are left; who goes back up is looked at once more in the same tick."""
        here, jumps = self._here(node), visit_column(node.id)
        columns = {"p": _when(here, self._target(node), _P), **self._track(node, lambda old: _when(here, _L, old))}
        if "jump" in node.successors and step.max is not None:
            jumping = here
            if jumps in self._kept:
                left = exp.LT(this=_column(jumps), expression=exp.Literal.number(step.max))
                jumping = exp.and_(here, left)
                columns[jumps] = _when(jumping, _one_more(jumps), _column(jumps))
            columns["p"] = _when(jumping, self._target(node, "jump"), columns["p"])
            if node.jumps_back:
                columns[BACK] = _when(jumping, exp.true(), _column(BACK))
                columns["u"] = _when(jumping, _NEVER, _U)
        self._add(node, columns)

    def _visit(self, node: FlowNode, here: exp.Expr) -> dict[str, exp.Expr]:
        """One more visit of an action or split that can be met again."""
        name = visit_column(node.id)
        return {name: _when(here, _one_more(name), _column(name))} if name in self._kept else {}

    def _decide(self, node: FlowNode, step: ActionStep, parts: StepParts) -> exp.Expr:
        """A layer that decides about a message which may be held, as `o<n>`; gives who stands there and passes."""
        test = exp.Coalesce(this=parts.test.tree, expressions=[exp.false()]) if parts.test is not None else None
        reasons = [*skips(step, _L, test=test, require=parts.require, group=parts.group), *parts.holding]
        here, outcome = self._here(node), _column(f"o{node.index}")
        decided = exp.Case(ifs=[exp.If(this=here, true=first_of(reasons, "decided"))])
        self._add(node, {f"o{node.index}": decided}, part="o")
        return exp.and_(here, exp.NEQ(this=outcome, expression=exp.Literal.string(HELD)))

    def _action(self, node: FlowNode, step: ActionStep) -> None:
        parts = self._parts[node.id]
        here = self._decide(node, step, parts) if parts.holding else self._here(node)
        late = elapsed_more_than(_L, _NOW.copy(), self._timing.grace)
        moved = _when(late, _NOW.copy(), _L)
        columns: dict[str, exp.Expr] = {
            "p": _when(here, self._target(node), _P),
            "l": _when(exp.and_(here, late), _NOW.copy(), _L),
            f"a{node.index}": _when(here, _L, _NEVER),
            **self._track(node, lambda old: _when(here, moved, old)),
            **self._visit(node, here),
        }
        done: exp.Expr = here
        if parts.test is not None and not parts.holding:
            test: exp.Expr = exp.Coalesce(this=parts.test.tree, expressions=[exp.false()])
            columns[f"k{node.index}"] = _when(here, test, exp.false())
            done = exp.and_(done, exp.paren(test))
        if step.expires_after is not None:
            too_late = elapsed_more_than(_L, _NOW.copy(), step.expires_after.elapsed.total_seconds())
            done = exp.and_(done, exp.Not(this=exp.paren(too_late)))
        for number, value in enumerate(parts.values.values()):
            columns[f"v{node.index}_{number}"] = exp.Case(ifs=[exp.If(this=here, true=value.tree.copy())])
        for name, written in _written(step, parts):
            if name in self._kept:
                columns[name] = _when(done, written, _column(name))
        word = status_column(node.id)
        if word in self._kept:
            columns[word] = _when(here, self._status(node, step, parts), _column(word))
        if parts.counted is not None:
            decided = exp.EQ(this=_column(f"o{node.index}"), expression=exp.Literal.string("decided"))
            columns[SENT] = _when(exp.and_(here, decided, parts.counted.copy()), _one_more(SENT), _column(SENT))
        if isinstance(step, UnenrollStep) and step.unenroll == self._workflow:
            out = exp.Literal.number(self.completed + len(self._leaving) + 1)
            columns["p"] = _when(here, _when(done, out, self._target(node)), _P)
        self._add(node, columns)

    def _status(self, node: FlowNode, step: ActionStep, parts: StepParts) -> exp.Expr:
        if parts.holding:
            decided = exp.EQ(this=_column(f"o{node.index}"), expression=exp.Literal.string("decided"))
            return _when(decided, exp.Literal.string("pending"), exp.Literal.string("skipped"))
        test = exp.Coalesce(this=parts.test.tree, expressions=[exp.false()]) if parts.test is not None else None
        return status(node.kind, skips(step, _L, test=test, require=parts.require, group=parts.group))

    def _leave(self, node: FlowNode) -> None:
        ifs = [
            exp.If(this=exp.and_(self._here(node), exp.paren(test.copy())), true=exp.Literal.number(target))
            for target, test in enumerate(self._leaving, self.completed + 1)
        ]
        self._add(node, {"p": exp.Case(ifs=ifs, default=_P)}, part="g")

    def _track(self, node: FlowNode, value: Callable[[exp.Expr], exp.Expr]) -> dict[str, exp.Expr]:
        name = f"s_{node.id}"
        return {name: value(_column(name))} if name in self._kept else {}


def _written(step: ActionStep, parts: StepParts) -> Iterator[tuple[str, exp.Expr]]:
    """The kept columns that a step writes, with their new values."""
    match step:
        case TagStep():
            yield tag_column(step.tag), exp.true()
        case UntagStep():
            yield tag_column(step.untag), exp.false()
        case CampaignStep():
            yield campaign_column(step.campaign.name), exp.convert(step.campaign.add is not None)
        case UnenrollStep():
            inside, position = enrolled_columns(step.unenroll)
            yield inside, exp.false()
            yield position, exp.cast(exp.null(), "text")
        case SetStep():
            for name, value in parts.values.items():
                yield f"x_{name}", exp.cast(value.tree.copy(), "text")
        case ScoreStep():
            for name, value in parts.values.items():
                added = exp.Coalesce(this=exp.cast(value.tree.copy(), "double"), expressions=[exp.Literal.number(0)])
                yield points_column(name), exp.Add(this=_column(points_column(name)), expression=added)
        case _:
            return


def columns_read(trees: Iterable[exp.Expr]) -> set[str]:
    """The columns of `f` in trees."""
    return {column.name for tree in trees for column in tree.find_all(exp.Column) if column.table == "f"}


def _read(columns: Iterable[exp.Expr], table: str) -> exp.Select:
    """SELECT columns FROM table AS f, without copies: a long workflow has hundreds of layers of dozens of columns."""
    return exp.Select(expressions=list(columns)).from_(exp.alias_(exp.to_table(table), "f", table=True), copy=False)


def _columns(names: Iterable[str]) -> list[exp.Expr]:
    return [_column(name) for name in sorted(names)]


def _column(name: str) -> exp.Column:
    return exp.column(name, table="f", quoted=True)


def _one_more(column: str) -> exp.Expr:
    return exp.Add(this=_column(column), expression=exp.Literal.number(1))


def _is(position: exp.Expr, index: int) -> exp.Expr:
    return exp.EQ(this=position.copy(), expression=exp.Literal.number(index))


def _when(test: exp.Expr, value: exp.Expr, otherwise: exp.Expr) -> exp.Case:
    return exp.Case(ifs=[exp.If(this=test.copy(), true=value.copy())], default=otherwise.copy())


def _later(moment: exp.Expr, other: exp.Expr) -> exp.Expr:
    return _when(exp.GT(this=other, expression=moment), other, moment)


def _plus(moment: exp.Expr, amount: float) -> exp.Expr:
    return exp.Add(this=moment.copy(), expression=seconds(amount)) if amount else moment
