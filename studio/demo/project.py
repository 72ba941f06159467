"""The project of the demo: a copy of the shipped one whose only target reaches nothing but the built-in servers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compiler.errors import ProjectError

TARGET = "demo"
WAREHOUSE = "warehouse.duckdb"
_LEFT_OUT = (".penstock", "target", "logs", "dbt_packages", ".user.yml", "*.duckdb", "*.duckdb.*", "__pycache__")


def shipped_project() -> Path:
    """The project that comes with Penstock: in the wheel beside this package, in a checkout at its root.

    Raises:
        ProjectError: E504, neither is there.
    """
    studio = Path(__file__).resolve().parent.parent
    for place in (studio / "starter", studio.parent / "dbt_project"):
        if (place / "penstock.yaml").is_file():
            return place
    raise ProjectError(
        "the shipped project is missing from this installation", code="E504", hint="install Penstock again"
    )


def copy_project(folder: Path, destinations: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the demo's project into a folder that does not exist yet.

    Args:
        folder: where; its profile has the one target `demo` with a warehouse file inside the folder.
        destinations: what the target overrides in the destinations of penstock.yaml.
    """
    shutil.copytree(shipped_project(), folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    yaml = YAML()
    yaml.width = 120
    settings = yaml.load(folder / "penstock.yaml")
    settings["targets"] = {TARGET: {"deliver": "live", "destinations": {n: dict(v) for n, v in destinations.items()}}}
    yaml.dump(settings, folder / "penstock.yaml")
    profile = yaml.load(folder / "dbt_project.yml")["profile"]
    output = {"type": "duckdb", "path": WAREHOUSE, "schema": "analytics", "threads": 2}
    yaml.dump({profile: {"target": TARGET, "outputs": {TARGET: output}}}, folder / "profiles.yml")
