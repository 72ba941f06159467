"""Two versions of a workflow -> what changed: the keys of its head, and its steps by their ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compiler.parser import canonical
from compiler.workflow import BaseStep, Workflow, step_kind, walk

_ARMS = ("then", "else", "arms")


@dataclass(frozen=True)
class StepChange:
    """A step that is new, gone, or says something else; `before` and `after` are its own keys as one line of JSON.

    `moved`: it says the same and stands elsewhere among the steps that both versions have.
    """

    action: Literal["added", "removed", "changed", "moved"]
    step: str
    kind: str
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Difference:
    """What changed between two versions: `head` names the changed keys beside `steps`."""

    head: tuple[str, ...]
    steps: tuple[StepChange, ...]

    @property
    def removed(self) -> frozenset[str]:
        """The ids of the steps that are gone."""
        return frozenset(change.step for change in self.steps if change.action == "removed")


@dataclass(frozen=True)
class Moves:
    """Where migrating takes contacts in flight.

    Attributes:
        kept: how many stand at a step that says the same.
        changed: how many stand at one that says something else and is decided anew from when they came to it.
        redirected: step that `redirect` leads to -> how many.
        removed: how many exit, because their step is gone.
    """

    kept: int = 0
    changed: int = 0
    redirected: Mapping[str, int] = field(default_factory=dict)
    removed: int = 0

    def __add__(self, other: Moves) -> Moves:
        both = Counter(self.redirected) + Counter(other.redirected)
        return Moves(self.kept + other.kept, self.changed + other.changed, dict(sorted(both.items())),
                     self.removed + other.removed)  # fmt: skip


def moves(before: Workflow, after: Workflow, standing: Mapping[str, int]) -> Moves:
    """Where migrating from one version to another takes those who stand at its steps."""
    old, new = dict(walk(before.steps)), dict(walk(after.steps))
    found = Moves()
    for step_id, contacts in standing.items():
        if step_id in new:
            same = step_id in old and said(old[step_id]) == said(new[step_id])
            found += Moves(kept=contacts) if same else Moves(changed=contacts)
        elif step_id in after.redirect:
            found += Moves(redirected={after.redirect[step_id]: contacts})
        else:
            found += Moves(removed=contacts)
    return found


def difference(before: Workflow, after: Workflow) -> Difference:
    """What changed from one version to the next; steps are the same when their ids are."""
    old, new = dict(walk(before.steps)), dict(walk(after.steps))
    kept = [step for step in new if step in old]
    order = {step: place for place, step in enumerate(step for step in old if step in new)}
    stayed = _longest_run([order[step] for step in kept])
    changes: list[StepChange] = []
    for step_id, step in new.items():
        kind = step_kind(step) or ""
        if step_id not in old:
            changes.append(StepChange("added", step_id, kind, after=said(step)))
        elif (was := said(old[step_id])) != (now := said(step)):
            changes.append(StepChange("changed", step_id, kind, was, now))
        elif order[step_id] not in stayed:
            changes.append(StepChange("moved", step_id, kind))
    changes += [
        StepChange("removed", step_id, step_kind(step) or "", before=said(step))
        for step_id, step in old.items() if step_id not in new
    ]  # fmt: skip
    return Difference(tuple(_head(before, after)), tuple(changes))


def _head(before: Workflow, after: Workflow) -> list[str]:
    old, new = json.loads(canonical(before)), json.loads(canonical(after))
    return sorted(key for key in {*old, *new} - {"steps"} if old.get(key) != new.get(key))


def said(step: BaseStep) -> str:
    """What a step itself says: without its id, which is known, and without the steps in its arms."""
    keys = step.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"id"})
    return json.dumps(_without_arms(keys), ensure_ascii=False)


def _without_arms(keys: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in keys.items() if key not in _ARMS}
    if "switch" in own:
        own["switch"] = [{key: value for key, value in arm.items() if key not in _ARMS} for arm in own["switch"]]
    return own


def _longest_run(places: list[int]) -> set[int]:
    """A longest increasing subsequence: the steps that kept their order, so that few are said to have moved."""
    runs: list[list[int]] = [[]]
    for place in places:
        runs.append([*sorted((run for run in runs if not run or run[-1] < place), key=len)[-1], place])
    return set(sorted(runs, key=len)[-1])
