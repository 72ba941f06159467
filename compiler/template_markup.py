"""HTML and MJML around Liquid: MJML is compiled once, links are guarded, and the plain text is derived, all before
any contact is known. While the markup is worked on, each Liquid construct stands as one word that nothing touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

import mrml

from compiler.errors import Problem, nearest
from compiler.template_language import URL_FILTER

LIQUID = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_MARK = re.compile(r"zLiquid(\d+)z")
_OUTPUT = re.compile(r"\{\{(-?)(.*?)(-?)\}\}", re.DOTALL)
_URL_START = re.compile(r"\s*(https?://|mailto:|#)", re.IGNORECASE)
_URL_ATTRIBUTES = frozenset(
    {
        "href",
        "src",
        "action",
        "formaction",
        "background",
        "poster",
        "cite",
        "data",
        "background-url",
        "srcset",
        "xlink:href",
    }
)
_FORBIDDEN = frozenset({"script", "iframe", "object", "embed", "base", "applet", "frame", "frameset"})
_UNQUOTED = re.compile(r"=\s*[^\s\"'>]*zLiquid\d+z")
_MJML = frozenset({
    "mjml", "mj-head", "mj-body", "mj-attributes", "mj-all", "mj-class", "mj-breakpoint", "mj-font",
    "mj-html-attributes", "mj-selector",
    "mj-html-attribute", "mj-preview", "mj-style", "mj-title", "mj-accordion", "mj-accordion-element",
    "mj-accordion-title", "mj-accordion-text", "mj-button", "mj-carousel", "mj-carousel-image", "mj-column",
    "mj-divider", "mj-group", "mj-hero", "mj-image", "mj-navbar", "mj-navbar-link", "mj-raw", "mj-section",
    "mj-social", "mj-social-element", "mj-spacer", "mj-table", "mj-text", "mj-wrapper",
})  # fmt: skip


@dataclass
class Masked:
    """Text whose Liquid constructs are replaced by words; `parts` are the constructs in order."""

    text: str
    parts: list[str] = field(default_factory=list)

    def restored(self, text: str, guarded: frozenset[int] = frozenset()) -> str:
        """The Liquid put back; outputs in `guarded` go through the link filter."""

        def part(match: re.Match[str]) -> str:
            index = int(match[1])
            if index >= len(self.parts):  # the author's own word
                return match[0]
            written = self.parts[index]
            if index in guarded:
                return _OUTPUT.sub(lambda m: f"{{{{{m[1]}{m[2]} | {URL_FILTER} {m[3]}}}}}", written)
            return written

        return _MARK.sub(part, text)


def mask(text: str) -> Masked:
    """Replace each Liquid construct by a word of letters and digits."""
    masked = Masked("")

    def word(match: re.Match[str]) -> str:
        masked.parts.append(match[0])
        return f"zLiquid{len(masked.parts) - 1}z"

    masked.text = LIQUID.sub(word, text)
    return masked


def compile_mjml(masked: Masked) -> tuple[str, list[tuple[str, int, str]]]:
    """MJML to HTML, both with masked Liquid.

    Returns:
        The HTML and what is wrong: (message, offset in the masked text, hint). With problems the HTML may be empty.
    """
    scan = _Elements(masked.text)
    if scan.found:
        return "", scan.found
    try:
        return mrml.to_html(masked.text).content, []
    except OSError as error:  # the parser's own error type; it names element positions, not values
        match = re.search(r"at position (\d+)", str(error))
        return "", [(f"not MJML: {error}", int(match[1]) if match else 0, "")]


class _Positions(HTMLParser):
    """An HTML parser that knows the offset of what it reads."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self._starts = [0]
        for line in text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def here(self) -> int:
        line, column = self.getpos()
        return self._starts[line - 1] + column


