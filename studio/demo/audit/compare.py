"""The comparison: the expected log with the real one, and what was expected with what the servers really received."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from flows.engine.log import LogRow
from studio.demo.audit.conditions import AuditError, parse
from studio.demo.audit.definitions import read_definitions
from studio.demo.audit.history import History
from studio.demo.audit.reference import Expected, Intent, Outcome, expected_log
from studio.demo.project import TARGET
from studio.demo.run import Demo, groups
from studio.demo.stage import Answer, Stage

_REPLIES: Mapping[str, str] = {"421": "421 4.3.2", "late 451": "451 4.3.0"}
"""Mail faults whose reply is not their name."""
_FAILING = 5
_TAKEN = frozenset({"200", "201", "204", "207"})
_SERVERS = {"email": "mail", "crm": "crm", "task": "crm", "notify": "webhooks", "webhook": "webhooks"}


@dataclass(frozen=True)
class Difference:
    """One thing that is wrong: `missing`, `extra`, `wrong time`, `payload`, `lost`, `duplicate` or `stray`."""

    kind: str
    workflow: str
    contact: str
    step: str | None
    what: str

    def __str__(self) -> str:
        place = f"{self.workflow} {self.contact}" + (f" {self.step}" if self.step else "")
        return f"{self.kind}: {place}: {self.what}"


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        expected: rows that should be in the log.
        found: rows that are.
        differences: everything that is not as it should be.
        kinds: kind of row -> number expected.
        received: server -> effects that arrived exactly once, as expected.
        duplicates: effects that arrived a second time.
    """

    expected: int
    found: int
    differences: tuple[Difference, ...]
    kinds: Mapping[str, int] = field(default_factory=dict)
    received: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def accuracy(self) -> float:
        """1 − wrong / expected."""
        return 1 - len(self.differences) / self.expected if self.expected else 1.0


class Answers:
    """What the servers answered, found by action and tick."""

    def __init__(self, stage: Stage) -> None:
        self._refusals = stage.refusals
        self._hooks = {(id_, a.answered_at): a.outcome for a in stage.hook_answers for id_ in a.ids}
        self._crm = {(id_, a.answered_at): a.outcome for a in stage.crm_answers for id_ in a.ids}
        self._chain: dict[datetime, list[Answer]] = defaultdict(list)
        for answer in stage.crm_answers:
            if not answer.ids:
                self._chain[answer.answered_at].append(answer)
        self._rests = {"hook": _rests(stage.hook_answers), "crm": _rests(stage.crm_answers)}

    def __call__(self, intent: Intent, now: datetime) -> str:
        """`sent`, `retry <code>` or `failed <code>`; `rests` when the server had asked for rest before it was its turn,
        else `retry unanswered` when the server never heard of it.
        """
        match intent.step.kind:
            case "email":
                fault = self._refusals.get((intent.address, now))
                if fault is None or fault == "close after":
                    return "sent"
                return f"{'failed' if fault.startswith('5') else 'retry'} {_REPLIES.get(fault, fault)}"
            case "notify" | "webhook":
                outcomes = [self._hooks.get((intent.action_id, now), self._unheard("hook", now))]
            case "crm":
                outcomes = [self._crm.get((intent.action_id, now), self._unheard("crm", now))]
            case "task":
                outcomes = [self._crm.get((intent.action_id, now), self._unheard("crm", now))]
                if outcomes[0] in _TAKEN:
                    outcomes += [answer.outcome for answer in self._chain[now]]
            case kind:
                raise AuditError(f"the audit does not know the destination of {kind}")
        bad = next((outcome for outcome in outcomes if outcome not in _TAKEN), None)
        if bad == "rests":
            return bad
        return "sent" if bad is None else f"retry {bad}"

    def _unheard(self, server: str, now: datetime) -> str:
        return "rests" if now in self._rests[server] else "unanswered"


def _rests(answers: Iterable[Answer]) -> frozenset[datetime]:
    """When a server was asked no more for a while: asked too often, or it failed five times, or once after a rest."""
    found: set[datetime] = set()
    rested = False
    for moment, together in groupby(sorted(answers, key=lambda a: a.answered_at), key=lambda a: a.answered_at):
        outcomes = [answer.outcome for answer in together]
        failing = sum(outcome not in {*_TAKEN, "429"} for outcome in outcomes)
        rested = "429" in outcomes or failing >= (1 if rested else _FAILING)
        if rested:
            found.add(moment)
    return frozenset(found)


def compare(outcome: Outcome, log: Iterable[LogRow], stage: Stage) -> Audit:
    """Compare everything.

    Args:
        outcome: what is expected.
        log: what the journal says.
        stage: the servers.
    """
    real = [Expected(row.executed_at, row.due, row.workflow, row.contact, row.step, row.outcome) for row in log]
    differences = [*_rows(outcome.rows, real), *_mails(outcome, stage), *_hooks(outcome, stage), *_crm(outcome, stage)]
    kinds = Counter(row.outcome.split("(")[0].split(" ")[0 if row.step is None else -1] for row in outcome.rows)
    received = Counter(_SERVERS[intent.step.kind] for intent in outcome.sent)
    duplicates = sum(difference.kind == "duplicate" for difference in differences)
    return Audit(len(outcome.rows), len(real), tuple(differences), dict(sorted(kinds.items())),
                 dict(sorted(received.items())), duplicates)  # fmt: skip


