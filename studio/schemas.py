"""The JSON Schemas of a project in `.penstock/schemas`: editors complete its templates, destinations and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compiler.catalog import Catalog
from compiler.schema import workflow_schema
from flows.settings import Settings

FOLDER = ".penstock/schemas"


def write_schemas(project: Path, catalog: Catalog | None) -> list[Path]:
    """Write the schemas that differ from what is there.

    Args:
        project: the project's folder.
        catalog: the names that workflows may use; None offers none.

    Returns:
        The files that were written.
    """
    schemas: dict[str, dict[str, Any]] = {
        "workflow.json": workflow_schema(catalog),
        "project.json": Settings.model_json_schema(by_alias=True),
    }
    written = []
    for name, schema in schemas.items():
        file = project / FOLDER / name
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written
