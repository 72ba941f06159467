"""YAML 1.2 core text -> tree of values that know their place: the one way Penstock reads YAML.

Only null, true/false and numbers are typed; dates, times of day, `on`, `no` and `y` are text, keys are always text.
Tags, several documents and more aliases or depth than limits allow are refused: a file is data, never objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from compiler.errors import DefinitionError, Problem

MAX_CHARACTERS = 2_000_000
MAX_ALIASES = 100
MAX_VALUES = 400_000
MAX_DEPTH = 100

YamlPath = tuple[str | int, ...]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_OCTAL = re.compile(r"0o[0-7]{1,18}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_BLOCK_STYLES = ("|", ">")
_WORDY_ERRORS = {
    "mapping values are not allowed here": "a ': ' inside a value; put the value in quotes, or use a block '>-'",
    "could not find expected ':'": "a key without ': ', or a text that needs quotes",
    "found unexpected end of stream": "a quote or bracket that is not closed",
    "found character '\\t' that cannot start any token": "a tab; YAML indents with spaces only",
}


@dataclass(frozen=True)
class Value:
    """A value of a YAML file and its place: lines and columns count from 1, `start` and `stop` are text offsets.

    `data` is a scalar, a dict of text to Value or a list of Values. `keys` holds the places of a dict's keys.
    """

    data: Any
    file: str = ""
    line: int = 0
    column: int = 0
    start: int = 0
    stop: int = 0
    style: str = ""
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    text: str = field(default="", repr=False, compare=False)

    @property
    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        match self.data:
            case dict():
                return {key: child.plain for key, child in self.data.items()}
            case list():
                return [child.plain for child in self.data]
            case _:
                return self.data

    def child(self, step: str | int) -> Value | None:
        """The value under a key or an index, None when there is none."""
        found: Value | None = None
        match self.data, step:
            case (dict(), str()):
                found = self.data.get(step)
            case (list(), int()) if 0 <= step < len(self.data):
                found = self.data[step]
        return found

    def nearest(self, path: YamlPath) -> tuple[Value, str | None]:
        """The value at the path or its nearest known ancestor, and the key under which its map holds it, if any."""
        here, key, parent = self, None, self
        for step in path:
            below = here.child(step)
            if below is None:
                break
            parent, here, key = here, below, step if isinstance(step, str) else None
        if key is not None and (here.data is None or isinstance(here.data, dict | list)):
            line, column = parent.keys.get(key, (here.line, here.column))
            here = replace(here, line=line, column=column, file=parent.file)
        return here, key

    def place(self, path: YamlPath, *, key: bool = False) -> tuple[str, int, int]:
        """File, line and column of the nearest known value on a path; with `key`, of the last step's key."""
        if key and path and isinstance(path[-1], str):
            parent, _ = self.nearest(path[:-1])
            if path[-1] in parent.keys:
                return parent.file, *parent.keys[path[-1]]
        here, _ = self.nearest(path)
        return here.file, here.line, here.column

    def spot(self, path: YamlPath, offset: int) -> tuple[str, int, int]:
        """File, line and column of a character of the text at a path, whatever style it is written in."""
        here, _ = self.nearest(path)
        if not isinstance(here.data, str) or not here.text:
            return here.file, here.line, here.column
        position = _source_offset(here, offset)
        line_start = here.text.rfind("\n", 0, position) + 1
        return here.file, here.text.count("\n", 0, position) + 1, position - line_start + 1


def of_plain(data: Any, file: str) -> Value:
    """A tree without places, of values that do not come from YAML text."""
    match data:
        case Mapping():
            return Value({str(key): of_plain(item, file) for key, item in data.items()}, file)
        case str():
            return Value(data, file)
        case Sequence():
            return Value([of_plain(item, file) for item in data], file)
        case _:
            return Value(data, file)


def read_yaml(text: str, file: str) -> tuple[Value, list[Problem]]:
    """Read one YAML document.

    Returns:
        The tree, and the problems that leave it usable (duplicate keys: the first one stands).

    Raises:
        DefinitionError: the text is not YAML, or beyond the limits (E100).
    """
    if len(text) > MAX_CHARACTERS:
        raise DefinitionError([Problem("E100", f"the file is longer than {MAX_CHARACTERS:,} characters", file)])
    builder = _Builder(file, text)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except MarkedYAMLError as error:
        raise DefinitionError([_syntax_problem(error, file)]) from None
    except ReaderError as error:
        line_start = text.rfind("\n", 0, error.position) + 1
        place = (text.count("\n", 0, error.position) + 1, error.position - line_start + 1)
        message = "a character that YAML does not allow"
        raise DefinitionError([Problem("E100", message, file, *place, hint="remove the control character")]) from None
    except YAMLError as error:
        raise DefinitionError([Problem("E100", f"not YAML: {error}", file)]) from None
    if builder.root is None:
        raise DefinitionError([Problem("E100", "the file is empty", file, 1, 1)])
    return builder.root, builder.problems