def _rows(expected: Sequence[Expected], real: Sequence[Expected]) -> list[Difference]:
    """Rows that are missing or extra; a missing and an extra one that differ in time alone are one difference."""
    wanted, found = Counter(expected), Counter(real)
    missing, extra = list((wanted - found).elements()), list((found - wanted).elements())
    spare: dict[tuple[str, str, str | None, str], list[Expected]] = defaultdict(list)
    for row in extra:
        spare[_who(row)].append(row)
    differences = []
    for row in missing:
        other = spare[_who(row)].pop(0) if spare[_who(row)] else None
        if other is None:
            differences.append(_difference("missing", row, _said(row)))
        else:
            differences.append(_difference("wrong time", row, f"{_said(other)} instead of {_said(row)}"))
    differences += [_difference("extra", row, _said(row)) for rows in spare.values() for row in rows]
    return sorted(differences, key=str)


def _who(row: Expected) -> tuple[str, str, str | None, str]:
    return row.workflow, row.contact, row.step, row.outcome


def _said(row: Expected) -> str:
    due = f", due {row.due.isoformat()}" if row.due is not None else ""
    return f"{row.outcome} at {row.executed_at.isoformat()}{due}"


def _difference(kind: str, row: Expected, what: str) -> Difference:
    return Difference(kind, row.workflow, row.contact, row.step, what)


def _about(kind: str, intent: Intent, what: str) -> Difference:
    return Difference(kind, intent.enrollment.workflow.name, intent.enrollment.label, intent.step.id, what)


def _strays(ids: Iterable[str], what: str) -> list[Difference]:
    """Effects of actions that were never attempted; an attempt without an answer may well have had its effect."""
    return [Difference("stray", "-", id_, None, what) for id_ in sorted(ids)]


def _mails(outcome: Outcome, stage: Stage) -> list[Difference]:
    """Every message once, to the right mailbox, from the right template."""
    arrived: dict[str, list[Any]] = defaultdict(list)
    for arrival in stage.arrivals:
        arrived[arrival.action_id].append(arrival)
    differences = []
    for intent in (intent for intent in outcome.sent if intent.step.kind == "email"):
        mails = arrived.pop(intent.action_id, [])
        if not mails:
            differences.append(_about("lost", intent, "the message never arrived"))
        differences += [_about("duplicate", intent, "the message arrived again") for _ in mails[1:]]
        if any(mail.address != intent.address or mail.template != intent.step.what for mail in mails):
            differences.append(_about("payload", intent, "the message went to another address or says something else"))
    differences += _strays(arrived.keys() - outcome.attempted, "a message that nobody should get")
    return differences


def _hooks(outcome: Outcome, stage: Stage) -> list[Difference]:
    """Every request kept once, signed, with the right body."""
    kept = dict(stage.hooks.kept)
    differences = []
    for intent in (intent for intent in outcome.sent if intent.step.kind in ("notify", "webhook")):
        hook = kept.pop(intent.action_id, None)
        if hook is None:
            differences.append(_about("lost", intent, "the request never arrived"))
        elif hook.body != _body(intent):
            differences.append(_about("payload", intent, f"the request holds {hook.body}"))
    if stage.hooks.unsigned:
        differences.append(Difference("payload", "-", "-", None, f"{stage.hooks.unsigned} requests without signature"))
    differences += _strays(kept.keys() - outcome.attempted, "a request that nobody should make")
    return differences


def _body(intent: Intent) -> Mapping[str, Any]:
    raw = intent.step.raw
    if intent.step.kind == "notify":
        return {"target": raw["notify"], "text": raw.get("text", "")}
    return {name: parse(str(text)).value(intent.facts, {}) for name, text in raw["body"].items()}


def _crm(outcome: Outcome, stage: Stage) -> list[Difference]:
    """Every contact updated, every task there once."""
    contacts = {contact["email"].lower(): contact for contact in stage.crm.contacts if "email" in contact}
    tasks = {task["penstock_action_id"]: task for task in stage.crm.tasks}
    differences = []
    for intent in outcome.sent:
        match intent.step.kind:
            case "crm":
                contact = contacts.get(intent.address.lower(), {})
                wanted = {name: str(parse(str(text)).value(intent.facts, {}))
                          for name, text in intent.step.raw["crm"]["set"].items()}  # fmt: skip
                if not wanted.items() <= dict(contact).items():
                    differences.append(_about("lost", intent, "the CRM does not show the update"))
            case "task":
                task = tasks.pop(intent.action_id, None)
                if task is None or task["hs_task_subject"] != intent.step.what:
                    differences.append(_about("lost", intent, "the CRM has no such task"))
    differences += _strays(tasks.keys() - outcome.attempted, "a task that nobody should have")
    repeated = stage.crm.counters.duplicates
    differences += [Difference("duplicate", "-", "-", None, "a second effect in the CRM") for _ in range(repeated)]
    return differences


def audit(demo: Demo, log: Iterable[LogRow]) -> Audit:
    """Work out what should have happened in a demo that has run, and compare.

    Raises:
        AuditError: the workflows use a construct that the audit does not know.
    """
    ticks = list(demo.scale.ticks())
    history = History(demo.world, demo.customers, demo.stage.messages(), ticks, groups())
    definitions = read_definitions(demo.project_folder, TARGET)
    return compare(expected_log(definitions, history, Answers(demo.stage)), log, demo.stage)
