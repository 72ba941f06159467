"""Workflow YAML -> Document: the model, and for every part of it the place in its file; all problems at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from compiler import yaml
from compiler.errors import ConditionError, DefinitionError, Problem, nearest
from compiler.graph import step_paths
from compiler.mistakes import field_mistakes, kind_mistakes
from compiler.workflow import Workflow, arms, walk
from compiler.yaml import Value, YamlPath, read_yaml

MAX_INCLUDES = 10


@dataclass(frozen=True)
class Document:
    """A workflow and where everything in it stands. `text` is the file's text, empty for a value without a file."""

    workflow: Workflow
    file: str
    text: str
    source: Value

    def place(self, path: YamlPath) -> tuple[int, int]:
        """Line and column, from 1, of the value at a YAML path or its nearest known ancestor; (0, 0) without text."""
        return self.source.place(path)[1:]

    def spot(self, path: YamlPath, offset: int) -> tuple[str, int, int]:
        """File, line and column of the character at an offset of a text value, e.g. inside a folded condition."""
        return self.source.spot(path, offset)

    def located(self, problem: Problem) -> Problem:
        """The problem with the file, line and column of its path."""
        return problem.at(*self.source.place(problem.path))

    def condition_problem(self, path: YamlPath, error: ConditionError) -> Problem:
        """A refused condition as a problem at its very words; `path` leads to the text of the condition."""
        file, line, column = self.source.spot(path, error.offset)
        return Problem(error.code, error.message, file, line, column, error.hint, path, error.length)


def parse_workflow(text: str, file: str, *, includes: Mapping[str, str] | None = None) -> Document:
    """Read a workflow file.

    Args:
        text: the YAML text.
        file: its name in messages; its stem must be the workflow's name.
        includes: name of an includable file, as written after `include:`, to its text.

    Raises:
        DefinitionError: with every problem of the file, in the order of the places.
    """
    tree, problems = read_yaml(text, file)
    document, more = _document(tree, file, text, includes or {})
    problems += more
    stem = file.replace("\\", "/").rsplit("/", 1)[-1]
    name = tree.child("workflow")
    if stem.endswith((".yaml", ".yml")) and name is not None and isinstance(name.data, str):
        stem = stem.rsplit(".", 1)[0]
        if name.data != stem:
            problems.append(
                Problem("E107", f"the workflow is called '{name.data}' and its file '{stem}'",
                        *tree.place(("workflow",)), hint=f"write `workflow: {stem}`, or rename the file",
                        path=("workflow",), length=len(name.data))
            )  # fmt: skip
    return _finished(document, problems)


def parse_value(
    data: Mapping[str, Any],
    file: str,
    *,
    source: Value | None = None,
    path: YamlPath = (),
    includes: Mapping[str, str] | None = None,
) -> Document:
    """Read a workflow that is given as plain values, e.g. inline in a simulation file.

    Args:
        data: the workflow's map; keys of `source` that are missing here (such as `activated`) are left out.
        file: name in messages.
        source: the tree of the YAML file that holds it (`compiler.yaml.read_yaml`), for places.
        path: where in `source` the workflow stands.
        includes: as for `parse_workflow`.

    Raises:
        DefinitionError: with every problem.
    """
    tree = yaml.of_plain(data, file)
    if source is not None:
        written, _ = source.nearest(path)
        if isinstance(written.data, dict):
            kept = {key: value for key, value in written.data.items() if key in data}
            tree = replace(written, data=kept)
    return _finished(*_document(tree, file, "", includes or {}))


def _finished(document: Document | None, problems: list[Problem]) -> Document:
    if problems or document is None:
        raise DefinitionError(sorted(problems, key=lambda problem: (problem.file != problems[0].file, problem.file,
                                                                   problem.line, problem.column)))  # fmt: skip
    return document


