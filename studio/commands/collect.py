"""`penstock collect`: the server that takes events in; and `penstock ingest`, what it has goes into the warehouse."""

from __future__ import annotations

from flows.project import load_project
from studio.console import Console
from studio.options import Options


def run(options: Options, *, host: str, port: int, trusted: str) -> int:
    """Serve until interrupted.

    Raises:
        ProjectError: E540, no collector in penstock.yaml; E541, a secret is missing; E542, the port is taken.
    """
    from flows.collecting import collector
    from flows.collector.server import serve

    project = load_project(options.project_dir, options.target)
    served = collector(project)
    Console(options).note(f"collecting for {project.workspace} on http://{host}:{port}; Ctrl-C ends it")
    serve(served, host, port, trusted)
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
