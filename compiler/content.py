"""Templates: front matter, Liquid and MJML -> Template; Template and the values of one contact -> Message."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast, get_args

from liquid import BoundTemplate, Environment
from liquid.exceptions import LiquidError

from compiler import template_markup as markup
from compiler.catalog import DataType, TemplateInfo
from compiler.errors import DefinitionError, Problem, nearest
from compiler.template_language import (
    FILTERS,
    HTML,
    TAGS,
    TEXT,
    URL_FILTER,
    RenderError,
    failure,
    present,
)
from compiler.yaml import Value, read_yaml

__all__ = ["Message", "Read", "RenderError", "Template", "parse_template", "parse_text", "render", "undefined_columns"]

Where = Callable[[int], Problem]
Kind = Literal["mjml", "html", "txt"]
_KINDS: tuple[Kind, ...] = ("mjml", "html", "txt")
ROOTS = ("contact", "entry", "steps")
_TEXT_KEYS = ("subject", "preheader", "from", "reply_to", "group")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EMPTY_LINES = re.compile(r"\n\s*\n\s*\n")
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
_TAG_NAME = re.compile(r"\{%-?\s*(\w+|#)")
_MAX_SOURCE = 200_000


@dataclass(frozen=True)
class Read:
    """A place in a template that reads `contact.<name>`, `entry.<name>` or `steps.<name>`."""

    root: str
    name: str
    file: str
    line: int
    column: int


@dataclass(frozen=True)
class Message:
    """A rendered message. `html` is None for a text-only template."""

    subject: str
    html: str | None
    text: str
    sender: str | None
    reply_to: str | None
    preheader: str | None


@dataclass(frozen=True)
class Part:
    """One Liquid text of a template: constant, or to be rendered."""

    source: str
    bound: BoundTemplate | None = field(default=None, repr=False, compare=False)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for one contact.

        Args:
            values: what the names stand for, without None.

        Raises:
            RenderError: a value is missing or a limit is met.
        """
        if self.bound is None:
            return self.source
        try:
            return self.bound.render(values)
        except LiquidError as error:
            raise failure(error) from None


@dataclass(frozen=True)
class Template:
    """A checked template: `digest` is the SHA-256 of its sources, `info` what the catalog knows of it."""

    name: str
    digest: str
    kind: Kind
    info: TemplateInfo
    text: Part
    html: Part | None = None
    subject: Part | None = None
    preheader: Part | None = None
    sender: Part | None = None
    reply_to: Part | None = None
    group: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[Read, ...] = ()
    text_derived: bool = False


def render(template: Template, values: Mapping[str, Any], *, subject: str | None = None) -> Message:
    """The message for one contact.

    Args:
        template: a parsed template.
        values: `contact`, `entry`, `steps` (maps) and `with` (the declared variables); None means missing.
        subject: the step's subject, which wins over the template's.

    Raises:
        RenderError: a value is missing, a limit is met or a header holds control characters; names no value.
    """
    names: dict[str, Any] = {root: {} for root in ROOTS}
    names.update(template.defaults)
    for key, value in present(values).items():
        if key == "with":
            names.update({name: given for name, given in value.items() if name in template.info.variables})
        elif key in ROOTS:
            names[key] = value
    title = subject if subject is not None else _header("subject", template.subject, names)
    if title is None and template.html is not None:
        raise RenderError("there is no subject: neither the step nor the template has one")
    if title is not None and _CONTROL.search(title):
        raise RenderError("the subject holds a control character")
    html = template.html.render(names) if template.html is not None else None
    text = template.text.render(names)
    if template.text_derived:  # what an `if` left out leaves empty lines behind
        text = _EMPTY_LINES.sub("\n\n", text)
    return Message(
        subject=title or "", html=html, text=text,
        sender=_header("from", template.sender, names), reply_to=_header("reply_to", template.reply_to, names),
        preheader=_header("preheader", template.preheader, names),
    )  # fmt: skip


def _header(name: str, part: Part | None, names: Mapping[str, Any]) -> str | None:
    if part is None:
        return None
    text = part.render(names)
    if _CONTROL.search(text):
        raise RenderError(f"the {name} holds a control character")
    return text