def _document(tree: Value, file: str, text: str, includes: Mapping[str, str]) -> tuple[Document | None, list[Problem]]:
    if not isinstance(tree.data, dict):
        problem = Problem("E103", "a workflow is a map", file, tree.line, tree.column,
                          hint="start with `version: 1` and `workflow: <name>`")  # fmt: skip
        return None, [problem]
    problems: list[Problem] = []
    tree = _spliced(tree, _Splicer(includes, problems))
    problems += kind_mistakes(tree)
    try:
        workflow = Workflow.model_validate(tree.plain, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, problems + field_mistakes(tree, error, [problem.path for problem in problems if problem.path])
    document = Document(workflow, file, text, tree)
    problems += _duplicate_ids(document)
    return document, problems


def _duplicate_ids(document: Document) -> list[Problem]:
    seen: dict[str, YamlPath] = {}
    problems: list[Problem] = []
    for (step_id, step), path in zip(walk(document.workflow.steps), step_paths(document.workflow.steps), strict=True):
        if step_id not in seen:
            seen[step_id] = path
            continue
        at = (*path, "id") if step.id else path
        first_file, first_line, _ = document.source.place(seen[step_id])
        where = f"line {first_line}" if first_file == document.file else f"{first_file}:{first_line}"
        problems.append(
            document.located(
                Problem("E108", f"the step id '{step_id}' is taken", path=at, hint=f"the first is in {where}")
            )
        )
    return problems


class _Splicer:
    """Replaces `include:` steps by the steps of their files, in the tree, so that places stay true."""

    def __init__(self, files: Mapping[str, str], problems: list[Problem]) -> None:
        self.files, self.problems = files, problems

    def steps(self, value: Value, inside: tuple[str, ...] = ()) -> Value:
        if not isinstance(value.data, list):
            return value
        spliced: list[Value] = []
        for item in value.data:
            target = item.child("include")
            if target is not None and isinstance(target.data, str):
                spliced += self._included(item, target, inside)
            else:
                spliced.append(self._step(item, inside))
        return replace(value, data=spliced)

    def _step(self, item: Value, inside: tuple[str, ...]) -> Value:
        if not isinstance(item.data, dict):
            return item
        data = dict(item.data)
        for key in ("then", "else"):
            if key in data:
                data[key] = self.steps(data[key], inside)
        named = data.get("arms")
        if named is not None and isinstance(named.data, dict):
            data["arms"] = replace(named, data={key: self.steps(arm, inside) for key, arm in named.data.items()})
        cases = data.get("switch")
        if cases is not None and isinstance(cases.data, list):
            data["switch"] = replace(cases, data=[self._step(case, inside) for case in cases.data])
        return replace(item, data=data)

    def _included(self, item: Value, target: Value, inside: tuple[str, ...]) -> list[Value]:
        name = target.data
        place = (target.file, target.line, target.column)
        if len(item.data) > 1:
            other = next(key for key in item.data if key != "include")
            self.problems.append(
                Problem("E102", f"unknown key '{other}' in an include", item.file, *item.keys.get(other, (0, 0)),
                        hint="an include has no other key; steps get their ids in the included file")
            )  # fmt: skip
        if name not in self.files:
            self.problems.append(
                Problem("E109", f"the included file '{name}' does not exist", *place, hint=nearest(name, self.files))
            )
            return []
        if name in inside or len(inside) >= MAX_INCLUDES:
            way = " → ".join((*inside, name))
            self.problems.append(Problem("E109", f"includes go in a circle or too deep: {way}", *place))
            return []
        try:
            tree, problems = read_yaml(self.files[name], name)
        except DefinitionError as error:
            self.problems.extend(error.problems)
            return []
        self.problems.extend(problems)
        if not isinstance(tree.data, list):
            self.problems.append(
                Problem("E103", "an included file is a list of steps", name, tree.line, tree.column,
                        hint="start its lines with `- `")
            )  # fmt: skip
            return []
        spliced = self.steps(tree, (*inside, name))
        return list(spliced.data)


def _spliced(tree: Value, splicer: _Splicer) -> Value:
    steps = tree.child("steps")
    return tree if steps is None else replace(tree, data={**tree.data, "steps": splicer.steps(steps)})


# ---------------------------------------------------------------- canonical form


def canonical(workflow: Workflow) -> str:
    """The workflow as canonical JSON, which reads back to an equal workflow.

    Keys of the language are sorted and left out where they have their default; maps with the author's own keys (arms,
    weights, `set`, `body` …) keep file order, which means something there.
    """
    return json.dumps(_canonical(workflow), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def content_hash(workflow: Workflow) -> str:
    """SHA-256 of the canonical form, in hexadecimal: what a published version is known by."""
    return hashlib.sha256(canonical(workflow).encode()).hexdigest()


def from_canonical(text: str) -> Workflow:
    """The workflow that `canonical` wrote."""
    return Workflow.model_validate_json(text)


def _canonical(value: Any) -> Any:
    match value:
        case BaseModel():
            fields = type(value).model_fields
            # An explicit null of a policy key turns the project's default off, so what was written there counts.
            written = value.model_fields_set if type(value).__name__ == "Policy" else ()
            kept = {
                field.alias or name: _canonical(getattr(value, name))
                for name, field in fields.items()
                if name in written or field.is_required() or _differs(getattr(value, name), field.get_default())
            }
            return dict(sorted(kept.items()))
        case Mapping():
            return {key: _canonical(item) for key, item in value.items()}
        case tuple() | list():
            return [_canonical(item) for item in value]
        case str():
            return str(value)
        case _:
            return value


def _differs(value: Any, default: Any) -> bool:
    """Whether a value says more than its default; models are equal even when one writes a null that the other omits."""
    return value != default or (isinstance(value, BaseModel) and _canonical(value) != _canonical(default))


# ---------------------------------------------------------------- what later versions execute


def unsupported(document: Document) -> list[Problem]:
    """The constructs of the language that this version reads but does not execute: refused (E900), never ignored."""
    problems: list[Problem] = []

    def refuse(name: str, path: YamlPath, hint: str) -> None:
        problem = Problem("E900", f"'{name}' is not executed by this version", hint=hint, path=path, length=len(name))
        problems.append(problem.at(*document.source.place(path, key=True)))

    for (_, step), path in zip(walk(document.workflow.steps), step_paths(document.workflow.steps), strict=True):
        value, _ = document.source.nearest(path)
        if "send" in value.data and not arms(step):
            refuse("send", (*path, "send"), "what works now: a message goes out at once; a `wait:` before it delays it")
    return problems
