"""`--select`: which workflows a verb is about."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from compiler.errors import ProjectError, nearest


def selected(names: Iterable[str], patterns: Collection[str]) -> list[str]:
    """The workflows that patterns choose, in the order of `names`; all of them without a pattern.

    A pattern is a name, a name with `*`, or the path of the workflow's file.

    Raises:
        ProjectError: E508, a pattern chooses nothing.
    """
    known = list(names)
    if not patterns:
        return known
    chosen: set[str] = set()
    for pattern in patterns:
        wanted = PurePosixPath(pattern).stem if pattern.endswith((".yaml", ".yml")) else pattern
        found = {name for name in known if fnmatchcase(name, wanted)}
        if not found:
            raise ProjectError(f"--select {pattern}: no such workflow", code="E508", hint=nearest(wanted, known))
        chosen |= found
    return [name for name in known if name in chosen]
