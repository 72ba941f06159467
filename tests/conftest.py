"""What all tests share: a clean environment and golden files."""

import os
from collections.abc import Callable, Iterator
from difflib import unified_diff
from pathlib import Path

import pytest

from studio.analytics import switch_off
from tests.flows.warehouse.postgres_server import Server, server, why_not

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--update-golden`, which `make golden` uses."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the outcome independent of the settings of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        del os.environ[name]
    os.environ["COLUMNS"] = "120"
    switch_off()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server of this test process; tests that need it are skipped where none can be started."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with server() as running:
        yield running


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """A function `golden(file, text)` that compares text with a golden file, or rewrites it with `--update-golden`."""

    def compare(file: Path, text: str) -> None:
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return
        if not file.is_file():
            pytest.fail(f"golden file {file} is missing; `make golden` writes it")
        expected = file.read_text(encoding="utf-8")
        if text != expected:
            lines = unified_diff(expected.splitlines(), text.splitlines(), str(file), "now", lineterm="")
            pytest.fail("\n".join([*lines, "`make golden` accepts the new text"]), pytrace=False)

    return compare
