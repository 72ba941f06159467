"""The plan of one workflow version: everything a tick does for it, as data.

The evaluator executes these statements, the explainer prints them; neither knows the workflow's YAML. All trees read
the tick's temporary tables (`tick_scope`, `tick_frame`, `tick_contacts`, `tick_events`, `tick_arrivals`) and the
parameters `tick_at`, `address_key`; none contains a clock of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from sqlglot import exp

from compiler.audience import Audience

SCOPE = "tick_scope"
SCOPE_COLUMNS = ("enrollment_id", "contact_id", "key", "entry_ref", "entry", "entry_at", "position", "logical_at",
                 "due_at", "steps", "arms", "visits", "tick_at", "log_at")  # fmt: skip
"""Columns of `tick_scope`: the enrollments that a tick looks at, with its time; `log_at`: the number in the log where
those of the enrollment begin."""
FRAME = "tick_frame"
STAGE = "tick_stage"
CANDIDATES = "tick_candidates"
MODEL_ROWS = "tick_rows"
ASKED = "asked"
"""Verdict of a candidate that an `enroll` step made and no tick considered yet."""

Kind = Literal["email", "sms", "push", "notify", "task", "crm", "webhook", "tag", "untag", "set", "score", "campaign",
               "emit", "enroll", "unenroll", "split"]  # fmt: skip


@dataclass(frozen=True)
class EventEntry:
    """Candidates are arrived events. `query`: contact_id, key, entry_ref, candidate_at, entry."""

    names: tuple[str, ...]
    query: exp.Select


@dataclass(frozen=True)
class AudienceEntry:
    """Candidates are false-to-true edges. `members`: contact_id of everybody for whom the condition holds at T.

    The engine evaluates `audience` together with those of other workflows; `members` is the same on its own.
    """

    members: exp.Select
    exit_on_leave: bool
    audience: Audience | None = None


@dataclass(frozen=True)
class ScheduleEntry:
    """Candidates are occurrences of a cron line. `members`: contact_id and zone of everybody who matches at T.

    `zone`: the one zone the line is read in, None for each contact's own.
    """

    cron: str
    zone: str | None
    members: exp.Select


@dataclass(frozen=True)
class ModelEntry:
    """Candidates are new keys of a model. `rows` fills `tick_rows`; `query` as in `EventEntry`, over `tick_rows`."""

    relation: str
    rows: exp.Select
    query: exp.Select


@dataclass(frozen=True)
class EntryRules:
    """Admission: who is refused, who waits. Times in seconds; `backfill` None = no limit, 0 = none.

    `ramp_count` entries of all contacts together in `ramp_seconds`, None = no ramp; `waits_paused`: candidates of a
    pause wait for its end.
    """

    reentry: Literal["once", "after_exit", "always"]
    min_gap: float | None
    backfill: float | None
    max_age: float | None
    cap_count: int
    cap_seconds: float
    ramp_count: int | None = None
    ramp_seconds: float = 0.0
    waits_paused: bool = False

    @property
    def may_wait(self) -> bool:
        """Whether a candidate can have to wait."""
        return self.waits_paused or self.ramp_count is not None


@dataclass(frozen=True)
class Action:
    """One action of the workflow: `rows` selects from the stage that reached it.

    Columns of `rows`: log_at, enrollment_id, contact_id, key, step, kind, what, due, outcome, payload, expires_at,
    visit. `outcome` is `decided` (an intent), `ok` (done by the tick), or `skipped(<reason>)`. A split's arm is its
    `what`. `word` is the step's key, which the log says; `repeated`: it can be reached more than once.
    """

    index: int
    step: str
    kind: Kind
    word: str
    what: str
    destination: str | None
    template: str | None
    transactional: bool
    rows: exp.Select
    path: tuple[str | int, ...] = ()
    repeated: bool = False


@dataclass(frozen=True)
class Stage:
    """Some consecutive layers as one statement: `query` makes the stage's table from the one before."""

    name: str
    query: exp.Select
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Due:
    """When enrollments that stand at a step go on: `query` gives enrollment_id and due, over the frame.

    `planned`: that is the time planned when they came there, unless zones change.
    """

    query: exp.Select
    planned: bool


@dataclass(frozen=True)
class Plan:
    """All of one workflow version.

    Attributes:
        wakes: event names whose arrival makes an enrollment of that contact worth looking at.
        watches_state: goals or exits can come true without an event or a due time, so all active ones are looked at.
        entry: how candidates arise.
        exits: enrollment_id, contact_id, key, reason over `tick_scope`; None without goals, exit_when or max_duration.
        frame: makes `tick_frame` from `tick_scope`.
        stages: the layers.
        moves: over the last stage: log_at, enrollment_id, contact_id, key, position, logical_at, due_at, steps, exit,
            moved, ordinal, due, and the JSON `arms`, `visits`, NULL where the workflow keeps none.
        refusing: contact_id of those in `tick_contacts` without the consent that `require` asks for, and the channel it
            is about; None if none is.
        contact_columns, properties, events: what the tick's shared tables must carry for this plan.
        jumps_back: some step leads to one before it; `moves` says in `back` who goes on there in the same tick.
        waits_by_zone: some step waits in calendar days on the contact's wall clock.
        asked: candidates that other workflows' `enroll` steps made; columns as in `EventEntry`.
        ordered: its steps read what other enrollments of the contact may write in the same tick, or end them, so a
            contact's enrollments advance one after another.
        dues: of an ordered plan, by the steps that wait: when who stands there goes on.
        reads_entry: some condition, value or text of its steps or exits reads the entry's row.
        lookback: seconds before T that it reads events, besides those since each entry; None for all history.
        audience_events: event names that its audience reads.
        counted: steps whose visits are counted, because they can be met again.
        since_steps: steps whose logical times are kept, because conditions count from them.
        grace: seconds by which an action may be late without starting the clock anew.
    """

    workflow: str
    version: int
    first_step: str
    priority: int
    entry: EventEntry | AudienceEntry | ScheduleEntry | ModelEntry
    rules: EntryRules
    exits: exp.Select | None
    frame: exp.Select
    stages: tuple[Stage, ...]
    moves: exp.Select
    wakes: frozenset[str]
    watches_state: bool
    refusing: exp.Select | None
    contact_columns: frozenset[str]
    properties: Mapping[str, str]
    events: frozenset[str]
    lookback: float | None = None
    waits_by_zone: bool = False
    jumps_back: bool = False
    ordered: bool = False
    dues: Mapping[str, Due] = field(default_factory=dict)
    asked: exp.Select | None = None
    reads_entry: bool = True
    conditions: Mapping[str, str] = field(default_factory=dict)
    steps: int = 0
    step_ids: tuple[str, ...] = ()
    audience_events: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    since_steps: frozenset[str] = frozenset()
    grace: float = 0.0

    @property
    def trigger_events(self) -> frozenset[str]:
        """Event names that make candidates."""
        return frozenset(self.entry.names) if isinstance(self.entry, EventEntry) else frozenset()

    @property
    def actions(self) -> tuple[Action, ...]:
        """All actions in file order."""
        return tuple(action for stage in self.stages for action in stage.actions)

    @cached_property
    def tells(self) -> bool:
        """Whether steps make events or candidates, so that the order of its enrollments shows elsewhere."""
        return any(action.kind in ("emit", "enroll") for action in self.actions)
