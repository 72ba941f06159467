"""The workflow language, version 1, as frozen pydantic models: the one source of parser, JSON Schema and docs.

Field names are the YAML keys (`if`, `from`, `with` through aliases). Texts that are SQL are of type `Sql`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from compiler.cron import Cron, Zone
from compiler.durations import Duration as Duration
from compiler.durations import Rate as Rate

NAME = r"^[a-z][a-z0-9_]{0,63}$"
STEP_ID = r"^[A-Za-z0-9_-]{1,64}$"
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Sql = Annotated[str, Field(description="A SQL expression, see the language reference.", max_length=4000, min_length=1)]
Name = Annotated[str, Field(pattern=NAME)]
StepId = Annotated[str, Field(pattern=STEP_ID)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Channel = Literal["email", "sms", "push"]
Scalar = str | int | float | bool | None


class Model(BaseModel):
    """Base of all language models: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


# ---------------------------------------------------------------- triggers and entry


class EventTrigger(Model):
    """One matching event is one candidate."""

    event: str | Annotated[tuple[str, ...], Field(min_length=1)]
    where: Sql | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The event names listened to."""
        return (self.event,) if isinstance(self.event, str) else self.event


class AudienceTrigger(Model):
    """A candidate on each false-to-true edge of a condition over the contact."""

    audience: Sql


class ModelTrigger(Model):
    """Each new key of a dbt model is one candidate."""

    from_: Annotated[str, Field(alias="from", description="ref('model') or source('a', 'b')")]
    key: Sql
    contact: Sql
    at: Sql
    where: Sql | None = None


class ScheduleTrigger(Model):
    """All matching contacts at each occurrence of a cron line."""

    schedule: Cron
    audience: Sql | None = None
    timezone: Zone | None = None


def _trigger_kind(value: Any) -> str | None:
    keys = set(value) if isinstance(value, dict) else {type(value).__name__}
    for key, tag in (("event", "event"), ("from", "from"), ("schedule", "schedule"), ("audience", "audience")):
        if key in keys:
            return tag
    return {"EventTrigger": "event", "AudienceTrigger": "audience", "ModelTrigger": "from",
            "ScheduleTrigger": "schedule"}.get(next(iter(keys), ""))  # fmt: skip


Trigger = Annotated[
    Annotated[EventTrigger, Tag("event")]
    | Annotated[AudienceTrigger, Tag("audience")]
    | Annotated[ModelTrigger, Tag("from")]
    | Annotated[ScheduleTrigger, Tag("schedule")],
    Discriminator(_trigger_kind, custom_error_type="trigger_kind",
                  custom_error_message="a trigger has exactly one of event, audience, from, schedule"),
]  # fmt: skip


class Entry(Model):
    """Who may enter, how often."""

    key: Sql | None = None
    reentry: Literal["once", "after_exit", "always"] = "once"
    min_gap: Duration | None = None
    backfill: Flag | Duration = False
    max_age: Duration | None = None
    cap: Rate = Rate("10 per 24h")
    ramp: Rate | None = None
    on_resume: Annotated[
        Literal["reject", "admit"],
        Field(description="What becomes of candidates that arise while the workflow is paused."),
    ] = "reject"


class Goal(Model):
    """A met goal ends the enrollment with the word `goal`."""

    when: Sql
    name: Name | None = None
    within: Duration | None = None
    value: Sql | None = None


# ---------------------------------------------------------------- policy


class QuietHours(Model):
    """No messages on the contact's wall clock in [from, to)."""

    from_: Annotated[TimeOfDay, Field(alias="from")]
    to: TimeOfDay


class FrequencyCap(Model):
    """At most `max` messages per rolling window over all workflows."""

    max: Annotated[int, Field(strict=True, ge=0)]
    per: Duration
    on_cap: Literal["skip", "defer"] = "skip"
    channels: tuple[Channel, ...] | None = None


class Holdout(Model):
    """A share of contacts whose messages are not delivered."""

    percent: Annotated[float, Field(strict=True, ge=0, le=100)]
    salt: str


class Policy(Model):
    """Rules around the steps; project-wide defaults stand in penstock.yaml, a workflow overrides key by key."""

    priority: Whole | None = None
    quiet_hours: QuietHours | None = None
    cap: FrequencyCap | None = None
    require: Sql | dict[Channel, Sql] | None = None
    holdout: Holdout | None = None
    allowed_lateness: Duration | None = None
    grace: Duration | None = None
    max_duration: Duration | None = None
    default_timezone: str | None = None


# ---------------------------------------------------------------- steps


class BaseStep(Model):
    """What all steps share: the optional stable id."""

    id: StepId | None = None


class WaitStep(BaseStep):
    """Delay by a duration; d and w are calendar units on the contact's wall clock."""

    wait: Duration


class Moment(Model):
    """A wall-clock time on given weekdays."""

    at: TimeOfDay
    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] | None = None


class WaitUntilStep(BaseStep):
    """Hold until the next such local time, or until a timestamp."""

    wait_until: Moment | Sql


