"""Counts the random cases of a run, so that it can say at its end what it has shown."""

from collections import defaultdict

_AGREED: dict[str, set[int]] = defaultdict(set)
_DIFFER: dict[str, set[int]] = defaultdict(set)


def count(what: str, seed: int, found: list[str]) -> None:
    """Notes whether a case agreed."""
    (_DIFFER if found else _AGREED)[what].add(seed)


def lines() -> list[str]:
    """One line for each kind of case that was run."""
    told = []
    for what in sorted({*_AGREED, *_DIFFER}):
        seeds, differ = _AGREED[what] | _DIFFER[what], sorted(_DIFFER[what])
        named = f": seeds {', '.join(map(str, differ))}" if differ else ""
        told.append(f"{what}: {len(seeds)} cases, seeds {min(seeds)} to {max(seeds)}, {len(differ)} differ{named}")
    return told
