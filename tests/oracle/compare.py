"""Reads simulation files without the project's reader, and compares logs where order is significant."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor


class _Texts(SafeConstructor):
    """Times stay text, as everything that is no null, boolean or number."""


_Texts.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def read(text: str) -> list[dict[str, Any]]:
    """The cases of a simulation file as plain dicts, by YAML 1.2."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Texts
    value = yaml.load(text)
    return value if isinstance(value, list) else [value]


def grouped(rows: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Rows by (tick, enrollment): only inside one of these is their order significant."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        parts = [part.strip() for part in row.split("|")]
        found.setdefault((parts[0], parts[2]), []).append(" | ".join(parts))
    return found


def repeated(rows: Sequence[str]) -> set[str]:
    """Labels under which several enrollments walked."""
    entries = Counter(row.split(" | ")[2] for row in rows if row.endswith("| enter"))
    return {who for who, number in entries.items() if number > 1}


def differences(oracle: Sequence[str], engine: Sequence[str]) -> list[str]:
    """What stands in only one of two logs, in the order of time; `-` the oracle's, `+` the engine's."""
    left, right, loose = grouped(oracle), grouped(engine), repeated(oracle)
    lines = []
    for key in sorted({*left, *right}):
        ours, theirs = left.get(key, []), right.get(key, [])
        if key[1] in loose:  # rows of several enrollments, which look alike
            ours, theirs = sorted(ours), sorted(theirs)
        if ours != theirs:
            lines += [f"- {row}" for row in ours] + [f"+ {row}" for row in theirs]
    return lines
