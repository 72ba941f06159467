"""The collector of a project target, with its settings and secrets read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime

from starlette.applications import Starlette

from compiler.errors import ProjectError
from destinations import create
from flows.collector.buffer import Buffer
from flows.collector.forms import Form, Forms
from flows.collector.inbound import Reports
from flows.collector.service import Collector, Configuration, Part, WriteKey, digest
from flows.collector.snippet import Snippet
from flows.collector.tracking import Tracking
from flows.engine.clock import Clock, SystemClock
from flows.engine.crash import crash_point
from flows.project import PROJECT_DIR, Project, load_project
from flows.settings import CollectorSettings
from flows.signing import keyring, secret

FACTORY = "flows.collecting:served"
TARGET = "PENSTOCK_TARGET"


def collector(project: Project, clock: Clock | None = None) -> Collector:
    """The collector of a target, not serving yet.

    Raises:
        ProjectError: E540, penstock.yaml has no `collector`; E541, a secret is not set or too short.
    """
    settings = project.settings.collector
    if settings is None:
        raise ProjectError(
            "penstock.yaml has no collector", code="E540",
            hint="collector: {keys: {server: {key: \"{{ env_var('PENSTOCK_WRITE_KEY') }}\"}}}",
        )  # fmt: skip
    now = (clock or SystemClock()).now
    parts: list[Part] = [
        Tracking(keyring(settings), settings.clicks, settings.groups, settings.sender),
        Forms({name: Form(f.event, f.fields, f.email, f.phone, f.pages, f.trap) for name, f in settings.forms.items()}),
        _reports(project, now, settings.url),
        Snippet(),
    ]
    return Collector(configuration(settings), Buffer(project.buffer, now, crash_point), now, time.monotonic, parts)


def served() -> Starlette:
    """The collector of a worker process, of the project and target that the environment names."""
    return collector(load_project(target=os.environ.get(TARGET))).app


def configuration(settings: CollectorSettings) -> Configuration:
    """The write keys with their secrets read.

    Raises:
        ProjectError: E541.
    """
    keys = {}
    for name, key in settings.keys.items():
        value = secret(f"collector.keys.{name}.key", key.key)
        keys[digest(value)] = WriteKey(
            name, "browser" if key.browser else "server", key.rate, frozenset(key.origins), frozenset(key.events)
        )
    return Configuration(keys, keyring(settings))


def for_workers(project: Project) -> str:
    """What makes a worker's collector; the environment, which workers inherit, says of which project."""
    os.environ.update({PROJECT_DIR: str(project.folder), TARGET: project.target})
    return FACTORY


def _reports(project: Project, now: Callable[[], datetime], url: str | None) -> Reports:
    """What the project's destinations report; a secret of theirs is read when a request comes."""
    made = {
        name: create(name, config, os.environ.__getitem__, now)
        for name, config in project.settings.destinations.items()
    }
    return Reports(made, (url or "").rstrip("/"))
