"""The house rules that tools enforce are really enforced, and the files that promise something keep it."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOMS = ("compiler", "flows", "destinations", "studio")
LONGEST_FILE = 600


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("compiler/planted.py", "import duckdb", "the compiler is pure"),
        ("compiler/planted.py", "import flows", "studio > flows"),
        ("destinations/planted.py", "import compiler", "studio > flows"),
        ("flows/warehouse/planted.py", "import flows.journal", "inside flows"),
        ("flows/engine/planted.py", "import prefect", "only flows/*.py import Prefect"),
    ],
)
def test_a_planted_import_breaks_its_contract(
    file: str, line: str, contract: str, repository: Path, tmp_path: Path
) -> None:
    shutil.copy(repository / "pyproject.toml", tmp_path)
    for room in ROOMS:
        shutil.copytree(
            repository / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "static", "web")
        )
    (tmp_path / file).write_text(line + "\n")
    done = _lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [text for text in done.stdout.replace("\n", " ").split("KEPT") if "BROKEN" in text]
    assert contract in " ".join(broken)


@pytest.mark.parametrize("call", ["datetime.datetime.now()", "datetime.datetime.utcnow()", "time.time()"])
@pytest.mark.parametrize(("file", "allowed"), [("flows/engine/evaluator.py", False), ("flows/engine/clock.py", True)])
def test_only_the_clock_reads_the_time(call: str, file: str, allowed: bool, repository: Path) -> None:
    source = f'"""A module."""\n\nimport {call.split(".")[0]}\n\nprint({call})\n'
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "check", "--select", "TID251", "--stdin-filename", file, "-"]
    done = subprocess.run(command, input=source, cwd=repository, capture_output=True, text=True, check=False)
    assert ("TID251" in done.stdout) != allowed, done.stdout


def test_lock_is_hashed_and_names_no_download_address(repository: Path) -> None:
    text = (repository / "requirements.lock").read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(blocks) > 100
    assert not [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block]


def test_lock_satisfies_the_bounds(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    lines = (repository / "requirements.lock").read_text().splitlines()
    locked = {}
    for line in lines:
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", line):
            locked[match[1].lower().replace("_", "-").replace(".", "-")] = match[2]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        bound = Requirement(text)
        name = bound.name.lower().replace("_", "-").replace(".", "-")
        assert bound.specifier.contains(locked[name], prereleases=True), text


def test_the_version_stands_in_one_place() -> None:
    import penstock

    assert metadata.version("penstock") == penstock.__version__


def test_every_python_file_is_readable_in_one_sitting(repository: Path) -> None:
    files = [path for room in (*ROOMS, "tests") for path in (repository / room).rglob("*.py")]
    too_long = {str(path.relative_to(repository)): lines for path in files if (lines := _lines(path)) > LONGEST_FILE}
    assert not too_long


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_hides_one_of_the_standard_library(repository: Path) -> None:
    """A flow loaded by its path puts its folder first on `sys.path`, so such a name would be found before Python's."""
    for room in ("flows", "destinations"):
        names = {path.stem for path in (repository / room).glob("*.py")} - {"__init__"}
        assert not names & sys.stdlib_module_names, room


def test_every_test_folder_is_a_package(repository: Path) -> None:
    folders = {path.parent for path in (repository / "tests").rglob("test_*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
