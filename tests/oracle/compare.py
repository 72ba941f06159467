"""Reads simulation files without the project's reader, and compares logs where order is significant."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml


class CoreLoader(yaml.SafeLoader):
    """YAML 1.2 core: only null, booleans and numbers are typed."""


CoreLoader.yaml_implicit_resolvers = {}
for tag, pattern, first in (
    ("null", r"null|Null|NULL|~|", "nN~"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?", "-+0123456789"),
):
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


def read(text: str) -> list[dict[str, Any]]:
    """The cases of a simulation file as plain dicts."""
    value = yaml.load(text, CoreLoader)  # noqa: S506 a SafeLoader
    return value if isinstance(value, list) else [value]


def grouped(rows: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Rows by (tick, enrollment): only inside one of these is their order significant."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        parts = [part.strip() for part in row.split("|")]
        found.setdefault((parts[0], parts[2]), []).append(" | ".join(parts))
    return found


def overlapping(rows: Sequence[str]) -> set[str]:
    """Labels under which two enrollments were active at once."""
    active: Counter[str] = Counter()
    found = set()
    for row in rows:
        who, outcome = row.split(" | ")[2], row.split(" | ")[4]
        active[who] += (outcome == "enter") - outcome.startswith("exit ")
        if active[who] > 1:
            found.add(who)
    return found


def differences(oracle: Sequence[str], engine: Sequence[str]) -> list[str]:
    """What stands in only one of two logs, in the order of time; `-` the oracle's, `+` the engine's."""
    left, right, loose = grouped(oracle), grouped(engine), overlapping(oracle)
    lines = []
    for key in sorted({*left, *right}):
        ours, theirs = left.get(key, []), right.get(key, [])
        if key[1] in loose:  # rows of two enrollments, which look alike
            ours, theirs = sorted(ours), sorted(theirs)
        if ours != theirs:
            lines += [f"- {row}" for row in ours] + [f"+ {row}" for row in theirs]
    return lines