class Window(Model):
    """An opening on the contact's wall clock."""

    from_: Annotated[TimeOfDay, Field(alias="from")]
    to: TimeOfDay
    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] | None = None


class WindowStep(BaseStep):
    """Pass only inside an opening."""

    window: Window


class WaitForStep(BaseStep):
    """Hold until an event or the timeout."""

    wait_for: Sql
    since: str | None = None
    within: Duration | None = None
    then: tuple[Step, ...] = ()
    else_: Annotated[tuple[Step, ...], Field(alias="else")] = ()


class BranchStep(BaseStep):
    """Go to `then` when the condition is true, else to `else`."""

    if_: Annotated[Sql, Field(alias="if")]
    then: tuple[Step, ...] = ()
    else_: Annotated[tuple[Step, ...], Field(alias="else")] = ()


class Arm(Model):
    """One arm of a switch."""

    if_: Annotated[Sql, Field(alias="if")]
    then: tuple[Step, ...] = ()


class SwitchStep(BaseStep):
    """First true arm."""

    switch: Annotated[tuple[Arm, ...], Field(min_length=1)]
    else_: Annotated[tuple[Step, ...], Field(alias="else")] = ()


class SplitStep(BaseStep):
    """Deterministic experiment; weights in percent."""

    split: dict[str, Annotated[float, Field(strict=True, ge=0, le=100)]]
    salt: str | None = None
    arms: dict[str, tuple[Step, ...]]

    @model_validator(mode="after")
    def _whole(self) -> SplitStep:
        if set(self.split) != set(self.arms) or abs(sum(self.split.values()) - 100) > 1e-6:
            raise ValueError("the weights add up to 100, and `split` and `arms` name the same arms")
        return self


class Choose(Model):
    """The model picks one of several."""

    from_: Annotated[tuple[str, ...], Field(alias="from")]
    by: str
    explore: str | None = None


def _inside(value: object) -> object:
    """`email: {choose: {from: …, by: …}}` is `email: {from: …, by: …}`."""
    return value["choose"] if isinstance(value, dict) and set(value) == {"choose"} else value


Template = Annotated[str | Choose, BeforeValidator(_inside)]


class ChooseStep(BaseStep):
    """The model picks an arm."""

    choose: Choose
    arms: dict[str, tuple[Step, ...]]


class ActionStep(BaseStep):
    """What all actions share: `if` means only if, `expires_after` bounds how late, `to` names the destination."""

    if_: Annotated[Sql | None, Field(alias="if")] = None
    expires_after: Duration | None = None
    to: str | None = None
    on_error: Literal["continue", "exit"] = "continue"


class SendAt(Model):
    """When a message goes out."""

    at: Literal["best_time"]
    within: Duration


class MessageStep(ActionStep):
    """Options of a message."""

    subject: str | None = None
    with_: Annotated[dict[str, Scalar], Field(alias="with")] = {}
    group: str | None = None
    transactional: Flag = False
    send: SendAt | None = None


class EmailStep(MessageStep):
    """Send an e-mail from a template."""

    email: Template


class SmsStep(MessageStep):
    """Send a text message."""

    sms: Template


class PushStep(MessageStep):
    """Send a push notification."""

    push: Template


class ChannelStep(MessageStep):
    """Send on the channel a model chooses; fallback is the listed order."""

    channel: tuple[Channel, ...]
    template: str | None = None


class TagStep(ActionStep):
    """Add a tag to the contact."""

    tag: str


class UntagStep(ActionStep):
    """Remove a tag from the contact."""

    untag: str


class SetStep(ActionStep):
    """Write fields of the contact that Penstock owns; each value is a SQL expression."""

    set: dict[Name, Scalar]


class ScoreStep(ActionStep):
    """Add points to scores."""

    score: dict[Name, int | float | str]


class Task(Model):
    """A task for a person."""

    title: str
    owner: str | None = None
    body: str | None = None
    due: Duration | None = None


class TaskStep(ActionStep):
    """Create a task in the CRM."""

    task: Task


class NotifyStep(ActionStep):
    """Tell a team: destination.target, or a target of the default destination."""

    notify: str
    text: str = ""


class Crm(Model):
    """Fields to write to a CRM object; each value is a SQL expression."""

    object: Literal["contact", "company", "deal"] = "contact"
    set: dict[str, Scalar]


class CrmStep(ActionStep):
    """Upsert in the CRM."""

    crm: Crm


class WebhookStep(ActionStep):
    """Signed request to a configured destination; body values are SQL expressions or plain values."""

    webhook: str
    body: dict[str, Any] = {}


class CampaignChange(Model):
    """Exactly one of add, remove."""

    add: Name | None = None
    remove: Name | None = None

    @model_validator(mode="after")
    def _one_change(self) -> CampaignChange:
        if (self.add is None) == (self.remove is None):
            raise ValueError("a campaign step has exactly one of add, remove")
        return self

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self.add or self.remove or ""


class CampaignStep(ActionStep):
    """Change a campaign's membership."""

    campaign: CampaignChange


class EmitStep(ActionStep):
    """Write an event."""

    emit: Name
    with_: Annotated[dict[str, Scalar], Field(alias="with")] = {}


