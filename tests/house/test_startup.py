"""`penstock --help` is instant: it loads typer and what typer needs, and no library that does work."""

import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp", "aiosmtpd", "altair", "dbt", "duckdb", "fastapi", "great_expectations", "httpx", "liquid", "mrml",
    "numpy", "pandas", "polars", "prefect", "pyarrow", "pydantic", "pydantic_core", "ruamel", "sklearn", "sqlalchemy",
    "sqlglot",
}  # fmt: skip
# typer converts the arguments of a verb with pydantic; its own help does not need it.
OF_TYPER = {"pydantic", "pydantic_core"}


def _imported(*arguments: str) -> set[str]:
    """Top-level names of all modules that a command imports."""
    command = [sys.executable, "-X", "importtime", "-c", "from studio.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in lines}


def test_help_imports_no_heavy_library() -> None:
    imported = _imported("--help")
    assert "typer" in imported
    assert sorted(imported & HEAVY) == []


@pytest.mark.parametrize("arguments", [("--version",), ("doctor", "--help")])
def test_a_verb_imports_nothing_before_its_body(arguments: tuple[str, ...]) -> None:
    assert sorted(_imported(*arguments) & (HEAVY - OF_TYPER)) == []
