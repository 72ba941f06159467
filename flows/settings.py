"""penstock.yaml as frozen models, and how a target's overrides are laid over it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from compiler.catalog import DataType
from compiler.errors import ConditionError, DefinitionError, Problem, nearest
from compiler.workflow import NAME, Duration, Model, Name, Policy, Sql
from compiler.yaml import Value, YamlPath, read_yaml

Deliver = Literal["outbox", "live"]
Relation = Annotated[str, Field(pattern=r"^\s*(ref|source)\(.*\)\s*$", description="ref('model') or source('a', 'b')")]
_TARGET_ONLY = frozenset({"deliver", "max_sends_per_day"})
_REFERENCE = r"^\s*\{\{\s*env_var\(.*\)\s*\}\}\s*$"
_SCHEMA = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


class Merges(Model):
    """Which contact became part of which: a model, and its columns."""

    model: Relation
    from_: Annotated[str, Field(alias="from")]
    into: str
    at: str


class ContactSettings(Model):
    """The contact model and the names of its columns; `fields` are those that Penstock owns, written by `set`."""

    model: Relation
    id: str
    email: str | None = None
    phone: str | None = None
    push_token: str | None = None
    timezone: str | None = None
    updated_at: str | None = None
    unsubscribed: str | None = None
    bounced: str | None = None
    unsubscribed_groups: str | None = None
    tags: str | None = None
    merges: Merges | None = None
    fields: dict[Name, DataType] = {}


class EventSettings(Model):
    """The events model and the names of its columns.

    `loaded_at: event_time` says that the model has no load time and rows never come late. `data` is a JSON column;
    `properties` declares the types in it, per event.
    """

    model: Relation
    id: str
    contact: str
    name: str
    at: str
    loaded_at: str
    data: str | None = None
    properties: dict[str, dict[str, DataType]] = {}
    overlap: Duration = Duration("1d")


class ScoreSettings(Model):
    """A score: a model with its columns, or `points`, kept by Penstock from a start value."""

    model: Relation | None = None
    contact: str = "contact_id"
    value: str = "score"
    scored_at: str = "scored_at"
    points: int | float | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ScoreSettings:
        if (self.model is None) == (self.points is None):
            raise ValueError("a score has exactly one of model, points")
        return self


class GuardSettings(Model):
    """What waits for `penstock approve`: entries of one tick that are more than `factor` times those of a usual day.

    `minimum` entries are never held, more than `max_entries` always; an audience that keeps less than one in `factor`
    of its members is held too.
    """

    factor: Annotated[float, Field(ge=1)] = 10.0
    minimum: Annotated[int, Field(ge=0)] = 1000
    max_entries: Annotated[int, Field(ge=0)] | None = None


class WriteKeySettings(Model):
    """A key that may write events to the collector, and nothing else.

    A `browser` key stands in web pages, so everybody knows it; only pages of its `origins` may use it, and it cannot
    say who somebody is. `rate` is in events a second. With `events` it takes only events of these names.
    """

    key: Annotated[str, Field(pattern=_REFERENCE, description="{{ env_var('NAME') }}")]
    browser: bool = False
    origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/?#\s]+$")], ...] = ()
    rate: Annotated[int, Field(ge=1)] = 5000
    events: tuple[str, ...] = ()


class FormSettings(Model):
    """A form of a web page that posts to the collector.

    Its `fields` become properties of an event; the fields `email` and `phone` say whom it is about. Then it leads to
    the first of `pages`, or to the one that its field `redirect` names. Who fills the field `trap` is a machine.
    """

    fields: tuple[str, ...] = ()
    event: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:/ -]{0,99}$")] = "form_submitted"
    email: str | None = "email"
    phone: str | None = None
    pages: tuple[Annotated[str, Field(pattern=r"^https?://[^\s\\]+$")], ...] = ()
    trap: str | None = None

    @model_validator(mode="after")
    def _no_opt_out(self) -> FormSettings:
        if self.event.startswith(("email_", "sms_", "push_")):
            raise ValueError("a form is open to everybody, and cannot say what became of a message")
        return self


class CollectorSettings(Model):
    """What `penstock collect` takes: write keys; `secrets` sign links and identities, the newest first.

    With a `url`, the address at which contacts reach it, messages get links for leaving, and opens and clicks are
    counted: `opens`, and clicks on links to the hosts in `clicks`. `groups` are message groups with the names that
    contacts see on the page of their choices, `sender` is who writes to them.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$")] | None = None
    sender: Annotated[str, Field(max_length=100)] = ""
    opens: bool = True
    clicks: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")], ...] = ()
    groups: dict[str, str] = {}
    secrets: tuple[Annotated[str, Field(pattern=_REFERENCE, description="{{ env_var('NAME') }}")], ...] = ()
    keys: dict[Name, WriteKeySettings] = {}
    forms: dict[Name, FormSettings] = {}

    @model_validator(mode="after")
    def _signed(self) -> CollectorSettings:
        if self.url is not None and not self.secrets:
            raise ValueError("a collector with a url signs links, and needs one of its secrets")
        return self


