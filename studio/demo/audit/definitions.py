"""The workflow files as the audit reads them: plain YAML turned into numbered steps with successors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from studio.demo.audit.conditions import AuditError, Condition, duration, parse

_KINDS = ("wait", "wait_for", "email", "tag", "untag", "set", "task", "notify", "crm", "webhook", "exit", "if")
_WORKFLOW_KEYS = frozenset(
    "version workflow description owner tags trigger entry goals exit_when exit_on_leave policy steps".split()
)
_STEP_KEYS: Mapping[str, frozenset[str]] = {
    "wait": frozenset({"wait"}),
    "wait_for": frozenset({"wait_for", "since", "within", "then", "else"}),
    "email": frozenset({"email", "with", "if", "transactional"}),
    "tag": frozenset({"tag", "if"}),
    "untag": frozenset({"untag", "if"}),
    "set": frozenset({"set", "if"}),
    "task": frozenset({"task", "if"}),
    "notify": frozenset({"notify", "text", "if"}),
    "crm": frozenset({"crm", "if"}),
    "webhook": frozenset({"webhook", "body", "if"}),
    "exit": frozenset({"exit"}),
    "if": frozenset({"if", "then", "else"}),
}
INTERNAL = frozenset({"tag", "untag", "set"})
"""Kinds that the tick does itself."""


@dataclass
class Step:
    """One step. `following` is the next step, `then` and `otherwise` those of the arms; None is the end.

    `test` is the condition of a branch, or of an action that is done only if it holds.
    """

    id: str
    kind: str
    raw: Mapping[str, Any]
    following: Step | None = None
    then: Step | None = None
    otherwise: Step | None = None
    test: Condition | None = None

    @property
    def what(self) -> str:
        """The word after the kind in the log."""
        value = self.raw[self.kind]
        match self.kind:
            case "task":
                return str(value["title"])
            case "crm":
                return str(value["object"])
            case "set":
                return ",".join(value)
            case _:
                return str(value)


@dataclass
class Definition:
    """One workflow.

    Attributes:
        events, audience: the trigger, one of the two.
        where: which events.
        key: what distinguishes enrollments of one contact, None for the contact alone.
        reentry, min_gap, max_age, cap: entry rules; `cap` is (number, window).
        goals: conditions that end it.
        require: what a message needs, None for nothing.
        grace: how late an action may be without moving the logical time.
    """

    name: str
    events: frozenset[str]
    audience: Condition | None
    where: Condition | None
    key: Condition | None
    reentry: str
    min_gap: timedelta | None
    max_age: timedelta | None
    cap: tuple[int, timedelta]
    goals: Sequence[Condition]
    require: Condition | None
    grace: timedelta
    first: Step
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def conditions(self) -> Sequence[Condition]:
        """Conditions that may change their value without anybody moving: audience and goals."""
        return [*([self.audience] if self.audience else []), *self.goals]


@dataclass(frozen=True)
class Definitions:
    """All workflows, and what the project's settings say."""

    workspace: str
    default_zone: str
    workflows: Sequence[Definition]


def read_definitions(folder: Path, target: str) -> Definitions:
    """Read penstock.yaml, dbt_project.yml and workflows/*.yaml of a project.

    Raises:
        AuditError: something that the audit does not know.
    """
    yaml = YAML(typ="safe")
    settings = yaml.load(folder / "penstock.yaml")
    policy = settings.get("policy") or {}
    _known(policy, frozenset({"default_timezone", "require"}), "policy of penstock.yaml")
    project = yaml.load(folder / "dbt_project.yml")["name"]
    files = sorted((folder / "workflows").glob("*.yaml"))
    workflows = [_definition(yaml.load(file), policy) for file in files]
    return Definitions(f"{project}/{target}", policy.get("default_timezone") or "UTC", workflows)


def _definition(raw: Mapping[str, Any], project: Mapping[str, Any]) -> Definition:
    name = raw["workflow"]
    _known(raw, _WORKFLOW_KEYS, name)
    if raw.get("exit_when") or raw.get("exit_on_leave"):
        raise AuditError(f"the audit does not know exit_when and exit_on_leave ({name})")
    policy = {**project, **(raw.get("policy") or {})}
    _known(policy, frozenset({"default_timezone", "require", "grace"}), f"policy of {name}")
    entry = raw.get("entry") or {}
    _known(entry, frozenset({"key", "reentry", "min_gap", "max_age", "cap"}), f"entry of {name}")
    trigger = raw["trigger"]
    _known(trigger, frozenset({"event", "where", "audience"}), f"trigger of {name}")
    events = trigger.get("event", [])
    number, _, window = str(entry.get("cap", "10 per 24h")).partition(" per ")
    require = policy.get("require")
    require = require.get("email") if isinstance(require, Mapping) else require
    steps: dict[str, Step] = {}
    first = _chain(raw["steps"], None, steps)
    if first is None:
        raise AuditError(f"{name} has no steps")
    return Definition(
        name, frozenset([events] if isinstance(events, str) else events), _condition(trigger.get("audience")),
        _condition(trigger.get("where")), _condition(entry.get("key")), entry.get("reentry", "once"),
        _length(entry.get("min_gap")), _length(entry.get("max_age")), (int(number), duration(window)),
        [parse(goal["when"]) for goal in raw.get("goals") or []], _condition(require),
        duration(policy.get("grace", "1h")), first, steps,
    )  # fmt: skip


def _chain(raw: Sequence[Mapping[str, Any]], after: Step | None, steps: dict[str, Step]) -> Step | None:
    """The steps of one list, linked to what comes after them; gives the first."""
    here = after
    for item in reversed(raw):
        here = _step(item, here, steps)
    return here


def _step(raw: Mapping[str, Any], following: Step | None, steps: dict[str, Step]) -> Step:
    kind = next((kind for kind in _KINDS if kind in raw and (kind != "if" or "then" in raw)), None)
    if kind is None or "id" not in raw:
        raise AuditError(f"the audit does not know the step {dict(raw)}")
    _known(raw, _STEP_KEYS[kind] | {"id"}, f"step {raw['id']}")
    step = Step(str(raw["id"]), kind, raw, following)
    step.test = _condition(raw.get("wait_for") if kind == "wait_for" else raw.get("if"))
    if kind in ("wait_for", "if"):
        step.then = _chain(raw.get("then") or [], following, steps)
        step.otherwise = _chain(raw.get("else") or [], following, steps)
    steps[step.id] = step
    return step


def _condition(text: Any) -> Condition | None:
    return None if text is None else parse(str(text))


def _length(text: Any) -> timedelta | None:
    return None if text is None else duration(str(text))


def _known(raw: Mapping[str, Any], keys: frozenset[str], where: str) -> None:
    unknown = sorted(set(raw) - keys)
    if unknown:
        raise AuditError(f"the audit does not know {', '.join(unknown)} in {where}")
