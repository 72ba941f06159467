"""The pre-commit hook that keeps migration numbers unique."""

import subprocess
import sys
from pathlib import Path

import pytest


def _check(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    script = repository / "scripts" / "migration_numbers.py"
    return subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (("m0001_a.py", "m0002_b.py"), 0, ""),
        (("m0001_a.py", "m0002_b.py", "m0002_c.py"), 1, "number 2 is taken twice: m0002_b.py, m0002_c.py"),
        (("m0001_a.py", "m0003_c.py"), 1, "number 2 is left out"),
    ],
)
def test_migration_numbers_are_unique_and_complete(
    names: tuple[str, ...], code: int, said: str, repository: Path, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    done = _check(repository, tmp_path)
    assert done.returncode == code, done.stdout
    assert said in done.stdout


def test_the_journal_passes_the_hook(repository: Path) -> None:
    done = _check(repository, repository / "flows" / "journal" / "migrations")
    assert done.returncode == 0, done.stdout


def test_the_hook_is_installed_with_pre_commit(repository: Path) -> None:
    assert "scripts/migration_numbers.py" in (repository / ".pre-commit-config.yaml").read_text()
