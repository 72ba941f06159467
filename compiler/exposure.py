"""Workflow -> dbt exposure, so that dbt's lineage ends at the people who are written to."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from compiler.errors import DefinitionError, Problem
from compiler.workflow import ModelTrigger, Workflow
from compiler.yaml import read_yaml

HEADER = "# Written by `penstock compile` from workflows/; edits are overwritten.\n"
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_REFERENCE = re.compile(r"^(?:ref\('[^']+'\)|source\('[^']+', '[^']+'\))$")


@dataclass(frozen=True)
class Drift:
    """How the exposures file differs from the workflows; all empty when it does not."""

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.stale)


def exposure(workflow: Workflow, references: Iterable[str]) -> dict[str, Any]:
    """The exposure of a workflow.

    Args:
        workflow: the workflow.
        references: what it reads, as `ref('model')` or `source('a', 'b')`; a `from:` trigger is added.

    Raises:
        ValueError: a reference has another form.
    """
    read = set(references)
    if isinstance(workflow.trigger, ModelTrigger):
        read.add(re.sub(r"\s*,\s*", ", ", workflow.trigger.from_.strip().replace('"', "'")))
    for reference in read:
        if not _REFERENCE.match(reference):
            raise ValueError(f"not a reference that dbt knows: {reference}")
    return {
        "name": f"workflow_{workflow.workflow}",
        "label": workflow.workflow,
        "type": "application",
        "description": workflow.description or f"The workflow {workflow.workflow}.",
        "owner": _owner(workflow.owner),
        "depends_on": sorted(read),
        "config": {"tags": ["penstock", *sorted(set(workflow.tags) - {"penstock"})]},
    }


def render_exposures(exposures: Iterable[Mapping[str, Any]]) -> str:
    """The text of the exposures file: the same exposures give the same text, in any order."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 110
    text = io.StringIO()
    ordered = sorted((dict(item) for item in exposures), key=lambda item: str(item["name"]))
    writer.dump({"version": 2, "exposures": ordered}, text)
    return HEADER + text.getvalue()


def drift(text: str | None, exposures: Iterable[Mapping[str, Any]], file: str = "") -> Drift:
    """How a file's text differs from what the workflows say; layout and comments do not count.

    Raises:
        DefinitionError: the text is not YAML, or not a file of exposures.
    """
    wanted = {str(item["name"]): dict(item) for item in exposures}
    found = _read(text, file) if text is not None else {}
    return Drift(
        missing=tuple(sorted(wanted.keys() - found.keys())),
        changed=tuple(sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])),
        stale=tuple(sorted(found.keys() - wanted.keys())),
    )


def _read(text: str, file: str) -> dict[str, Any]:
    tree, problems = read_yaml(text, file)
    if problems:
        raise DefinitionError(problems)
    content = tree.plain
    items = content.get("exposures") if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) and "name" in item for item in items):
        raise DefinitionError(
            [Problem("E520", "not a file of exposures", file, 1, 1, hint="remove it; `penstock compile` writes it")]
        )
    return {str(item["name"]): item for item in items}


def _owner(owner: str) -> dict[str, str]:
    if _MAIL.fullmatch(owner):
        return {"name": owner.split("@")[0], "email": owner}
    return {"name": owner or "unknown"}
