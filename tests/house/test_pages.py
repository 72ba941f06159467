"""What the pages show works: links lead somewhere, workflows parse, commands exist."""

import re
from pathlib import Path

import pytest
import typer.main

from compiler.parser import parse_workflow
from studio import cli

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "*/README.md", "docs/**/*.md")
    for path in REPOSITORY.glob(pattern)
    if not path.relative_to(REPOSITORY).parts[0].startswith(".")
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    path = REPOSITORY / page
    assert not [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_workflows_and_commands_of_a_page_are_real(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        if name := re.search(r"^workflow: (\w+)", block, re.MULTILINE):
            parse_workflow(block, f"{name[1]}.yaml")
    shown = {verb for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for verb in _verbs(block)}
    assert shown <= {command.name or "" for command in typer.main.get_group(cli.app).commands.values()}


def _verbs(block: str) -> list[str]:
    return re.findall(r"^penstock (\w+)", block, re.MULTILINE)
