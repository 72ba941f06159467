"""Every error of a definition file as its author reads it: broken files and the exact text they give.

A case is a title line `#### <title>` and the file below it; the text stands in the `.txt` beside.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compiler.content import parse_template
from compiler.errors import DefinitionError, Problem
from compiler.graph import check
from compiler.linter import lint
from compiler.parser import parse_workflow, unsupported

FOLDER = Path(__file__).parent / "errors"
INCLUDES = {
    "steps/upsell.yaml": "- tag: upsell\n",
    "steps/broken.yaml": "- tag: upsell\n- wait: soon\n",
    "steps/circle.yaml": "- include: steps/circle.yaml\n",
}


def cases(family: str) -> Iterator[tuple[str, str]]:
    text = (FOLDER / f"{family}.cases").read_text(encoding="utf-8")
    for case in text.split("#### ")[1:]:
        title, _, body = case.partition("\n")
        yield title, body


def workflow_problems(_title: str, text: str) -> list[Problem]:
    parse_workflow(text, "workflows/w.yaml", includes=INCLUDES)
    return []


def graph_problems(_title: str, text: str) -> list[Problem]:
    document = parse_workflow(text, "workflows/w.yaml")
    found = [document.located(problem) for problem in check(document.workflow)]
    warnings = [finding.problem for finding in lint(document)]
    return [*found, *unsupported(document), *warnings]


def template_problems(title: str, text: str) -> list[Problem]:
    parse_template("t", {"mjml" if title.startswith("mjml") else "html": text}, "templates/t")
    return []


@pytest.mark.parametrize(
    ("family", "find"),
    [("workflows", workflow_problems), ("graphs", graph_problems), ("templates", template_problems)],
)
def test_error_texts(
    family: str, find: Callable[[str, str], list[Problem]], golden: Callable[[Path, str], None]
) -> None:
    shown = []
    for title, body in cases(family):
        try:
            problems = find(title, body)
        except DefinitionError as error:
            problems = list(error.problems)
        assert all(problem.line > 0 for problem in problems), title
        shown.append("\n".join([f"#### {title}", *(map(str, problems) if problems else ["fine"])]))
    golden(FOLDER / f"{family}.txt", "\n".join(shown))