def _syntax_problem(error: MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = str(error.problem or error.context or "not YAML").strip()
    hint = _WORDY_ERRORS.get(message, str(error.context or "") if error.problem else "")
    if mark is None:
        return Problem("E100", f"not YAML: {message}", file, hint=hint)
    return Problem("E100", f"not YAML: {message}", file, mark.line + 1, mark.column + 1, hint=hint)


class _Builder:
    """Builds the tree from parser events; holds a stack instead of recursing, so that depth is checked, not met."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.root: Value | None = None
        self.problems: list[Problem] = []
        self._stack: list[tuple[Value, dict[str, tuple[int, int]], str | None]] = []
        self._pending: list[Value | None] = []
        self._anchors: dict[str, Value] = {}
        self._measures: dict[int, tuple[int, int]] = {}
        self._documents = self._aliases = self._values = 0

    def take(self, event: Event) -> None:
        match event:
            case DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._refuse(event, "a second document ('---') in one file", "one file holds one definition")
            case ScalarEvent():
                self._refuse_tag(event)
                self._add(event, self._scalar(event))
            case MappingStartEvent() | SequenceStartEvent():
                self._refuse_tag(event)
                self._open(event)
            case MappingEndEvent() | SequenceEndEvent():
                self._close(event)
            case AliasEvent():
                self._alias(event)
            case _:
                pass

    def _refuse(self, event: Event, message: str, hint: str = "") -> None:
        mark = event.start_mark
        raise DefinitionError([Problem("E100", message, self.file, mark.line + 1, mark.column + 1, hint=hint)])

    def _refuse_tag(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"the tag '{tag}' is not allowed", "write plain values; quote what is text")

    def _made(self, event: Event, data: Any, style: str = "") -> Value:
        mark, end = event.start_mark, event.end_mark
        return Value(data, self.file, mark.line + 1, mark.column + 1, mark.index, end.index, style, {}, self.text)

    def _scalar(self, event: ScalarEvent) -> Value:
        style = event.style or ""
        data = event.value if style or event.tag == "!" else _core_value(event.value)
        value = self._made(event, data, style)
        if event.anchor:
            self._anchors[event.anchor] = value
        return value

    def _open(self, event: Any) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        keys: dict[str, tuple[int, int]] = {}
        value = replace(self._made(event, {} if isinstance(event, MappingStartEvent) else []), keys=keys)
        self._stack.append((value, keys, event.anchor))
        self._pending.append(None)

    def _close(self, event: Event) -> None:
        value, _, anchor = self._stack.pop()
        self._pending.pop()
        if anchor:
            self._anchors[anchor] = value
        self._add(event, value)

    def _alias(self, event: Any) -> None:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._refuse(event, f"more than {MAX_ALIASES} aliases")
        target = self._anchors.get(event.anchor)
        if target is None:
            self._refuse(event, f"the alias '*{event.anchor}' has no anchor before it")
            return
        size, height = self._measure(target)
        self._values += size
        if len(self._stack) + height > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        self._add(event, target)

    def _measure(self, value: Value) -> tuple[int, int]:
        """Size and height of what an alias stands for; kept per value, so that a chain of aliases cannot explode."""
        known = self._measures.get(id(value))
        if known is None:
            children = value.data.values() if isinstance(value.data, dict) else value.data
            below = [self._measure(child) for child in children] if isinstance(value.data, dict | list) else []
            known = 1 + sum(size for size, _ in below), 1 + max((height for _, height in below), default=0)
            self._measures[id(value)] = known
        return known

    def _add(self, event: Event, value: Value) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            self._refuse(event, f"more than {MAX_VALUES:,} values, aliases counted as what they stand for")
        if not self._stack:
            self.root = value
            return
        parent, keys, _ = self._stack[-1]
        if isinstance(parent.data, list):
            parent.data.append(value)
        elif self._pending[-1] is None:
            if isinstance(value.data, dict | list):
                self._refuse(event, "a key that is not text")
            self._pending[-1] = value
        else:
            self._put(parent, keys, self._pending[-1], value)
            self._pending[-1] = None

    def _put(self, parent: Value, keys: dict[str, tuple[int, int]], key: Value, value: Value) -> None:
        name = key.data if isinstance(key.data, str) else self.text[key.start : key.stop].strip()
        if name in parent.data:
            first = keys[name]
            self.problems.append(
                Problem(
                    "E105", f"the key '{name}' stands twice in one map", self.file, key.line, key.column,
                    hint=f"the first is in line {first[0]}; remove one", length=len(name),
                )
            )  # fmt: skip
            return
        keys[name] = (key.line, key.column)
        parent.data[name] = value


def _core_value(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return text


def _source_offset(value: Value, offset: int) -> int:
    """The offset in the file of a text's character: the n-th character of the value, found by reading both along."""
    position = value.start
    if value.style in _BLOCK_STYLES:
        position = value.text.find("\n", value.start) + 1
    elif value.style:
        position += 1
    *_, found = (position, *_offsets(value, position, offset))
    return min(found, max(value.stop - 1, value.start))


def _offsets(value: Value, position: int, last: int) -> Iterator[int]:
    text = value.text
    for character in value.data[: last + 1]:
        if character.isspace() and not (value.style == '"' and text[position] == "\\"):
            # A line break of the file may stand for a space of a folded text; the indentation stands for nothing.
            yield position
            if position < value.stop and text[position].isspace():
                position += 1
            continue
        position, width = _next_written(value, position)
        yield position
        position += width


def _next_written(value: Value, position: int) -> tuple[int, int]:
    """Where the next character that is not white space is written, and how many characters it takes."""
    text = value.text
    while position < value.stop and text[position].isspace():
        position += 1
    if value.style == "'" and text.startswith("''", position):
        return position, 2
    if value.style == '"' and text.startswith("\\", position):
        if text[position + 1 : position + 2] == "\n":  # an escaped line break stands for nothing
            return _next_written(value, position + 2)
        return position, {"x": 4, "u": 6, "U": 10}.get(text[position + 1 : position + 2], 2)
    return position, 1
