"""`penstock collect`: the server that takes events in; and `penstock ingest`, what it has goes into the warehouse."""

from __future__ import annotations

from flows.project import load_project
from studio.console import Console
from studio.options import Options


def run(options: Options, *, host: str, port: int, trusted: str, workers: int) -> int:
    """Serve until interrupted.

    Raises:
        ProjectError: E540, no collector in penstock.yaml; E541, a secret is missing; E542, the port is taken.
    """
    from flows.collecting import collector, for_workers
    from flows.collector.server import listening, serve

    project = load_project(options.project_dir, options.target)
    made = collector(project)
    with listening(host, port) as opened:
        place = f"{host}:{opened.getsockname()[1]}"
        Console(options).note(f"collecting for {project.workspace} on http://{place}; Ctrl-C ends it")
        serve(for_workers(project) if workers > 1 else made.app, opened, trusted, workers)
    return 0


def ingest(options: Options) -> int:
    """Take in what the collector of this machine has."""
    from flows.runner import Runner

    project = load_project(options.project_dir, options.target)
    runner = Runner(project)
    report = runner.ingest()
    console = Console(options)
    for note in runner.notes:
        console.note(note)
    found = vars(report)
    console.result(found, "  ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in found.items()))
    return 0
