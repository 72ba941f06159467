"""The command line: one thin function per verb, no work of its own.

Only typer and what it needs is imported here, so that `penstock --help` is instant. A verb imports its body when it is
called. To add one: write a function with `options: Options` in first place, decorate it with `@verb()`, import the
body inside, and hand its outcome to `Console.result`. Exit codes: `raise typer.Exit(1)` for findings, 3 for a guard;
everything raised as `PenstockError` brings its own.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
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


@verb()
def init(
    options: Options,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A dbt project, or a new folder.")] = None,
    template: Annotated[str, typer.Option(help="Workflow of the gallery to begin with.")] = "welcome",
    no_input: Annotated[bool, typer.Option("--no-input", help="Ask nothing; take the likeliest models.")] = False,
) -> None:
    """Add Penstock to a dbt project, or make a new project."""
    from studio.commands import init

    finish(init.run(options, folder=folder, template=template, ask=not no_input))


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


@verb(name="compile")
def compile_(
    options: Options,
    select: Select = None,
    dialect: Annotated[
        Literal["duckdb", "postgres"] | None, typer.Option(help="SQL of this warehouse; by default the target's.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when the exposures file differs.")
    ] = False,
) -> None:
    """Write the SQL, plan and diagram of workflows, and their dbt exposures; one selected workflow is printed."""
    from studio.commands import compile

    finish(compile.run(options, select=select or (), dialect=dialect, check=check))


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def dbt(
    context: typer.Context,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="A command line of dbt.")] = None,
) -> None:
    """Run dbt in-process under the warehouse's lock, with this target and its variables: penstock dbt build."""
    from studio.commands import dbt

    finish(dbt.run(context.ensure_object(Given).options, arguments or ()))


InFlightOption = Annotated[
    Literal["pin", "migrate"],
    typer.Option("--in-flight", help="Contacts in flight: pin, they finish on their version; migrate, they move."),
]


@verb()
def plan(
    options: Options,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 2 when something would change.")
    ] = False,
    forecast: Annotated[
        bool, typer.Option("--forecast/--no-forecast", help="Run the next 24 hours ahead on a copy.")
    ] = True,
    in_flight: InFlightOption = "pin",
) -> None:
    """Show what apply would change, how many contacts it concerns, and what the next 24 hours would bring."""
    from studio.commands import plan

    finish(plan.run(options, detailed_exitcode=detailed_exitcode, ahead=forecast, in_flight=in_flight))


@verb()
def apply(
    options: Options,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, also on a live target.")] = False,
    in_flight: InFlightOption = "pin",
) -> None:
    """Publish workflows, templates and penstock.yaml to a target."""
    from studio.commands import apply

    finish(apply.run(options, yes=yes, in_flight=in_flight))


@verb(name="run")
def run_(
    options: Options,
    every: Annotated[str | None, typer.Option(help="Go on until interrupted, a tick every so often: 10s, 5m.")] = None,
) -> None:
    """Evaluate what is due and deliver it: one tick, or a loop of ticks."""
    from studio.commands import run

    finish(run.run(options, every=every))


@verb()
def collect(
    options: Options,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where it listens; 0 is a free one.")] = 8085,
    host: Annotated[
        str, typer.Option(help="Address it listens on; others than this machine's need a proxy with TLS.")
    ] = "127.0.0.1",
    trusted: Annotated[
        str, typer.Option("--trusted-proxies", help="Addresses of proxies that may say who called.")
    ] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; limits of rate are of each.")] = 1,
) -> None:
    """Serve the collector: events, opens, clicks and opt-outs come in over HTTP."""
    from studio.commands import collect

    finish(collect.run(options, host=host, port=port, trusted=trusted, workers=workers))


@verb()
def ingest(options: Options) -> None:
    """Take what the collector has into the warehouse; penstock run does it by itself on the same machine."""
    from studio.commands import collect

    finish(collect.ingest(options))


@verb()
def test(
    options: Options,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Simulation files or folders; default workflow_tests/.")
    ] = None,
    select: Annotated[list[str] | None, typer.Option("--select", "-s", help="Only these cases; repeatable.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the log as `expect` where it differs.")] = False,
) -> None:
    """Run journeys: workflows over written contacts and events, compared with the expected log."""
    from studio.commands import test

    finish(test.run(options, paths=paths or [], select=select or [], rewrite=update))


At = Annotated[str | None, typer.Option("--at", help="An instant such as 2026-03-02T09:00Z instead of now.")]


@verb()
def audience(
    options: Options,
    what: Annotated[str, typer.Argument(metavar="EXPR", help="Condition, named audience, workflow or workflow.step.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Show so many of the contacts.")] = 10,
    at: At = None,
) -> None:
    """Count and show the contacts for whom a condition holds, and the SQL that found them."""
    from studio.commands import audience

    finish(audience.run(options, what=what, limit=limit, at=at))


@verb()
def preview(
    options: Options,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow, as its file says now.")],
    contact: Annotated[str, typer.Option("--contact", "-c", help="Contact id.")],
    at: At = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="What is taken to happen: \"opened('welcome') after 5h\"; repeatable."),
    ] = None,
    until: Annotated[str, typer.Option("--until", help="How far to go at most: 30d.")] = "90d",
) -> None:
    """Walk one contact through a workflow on a copy, with its messages as files; nothing is sent."""
    from studio.commands import preview

    finish(preview.run(options, workflow=workflow, contact=contact, at=at, assume=assume or (), until=until))