def undefined_columns(template: Template, root: str, columns: Iterable[str]) -> list[Problem]:
    """The names under a root (contact, entry or steps) that do not exist, each at its place (E402)."""
    known = sorted(set(columns))
    return [
        Problem("E402", f"'{root}.{read.name}' is undefined", read.file, read.line, read.column,
                nearest(read.name, known), length=len(root) + 1 + len(read.name))
        for read in template.reads
        if read.root == root and read.name not in known
    ]  # fmt: skip


# ---------------------------------------------------------------- reading


def parse_template(name: str, files: Mapping[str, str], file: str) -> Template:
    """Read a template.

    Args:
        name: as workflows call it.
        files: suffix (`mjml`, `html`, `txt`) to text; `txt` beside one of the others is the plain-text part.
        file: path without suffix, in messages `<file>.<suffix>`.

    Raises:
        DefinitionError: with every problem found.
    """
    return _Reader(name, files, file).template()


def parse_text(source: str, file: str = "", *, variables: Iterable[str] = ()) -> Part:
    """Read a short Liquid text outside a template file, such as the text of a notification.

    Raises:
        DefinitionError: it is not Liquid, or reads a name that nobody provides.
    """
    reader = _Reader("", {"txt": source}, file)
    reader.variables = dict.fromkeys(variables, "text")
    part = reader.part(source, TEXT, partial(reader.place, "txt"))
    if reader.problems:
        raise DefinitionError(reader.problems)
    return part


def snippet_reads(source: str) -> tuple[Read, ...]:
    """The names that a short Liquid text reads.

    Raises:
        DefinitionError: as `parse_text`.
    """
    reader = _Reader("", {"txt": source}, "")
    reader.part(source, TEXT, partial(reader.place, "txt"))
    if reader.problems:
        raise DefinitionError(reader.problems)
    return tuple(reader.reads.values())


