"""The command line as a person and a script meet it: options, exit codes, channels, errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from compiler.errors import DefinitionError, Problem, ProjectError
from studio import cli
from studio.console import Console, to_json
from studio.failure import mask
from studio.options import Options

Verb = Callable[[Options], None]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Verb], None]:
    """Registers a verb `probe` for one test."""

    def register(body: Verb) -> None:
        def verb(options: Options) -> None:
            """A verb of a test."""
            body(options)

        monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
        cli.verb(name="probe")(verb)

    return register


@pytest.fixture
def seen(probe: Callable[[Verb], None]) -> list[Options]:
    """The options that the verb `probe` got."""
    got: list[Options] = []
    probe(got.append)
    return got


def _fails(error: Exception) -> Verb:
    def body(options: Options) -> None:
        raise error

    return body


@pytest.mark.parametrize(
    "line", [["--target", "prod", "probe"], ["probe", "--target", "prod"], ["-t", "dev", "probe", "-t", "prod"]]
)
def test_an_option_may_stand_before_or_after_the_verb(line: list[str], seen: list[Options]) -> None:
    assert cli.run(line) == 0
    assert [options.target for options in seen] == ["prod"]


@pytest.mark.parametrize(
    ("variables", "line", "target"),
    [
        ({"PENSTOCK_TARGET": "staging"}, ["probe"], "staging"),
        ({"PENSTOCK_TARGET": "staging", "PENSTOCK_PROBE_TARGET": "canary"}, ["probe"], "canary"),
        ({"PENSTOCK_PROBE_TARGET": "canary"}, ["--target", "prod", "probe"], "prod"),
    ],
)
def test_a_flag_wins_over_a_variable(
    variables: dict[str, str],
    line: list[str],
    target: str,
    seen: list[Options],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.run(line) == 0
    assert seen[0].target == target


def test_project_dir_comes_from_its_variable(
    seen: list[Options], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENSTOCK_PROJECT_DIR", str(tmp_path))
    assert cli.run(["probe"]) == 0
    assert seen[0].project_dir == tmp_path


def test_no_color_is_heard_whatever_its_value(seen: list[Options], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "yes please")
    assert cli.run(["probe"]) == 0
    assert seen[0].no_color


def test_an_unknown_verb_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["docter"]) == 2
    captured = capsys.readouterr()
    assert "No such command 'docter'. Did you mean 'doctor'?" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("line", [["--no-such-option"], ["doctor", "--output", "xml"], ["--target", "dev"]])
def test_a_wrong_command_line_exits_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(line) == 2
    assert "--help" in capsys.readouterr().err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_verb_chooses_its_exit_code(code: int, probe: Callable[[Verb], None]) -> None:
    probe(_fails(typer.Exit(code)))
    assert cli.run(["probe"]) == code


def test_a_deliberate_error_shows_code_and_hint(
    probe: Callable[[Verb], None], capsys: pytest.CaptureFixture[str]
) -> None:
    probe(_fails(ProjectError("no dbt_project.yml in /shop", code="E502", hint="`penstock init`")))
    assert cli.run(["probe", "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["error E502: no dbt_project.yml in /shop", "  hint: `penstock init`"]
    assert captured.out == ""


def test_problems_of_a_file_exit_1_each_at_its_place(
    probe: Callable[[Verb], None], capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Problem("E203", "unknown column", "workflows/a.yaml", 15, 9, hint="did you mean 'item_count'?")
    probe(_fails(DefinitionError([problem])))
    assert cli.run(["--output", "json", "probe"]) == 1
    captured = capsys.readouterr()
    assert "✗ workflows/a.yaml:15:9  E203 unknown column" in captured.err
    found = json.loads(captured.out)["error"]["problems"]
    assert [(p["file"], p["line"], p["column"], p["code"]) for p in found] == [("workflows/a.yaml", 15, 9, "E203")]


def test_an_unexpected_error_is_one_line_with_a_log_and_no_traceback(
    probe: Callable[[Verb], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "s3cr3t-value")
    (tmp_path / ".penstock").mkdir()
    probe(_fails(RuntimeError("refused s3cr3t-value for ines@example.test")))
    assert cli.run(["probe", "--project-dir", str(tmp_path), "-o", "json"]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "error: unexpected RuntimeError in studio/test_cli.py:" in captured.err
    assert "refused <SHOP_API_KEY> for <address>" in captured.err
    log = Path(json.loads(captured.out)["error"]["log"])
    assert log.parent == tmp_path / ".penstock"
    assert log.stat().st_mode & 0o077 == 0
    text = log.read_text()
    assert "Traceback" in text
    assert "s3cr3t" not in text
    assert "ines@" not in text


def test_debug_shows_the_traceback_without_secrets(
    probe: Callable[[Verb], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "s3cr3t-value")
    probe(_fails(ValueError("s3cr3t-value")))
    assert cli.run(["probe", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "s3cr3t" not in error


def test_results_go_to_stdout_and_notes_to_stderr(
    probe: Callable[[Verb], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def body(options: Options) -> None:
        console = Console(options)
        console.note("[working] on it")
        console.result({"sent": 2}, "sent [2]")

    probe(body)
    assert cli.run(["probe"]) == 0
    assert capsys.readouterr() == ("sent [2]\n", "[working] on it\n")
    assert cli.run(["probe", "-q", "-o", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"sent": 2}
    assert captured.err == ""


def test_an_unknown_type_in_a_result_is_an_error_not_a_guess() -> None:
    with pytest.raises(TypeError, match="no JSON form"):
        to_json({"value": object()})


def test_short_values_are_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A three-letter 'secret' would blank out half of every message."""
    monkeypatch.setenv("SHOP_KEY", "abc")
    assert mask("abc of error handling") == "abc of error handling"