class StateSettings(Model):
    """Where Penstock keeps its tables: a schema of the warehouse."""

    schema_: Annotated[str, Field(alias="schema", pattern=_SCHEMA)] = "penstock"


class TargetSettings(BaseModel):
    """What only a target has; every other key of it overrides the same key of the file."""

    deliver: Deliver = "outbox"
    max_sends_per_day: Annotated[int, Field(ge=0)] | None = None


class Settings(Model):
    """penstock.yaml with the overrides of one target laid over it; `targets` is kept as written.

    `policy` wins over `defaults`, key by key; both have the keys of a workflow's policy.
    """

    version: Literal[1]
    contact: ContactSettings
    events: EventSettings
    scores: dict[Name, ScoreSettings] = {}
    audiences: dict[Name, Sql] = {}
    policy: Policy = Policy()
    defaults: Policy = Policy()
    destinations: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = {}
    state: StateSettings = StateSettings()
    guards: GuardSettings | None = GuardSettings()
    collector: CollectorSettings | None = None
    targets: dict[str, dict[str, Any]] = {}

    @property
    def effective_policy(self) -> Policy:
        """The project's policy: `defaults`, overridden key by key by `policy`."""
        return overlay(self.defaults, self.policy)


@dataclass(frozen=True)
class SettingsFile:
    """The settings of one target, what only the target has, and where everything stands in the file."""

    settings: Settings
    target: TargetSettings
    source: Value

    def problem(self, code: str, message: str, path: YamlPath, hint: str = "") -> Problem:
        """A problem at a path of the file."""
        return Problem(code, message, *self.source.place(path), hint=hint, path=path)

    def condition_problem(self, path: YamlPath, error: ConditionError) -> Problem:
        """A refused condition as a problem at its very words; `path` leads to the text of the condition."""
        place = self.source.spot(path, error.offset)
        return Problem(error.code, error.message, *place, error.hint, path, error.length)


def overlay(below: Policy, above: Policy) -> Policy:
    """A policy whose keys are those written in `above`, else those of `below`; a written null turns a key off."""
    return below.model_copy(update={name: getattr(above, name) for name in above.model_fields_set})


def read_settings(text: str, file: str, target: str) -> SettingsFile:
    """Read penstock.yaml for a target; the overrides of the other targets are checked too.

    Raises:
        DefinitionError: with every problem, each at its place.
    """
    tree, problems = read_yaml(text, file)
    if not isinstance(tree.data, dict):
        raise DefinitionError([Problem("E103", "penstock.yaml is a map", file, tree.line, tree.column)])
    overrides = tree.child("targets")
    names = list(overrides.data) if overrides is not None and isinstance(overrides.data, dict) else []
    problems += _problems(tree, Settings)
    chosen = tree
    for name in names:
        merged, only = _for_target(tree, name)
        problems += _problems(merged, Settings) + _problems(only, TargetSettings)
        chosen = merged if name == target else chosen
    if problems:
        raise DefinitionError(sorted(dict.fromkeys(problems), key=lambda found: (found.line, found.column)))
    own = _for_target(tree, target)[1] if target in names else Value({}, file)
    return SettingsFile(Settings.model_validate(chosen.plain), TargetSettings.model_validate(own.plain), chosen)