@verb()
def backtest(
    options: Options,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow, as its file says now.")],
    since: Annotated[str, typer.Option("--since", help="How long before the end, or from when: 90d.")] = "90d",
    until: Annotated[str | None, typer.Option("--until", help="An instant; by default now.")] = None,
    every: Annotated[str, typer.Option("--every", help="How often a tick comes: 1h.")] = "1h",
    compare: Annotated[
        str | None, typer.Option("--compare", help="Another version too: 3, or a revision of git such as HEAD~1.")
    ] = None,
) -> None:
    """Run a workflow over the past of the warehouse, and compare two versions person by person; nothing is sent."""
    from studio.commands import backtest

    finish(backtest.run(options, workflow=workflow, since=since, until=until, every=every, compare=compare))


@verb()
def replay(
    options: Options,
    tick: Annotated[str, typer.Argument(help="Number of the tick, or last.")] = "last",
    contact: Annotated[str | None, typer.Option("--contact", "-c", help="Only this contact id.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Also the ticks before: from this one on, or of the last 24h.")
    ] = None,
) -> None:
    """Work every decision of past ticks out again, from the log and the data as they were; 1 when something differs."""
    from studio.commands import replay

    finish(replay.run(options, tick=tick, contact=contact, since=since))


@verb()
def explain(
    options: Options,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow.")],
    contact: Annotated[str, typer.Option("--contact", "-c", help="Contact id.")],
    at: At = None,
    step: Annotated[str | None, typer.Option("--step", help="Ask what this step asks, too.")] = None,
) -> None:
    """Say why a contact entered or did not, what it waits for, and what every condition is worth."""
    from studio.commands import explain

    finish(explain.run(options, workflow=workflow, contact=contact, at=at, step=step))


@verb()
def status(options: Options) -> None:
    """Show the workflows of a target, its last tick and what waits in the outbox."""
    from studio.commands import status

    finish(status.run(options))


@verb()
def logs(
    options: Options,
    workflow: Annotated[str | None, typer.Option("--workflow", "-w", help="Only this workflow.")] = None,
    contact: Annotated[str | None, typer.Option("--contact", "-c", help="Only this contact id.")] = None,
    step: Annotated[str | None, typer.Option("--step", help="Only this step id.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, is held or is tried again.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many rows, the newest.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
) -> None:
    """Show the log: one line per decision and delivery."""
    from studio.commands import logs

    chosen = logs.Filter(workflow, contact, step, failed)
    finish(logs.run(options, chosen, limit=limit, follow=follow))


@verb()
def deploy(
    options: Options,
    work_pool: Annotated[str, typer.Option("--work-pool", help="Prefect work pool; made when missing.")] = "penstock",
    every: Annotated[str, typer.Option(help="How often evaluate and deliver run: 1m, 15m.")] = "1m",
    transform: Annotated[str, typer.Option(help="When dbt builds, as a cron line in UTC.")] = "5 * * * *",
) -> None:
    """Register transform, evaluate and deliver as scheduled Prefect deployments."""
    from studio.commands import deploy

    finish(deploy.run(options, work_pool=work_pool, every=every, transform=transform))


@verb()
def demo(
    options: Options,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where everything goes; default ./.penstock/demo.")
    ] = None,
    contacts: Annotated[int, typer.Option(min=50, help="Contacts of the shop.")] = 5000,
    days: Annotated[int, typer.Option(min=1, max=45, help="Simulated days.")] = 45,
    every: Annotated[int, typer.Option(min=1, max=24, help="Hours between two ticks.")] = 12,
    seed: Annotated[int, typer.Option(help="The source of chance: the same seed gives the same numbers.")] = 20260301,
) -> None:
    """Run the whole job on a shop of its own: 45 days in a minute, against built-in servers."""
    from studio.commands import demo

    finish(demo.run(options, folder=folder, contacts=contacts, days=days, hours=every, seed=seed))


@verb()
def pause(
    options: Options,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow, or all, destination:<name>, channel:<kind>.")],
    because: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Hold a workflow: nobody enters, nothing is sent; goals still end enrollments. Or hold only deliveries."""
    from studio.commands import control

    finish(control.run(options, action="pause", workflow=workflow, because=because))


@verb()
def resume(
    options: Options,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow, or all, destination:<name>, channel:<kind>.")],
    because: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Let a workflow go on that was paused, or quarantined after failing; or a destination that rests."""
    from studio.commands import control

    finish(control.run(options, action="resume", workflow=workflow, because=because))


@verb()
def retry(
    options: Options,
    actions: Annotated[list[str] | None, typer.Argument(help="Ids of actions; default all that fit.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="What was refused or ran out of attempts.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="What is held because its outcome is unknown.")] = False,
    destination: Annotated[str | None, typer.Option("--destination", help="Only of this destination.")] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", "-w", help="Only of this workflow.")] = None,
    code: Annotated[str | None, typer.Option(help="Only with this code, such as 503.")] = None,
    because: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Try again what failed or is held, once more each; opt-outs, exits and age limits still hold."""
    from studio.commands import retry

    finish(retry.run(
        options, actions=actions or [], failed=failed, unknown=unknown, destination=destination, workflow=workflow,
        code=code, because=because,
    ))  # fmt: skip


@verb()
def approve(
    options: Options,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow that is held.")],
    because: Annotated[str, typer.Option(help="Why, for the record.")],
) -> None:
    """Let go what the size guard holds: far more entries than usual, or an audience that is suddenly empty."""
    from studio.commands import control

    finish(control.run(options, action="approve", workflow=workflow, because=because))


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
