"""What the guides in `docs/` say is so: their workflows compile, their journeys run, their commands and codes exist."""

import re
from functools import cache
from pathlib import Path

import pytest
import typer.main

from compiler.check import check_workflow
from compiler.parser import parse_workflow
from flows.engine.simulation import read_cases
from flows.engine.simulator import run_case
from flows.project import Project, load_project
from studio import cli

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDES = sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("docs/*.md"))
PAGES = ["README.md", "CHANGELOG.md", *GUIDES]
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
_CODE = re.compile(r"\b[EW]\d{3}\b")
_COMMAND = re.compile(r"(?:^|[\s|&;(])penstock ((?:--?[\w-]+ )*)([a-z]+)")


def _blocks(kind: str) -> list[tuple[str, str]]:
    """(page and line, text) of every block of a kind."""
    found = []
    for page in PAGES:
        text = (REPOSITORY / page).read_text()
        for match in _BLOCK.finditer(text):
            if match[1].strip() == kind:
                found.append((f"{page}:{text.count(chr(10), 0, match.start()) + 1}", match[2]))
    return found


@cache
def _shop(folder: Path) -> Project:
    return load_project(folder)


def test_guides_show_workflows_and_journeys() -> None:
    assert len(_blocks("yaml workflow")) >= 3
    assert _blocks("yaml simulation")


@pytest.mark.parametrize(("place", "text"), _blocks("yaml workflow"), ids=lambda value: value.split("\n")[0][:40])
def test_workflow_of_a_guide_can_be_published(place: str, text: str) -> None:
    shop = _shop(REPOSITORY / "dbt_project")
    name = re.search(r"^workflow: (\w+)", text, re.MULTILINE)
    assert name is not None, place
    document = parse_workflow(text, f"{name[1]}.yaml")
    found = check_workflow(document, shop.catalog(), shop.settings.effective_policy).problems
    assert not found, f"{place}: {[str(problem) for problem in found]}"


@pytest.mark.parametrize(("place", "text"), _blocks("yaml simulation"), ids=lambda value: value.split("\n")[0][:40])
def test_journey_of_a_guide_runs_as_it_says(place: str, text: str) -> None:
    for case in read_cases(REPOSITORY / "docs" / "page.yaml", text):
        outcome = run_case(case)
        assert case.expect, place
        assert outcome.passed, f"{place}: {case.id}\n" + "\n".join(outcome.log)


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_guide_lead_to_a_page_and_its_heading(page: str) -> None:
    path = REPOSITORY / page
    lost = []
    for file, heading in _LINK.findall(path.read_text()):
        target = (path.parent / file) if file else path
        if not target.exists() or (heading and heading not in _headings(target)):
            lost.append(f"{file}#{heading}")
    assert not lost


def _headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#{1,6} (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.strip().lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_guide_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    shown = [match[2] for match in _BLOCK.finditer(text) if match[1].strip() == "bash"]
    shown += re.findall(r"`(penstock [^`]+)`", _BLOCK.sub("", text))
    verbs = {match[2] for code in shown for line in code.split("\n") for match in _COMMAND.finditer(line)}
    assert verbs <= {command.name or "" for command in typer.main.get_group(cli.app).commands.values()}


@pytest.mark.parametrize("page", PAGES)
def test_error_codes_of_a_guide_exist(page: str) -> None:
    assert set(_CODE.findall((REPOSITORY / page).read_text())) <= _known_codes()


@cache
def _known_codes() -> frozenset[str]:
    rooms = ("compiler", "flows", "destinations", "studio")
    sources = [path for room in rooms for path in (REPOSITORY / room).rglob("*.py")]
    return frozenset(code for path in sources for code in _CODE.findall(path.read_text(encoding="utf-8")))
