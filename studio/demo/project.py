"""The project of the demo: a copy of the shipped one whose only target reaches nothing but the built-in servers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compiler.errors import ProjectError
from flows.dbt_files import read_dbt_project, read_target

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


def copy_project(
    folder: Path, destinations: Mapping[str, Mapping[str, Any]], collector: Mapping[str, Any], like: str | None = None
) -> None:
    """Write the demo's project into a folder that does not exist yet.

    Args:
        folder: where; its profile has the one target `demo`.
        destinations: what the target overrides in the destinations of penstock.yaml.
        collector: what it overrides in the collector.
        like: a target of the shipped profile; one of a server is used as it stands there, with its references to
            environment variables. Otherwise the warehouse is a file inside the folder.

    Raises:
        ProjectError: E503, there is no such target.
    """
    shutil.copytree(shipped_project(), folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    yaml = YAML()
    yaml.width = 120
    settings = yaml.load(folder / "penstock.yaml")
    overridden = {
        "destinations": {name: dict(keys) for name, keys in destinations.items()},
        "collector": dict(collector),
    }
    settings["targets"] = {TARGET: {"deliver": "live", **overridden}}
    yaml.dump(settings, folder / "penstock.yaml")
    profile = yaml.load(folder / "dbt_project.yml")["profile"]
    output: Any = {"type": "duckdb", "path": WAREHOUSE, "schema": "analytics", "threads": 2}
    if like is not None and read_target(read_dbt_project(folder), like, folder).type != output["type"]:
        output = yaml.load(folder / "profiles.yml")[profile]["outputs"][like]
    yaml.dump({profile: {"target": TARGET, "outputs": {TARGET: output}}}, folder / "profiles.yml")
