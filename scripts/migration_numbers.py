"""Refuses two migrations with the same number, and a number that is left out.

Two branches can each add migration 7 without a conflict in git; a state that ran one of them would never run the
other. Usage: `python scripts/migration_numbers.py [FOLDER]`, exit code 1 with the names on findings.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

FOLDER = Path("flows/journal/migrations")
NAME = re.compile(r"m(\d+)_\w+\.py")


def findings(folder: Path) -> list[str]:
    """One line per number that is used twice or missing; numbers count from 1."""
    files = defaultdict(list)
    for path in sorted(folder.glob("m*.py")):
        if match := NAME.fullmatch(path.name):
            files[int(match[1])].append(path.name)
    found = [f"number {number} is taken twice: {', '.join(names)}" for number, names in files.items() if len(names) > 1]
    missing = set(range(1, max(files, default=0) + 1)) - set(files)
    return found + [f"number {number} is left out" for number in sorted(missing)]


def main() -> int:
    """Checks the folder named on the command line, or the journal's."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    found = findings(folder)
    for line in found:
        print(f"{folder}: {line}")
    if found:
        print("  hint: give the newer migration the next free number, in its file name and in MIGRATIONS")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
