"""What a lint rule is: a class whose docstring is the message, giving findings with places and, if safe, a Fix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from typing import ClassVar

from compiler.errors import Problem
from compiler.parser import Document
from compiler.yaml import YamlPath


@dataclass(frozen=True)
class Fix:
    """An edit of one place of a definition: the value at `path` becomes `value`; None removes its key."""

    path: YamlPath
    value: object
    description: str


@dataclass(frozen=True)
class Finding:
    """A warning and the edit that would settle it."""

    problem: Problem
    fix: Fix | None = None


class Findings(ABC):
    """What every rule has: a code, a hint, and findings whose message is the docstring with its `{words}` filled in."""

    code: ClassVar[str]
    hint: ClassVar[str] = ""

    def finding(self, document: Document, path: YamlPath, *, fix: Fix | None = None, **words: str) -> Finding:
        """A finding at a path, its message made of the docstring."""
        message = cleandoc(type(self).__doc__ or "").format_map(words)
        problem = Problem(self.code, message, hint=self.hint.format_map(words), path=path, severity="warning")
        return Finding(document.located(problem), fix)


class Rule(Findings):
    """One lint rule over one workflow."""

    @abstractmethod
    def check(self, document: Document) -> Iterator[Finding]:
        """The findings in one workflow."""