def _for_target(tree: Value, name: str) -> tuple[Value, Value]:
    """The file with a target's overrides laid over it, and the keys that only a target has."""
    targets = tree.child("targets")
    own = targets.child(name) if targets is not None else None
    if own is None or not isinstance(own.data, dict):
        return tree, Value({}, tree.file, tree.line, tree.column)
    shared = replace(own, data={key: value for key, value in own.data.items() if key not in _TARGET_ONLY})
    only = replace(own, data={key: value for key, value in own.data.items() if key in _TARGET_ONLY})
    return _merge(tree, shared), only


def _merge(below: Value, above: Value) -> Value:
    if not isinstance(below.data, dict) or not isinstance(above.data, dict):
        return above
    data = dict(below.data)
    for key, value in above.data.items():
        data[key] = _merge(data[key], value) if key in data else value
    return replace(below, data=data, keys={**below.keys, **above.keys})


def _problems(tree: Value, model: type[BaseModel]) -> list[Problem]:
    try:
        model.model_validate(tree.plain)
    except ValidationError as error:
        return list(_translated(tree, model, error))
    return []


def _translated(tree: Value, model: type[BaseModel], error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in item["loc"] if isinstance(part, int) or _known(tree, item["loc"], part))
        name = str(item["loc"][-1]) if item["loc"] else ""
        match item["type"]:
            case "extra_forbidden":
                where = ".".join(map(str, path[:-1])) or tree.file
                yield Problem(
                    "E102", f"unknown key '{name}' in {where}", *tree.place(path, key=True),
                    hint=nearest(name, _keys(model, path[:-1])), path=path, length=len(name),
                )  # fmt: skip
            case "missing":
                where = ".".join(map(str, path)) or tree.file
                yield Problem("E103", f"the key '{name}' is missing in {where}", *tree.place(path), path=path)
            case _:
                where = ".".join(map(str, path))
                yield Problem("E103", f"{where}: {_worded(item)}", *tree.place(path), path=path)


def _known(tree: Value, path: tuple[int | str, ...], part: int | str) -> bool:
    """Whether a part of pydantic's path is a key of the file, and not the name of a union's member."""
    here: Value | None = tree
    for step in path:
        below = here.child(step) if here is not None else None
        if step == part:
            return below is not None
        here = below if below is not None else here
    return False


def _worded(item: Mapping[str, Any]) -> str:
    match item["type"]:
        case "string_pattern_mismatch" if "ref|source" in item.get("ctx", {}).get("pattern", ""):
            return "a relation is ref('model') or source('source', 'table')"
        case "string_pattern_mismatch" if "env_var" in item.get("ctx", {}).get("pattern", ""):
            return "a secret is a reference, \"{{ env_var('NAME') }}\", never the secret itself"
        case _:
            return re.sub(r"^Value error, ", "", str(item["msg"]))


def _keys(model: type[BaseModel], path: YamlPath) -> list[str]:
    """The keys a map at a path may have."""
    here: Any = model
    for step in path:
        here = _below(here, step)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return [field.alias or name for name, field in here.model_fields.items()]
    return []


def _below(here: Any, step: str | int) -> Any:
    if isinstance(here, type) and issubclass(here, BaseModel):
        return next(
            (
                _plain_type(field.annotation)
                for name, field in here.model_fields.items()
                if (field.alias or name) == step
            ),
            None,
        )
    if get_origin(here) is dict:
        return _plain_type(get_args(here)[1])
    return None


def _plain_type(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((member for member in get_args(annotation) if member is not type(None)), None)
    return annotation
