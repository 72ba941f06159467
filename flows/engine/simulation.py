"""Simulation files: reading and checking them (the format page is `docs/simulations.md`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compiler.actions import SIMULATED
from compiler.errors import DefinitionError, Problem, SimulationError, nearest
from compiler.graph import check_jumps
from compiler.parser import Document, parse_value, parse_workflow, unsupported
from compiler.workflow import Duration, Policy, walk
from compiler.yaml import Value, read_yaml
from destinations.errors import ConfigurationError
from destinations.recorder import Recorder, RecorderConfig

_TIME = re.compile(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?$")


class _CaseFile(BaseModel):
    """The keys of a case; values are checked further when they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contacts: list[dict[str, Any]]
    workflows: list[dict[str, Any] | str]
    ticks: list[Any]
    id: str = ""
    title: str = ""
    config: dict[str, Any] = {}
    events: list[list[Any]] = []
    models: dict[str, list[dict[str, Any]]] = {}
    changes: list[dict[str, Any]] = []
    merges: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    publish: list[dict[str, Any]] = []
    control: list[dict[str, Any]] = []
    destination: dict[str, list[int | str]] = {}
    templates: dict[str, str] = {}
    expect: list[str] | None = None


@dataclass(frozen=True)
class Published:
    """A workflow version and when it is published; `activated_at` only where the case says so.

    `redirect`: who is in flight migrates, and from removed steps (old -> new) to these; None: who is in flight stays.
    """

    document: Document
    published_at: datetime | None = None
    activated_at: datetime | None = None
    redirect: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Case:
    """One case; times are naive UTC.

    `events`: (id, contact, name, event time, properties, loaded at, visible at); `controls`: (at, pause or resume,
    workflow or all); `merges`: (at, contact, the contact it becomes part of).
    """

    id: str
    title: str
    file: str
    policy: Policy
    contacts: tuple[Mapping[str, Any], ...]
    events: tuple[tuple[str, str, str, datetime, Mapping[str, Any], datetime, datetime], ...]
    models: Mapping[str, tuple[tuple[datetime, Mapping[str, Any]], ...]]
    changes: tuple[tuple[datetime, str, Mapping[str, Any]], ...]
    scores: tuple[tuple[datetime, str, str, float], ...]
    workflows: tuple[Published, ...]
    destination: Mapping[str, tuple[int | str, ...]]
    templates: Mapping[str, str]
    ticks: tuple[datetime, ...]
    expect: tuple[str, ...] | None
    controls: tuple[tuple[datetime, str, str], ...] = ()
    merges: tuple[tuple[datetime, str, str], ...] = ()
    value: Value = field(repr=False, compare=False, default_factory=lambda: Value(None))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the case's workflows."""
        return tuple(sorted({published.document.workflow.workflow for published in self.workflows}))


@dataclass(frozen=True)
class Draft:
    """A case of a file before it is read: one broken case does not keep the others from running."""

    id: str
    expect: tuple[str, ...]
    path: Path
    number: int
    value: Value = field(repr=False, compare=False)

    def read(self) -> Case:
        """The case.

        Raises:
            SimulationError: it is broken; names file, line and column.
            DefinitionError: a workflow in it is wrong.
        """
        return _Reader(self.value, self.path, self.number).case()


def read_cases(path: Path, text: str) -> tuple[Case, ...]:
    """The cases of a simulation file.

    Raises:
        SimulationError: the file is broken; names file, line and column.
        DefinitionError: a workflow in it is wrong.
    """
    return tuple(draft.read() for draft in read_drafts(path, text))


def read_drafts(path: Path, text: str) -> tuple[Draft, ...]:
    """The cases of a simulation file, not yet read.

    Raises:
        SimulationError: the file is no YAML, or holds no case.
    """
    file = str(path)
    try:
        value, problems = read_yaml(text, file)
    except DefinitionError as error:
        raise SimulationError(str(error), code=error.code) from None
    if problems:
        raise SimulationError("\n".join(map(str, problems)), code=problems[0].code)
    values = [value] if isinstance(value.data, dict) else list(value.data or [])
    if not values:
        raise SimulationError(f"{file}: a simulation file holds one case (a map) or several (a list)")
    return tuple(_draft(child, path, number) for number, child in enumerate(values, 1))


