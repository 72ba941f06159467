"""The moves of a pass: where each enrollment stands after the last layer, when it is due there, or why it left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlglot import exp

from compiler.advance import BACK, Layers
from compiler.columns import arm_column, visit_column
from compiler.graph import Flow, counted_steps
from compiler.kept import kept_object
from compiler.lookup import frame


def jumps_back(graph: Flow) -> bool:
    """Whether some step leads to one before it."""
    return any(node.jumps_back for node in graph.nodes)


def moves(
    graph: Flow, layers: Layers, leaving: Sequence[str], *, tracked: Collection[str], splits: Collection[str]
) -> exp.Select:
    """Who moved, left, or is due at another time than before, over the last stage.

    Args:
        graph: the steps.
        layers: of these steps.
        leaving: the reasons of goals and exits that are read again before each send, in their order.
        tracked: steps whose logical time is kept.
        splits: steps whose arm is kept.
    """
    reasons = [
        _at(node.index, getattr(node.step, "exit", "")) for node in graph.nodes if node.kind == "exit"
    ]  # fmt: skip
    outs = ["completed", *leaving, *(["unenrolled"] if layers.unenrolls else [])]
    reasons += [_at(index, reason) for index, reason in enumerate(outs, layers.completed)]
    times = {step: f"s_{step}" for step in tracked}
    steps = kept_object(times) if times else frame("steps")
    arms = kept_object({step: arm_column(step) for step in splits})
    visits = kept_object({step: visit_column(step) for step in counted_steps(graph)})
    moved: exp.Expr = exp.NEQ(this=frame("p"), expression=frame("p0"))
    back: exp.Expr = exp.false()
    if jumps_back(graph):
        back = frame(BACK)
        moved = exp.or_(moved, back)
    position = exp.Case(ifs=[_at(node.index, node.id) for node in graph.nodes])
    outer = exp.select(
        frame("log_at"), frame("enrollment_id"), frame("contact_id"), frame("key"), frame("p").as_("ordinal"),
        exp.Coalesce(this=position, expressions=[frame("position")]).as_("position"),
        frame("l").as_("logical_at"), layers.due().as_("due_at"), steps.as_("steps"), arms.as_("arms"),
        visits.as_("visits"), back.as_("back"), exp.Case(ifs=reasons).as_("exit"), moved.as_("moved"),
        frame("due_at").as_("due_before"),
    ).from_(f"{layers.last_stage} AS f")  # fmt: skip
    changed = exp.or_(
        exp.column("moved", table="x"),
        exp.Not(this=exp.Is(this=exp.column("exit", table="x"), expression=exp.Null())),
        exp.NullSafeNEQ(this=exp.column("due_at", table="x"), expression=exp.column("due_before", table="x")),
    )  # fmt: skip
    return exp.select("x.*").from_(outer.subquery("x")).where(changed)


def _at(index: int, word: str) -> exp.If:
    """The word of those who stand at an index."""
    return exp.If(this=exp.EQ(this=frame("p"), expression=exp.Literal.number(index)), true=exp.Literal.string(word))