class _Elements(_Positions):
    """Names and nesting of the MJML elements, which the compiler itself does not check."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.found: list[tuple[str, int, str]] = []
        self._open: list[str] = []
        self._lost = False
        self.feed(text)
        self.close()
        if not self.found and self._open:
            self.found.append((f"<{self._open[-1]}> is not closed", 0, f"add </{self._open[-1]}>"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not tag.startswith("mj"):
            return
        self.handle_startendtag(tag, attrs)
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "mj-include":
            self.found.append(("mj-include is not allowed", self.here(), "write the content here"))
        elif tag.startswith("mj") and tag not in _MJML:
            self.found.append((f"unknown element <{tag}>", self.here(), nearest(tag, _MJML)))

    def handle_endtag(self, tag: str) -> None:
        if not tag.startswith("mj") or self._lost:
            return
        if not self._open or self._open[-1] != tag:
            inside = f", <{self._open[-1]}> is open" if self._open else ""
            self.found.append((f"</{tag}> closes nothing{inside}", self.here(), ""))
            self._lost = True  # what follows is out of step anyway
        else:
            self._open.pop()


class _Inspection(_Positions):
    def __init__(self, masked: Masked, html: str) -> None:
        super().__init__(html)
        self.found: list[tuple[str, int, str]] = []
        self.guarded: set[int] = set()
        self._masked = masked
        self.feed(html)
        self.close()

    def _refuse(self, message: str, hint: str = "") -> None:
        self.found.append((message, self.here(), hint))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        written = self.get_starttag_text() or ""
        if tag in _FORBIDDEN:
            self._refuse(f"<{tag}> is not allowed in a mail")
        if _UNQUOTED.search(re.sub(r"\"[^\"]*\"|'[^']*'", '""', written)):
            self._refuse("a Liquid value in an attribute without quotes", 'write attr="{{ … }}"')
        if _MARK.search(tag) or any(_MARK.search(name) for name, _ in attrs if "=" in name):
            self._refuse("a Liquid value as an element or attribute name")
        for name, value in attrs:
            if name.startswith("on"):
                self._refuse(f"the attribute {name} is script, which is not allowed in a mail")
            elif name in _URL_ATTRIBUTES and value is not None:
                self._link(name, value)

    def _link(self, name: str, value: str) -> None:
        """Marks the outputs that decide the scheme. After an `if`, any arm may be the start."""
        starting, branched, position = True, False, 0
        pieces: list[tuple[str, int | None]] = []
        for match in _MARK.finditer(value):
            pieces += [(value[position : match.start()], None), ("", int(match[1]))]
            position = match.end()
        pieces.append((value[position:], None))
        for text, index in pieces:
            if not starting:
                return
            if index is None:
                if text.strip():
                    if not _URL_START.match(text):
                        self._refuse(f"the link in {name} does not start with http://, https:// or mailto:",
                                     "write the whole link, in each arm of an `if`")  # fmt: skip
                    starting = branched
            elif self._masked.parts[index].startswith("{{"):
                self.guarded.add(index)
                starting = branched
            else:
                branched = True

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is not None and _MARK.search(data):
            self._refuse(f"a Liquid value inside <{self.cdata_elem}>", "style and script are never filled in")


def inspect(masked: Masked, html: str) -> tuple[list[tuple[str, int, str]], frozenset[int]]:
    """What HTML with masked Liquid may not hold, as (message, offset, hint), and the outputs that must be links."""
    seen = _Inspection(masked, html)
    return seen.found, frozenset(seen.guarded)


def with_preheader(html: str, preheader: str) -> str:
    """The HTML with a hidden first line that mail programs show beside the subject."""
    hidden = f'<div style="display:none;max-height:0;overflow:hidden;opacity:0">{preheader}</div>'
    match = re.search(r"<body[^>]*>", html, re.IGNORECASE)
    return html[: match.end()] + hidden + html[match.end() :] if match else hidden + html


# ---------------------------------------------------------------- plain text

_BLOCKS = frozenset({
    "p", "div", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "section", "article",
    "header", "footer", "pre", "hr", "form", "address",
})  # fmt: skip
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "blockquote", "table"})
_SILENT = frozenset({"head", "style", "script", "title", "noscript"})


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent: list[str] = []
        self._links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag == "br":
            self.pieces.append("\n")
        elif tag == "li":
            self.pieces.append("\n- ")
        elif tag == "a":
            self._links.append(values.get("href"))
        elif tag == "img" and values.get("alt"):
            self.pieces.append(str(values["alt"]))
        elif tag == "td":
            self.pieces.append(" ")
        elif tag in _BLOCKS:
            self.pieces.append("\n\n" if tag in _PARAGRAPHS else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT and tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag == "a" and self._links:
            link = self._links.pop()
            if link and not link.startswith("#"):
                self.pieces.append(f" ({link})")
        elif tag in _BLOCKS and tag != "li":
            self.pieces.append("\n\n" if tag in _PARAGRAPHS else "\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(re.sub(r"\s+", " ", data))


def plain_text(html: str) -> str:
    """The readable text of HTML: links in parentheses after their words, list items with a dash."""
    reader = _Text()
    reader.feed(html)
    reader.close()
    lines = (re.sub(r"[ \t\u00a0]+", " ", line).strip() for line in "".join(reader.pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def placed(
    found: list[tuple[str, int, str]], masked: Masked, code: str, where: Callable[[int], Problem]
) -> list[Problem]:
    """Findings at offsets of the masked text as problems at the offsets of the text before masking."""
    problems = []
    for message, offset, hint in found:
        grown = 0
        for match in _MARK.finditer(masked.text[:offset]):
            grown += len(masked.parts[int(match[1])]) - len(match[0])
        place = where(offset + grown)
        problems.append(Problem(code, message, place.file, place.line, place.column, hint))
    return problems
