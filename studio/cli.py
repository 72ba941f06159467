"""The command line: one thin function per verb, no work of its own.

Only typer and what it needs is imported here, so that `penstock --help` is instant. A verb imports its body when it is
called. To add one: write a function with `options: Options` in first place, decorate it with `@verb()`, import the
body inside, and hand its outcome to `Console.result`. Exit codes: `raise typer.Exit(1)` for findings, 3 for a guard;
everything raised as `PenstockError` brings its own.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Concatenate, Literal

import typer

from studio.console import Console
from studio.options import Given, Options, global_options

app = typer.Typer(
    name="penstock",
    help="Customer automation and reverse ETL that run inside the data warehouse.",
    epilog="Every option has an environment variable: PENSTOCK_TARGET, for one verb PENSTOCK_RUN_TARGET.",
    context_settings={"auto_envvar_prefix": "PENSTOCK", "help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=True,
)


def verb(**settings: Any) -> Callable[[Callable[Concatenate[Options, ...], None]], Callable[..., None]]:
    """Registers a function as a verb and gives it the options every verb has."""

    def register(function: Callable[Concatenate[Options, ...], None]) -> Callable[..., None]:
        return app.command(**settings)(global_options(function))

    return register


def _show_version(wanted: bool) -> None:
    if wanted:
        from penstock import __version__

        typer.echo(f"penstock {__version__}")
        raise typer.Exit()


@app.callback()
@global_options
def penstock(
    options: Options,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version.", callback=_show_version, is_eager=True, allow_from_autoenv=False
        ),
    ] = False,
) -> None:
    """Customer automation and reverse ETL that run inside the data warehouse."""


@verb()
def doctor(options: Options) -> None:
    """Check environment, project, clock, locks and secrets."""
    from studio.doctor import examine, show

    report = examine(options.project_dir, options.target)
    Console(options).result(report, lambda out: show(report, out))
    if report.failed:
        raise typer.Exit(1)


Select = Annotated[
    list[str] | None, typer.Option("--select", "-s", help="Only these workflows: name, na*, or file; repeatable.")
]
Trust = Annotated[
    Literal["sql", "expression"],
    typer.Option(help="What conditions in files may use: sql allows sub-selects over ref() and source()."),
]


@verb()
def validate(
    options: Options,
    select: Select = None,
    trust: Trust = "sql",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    form: Annotated[
        Literal["text", "github", "sarif"], typer.Option("--format", help="For people, for GitHub, for code scanning.")
    ] = "text",
) -> None:
    """Check workflows, templates and penstock.yaml offline, before anything is built."""
    from studio.commands import validate

    finish(validate.run(options, trust=trust, select=select or (), strict=strict, form=form))


def finish(code: int) -> None:
    """Ends a verb with an exit code."""
    if code:
        raise typer.Exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The exit code: 0 done, 1 findings, 2 could not run, 3 held by a guard, 130 interrupted.
    """
    from studio.analytics import switch_off

    switch_off()
    given = Given()
    try:
        outcome = app(list(arguments) or ["--help"], prog_name="penstock", standalone_mode=False, obj=given)
    except typer.Abort:
        typer.echo("stopped", err=True)
        return 2
    except Exception as error:
        from studio.failure import report

        return report(error, given.options)
    return outcome if isinstance(outcome, int) else 0


def main() -> None:
    """Entry point of the console script `penstock`."""
    sys.exit(run(sys.argv[1:]))
