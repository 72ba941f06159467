"""Workflow -> Mermaid flowchart, which GitHub, GitLab and most editors draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compiler.graph import FlowNode, flow
from compiler.workflow import (
    AudienceTrigger,
    BranchStep,
    EventTrigger,
    ExitStep,
    ModelTrigger,
    Moment,
    SplitStep,
    SwitchStep,
    WaitForStep,
    WaitStep,
    WaitUntilStep,
    Weekday,
    WindowStep,
    Workflow,
)

_LONGEST = 60
_ACTION_TEXTS = ("email", "notify", "task", "webhook", "tag", "untag", "sms", "push", "emit", "enroll", "goto")


def mermaid(workflow: Workflow) -> str:
    """The flowchart of a workflow: steps in file order, edges labelled with their outcome."""
    return "\n".join(_lines(workflow)) + "\n"


def _lines(workflow: Workflow) -> Iterator[str]:
    graph = flow(workflow)
    yield "flowchart TD"
    yield f"  start([{_quoted(_trigger(workflow))}]) --> s0"
    for node in graph.nodes:
        yield f"  s{node.index}{_shape(node)}"
    ends = False
    for node in graph.nodes:
        for outcome, successor in node.successors.items():
            target = "done" if successor is None else f"s{successor}"
            ends = ends or successor is None
            label = "" if outcome == "next" else f"|{outcome}|"
            yield f"  s{node.index} -->{label} {target}"
    if ends:
        yield "  done([completed])"


def _trigger(workflow: Workflow) -> str:
    match workflow.trigger:
        case EventTrigger() as trigger:
            return " or ".join(trigger.names)
        case AudienceTrigger() as trigger:
            return f"audience: {trigger.audience}"
        case ModelTrigger() as trigger:
            return trigger.from_
        case _:
            return "schedule"


def _shape(node: FlowNode) -> str:
    match node.step:
        case BranchStep() as step:
            return f"{{{_quoted(f'{node.id}: {step.if_}')}}}"
        case SwitchStep():
            return f"{{{_quoted(f'{node.id}: switch')}}}"
        case SplitStep() as step:
            weights = ", ".join(f"{name} {weight:g}" for name, weight in step.split.items())
            return f"{{{_quoted(f'{node.id}: split {weights}')}}}"
        case WaitForStep() as step:
            within = f" within {step.within}" if step.within else ""
            return f"{{{{{_quoted(f'{node.id}: wait for {step.wait_for}{within}')}}}}}"
        case WaitStep() as step:
            return f"([{_quoted(f'{node.id}: wait {step.wait}')}])"
        case WaitUntilStep(wait_until=Moment() as moment):
            return f"([{_quoted(f'{node.id}: wait until {moment.at}{_days(moment.days)}')}])"
        case WaitUntilStep() as step:
            return f"([{_quoted(f'{node.id}: wait until {step.wait_until}')}])"
        case WindowStep(window=window):
            return f"([{_quoted(f'{node.id}: window {window.from_}–{window.to}{_days(window.days)}')}])"
        case ExitStep() as step:
            return f"([{_quoted(f'exit {step.exit}')}])"
        case step:
            what = next((str(value) for key in _ACTION_TEXTS if isinstance(value := getattr(step, key, None), str)), "")
            return f"[{_quoted(f'{node.id}: {node.kind} {what}'.rstrip())}]"


def _quoted(text: str) -> str:
    """A label: one line, shortened, with what Mermaid would read as markup written as entities."""
    line = " ".join(text.split())
    short = line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
    for character, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        short = short.replace(character, entity)
    return f'"{short}"'


def _days(days: Sequence[Weekday] | None) -> str:
    return f" {', '.join(days)}" if days else ""
