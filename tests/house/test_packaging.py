"""The wheel is complete: packages, types, starter project; and it runs in a clean environment."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

BUILD = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def test_wheel_carries_packages_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{room}/{file}"
        for room in ("compiler", "flows", "destinations", "studio")
        for file in ("__init__.py", "py.typed")
    }
    assert wanted | {"penstock.py", "studio/cli.py", "flows/engine/clock.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/"))]


def test_wheel_carries_the_starter_project_without_its_state(wheel: Path, repository: Path) -> None:
    if not (repository / "dbt_project" / "dbt_project.yml").is_file():
        pytest.skip("this checkout has no dbt project")
    starter = "studio/starter/"
    names = {name.removeprefix(starter) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(starter)}
    project = repository / "dbt_project"
    wanted = {str(path.relative_to(project)) for path in (project / "models").rglob("*.sql")}
    assert (
        wanted | {path.name for path in project.glob("*.yml")} | {path.name for path in project.glob("*.yaml")} <= names
    )
    leftovers = ("target/", "logs/", ".penstock/", ".duckdb", ".user.yml", "dbt_packages/")
    assert not [name for name in names if any(part in name for part in leftovers)]


def test_wheel_is_never_uploaded_and_names_its_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert "Classifier: Private :: Do Not Upload" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_wheel_runs_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The dependencies come from this environment; penstock itself comes from the wheel alone."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    site = Path(purelib.stdout.strip())
    zipfile.ZipFile(wheel).extractall(site)
    # A path line is no site folder, so the editable install of this checkout is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    probe = "import importlib.metadata as m; e, = m.entry_points(group='console_scripts', name='penstock'); e.load()()"
    done = subprocess.run(
        [python, "-c", probe, "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout
    where = subprocess.run(
        [python, "-c", "import studio, penstock; print(studio.__file__, penstock.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(path.startswith(str(tmp_path)) for path in where.stdout.split())
