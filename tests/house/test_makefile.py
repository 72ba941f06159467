"""The two commands of the README, and the others, exist and explain themselves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ("demo", "test", "lint", "types", "bench", "golden", "soak", "docs", "setup")


def test_make_help_names_every_target(repository: Path) -> None:
    done = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True)
    shown = re.findall(r"^  make (\w+) +\S", done.stdout, re.MULTILINE)
    assert set(TARGETS) <= set(shown)
    phony = re.search(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(shown)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_set_up_first(target: str, repository: Path) -> None:
    done = subprocess.run(["make", "-n", target], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "scripts/setup.sh"
    assert f"make {target}" in (repository / "README.md").read_text()


def test_continuous_integration_runs_make_test(repository: Path) -> None:
    file = repository / ".ci" / "run"
    assert os.access(file, os.X_OK)
    assert file.read_text().splitlines()[-1] == "exec make test"


def test_setup_without_a_new_python_says_what_to_do(repository: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-of-yesterday"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(old), "VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        [repository / "scripts" / "setup.sh"], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "no Python 3.11 or newer found" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_setup_asks_apt_for_a_missing_venv_module_and_says_so_when_it_may_not(repository: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    _tool(tools / "python", f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"')
    _tool(tools / "dpkg-query", "exit 1")
    _tool(tools / "sudo", 'shift; exec "$@"')
    _tool(tools / "apt-get", f'echo "$*" >>{tmp_path}/asked; [ "$1" = update ]')
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "PYTHON": str(tools / "python"), "VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        [repository / "scripts" / "setup.sh"], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    package = "python{}.{}-venv".format(*sys.version_info)
    assert (tmp_path / "asked").read_text().splitlines()[-1].endswith(f" {package}")
    assert done.returncode == 2
    assert f"apt-get install {package}" in done.stderr


def _tool(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
