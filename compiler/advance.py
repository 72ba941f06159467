"""Predicated data flow: the steps of a workflow as layers of one SELECT over the due enrollments (architecture §4).

Every layer looks at one step. `p` is the index of the step where an enrollment stands, `l` its logical time; a layer
moves those with `p = n` that may pass. Without goto every successor stands further down, so one pass advances all
enrollments through as many steps as they can go. Long workflows are cut into stages, each one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from compiler.calendar import after, elapsed_more_than
from compiler.condition import Condition
from compiler.functions import tag_column
from compiler.graph import Flow, FlowNode
from compiler.lookup import first_between, frame, seconds, tick_at
from compiler.plan import FRAME, STAGE
from compiler.workflow import ActionStep, SetStep, TagStep, UntagStep, WaitForStep, WaitStep

LAYERS_PER_STAGE = 40


@dataclass(frozen=True)
class StepParts:
    """The compiled parts of one step.

    Attributes:
        test: the branch's condition, or an action's `if`.
        waits: frame columns of the awaited events' times (wait_for).
        values: an action's SQL values by key, e.g. the fields of `set`.
    """

    test: Condition | None = None
    waits: tuple[str, ...] = ()
    values: Mapping[str, Condition] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """What time means to a workflow: zone expression (None = UTC), grace and allowed lateness in seconds."""

    zone: exp.Expr | None
    grace: float
    lateness: float


@dataclass(frozen=True)
class LayeredStage:
    """One stage: its query and the indexes of the steps in it."""

    name: str
    query: exp.Select
    nodes: tuple[FlowNode, ...]


class Layers:
    """Builds the stages of a workflow."""

    def __init__(
        self, flow: Flow, parts: Mapping[str, StepParts], timing: Timing, tracked: frozenset[str],
        mutable: Sequence[str], frame_columns: Sequence[str],
    ) -> None:  # fmt: skip
        """`tracked`: steps whose logical time is kept as `s_<id>`; `mutable`: frame columns that steps may rewrite."""
        self._flow = flow
        self._parts = parts
        self._timing = timing
        self._tracked = sorted(tracked)
        self._kept = [*mutable, *(f"s_{step}" for step in self._tracked)]
        self._carried = [name for name in frame_columns if name not in self._kept]
        self._names: dict[str, str] = {}
        self._ctes: list[tuple[str, exp.Select]] = []
        self.completed = len(flow.nodes)

    def stages(self) -> tuple[LayeredStage, ...]:
        """All stages in order; the table of stage k is named `tick_stage_k`."""
        nodes = self._flow.nodes
        chunks = [nodes[start : start + LAYERS_PER_STAGE] for start in range(0, len(nodes), LAYERS_PER_STAGE)]
        found: list[LayeredStage] = []
        for number, chunk in enumerate(chunks):
            found.append(self._stage(number, chunk, found[-1].name if found else None))
        return tuple(found)

    def due(self, position: exp.Expr, moment: exp.Expr) -> exp.Expr:
        """When the step an enrollment rests at has to be looked at again; NULL where only an exit rests."""
        cases: list[exp.If] = []
        for node in self._flow.nodes:
            until = self._until(node, moment)
            if until is not None:
                cases.append(exp.If(this=_is(position, node.index), true=until))
        return exp.Case(ifs=cases) if cases else exp.cast(exp.null(), "timestamp")

    # ------------------------------------------------------------ one stage

    def _stage(self, number: int, nodes: Sequence[FlowNode], before: str | None) -> LayeredStage:
        self._names = {"p": "p", "l": "l", **{name: name for name in self._kept}}
        self._ctes = [("l0", self._start(before))]
        for node in nodes:
            self._layer(node)
        last = self._ctes[-1][0]
        kept = [self._now(name).as_(name, quoted=True) for name in ("p", "l", *self._kept)]
        recorded = [frame(name).as_(name) for node in nodes for name in recorded_columns(node, self._parts[node.id])]
        carried = [exp.column(name, table="f", quoted=True) for name in self._carried]
        query = exp.select(*carried, *kept, *recorded).from_(f"{last} AS f")
        for name, cte in self._ctes:
            query = query.with_(name, as_=cte, copy=False)
        return LayeredStage(f"{STAGE}_{number}", query, tuple(nodes))

    def _start(self, before: str | None) -> exp.Select:
        if before is None:
            return exp.select("f.*", frame("p0").as_("p"), frame("logical_at").as_("l")).from_(f"{FRAME} AS f")
        return exp.select("f.*").from_(f"{before} AS f")

    def _layer(self, node: FlowNode) -> None:
        match node.step:
            case WaitStep():
                self._wait(node, node.step)
            case WaitForStep():
                self._wait_for(node, node.step)
            case ActionStep():
                self._action(node, node.step)
            case _ if "then" in node.successors:
                self._branch(node)
            case _:
                pass

    def _add(self, node: FlowNode, columns: Mapping[str, exp.Expr], *, part: str = "") -> None:
        """One more layer: `columns` maps a name (p, l, a kept column, or one of its own) to its new value."""
        name = f"l{node.index + 1}{part}"
        before = self._ctes[-1][0]
        renamed = {key: f"{key}_{node.index}" if key in self._names else key for key in columns}
        selected = [tree.as_(renamed[key], quoted=True) for key, tree in columns.items()]
        self._ctes.append((name, exp.select("f.*", *selected).from_(f"{before} AS f")))
        self._names.update({key: new for key, new in renamed.items() if key in self._names})

    def _now(self, name: str) -> exp.Column:
        return exp.column(self._names[name], table="f", quoted=True)

    def _here(self, node: FlowNode) -> exp.Expr:
        return _is(self._now("p"), node.index)

    def _target(self, node: FlowNode, outcome: str = "next") -> exp.Expr:
        successor = node.successors[outcome]
        return exp.Literal.number(self.completed if successor is None else successor)

    def current(self, tree: exp.Expr) -> exp.Expr:
        """A condition's tree with kept columns read at their newest value."""
        names = self._names

        def newest(node: exp.Expr) -> exp.Expr:
            if isinstance(node, exp.Column) and node.table == "f" and names.get(node.name, node.name) != node.name:
                return exp.column(names[node.name], table="f", quoted=True)
            return node

        return tree.copy().transform(newest, copy=False)

    # ------------------------------------------------------------ kinds of steps

    def _wait(self, node: FlowNode, step: WaitStep) -> None:
        until = after(self._now("l"), step.wait, self._timing.zone)
        passed = exp.and_(self._here(node), exp.LTE(this=until, expression=tick_at()))
        self._add(node, {
            "p": _when(passed, self._target(node), self._now("p")),
            "l": _when(passed, until, self._now("l")),
            **self._track(node, lambda old: _when(passed, until, old)),
        })  # fmt: skip

    def _branch(self, node: FlowNode) -> None:
        test = self._parts[node.id].test
        chosen = _when(
            self.current(test.tree) if test else exp.false(), self._target(node, "then"), self._target(node, "else")
        )
        self._add(node, {
            "p": _when(self._here(node), chosen, self._now("p")),
            **self._track(node, lambda old: _when(self._here(node), self._now("l"), old)),
        })  # fmt: skip

    def _wait_for(self, node: FlowNode, step: WaitForStep) -> None:
        here, n = self._here(node), node.index
        match step.since:
            case None | "entry":
                lower: exp.Expr = frame("entry_at")
            case "step":
                lower = self._now("l")
            case named:
                lower = self._now(f"s_{named}")
        deadline = after(self._now("l"), step.within, self._timing.zone) if step.within else None
        times = [first_between(frame(column), lower, deadline) for column in self._parts[node.id].waits]
        earliest = times[0] if len(times) == 1 else exp.Least(this=times[0], expressions=times[1:], ignore_nulls=True)
        columns: dict[str, exp.Expr] = {f"m{n}": _when(here, earliest, exp.cast(exp.null(), "timestamp"))}
        if deadline is not None:
            columns[f"d{n}"] = _when(here, deadline, exp.cast(exp.null(), "timestamp"))
        self._add(node, columns, part="m")
        matched = exp.Not(this=exp.Is(this=frame(f"m{n}"), expression=exp.Null()))
        ifs = [(exp.and_(here, matched), self._target(node, "then"), _later(self._now("l"), frame(f"m{n}")))]
        if deadline is not None:
            final = _plus(frame(f"d{n}"), self._timing.lateness)
            ifs.append(
                (exp.and_(here, exp.LTE(this=final, expression=tick_at())), self._target(node, "else"), frame(f"d{n}"))
            )

        def moved(old: exp.Expr) -> exp.Expr:
            return exp.Case(ifs=[exp.If(this=test.copy(), true=moment.copy()) for test, _, moment in ifs], default=old)

        self._add(node, {
            "p": exp.Case(ifs=[exp.If(this=test, true=target) for test, target, _ in ifs], default=self._now("p")),
            "l": moved(self._now("l")),
            **self._track(node, moved),
        })  # fmt: skip

    def _action(self, node: FlowNode, step: ActionStep) -> None:
        here, parts = self._here(node), self._parts[node.id]
        late = elapsed_more_than(self._now("l"), tick_at(), self._timing.grace)
        moved = _when(late, tick_at(), self._now("l"))
        columns: dict[str, exp.Expr] = {
            "p": _when(here, self._target(node), self._now("p")),
            "l": _when(exp.and_(here, late), tick_at(), self._now("l")),
            f"a{node.index}": _when(here, self._now("l"), exp.cast(exp.null(), "timestamp")),
            **self._track(node, lambda old: _when(here, moved, old)),
        }
        done: exp.Expr = here
        if parts.test is not None:
            test: exp.Expr = exp.Coalesce(this=self.current(parts.test.tree), expressions=[exp.false()])
            columns[f"k{node.index}"] = _when(here, test, exp.false())
            done = exp.and_(done, exp.paren(test))
        if step.expires_after is not None:
            too_late = elapsed_more_than(self._now("l"), tick_at(), step.expires_after.elapsed.total_seconds())
            done = exp.and_(done, exp.Not(this=exp.paren(too_late)))
        for number, value in enumerate(parts.values.values()):
            columns[f"v{node.index}_{number}"] = exp.Case(ifs=[exp.If(this=here, true=self.current(value.tree))])
        match step:
            case TagStep() if tag_column(step.tag) in self._names:
                columns[tag_column(step.tag)] = _when(done, exp.true(), self._now(tag_column(step.tag)))
            case UntagStep() if tag_column(step.untag) in self._names:
                columns[tag_column(step.untag)] = _when(done, exp.false(), self._now(tag_column(step.untag)))
            case SetStep():
                for name in parts.values:
                    if f"x_{name}" in self._names:
                        written = exp.cast(self.current(parts.values[name].tree), "text")
                        columns[f"x_{name}"] = _when(done, written, self._now(f"x_{name}"))
            case _:
                pass
        self._add(node, columns)

    def _track(self, node: FlowNode, value: Callable[[exp.Expr], exp.Expr]) -> dict[str, exp.Expr]:
        name = f"s_{node.id}"
        return {name: value(self._now(name))} if name in self._names else {}

    def _until(self, node: FlowNode, moment: exp.Expr) -> exp.Expr | None:
        match node.step:
            case WaitStep():
                return after(moment, node.step.wait, self._timing.zone)
            case WaitForStep() if node.step.within is not None:
                return _plus(after(moment, node.step.within, self._timing.zone), self._timing.lateness)
            case _:
                return None


def recorded_columns(node: FlowNode, parts: StepParts) -> tuple[str, ...]:
    """What a stage records of an action: `a<n>` its due time, `k<n>` its `if`, `v<n>_<i>` its values."""
    if not isinstance(node.step, ActionStep):
        return ()
    found = [f"a{node.index}"]
    if parts.test is not None:
        found.append(f"k{node.index}")
    return (*found, *(f"v{node.index}_{number}" for number in range(len(parts.values))))


def _is(position: exp.Expr, index: int) -> exp.Expr:
    return exp.EQ(this=position.copy(), expression=exp.Literal.number(index))


def _when(test: exp.Expr, value: exp.Expr, otherwise: exp.Expr) -> exp.Case:
    return exp.Case(ifs=[exp.If(this=test.copy(), true=value.copy())], default=otherwise.copy())


def _later(moment: exp.Expr, other: exp.Expr) -> exp.Expr:
    return _when(exp.GT(this=other, expression=moment), other, moment)


def _plus(moment: exp.Expr, amount: float) -> exp.Expr:
    return exp.Add(this=moment.copy(), expression=seconds(amount)) if amount else moment