class _Reader:
    """Reads one template and collects its problems."""

    def __init__(self, name: str, files: Mapping[str, str], file: str) -> None:
        self.name, self.file = name, file
        self.files = {suffix.removeprefix("."): text.replace("\r\n", "\n") for suffix, text in files.items()}
        self.problems: list[Problem] = []
        self.reads: dict[tuple[str, str, str, int, int], Read] = {}
        self.variables: dict[str, DataType] = {}
        self.defaults: dict[str, Any] = {}
        self.required: set[str] = set()
        self.texts: dict[str, tuple[str, Problem]] = {}
        self.kind: Kind = next((kind for kind in _KINDS if kind in self.files), "txt")

    def _problem(self, code: str, message: str, place: Problem, hint: str = "", length: int = 1) -> None:
        self.problems.append(Problem(code, message, place.file, place.line, place.column, hint, length=length))

    def named(self, suffix: str) -> str:
        return f"{self.file}.{suffix}" if self.file and not self.file.endswith(f".{suffix}") else self.file

    def place(self, suffix: str, offset: int) -> Problem:
        text = self.files[suffix]
        start = text.rfind("\n", 0, offset) + 1
        return Problem("", "", self.named(suffix), text.count("\n", 0, offset) + 1, offset - start + 1)

    def template(self) -> Template:
        self._check_files()
        body = self._front_matter(self.kind)
        parts = {key: self._front_text(key) for key in _TEXT_KEYS if key != "group"}
        html = self._html(body) if self.kind != "txt" else None
        text = self._text(html, body)
        if self.problems:
            raise DefinitionError(sorted(self.problems, key=lambda p: (p.file, p.line, p.column)))
        reads = tuple(self.reads.values())
        group = self.texts["group"][0] if "group" in self.texts else None
        info = TemplateInfo(
            self.name, self._digest(), group, dict(self.variables), frozenset(self.required),
            *(frozenset(read.name for read in reads if read.root == root) for root in ROOTS),
        )  # fmt: skip
        part = self.part(html[0], HTML, None) if html else None
        return Template(
            self.name, info.digest, self.kind, info, text, part, parts["subject"], parts["preheader"], parts["from"],
            parts["reply_to"], group, dict(self.defaults), reads, self.kind != "txt" and "txt" not in self.files,
        )  # fmt: skip

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for suffix, text in sorted(self.files.items()):
            digest.update(f"{suffix}:{len(text)}:{text}".encode())
        return digest.hexdigest()

    def _check_files(self) -> None:
        if not self.files:
            raise DefinitionError([Problem("E401", f"the template '{self.name}' has no file", self.file)])
        if "mjml" in self.files and "html" in self.files:
            self._problem("E401", "a template is .mjml or .html, not both", self.place("html", 0), "remove one")
        for suffix, text in self.files.items():
            if suffix not in _KINDS:
                raise DefinitionError([Problem("E401", f"unknown kind of template '.{suffix}'", self.named(suffix),
                                               hint=nearest(suffix, _KINDS))])  # fmt: skip
            if len(text) > _MAX_SOURCE:
                raise DefinitionError([Problem("E401", f"longer than {_MAX_SOURCE:,} characters", self.named(suffix))])

    # ------------------------------------------------------------ front matter

    def _front_matter(self, suffix: str) -> int:
        """Reads the front matter; gives the offset at which the body starts."""
        text = self.files[suffix]
        if not re.match(r"---[ \t]*\n", text):
            return 0
        end = re.compile(r"^---[ \t]*(\n|\Z)", re.MULTILINE).search(text, text.index("\n") + 1)
        if end is None:
            self._problem("E401", "the front matter does not end", self.place(suffix, 0), "add a line `---` after it")
            return len(text)
        try:
            # The first line is blanked, not cut, so that places are those of the file.
            tree, problems = read_yaml("\n" + text[text.index("\n") + 1 : end.start()] + "{}"[: _blank(text, end)],
                                       self.named(suffix))  # fmt: skip
        except DefinitionError as error:
            self.problems += error.problems
            return end.end()
        self.problems += problems
        self._front_keys(tree)
        return end.end()

    def _front_keys(self, tree: Value) -> None:
        if not isinstance(tree.data, dict):
            self._problem("E401", "front matter is a map", _at(tree, ()), "for example `subject: Hello`")
            return
        allowed = (*_TEXT_KEYS, "vars")
        for key, value in tree.data.items():
            if key == "vars":
                self._variables(tree)
            elif key not in allowed:
                self._problem("E401", f"unknown key '{key}' in the front matter", _at(tree, (key,), key=True),
                              nearest(key, allowed), len(key))  # fmt: skip
            elif not isinstance(value.data, str):
                self._problem("E401", f"'{key}' is a text", _at(tree, (key,)), "put it in quotes")
            else:
                self.texts[key] = (value.data, _at(tree, (key,)))

    def _variables(self, tree: Value) -> None:
        declared = tree.data["vars"]
        if not isinstance(declared.data, dict):
            self._problem("E401", "'vars' is a map of name to type", _at(tree, ("vars",)), "vars: {cart_url: text}")
            return
        for name, value in declared.data.items():
            given = value.plain
            form = given if isinstance(given, dict) else {"type": given}
            place = _at(tree, ("vars", name), key=True)
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) or name in ROOTS:
                self._problem("E401", f"'{name}' cannot be the name of a variable", place, "a-z, 0-9 and _")
            elif unknown := [key for key in form if key not in ("type", "default")]:
                self._problem("E401", f"unknown key '{unknown[0]}' in the variable '{name}'", place,
                              nearest(unknown[0], ("type", "default")))  # fmt: skip
            elif form.get("type") not in get_args(DataType):
                self._problem("E401", f"the variable '{name}' has no known type", place,
                              nearest(str(form.get("type")), get_args(DataType)))  # fmt: skip
            else:
                self.variables[name] = cast(DataType, form["type"])
                if form.get("default") is None:
                    self.required.add(name)
                else:
                    self.defaults[name] = form["default"]

    def _front_text(self, key: str) -> Part | None:
        if key not in self.texts:
            return None
        text, place = self.texts[key]
        return self.part(text, TEXT, lambda offset: place)

    # ------------------------------------------------------------ bodies

    def _html(self, start: int) -> tuple[str, str] | None:
        """The Liquid HTML and the Liquid plain text derived from it."""
        suffix = self.kind
        body = self.files[suffix][start:]

        def where(offset: int) -> Problem:
            return self.place(suffix, start + offset)

        self.part(body, HTML, where)
        masked = markup.mask(body)
        html = masked.text
        if suffix == "mjml":
            html, found = markup.compile_mjml(masked)
            if found:
                self.problems += markup.placed(found, masked, "E404", where)
                return None
        # The author's own file has the places; what MJML adds is not the author's.
        self.problems += markup.placed(markup.inspect(masked, masked.text)[0], masked, "E407", where)
        _, guarded = markup.inspect(masked, html)
        plain = masked.restored(markup.plain_text(html), guarded)
        if "preheader" in self.texts:
            before = markup.Masked(html, masked.parts)
            hidden = markup.mask(self.texts["preheader"][0])
            return before.restored(markup.with_preheader(before.text, "zPreheaderz"), guarded).replace(
                "zPreheaderz", hidden.restored(_escaped(hidden.text))
            ), plain
        return masked.restored(html, guarded), plain

    def _text(self, html: tuple[str, str] | None, start: int) -> Part:
        if self.kind == "txt":
            return self.part(self.files["txt"][start:], TEXT, lambda offset: self.place("txt", start + offset))
        if "txt" in self.files:
            return self.part(self.files["txt"], TEXT, partial(self.place, "txt"))
        return self.part(html[1], TEXT, None) if html and not self.problems else Part("")

    # ------------------------------------------------------------ Liquid

    def part(self, source: str, language: Environment, where: Where | None) -> Part:
        """Parses a Liquid text; with `where` (offset -> place) its names, tags and filters are checked as well."""
        if "{{" not in source and "{%" not in source:
            return Part(source)
        if where is not None and not self._tags_allowed(source, where):
            return Part(source)
        try:
            bound = language.from_string(source)
        except LiquidError as error:
            self._liquid_problem(error, where)
            return Part(source)
        if where is not None:
            self._names(bound, where)
        return Part(source, bound)

    def _liquid_problem(self, error: LiquidError, where: Where | None) -> None:
        offset = error.token.start_index if error.token is not None and error.token.start_index >= 0 else 0
        place = where(offset) if where is not None else Problem("", "", self.named(self.kind))
        self._problem("E405", f"not Liquid: {error.message}", place)

    def _tags_allowed(self, source: str, where: Where) -> bool:
        count = len(self.problems)
        for match in _TAG_NAME.finditer(source):
            name = match[1]
            if name not in TAGS:
                hint = nearest(name, [tag for tag in TAGS if not tag.startswith("end")])
                self._problem("E405", f"the tag '{name}' is not allowed", where(match.start()), hint)
        for match in markup.LIQUID.finditer(source):
            tag = _TAG_NAME.match(match[0])
            if (tag is None or tag[1] != "for") and ".." in _STRING.sub("", match[0]):
                self._problem("E405", "a range outside of a for loop", where(match.start()))
        return len(self.problems) == count

    def _names(self, bound: BoundTemplate, where: Where) -> None:
        analysis = bound.analyze()
        for name, spans in analysis.filters.items():
            if name not in FILTERS or name == URL_FILTER:
                self._problem("E405", f"the filter '{name}' is not allowed", where(spans[0].index),
                              nearest(name, FILTERS), len(name))  # fmt: skip
        for root, found in analysis.globals.items():
            for variable in found:
                self._name(root, variable.segments, where(variable.span.index))

    def _name(self, root: str, segments: list[Any], place: Problem) -> None:
        if root in self.variables:
            return
        if root not in ROOTS:
            self._problem("E402", f"'{root}' is undefined", place,
                          self._declare(root), len(root))  # fmt: skip
        elif len(segments) < 2 or not isinstance(segments[1], str):
            self._problem("E402", f"'{root}' is read without the name of a column", place, f"write {root}.<column>")
        else:
            read = Read(root, segments[1], place.file, place.line, place.column)
            self.reads[(read.root, read.name, read.file, read.line, read.column)] = read

    def _declare(self, root: str) -> str:
        guess = nearest(root, (*self.variables, *ROOTS))
        declare = f"declare it in the front matter: `vars: {{{root}: text}}`"
        return f"{guess} Or {declare}" if guess.startswith("did") else f"write contact.{root}, or {declare}"


def _blank(text: str, end: re.Match[str]) -> int:
    """2 when the front matter is empty, so that an empty map stands for it; else 0."""
    return 2 if not text[text.index("\n") + 1 : end.start()].strip() else 0


def _at(tree: Value, path: tuple[str, ...], *, key: bool = False) -> Problem:
    file, line, column = tree.place(path, key=key)
    return Problem("", "", file, line, column)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