def _draft(value: Value, path: Path, number: int) -> Draft:
    plain = value.plain if isinstance(value.plain, dict) else {}
    expect = plain.get("expect")
    rows = tuple(map(str, expect)) if isinstance(expect, list) else ()
    return Draft(str(plain.get("id") or f"case {number}"), rows, path, number, value)


class _Reader:
    def __init__(self, value: Value, path: Path, number: int) -> None:
        self.value, self.path, self.number = value, path, number
        plain = value.plain
        if not isinstance(plain, dict):
            raise self._error((), "a case is a map with contacts, workflows and ticks")
        try:
            self.file = _CaseFile.model_validate(plain)
        except ValidationError as error:
            raise self._invalid(error) from None

    def case(self) -> Case:
        file = self.file
        events = tuple(self._event(number, row) for number, row in enumerate(file.events))
        return Case(
            id=file.id or f"case {self.number}", title=file.title, file=str(self.path), policy=self._policy(),
            contacts=tuple(self._contact(n, row) for n, row in enumerate(file.contacts)), events=events,
            models={name: tuple(self._model_rows(name, rows)) for name, rows in file.models.items()},
            changes=tuple(self._change(n, row) for n, row in enumerate(file.changes)),
            scores=tuple(self._score(n, row) for n, row in enumerate(file.scores)),
            merges=tuple(self._merge(n, row) for n, row in enumerate(file.merges)),
            workflows=(workflows := tuple(self._workflows())), templates=file.templates,
            controls=tuple(self._controls({p.document.workflow.workflow for p in workflows})),
            destination={name: self._answers(name, answers) for name, answers in file.destination.items()},
            ticks=tuple(self._ticks()), expect=None if file.expect is None else tuple(file.expect), value=self.value,
        )  # fmt: skip

    # ------------------------------------------------------------ parts

    def _policy(self) -> Policy:
        config = {("require" if key == "require" else key): value for key, value in self.file.config.items()}
        try:
            return Policy.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            raise self._error(
                ("config", key), f"config: {first['msg']}", hint=nearest(key, Policy.model_fields)
            ) from None

    def _contact(self, number: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(row.get("id"), str | int):
            raise self._error(("contacts", number), "a contact needs an id")
        contact = {"email": f"{row['id']}@example.test", "timezone": None, "unsubscribed": False, "bounced": False,
                   "unsubscribed_groups": [], "tags": [], **row}  # fmt: skip
        contact["id"] = str(row["id"])
        return contact

    def _event(
        self, number: int, row: list[Any]
    ) -> tuple[str, str, str, datetime, Mapping[str, Any], datetime, datetime]:
        path = ("events", number)
        if not 4 <= len(row) <= 7:
            raise self._error(path, "an event is [id, contact, name, event_time, {properties}, loaded_at, visible_at]")
        event_time = self._time((*path, 3), row[3])
        properties, rest = {}, row[4:]
        if rest and isinstance(rest[0], list):
            rest = [{k: v for part in rest[0] for k, v in part.items()}, *rest[1:]]
        if rest and (isinstance(rest[0], dict) or rest[0] is None):
            properties, rest = rest[0] or {}, rest[1:]
        loaded = self._time((*path, 5), rest[0]) if rest and rest[0] is not None else event_time
        visible = self._time((*path, 6), rest[1]) if len(rest) > 1 and rest[1] is not None else loaded
        return str(row[0]), str(row[1]), str(row[2]), event_time, properties, loaded, visible

    def _model_rows(self, name: str, rows: list[dict[str, Any]]) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
        for number, row in enumerate(rows):
            visible = row.get("visible_at")
            at = self._time(("models", name, number, "visible_at"), visible) if visible is not None else datetime.min
            yield at, {key: value for key, value in row.items() if key != "visible_at"}

    def _change(self, number: int, row: Mapping[str, Any]) -> tuple[datetime, str, Mapping[str, Any]]:
        path = ("changes", number)
        self._keys(path, row, {"contact", "at", "set"})
        if not isinstance(row["set"], dict):
            raise self._error((*path, "set"), "`set` is a map of columns and values")
        return self._time((*path, "at"), row["at"]), str(row["contact"]), row["set"]

    def _score(self, number: int, row: Mapping[str, Any]) -> tuple[datetime, str, str, float]:
        path = ("scores", number)
        self._keys(path, row, {"contact", "name", "value", "at"})
        value = row["value"]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error((*path, "value"), f"a score is a number, found {value!r}")
        return self._time((*path, "at"), row["at"]), str(row["contact"]), str(row["name"]), float(value)

    def _merge(self, number: int, row: Mapping[str, Any]) -> tuple[datetime, str, str]:
        path = ("merges", number)
        self._keys(path, row, {"from", "into", "at"})
        known = {str(contact.get("id")) for contact in self.file.contacts}
        known |= {str(change.get("contact")) for change in self.file.changes}
        if str(row["into"]) not in known:
            raise self._error((*path, "into"), f"no contact '{row['into']}'", hint=nearest(str(row["into"]), known))
        return self._time((*path, "at"), row["at"]), str(row["from"]), str(row["into"])

    def _answers(self, contact: str, answers: list[int | str]) -> tuple[int | str, ...]:
        try:
            Recorder(SIMULATED, RecorderConfig(answers={contact: tuple(answers)}))
        except ConfigurationError as error:
            raise self._error(("destination", contact), error.message.partition(": ")[2], hint=error.hint) from None
        return tuple(answers)

    def _workflows(self) -> Iterator[Published]:
        for number, entry in enumerate(self.file.workflows):
            if isinstance(entry, str):
                yield Published(self._checked(self._from_file(("workflows", number), entry)))
                continue
            path = ("workflows", number)
            data = {key: value for key, value in entry.items() if key != "activated"}
            activated = self._time((*path, "activated"), entry["activated"]) if "activated" in entry else None
            document = self._checked(
                parse_value(data, str(self.path), source=self.value, path=path, includes=self._includes())
            )
            yield Published(document, activated_at=activated)
        for number, entry in enumerate(self.file.publish):
            path = ("publish", number)
            self._keys(path, entry, {"at", "workflow"}, {"in_flight", "redirect"})
            document = self._checked(
                parse_value(
                    entry["workflow"],
                    str(self.path),
                    source=self.value,
                    path=(*path, "workflow"),
                    includes=self._includes(),
                )
            )
            at = self._time((*path, "at"), entry["at"])
            redirect = self._redirect(path, entry, document)
            given = None if redirect is None else {**document.workflow.redirect, **redirect}
            yield Published(document, published_at=at, redirect=given)

    def _redirect(
        self, path: tuple[str | int, ...], entry: Mapping[str, Any], document: Document
    ) -> Mapping[str, str] | None:
        in_flight, redirect = entry.get("in_flight", "pin"), entry.get("redirect") or {}
        if in_flight not in ("pin", "migrate") or not isinstance(redirect, dict):
            raise self._error(path, "`in_flight` is pin or migrate, `redirect` a map {old step: new step}")
        ids = [step_id for step_id, _ in walk(document.workflow.steps)]
        for new in redirect.values():
            if new not in ids:
                raise self._error(
                    (*path, "redirect"), f"redirect to '{new}': no such step", hint=nearest(str(new), ids)
                )
        return redirect if in_flight == "migrate" else None

    def _controls(self, known: set[str]) -> Iterator[tuple[datetime, str, str]]:
        for number, row in enumerate(self.file.control):
            path = ("control", number)
            self._keys(path, row, {"at"}, {"pause", "resume"})
            action = next(iter(row.keys() - {"at"}), None)
            if action is None or len(row) != 2:
                raise self._error(path, "a control has `at` and either `pause` or `resume`")
            if row[action] != "all" and row[action] not in known:
                raise self._error(
                    (*path, action), f"no workflow '{row[action]}' in this case", hint=nearest(str(row[action]), known)
                )
            yield self._time((*path, "at"), row["at"]), action, row[action]

    def _from_file(self, path: tuple[str | int, ...], name: str) -> Document:
        here = self.path.parent
        candidates = [here.parent / "workflows" / f"{name}.yaml", here / name, here / f"{name}.yaml"]
        for candidate in candidates:
            if candidate.is_file() and candidate.resolve() != self.path.resolve():
                return parse_workflow(candidate.read_text("utf-8"), str(candidate), includes=self._includes())
        raise self._error(path, f"no workflow file '{name}'", hint=f"looked for {', '.join(map(str, candidates))}")

    def _includes(self) -> dict[str, str]:
        """Files of steps by the name after `include:`: beside the file, its workflows, or in the project."""
        here = self.path.parent
        return {
            file.relative_to(folder).as_posix(): file.read_text("utf-8")
            for folder in (here.parent, here.parent / "workflows", here)
            for file in sorted((folder / "steps").glob("**/*.yaml"))
        }

    def _checked(self, document: Document) -> Document:
        problems = unsupported(document)
        problems += [document.located(problem) for problem in check_jumps(document.workflow)]
        if problems:
            raise DefinitionError(problems)
        return document

    def _ticks(self) -> Iterator[datetime]:
        found: set[datetime] = set()
        for number, entry in enumerate(self.file.ticks):
            path = ("ticks", number)
            if not isinstance(entry, list):
                found.add(self._time(path, entry))
                continue
            if len(entry) != 3:
                raise self._error(path, "a range of ticks is [from, to, every]")
            start, stop = self._time((*path, 0), entry[0]), self._time((*path, 1), entry[1])
            try:
                step = Duration.parse(entry[2]).elapsed
            except ValueError as error:
                raise self._error((*path, 2), str(error)) from None
            if step <= timedelta(0):
                raise self._error((*path, 2), "ticks need an interval above zero")
            if stop < start:
                raise self._error((*path, 1), "a range of ticks ends after it begins")
            while start <= stop:
                found.add(start)
                start += step
        yield from sorted(found)

    # ------------------------------------------------------------ checks

    def _time(self, path: tuple[str | int, ...], value: Any) -> datetime:
        if isinstance(value, str) and _TIME.match(value):
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
        raise self._error(path, f"expected a UTC time such as 2025-03-03T09:05Z, found {value!r}")

    def _keys(
        self, path: tuple[str | int, ...], row: Mapping[str, Any], needed: set[str], also: set[str] | None = None
    ) -> None:
        for key in row:
            if key not in needed | (also or set()):
                raise self._error((*path, key), f"unknown key '{key}'", hint=nearest(key, needed | (also or set())))
        missing = sorted(needed - set(row))
        if missing:
            raise self._error(path, f"missing key '{missing[0]}'")

    def _invalid(self, error: ValidationError) -> SimulationError:
        first = error.errors()[0]
        path = tuple(part for part in first["loc"] if not (isinstance(part, str) and part in ("str", "dict[str,any]")))
        if first["type"] == "extra_forbidden":
            key = str(path[-1])
            return self._error(path, f"unknown key '{key}'", hint=nearest(key, _CaseFile.model_fields))
        if first["type"] == "missing":
            return self._error((), f"missing key '{path[-1]}'", hint="contacts, workflows and ticks are required")
        return self._error(path, f"{'.'.join(map(str, path))}: {first['msg']}")

    def _error(
        self, path: tuple[str | int, ...], message: str, *, code: str = "E190", hint: str = ""
    ) -> SimulationError:
        file, line, column = self.value.place(path)
        problem = Problem(code, message, file or str(self.path), line, column, hint)
        return SimulationError(str(problem), code=code)