class EnrollStep(ActionStep):
    """Make the contact a candidate of another workflow."""

    enroll: Name
    with_: Annotated[dict[str, Scalar], Field(alias="with")] = {}


class UnenrollStep(ActionStep):
    """End the contact's enrollments in another workflow."""

    unenroll: Name


class GotoStep(BaseStep):
    """Jump at most `max` times per enrollment, then fall through."""

    goto: str
    max: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None


class ExitStep(BaseStep):
    """End the enrollment with a reason."""

    exit: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class IncludeStep(BaseStep):
    """Splice steps from a file of the project."""

    include: str


STEP_KINDS: dict[str, type[BaseStep]] = {
    "wait": WaitStep, "wait_until": WaitUntilStep, "window": WindowStep, "wait_for": WaitForStep,
    "switch": SwitchStep, "split": SplitStep, "choose": ChooseStep, "email": EmailStep, "sms": SmsStep,
    "push": PushStep, "channel": ChannelStep, "tag": TagStep, "untag": UntagStep, "set": SetStep, "score": ScoreStep,
    "task": TaskStep, "notify": NotifyStep, "crm": CrmStep, "webhook": WebhookStep, "campaign": CampaignStep,
    "emit": EmitStep, "enroll": EnrollStep, "unenroll": UnenrollStep, "goto": GotoStep, "exit": ExitStep,
    "include": IncludeStep, "if": BranchStep,
}  # fmt: skip
"""Kind key -> model. `if` stands last: on an action it is an option, alone it is a branch."""

_KIND_OF = {model: kind for kind, model in STEP_KINDS.items()}


def step_kind(value: Any) -> str | None:
    """The kind key of a step given as a map or a model; None when it has none."""
    if isinstance(value, dict):
        return next((kind for kind in STEP_KINDS if kind in value), None)
    return _KIND_OF.get(type(value))


Step = Annotated[
    Annotated[WaitStep, Tag("wait")] | Annotated[WaitUntilStep, Tag("wait_until")]
    | Annotated[WindowStep, Tag("window")] | Annotated[WaitForStep, Tag("wait_for")]
    | Annotated[SwitchStep, Tag("switch")] | Annotated[SplitStep, Tag("split")]
    | Annotated[ChooseStep, Tag("choose")] | Annotated[EmailStep, Tag("email")] | Annotated[SmsStep, Tag("sms")]
    | Annotated[PushStep, Tag("push")] | Annotated[ChannelStep, Tag("channel")] | Annotated[TagStep, Tag("tag")]
    | Annotated[UntagStep, Tag("untag")] | Annotated[SetStep, Tag("set")] | Annotated[ScoreStep, Tag("score")]
    | Annotated[TaskStep, Tag("task")] | Annotated[NotifyStep, Tag("notify")] | Annotated[CrmStep, Tag("crm")]
    | Annotated[WebhookStep, Tag("webhook")] | Annotated[CampaignStep, Tag("campaign")]
    | Annotated[EmitStep, Tag("emit")] | Annotated[EnrollStep, Tag("enroll")]
    | Annotated[UnenrollStep, Tag("unenroll")] | Annotated[GotoStep, Tag("goto")] | Annotated[ExitStep, Tag("exit")]
    | Annotated[IncludeStep, Tag("include")] | Annotated[BranchStep, Tag("if")],
    Discriminator(step_kind, custom_error_type="step_kind", custom_error_message="a step has exactly one kind key"),
]  # fmt: skip


class Workflow(Model):
    """A workflow file."""

    version: Literal[1]
    workflow: Name
    trigger: Trigger
    steps: tuple[Step, ...]
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    entry: Entry = Entry()
    goals: tuple[Goal, ...] = ()
    exit_when: tuple[Sql, ...] = ()
    exit_on_leave: Flag = False
    policy: Policy = Policy()
    redirect: dict[str, StepId] = {}


for _model in (WaitForStep, BranchStep, Arm, SwitchStep, SplitStep, ChooseStep, Workflow):
    _model.model_rebuild()


def arms(step: BaseStep) -> tuple[tuple[str, tuple[BaseStep, ...]], ...]:
    """The named sub-sequences of a step, in file order; empty for a step without arms."""
    match step:
        case WaitForStep() | BranchStep():
            return (("then", step.then), ("else", step.else_))
        case SwitchStep():
            return (*((f"case{i + 1}", arm.then) for i, arm in enumerate(step.switch)), ("else", step.else_))
        case SplitStep() | ChooseStep():
            return tuple(step.arms.items())
        case _:
            return ()


def walk(steps: tuple[BaseStep, ...], prefix: str = "") -> Iterator[tuple[str, BaseStep]]:
    """All steps in file order with their ids; a step without `id` gets `<kind>_<position path>`: `wait_2_then_1`."""
    for position, step in enumerate(steps, 1):
        derived = f"{prefix}{position}"
        yield step.id or f"{step_kind(step)}_{derived}", step
        for name, arm in arms(step):
            yield from walk(arm, f"{derived}_{name}_")
