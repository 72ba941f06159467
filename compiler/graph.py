"""A workflow as a graph: the steps in file order with their successors, and what of it is refused before it can run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from compiler.errors import Problem, nearest
from compiler.workflow import (
    ActionStep,
    BaseStep,
    ChooseStep,
    EnrollStep,
    ExitStep,
    GotoStep,
    SplitStep,
    SwitchStep,
    UnenrollStep,
    WaitForStep,
    WaitStep,
    WaitUntilStep,
    WindowStep,
    Workflow,
    arms,
    step_kind,
    walk,
)

MAX_STEPS = 500
MAX_NESTING = 20

YamlPath = tuple[str | int, ...]


@dataclass(frozen=True)
class FlowNode:
    """A step in the flow: `successors` says per outcome the index of the next one, None = the end of the workflow.

    Plain steps have the outcome `next`, a branch and a wait_for `then` and `else`, a switch `case1 …` and `else`, a
    split its arms, a goto `jump` and `next`; an exit has none. `depth` counts the steps around it.
    """

    index: int
    id: str
    kind: str
    path: YamlPath
    step: BaseStep
    successors: Mapping[str, int | None]
    depth: int

    @property
    def jumps_back(self) -> bool:
        """Whether it is a goto to a step that stands further up, or to itself."""
        target = self.successors.get("jump")
        return target is not None and target <= self.index


@dataclass(frozen=True)
class Flow:
    """All steps of a workflow in file order; without goto every successor stands further down."""

    nodes: tuple[FlowNode, ...]

    def named(self, step_id: str) -> FlowNode | None:
        """The step with that id."""
        return next((node for node in self.nodes if node.id == step_id), None)

    def reachable(self) -> frozenset[int]:
        """The indexes of the steps that some path from the first one meets."""
        return self._reachable

    def before(self, index: int) -> frozenset[int]:
        """The indexes of the steps that some path meets before it comes to this one."""
        return self._closure(self._backward.get(index, []), self._backward) & self._reachable

    def after(self, index: int) -> frozenset[int]:
        """The indexes of the steps that some path meets after this one."""
        return self._closure(self._forward.get(index, []), self._forward)

    @cached_property
    def repeated(self) -> frozenset[str]:
        """The ids of the steps that a jump back can lead to a second time."""
        if not any(node.jumps_back for node in self.nodes):
            return frozenset()
        return frozenset(node.id for node in self.nodes if node.index in self.after(node.index))

    @cached_property
    def _reachable(self) -> frozenset[int]:
        return self._closure([0] if self.nodes else [], self._forward)

    @cached_property
    def _backward(self) -> dict[int, list[int]]:
        backward: dict[int, list[int]] = {}
        for index, successors in self._forward.items():
            for successor in successors:
                backward.setdefault(successor, []).append(index)
        return backward

    @cached_property
    def _forward(self) -> dict[int, list[int]]:
        return {node.index: [n for n in node.successors.values() if n is not None] for node in self.nodes}

    @staticmethod
    def _closure(start: Iterable[int], edges: Mapping[int, Iterable[int]]) -> frozenset[int]:
        seen: set[int] = set()
        queue = list(start)
        while queue:
            index = queue.pop()
            if index not in seen:
                seen.add(index)
                queue.extend(edges.get(index, ()))
        return frozenset(seen)


def counted_steps(flow: Flow) -> list[str]:
    """The steps whose visits are counted: actions, splits and jumps that can be met again."""
    counted = (ActionStep, SplitStep, GotoStep)
    return [node.id for node in flow.nodes if node.id in flow.repeated and isinstance(node.step, counted)]


def arm_path(step: BaseStep, arm: str) -> YamlPath:
    """The YAML path from a step to the steps of one of its arms."""
    match step:
        case SwitchStep() if arm != "else":
            return ("switch", int(arm.removeprefix("case")) - 1, "then")
        case SplitStep() | ChooseStep():
            return ("arms", arm)
        case _:
            return (arm,)


def step_paths(steps: Sequence[BaseStep], path: YamlPath = ("steps",)) -> Iterator[YamlPath]:
    """The YAML paths of all steps, in the order of `walk`."""
    for position, step in enumerate(steps):
        here = (*path, position)
        yield here
        for name, arm in arms(step):
            yield from step_paths(arm, here + arm_path(step, name))


def flow(workflow: Workflow) -> Flow:
    """The graph of a workflow. A goto to a missing step has only the outcome `next`."""
    ids = [step_id for step_id, _ in walk(workflow.steps)]
    paths = list(step_paths(workflow.steps))
    indexes = {step_id: index for index, step_id in reversed(list(enumerate(ids)))}
    nodes: list[FlowNode] = []

    def successors(step: BaseStep, starts: Mapping[str, int | None], following: int | None) -> dict[str, int | None]:
        match step:
            case ExitStep():
                return {}
            case GotoStep() if step.goto in indexes:
                return {"jump": indexes[step.goto], "next": following}
            case _:
                return dict(starts) or {"next": following}

    def add(steps: Sequence[BaseStep], start: int, following: int | None, depth: int) -> int:
        """Adds a sequence that begins at index `start` and goes on at `following`; gives the index after it."""
        index = start
        for position, step in enumerate(steps):
            size = _size(step)
            after = index + size if position + 1 < len(steps) else following
            starts: dict[str, int | None] = {}
            inner = index + 1
            for name, arm in arms(step):
                starts[name] = inner if arm else after
                inner += sum(map(_size, arm))
            nodes.append(
                FlowNode(index, ids[index], step_kind(step) or "", paths[index], step,
                         successors(step, starts, after), depth)
            )  # fmt: skip
            inner = index + 1
            for _, arm in arms(step):
                inner = add(arm, inner, after, depth + 1)
            index += size
        return index

    add(workflow.steps, 0, None, 1)
    return Flow(tuple(nodes))


def passed_names(workflows: Iterable[Workflow]) -> dict[str, frozenset[str]]:
    """The workflows that `enroll` and `unenroll` steps name -> the keys of what is passed to them."""
    found: dict[str, set[str]] = {}
    for workflow in workflows:
        for _, step in walk(workflow.steps):
            if isinstance(step, EnrollStep):
                found.setdefault(step.enroll, set()).update(step.with_)
            elif isinstance(step, UnenrollStep):
                found.setdefault(step.unenroll, set())
    return {name: frozenset(keys) for name, keys in found.items()}


def _size(step: BaseStep) -> int:
    return 1 + sum(_size(below) for _, arm in arms(step) for below in arm)


_NO_STEPS = Problem("E301", "a workflow has at least one step", path=("steps",))


def check(workflow: Workflow, references: Iterable[tuple[YamlPath, str]] = ()) -> list[Problem]:
    """What is refused about the shape of a workflow.

    Args:
        workflow: the workflow, includes spliced.
        references: the steps that conditions name (`opened('x')`, `since => 'x'`), each with the path of its text.

    Returns:
        Problems with the path of the step or text; the parser's `Document.located` adds file, line and column.
    """
    if not workflow.steps:
        return [_NO_STEPS]
    count = sum(map(_size, workflow.steps))
    if count > MAX_STEPS:
        return [
            Problem("E301", f"{count} steps, at most {MAX_STEPS} are allowed", path=("steps",),
                    hint="split it into two workflows that `enroll:` connects")
        ]  # fmt: skip
    graph = flow(workflow)
    deep = next((node for node in graph.nodes if node.depth > MAX_NESTING), None)
    if deep is not None:
        return [
            Problem("E302", f"steps are nested {deep.depth} deep, at most {MAX_NESTING} are allowed", path=deep.path,
                    hint="let arms end early with `exit:`, or use one `switch:`")
        ]  # fmt: skip
    problems = [*_gotos(graph), *_cycles(graph), *_unreachable(graph), *_waits(graph, workflow), *_since(graph),
                *_redirects(graph, workflow)]  # fmt: skip
    for path, step_id in references:
        problems.extend(_reference(graph, path, step_id, f"the condition names the step '{step_id}'"))
    return problems


def check_jumps(workflow: Workflow) -> list[Problem]:
    """What is refused about gotos and redirects: a missing target, no `max`, loops that never wait; and no steps."""
    if not workflow.steps:
        return [_NO_STEPS]
    graph = flow(workflow)
    return [*_gotos(graph), *_cycles(graph), *_redirects(graph, workflow)]


def _gotos(graph: Flow) -> Iterator[Problem]:
    ids = [node.id for node in graph.nodes]
    for node in graph.nodes:
        match node.step:
            case GotoStep() as step:
                if step.goto not in ids:
                    yield Problem("E311", f"goto '{step.goto}': there is no such step", path=(*node.path, "goto"),
                                  hint=nearest(step.goto, ids))  # fmt: skip
                if step.max is None:
                    yield Problem("E312", f"goto '{step.goto}' without `max`", path=node.path,
                                  hint="add `max: 3`: after so many jumps it falls through")  # fmt: skip


def _cycles(graph: Flow) -> Iterator[Problem]:
    """Loops in which no step waits. Every loop holds a goto that jumps back, so each of those is tried."""
    calm = {node.index for node in graph.nodes
            if not isinstance(node.step, WaitStep | WaitUntilStep | WindowStep | WaitForStep)}  # fmt: skip
    for node in graph.nodes:
        target = node.successors.get("jump")
        if target is None:
            continue
        way = _way(graph, target, node.index, calm)
        if way:
            names = " → ".join(graph.nodes[index].id for index in (*way, target))
            yield Problem("E310", f"loop without a wait: {names}", path=node.path,
                          hint="put a `wait:` inside the loop")  # fmt: skip


def _way(graph: Flow, start: int, goal: int, allowed: set[int]) -> tuple[int, ...]:
    """The steps of a shortest path from start to goal over allowed steps, both included; empty when there is none."""
    if start not in allowed:
        return ()
    came: dict[int, int | None] = {start: None}
    queue = [start]
    for index in queue:
        if index == goal:
            way: list[int] = []
            step: int | None = index
            while step is not None:
                way.append(step)
                step = came[step]
            return tuple(reversed(way))
        for successor in graph.nodes[index].successors.values():
            if successor is not None and successor in allowed and successor not in came:
                came[successor] = index
                queue.append(successor)
    return ()


def _unreachable(graph: Flow) -> Iterator[Problem]:
    reached = graph.reachable()
    previous_lost = False
    for node in graph.nodes:
        lost = node.index not in reached
        if lost and not previous_lost:  # one problem per stretch
            yield Problem("E303", f"step '{node.id}' cannot be reached: every path before it ends", path=node.path,
                          hint="remove it, or the `exit:` before it")  # fmt: skip
        previous_lost = lost


def _waits(graph: Flow, workflow: Workflow) -> Iterator[Problem]:
    for node in graph.nodes:
        match node.step:
            case WaitForStep(within=None) if workflow.policy.max_duration is None:
                yield Problem("E304", f"wait_for '{node.id}' could wait for ever", path=node.path,
                              hint="add `within: 7d`, or `policy: {max_duration: 180d}`")  # fmt: skip


def _redirects(graph: Flow, workflow: Workflow) -> Iterator[Problem]:
    ids = [node.id for node in graph.nodes]
    for old, new in workflow.redirect.items():
        if new not in ids:
            yield Problem("E305", f"redirect to '{new}', but there is no such step", path=("redirect", old),
                          hint=nearest(new, ids))  # fmt: skip


def _since(graph: Flow) -> Iterator[Problem]:
    for node in graph.nodes:
        match node.step:
            case WaitForStep(since=str() as since) if since not in ("entry", "step"):
                yield from _reference(graph, (*node.path, "since"), since, f"since: '{since}'")
            case _:
                pass


def _reference(graph: Flow, path: YamlPath, step_id: str, what: str) -> Iterator[Problem]:
    target = graph.named(step_id)
    if target is None:
        ids = [node.id for node in graph.nodes]
        yield Problem("E305", f"{what}, but there is no such step", path=path, hint=nearest(step_id, ids))
        return
    here = _step_at(graph, path)
    if here is None:
        if target.index not in graph.reachable():
            yield Problem("E306", f"{what}, which no path reaches", path=path)
    elif target.index not in graph.before(here.index):
        yield Problem("E306", f"{what}, which no path meets before '{here.id}'", path=path,
                      hint=f"move '{step_id}' before it, or name a step that comes before '{here.id}'")  # fmt: skip


def _step_at(graph: Flow, path: YamlPath) -> FlowNode | None:
    """The innermost step that holds a path; None for places outside the steps (goals, exit_when)."""
    holders = [node for node in graph.nodes if path[: len(node.path)] == node.path]
    return max(holders, key=lambda node: len(node.path), default=None)
