"""What is wrong with a workflow's YAML, in words for its author: pydantic's findings made Problems with places."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from compiler.errors import Problem, nearest
from compiler.workflow import NAME, STEP_ID, STEP_KINDS, Workflow
from compiler.yaml import Value, YamlPath

TRIGGER_KINDS = ("event", "audience", "from", "schedule")
_TRIGGER_KEYS = ("event", "from", "schedule", "audience")  # in the order in which the model looks for them
_STEP_LISTS = ("steps", "then", "else")
_TEXT_LIMIT = 40

_PATTERNS = {
    NAME: "a name of a-z, 0-9 and _, starting with a letter, at most 64 characters",
    STEP_ID: "an id of letters, digits, _ and -, at most 64 characters",
    r"^([01]\d|2[0-3]):[0-5]\d$": 'a time of day such as "08:00"',
}
_EXPECTED = {
    "string_type": "a text", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "bool_type": "true or false", "tuple_type": "a list", "list_type": "a list",
    "dict_type": "a map", "model_type": "a map", "model_attributes_type": "a map", "mapping_type": "a map",
    "is_instance_of": "a text", "none_required": "nothing",
}  # fmt: skip
_DURATION_WORDS = "a duration such as 30s, 15m, 2h, 3d or 1w"
_SHAPES = frozenset({*_EXPECTED, "too_short"})
_SECOND_GUESSES = {
    "delay": "wait", "sleep": "wait", "send": "email", "mail": "email", "condition": "if", "when": "if",
    "branch": "if", "add_tag": "tag", "remove_tag": "untag", "slack": "notify", "update": "set", "stop": "exit",
    "goal": "goals", "name": "workflow", "id": "workflow", "triggers": "trigger", "timeout": "within",
}  # fmt: skip
"""Words of other tools -> our key, where spelling alone would not find it."""


def kind_mistakes(tree: Value) -> list[Problem]:
    """Steps and triggers that do not have exactly one kind key (E104)."""
    problems = list(_step_mistakes(tree.child("steps"), ("steps",)))
    trigger = tree.child("trigger")
    if trigger is not None and isinstance(trigger.data, dict):
        kinds = [kind for kind in TRIGGER_KINDS if kind in trigger.data]
        if "schedule" in kinds and "audience" in kinds:
            kinds.remove("audience")  # there it says for whom
        if len(kinds) != 1:
            problem = _problem(tree, "E104", "a trigger has exactly one of event, audience, from, schedule"
                               + (f"; this one has {_listed(kinds)}" if kinds else ""), ("trigger",),
                               hint="" if kinds else _kind_hint(trigger.data, TRIGGER_KINDS))  # fmt: skip
            problems.append(problem)
    return problems


def field_mistakes(tree: Value, error: ValidationError, known: Iterable[YamlPath]) -> list[Problem]:
    """All that the model refused, except below the paths whose kind is already known to be wrong."""
    skipped = tuple(known)
    groups: dict[YamlPath, list[ErrorDetails]] = defaultdict(list)
    for details in error.errors():
        missing_key = details["type"] in ("missing", "extra_forbidden")
        path = _path(tree, details["loc"][:-1] if missing_key else details["loc"])
        if missing_key:
            path = (*path, str(details["loc"][-1]))
        if not any(path[: len(start)] == start for start in skipped):
            groups[path].append(details)
    problems = []
    for path, found in groups.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in groups)
        if deeper and all(details["type"] in _SHAPES for details in found):
            continue  # the other forms of a union: its author meant the form that got further
        problems.append(_explained(tree, path, found))
    return problems


# ---------------------------------------------------------------- kinds


def _step_mistakes(steps: Value | None, path: YamlPath) -> Iterator[Problem]:
    if steps is None or not isinstance(steps.data, list):
        return
    for index, step in enumerate(steps.data):
        here = (*path, index)
        if not isinstance(step.data, dict):
            yield Problem("E104", f"a step is a map with a kind key, not {_shown(step.plain)}", step.file, step.line,
                          step.column, hint="for example `- wait: 2h`", path=here)  # fmt: skip
            continue
        kinds = [kind for kind in STEP_KINDS if kind in step.data and kind != "if"]
        if len(kinds) > 1:
            message = f"a step has exactly one kind key; this one has {_listed(kinds)}"
            yield Problem("E104", message, step.file, step.line, step.column, path=here,
                          hint=f"make it {len(kinds)} steps")  # fmt: skip
        elif not kinds and "if" not in step.data:
            yield Problem("E104", "a step without a kind key", step.file, step.line, step.column, path=here,
                          hint=_kind_hint(step.data, STEP_KINDS))  # fmt: skip
        for key, arm in _sequences(step):
            yield from _step_mistakes(arm, here + key)


def _sequences(step: Value) -> Iterator[tuple[YamlPath, Value]]:
    for key in ("then", "else"):
        if key in step.data:
            yield (key,), step.data[key]
    named = step.data.get("arms")
    if named is not None and isinstance(named.data, dict):
        for name, arm in named.data.items():
            yield ("arms", name), arm
    cases = step.data.get("switch")
    if cases is not None and isinstance(cases.data, list):
        for index, case in enumerate(cases.data):
            if case.child("then") is not None:
                yield ("switch", index, "then"), case.data["then"]


def _kind_hint(keys: Iterable[str], allowed: Iterable[str]) -> str:
    options = list(allowed)
    for key in keys:
        if key == "id":
            continue
        if _SECOND_GUESSES.get(key) in options:
            return f"did you mean '{_SECOND_GUESSES[key]}'?"
        hint = nearest(key, options)
        if hint.startswith("did"):
            return hint
    return f"one of: {', '.join(options)}"


# ---------------------------------------------------------------- places


def _path(tree: Value, location: tuple[int | str, ...]) -> YamlPath:
    """Pydantic's location as a YAML path: without the tags of unions, as deep as the file goes."""
    path: list[str | int] = []
    here, tagged = tree, False
    for part in location:
        if tagged:  # the discriminator's tag; it may well be a key too, so it is skipped by position
            tagged = False
            continue
        below = here.child(part)
        if below is None:
            continue
        path.append(part)
        here = below
        tagged = _has_tag(tuple(path))
    return tuple(path)


