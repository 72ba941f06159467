"""Writes the reference pages under `docs/reference` from the code: commands, error codes, JSON Schemas.

`make docs` runs it. `--check` writes nothing and exits 1 when a page differs from the code.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from compiler.workflow import Workflow
from flows.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
CODE = re.compile(r"[EW]\d{3}")
FAMILIES = {
    "E1": "Files and keys", "E2": "Names and types in conditions", "E3": "Graph", "E4": "Templates and references",
    "E5": "Project and catalog", "E6": "Warehouse and state", "E7": "Delivery", "E9": "Parsed and refused",
    "W1": "Lints",
}  # fmt: skip
MADE = "<!-- Written by `make docs`; do not edit. -->\n\n"


def commands() -> str:
    """The page of the command line."""
    with tempfile.NamedTemporaryFile("r", suffix=".md") as page:
        command = [sys.executable, "-m", "typer", "studio.cli", "utils", "docs", "--name", "penstock"]
        subprocess.run([*command, "--output", page.name], cwd=ROOT, check=True, capture_output=True)
        return MADE + page.read().rstrip() + "\n"


def errors() -> str:
    """The page of the error codes: for each code its messages, as they stand in the code."""
    found: dict[str, set[str]] = defaultdict(set)
    for room in ("compiler", "flows", "destinations", "studio"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    _collect(node, found)
    lines = ["# Error codes", "", "Codes are stable. `…` stands for what the message fills in."]
    family = ""
    for code in sorted(found):
        if code[:2] != family:
            family = code[:2]
            lines += ["", f"## {family}xx {FAMILIES.get(family, '')}".rstrip(), ""]
        lines.append(f"- **{code}** " + " · ".join(sorted(found[code])))
    return MADE + "\n".join(lines) + "\n"


def _collect(call: ast.Call, found: dict[str, set[str]]) -> None:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [text for value in values if (text := _template(value))]
    codes = [text for text in texts if CODE.fullmatch(text)]
    messages = [text for text in texts if not CODE.fullmatch(text)]
    if codes and messages:
        found[codes[0]].add(messages[0])


def _template(node: ast.expr) -> str:
    """The text of a string, with `…` for the parts of an f-string."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) or "…" for part in parts)
        case _:
            return ""


def schema(model: type[Workflow] | type[Settings]) -> str:
    """The JSON Schema of a definition file."""
    return json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "commands.md": commands(),
        "errors.md": errors(),
        "workflow.schema.json": schema(Workflow),
        "project.schema.json": schema(Settings),
    }


def main() -> int:
    """Writes the pages, or compares them with `--check`."""
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if stale and "--check" in sys.argv:
        print(f"differs from the code: {', '.join(stale)}\n  hint: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