def _has_tag(path: YamlPath) -> bool:
    """Whether the value at a path is a tagged union: a step or the trigger."""
    if path == ("trigger",):
        return True
    in_list = path[0] == "steps" and isinstance(path[-1], int) and len(path) > 1
    return in_list and (path[-2] in _STEP_LISTS or (len(path) > 2 and path[-3] == "arms"))


def _where(tree: Value, path: YamlPath) -> str:
    """Words for a map in the file."""
    if not path:
        return "the workflow"
    for length in range(len(path), 0, -1):
        if _has_tag(path[:length]) and path[:length] != ("trigger",):
            step, _ = tree.nearest(path[:length])
            name = step.data["id"].plain if "id" in step.data else None
            kind = next((kind for kind in STEP_KINDS if kind in step.data), "")
            title = f"step '{name}'" if isinstance(name, str) else f"the '{kind}' step" if kind else "a step"
            rest = _dotted(path[length:])
            return f"{rest} of {title}" if rest else title
    return _dotted(path)


def _dotted(path: YamlPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _model(tree: Value, path: YamlPath) -> type[BaseModel] | None:
    """The model of the map at a path."""
    model: type[BaseModel] | None = Workflow
    candidates: list[type[BaseModel]] = []
    for length, part in enumerate(path, 1):
        if model is not None and isinstance(part, str):
            field = _keys(model).get(part)
            candidates = _models(field.annotation) if field is not None else []
        here, _ = tree.nearest(path[:length])
        keys = here.data if isinstance(here.data, dict) else {}
        if len(candidates) == 1:
            model = candidates[0]
        elif path[:length] == ("trigger",):
            kind = next((kind for kind in _TRIGGER_KEYS if kind in keys), None)
            model = next((candidate for candidate in candidates if kind in _keys(candidate)), None)
        elif _has_tag(path[:length]):
            model = next((STEP_KINDS[kind] for kind in STEP_KINDS if kind in keys), None)
        else:
            model = None
    return model


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


# ---------------------------------------------------------------- words


def _explained(tree: Value, path: YamlPath, found: list[ErrorDetails]) -> Problem:
    first = found[0]
    if first["loc"][-1] == "[key]":
        key = str(path[-1])
        allowed = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        hint = nearest(key, allowed) if allowed else ""
        return Problem("E102", f"unknown key '{key}' in {_where(tree, path[:-1])}", *tree.place(path, key=True),
                       hint=hint or _name_hint(first), path=path, length=len(key))  # fmt: skip
    match first["type"]:
        case "missing":
            holder = path[:-1]
            return _problem(tree, "E101", f"missing key '{path[-1]}' in {_where(tree, holder)}", holder,
                            hint=_missing_hint(path))  # fmt: skip
        case "extra_forbidden":
            return _unknown_key(tree, path)
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"]) or [first["ctx"]["expected"]]
            expected = f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
            return _wrong(tree, path, expected, _literal_hint(first["input"], allowed))
        case "string_pattern_mismatch":
            pattern = str(first["ctx"]["pattern"])
            return _wrong(tree, path, _PATTERNS.get(pattern, f"a text like {pattern}"))
        case "duration" | "rate" | "cron" | "zone":
            return _problem(tree, "E106", f"{_key_words(tree, path)} is {_value(tree, path)}; {first['msg']}", path)
        case _:
            return _wrong_shape(tree, path, found)


def _name_hint(details: ErrorDetails) -> str:
    words = _PATTERNS.get(str(details.get("ctx", {}).get("pattern", "")), "")
    return f"a key here is {words}" if words else ""


def _unknown_key(tree: Value, path: YamlPath) -> Problem:
    holder, key = path[:-1], str(path[-1])
    model = _model(tree, holder)
    allowed = list(_keys(model)) if model is not None else []
    hint = nearest(key, allowed)
    other = _SECOND_GUESSES.get(key, "")
    if not hint.startswith("did") and other in allowed:
        hint = f"did you mean '{other}'?"
    if key == "if" and _has_tag(holder):
        hint = "put it into a branch: `if:` with `then:`"
    elif hint.startswith("did"):
        hint = f"{hint} (allowed: {', '.join(sorted(allowed))})"
    elif allowed:
        hint = f"allowed: {', '.join(sorted(allowed))}"
    line = tree.place(path, key=True)
    return Problem("E102", f"unknown key '{key}' in {_where(tree, holder)}", *line, hint=hint, path=path,
                   length=len(key))  # fmt: skip


def _missing_hint(path: YamlPath) -> str:
    if len(path) > 1:
        return ""
    return {
        "version": "write `version: 1`",
        "workflow": "write `workflow: <name>`, the name of the file without .yaml",
        "trigger": "write `trigger:` with one of event, audience, from, schedule",
        "steps": "write `steps:` with a list of steps",
    }.get(str(path[0]), "")


def _literal_hint(value: Any, allowed: list[str]) -> str:
    hint = nearest(str(value), allowed)
    return hint if hint.startswith("did") else ""


def _wrong_shape(tree: Value, path: YamlPath, found: list[ErrorDetails]) -> Problem:
    first = found[0]
    context = first.get("ctx", {})
    match str(first["type"]):
        case "greater_than_equal":
            return _wrong(tree, path, f"at least {context['ge']}")
        case "less_than_equal":
            return _wrong(tree, path, f"at most {context['le']}")
        case "string_too_long":
            return _wrong(tree, path, f"at most {context['max_length']:,} characters")
        case "string_too_short" | "too_short":
            return _wrong(tree, path, "something that is not empty")
        case "value_error":
            return _problem(tree, "E103", f"{_where(tree, path)}: {str(first['ctx']['error'])}", path)
    words = [_DURATION_WORDS if details["type"] in ("duration", "rate") else _EXPECTED.get(details["type"], "")
             for details in found]  # fmt: skip
    written = _at(tree, path)
    shapes = list(dict.fromkeys(word for word in words if word))
    if not shapes:
        return _problem(tree, "E103", f"{_key_words(tree, path)}: {first['msg']}", path)
    if len(shapes) >= 4:
        shapes = ["a plain value"]
    if _DURATION_WORDS in shapes:
        return _wrong(tree, path, " or ".join(shapes), code="E106")
    hint = ""
    if "a text" in shapes and isinstance(written, int | float | bool):
        hint = f'put it in quotes: "{str(written).lower() if isinstance(written, bool) else written}"'
    elif "true or false" in shapes and str(written).lower() in ("yes", "no", "on", "off", "y", "n"):
        hint = f"write {'true' if str(written).lower() in ('yes', 'on', 'y') else 'false'}"
    elif set(shapes) <= {"a whole number", "a number"} and isinstance(written, str):
        hint = "write it without quotes" if written.lstrip("-").isdigit() else ""
    elif shapes == ["a list"] and path[-1] in _STEP_LISTS:
        hint = "write `[]` for no steps" if written is None else "start each step with `- `"
    return _wrong(tree, path, " or ".join(shapes), hint)


def _wrong(tree: Value, path: YamlPath, expected: str, hint: str = "", code: str = "E103") -> Problem:
    message = f"{_key_words(tree, path)} is {_value(tree, path)}; expected {expected}"
    return _problem(tree, code, message, path, hint)


def _key_words(tree: Value, path: YamlPath) -> str:
    if not path:
        return "the file"
    if isinstance(path[-1], int):
        return f"item {path[-1] + 1} of {_where(tree, path[:-1])}"
    holder = _where(tree, path[:-1])
    return f"'{path[-1]}'" if len(path) == 1 else f"'{path[-1]}' in {holder}"


def _at(tree: Value, path: YamlPath) -> Any:
    here, _ = tree.nearest(path)
    return here.plain


def _value(tree: Value, path: YamlPath) -> str:
    return _shown(_at(tree, path))


def _shown(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            text = value.replace("\n", " ")
            return f"'{text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + '…'}'"
        case dict():
            return "a map"
        case list():
            return "a list"
        case _:
            return str(value)


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _problem(tree: Value, code: str, message: str, path: YamlPath, hint: str = "") -> Problem:
    return Problem(code, message, *tree.place(path), hint=hint, path=path)
