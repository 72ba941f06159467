"""The collector of a project target, with its settings and secrets read."""

from __future__ import annotations

import os
import time

from compiler.errors import ProjectError
from destinations.errors import ConfigurationError
from destinations.secret import Secret
from flows.collector.buffer import Buffer
from flows.collector.service import Collector, Configuration, WriteKey, digest
from flows.collector.tokens import SHORTEST_SECRET, Keyring
from flows.engine.clock import Clock, SystemClock
from flows.engine.crash import crash_point
from flows.project import Project
from flows.runner import buffer_folder
from flows.settings import CollectorSettings


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
    buffer = Buffer(buffer_folder(project), now, crash_point)
    return Collector(configuration(settings), buffer, now, time.monotonic)


def configuration(settings: CollectorSettings) -> Configuration:
    """The settings with their secrets read.

    Raises:
        ProjectError: E541.
    """
    keys = {}
    for name, key in settings.keys.items():
        value = _secret(f"collector.keys.{name}.key", key.key)
        keys[digest(value)] = WriteKey(
            name, "browser" if key.browser else "server", key.rate, frozenset(key.origins), frozenset(key.events)
        )
    return Configuration(keys, keyring(settings))


def keyring(settings: CollectorSettings) -> Keyring:
    """What signs links and identities.

    Raises:
        ProjectError: E541.
    """
    return Keyring([_secret(f"collector.secrets[{place}]", text) for place, text in enumerate(settings.secrets)])


def _secret(where: str, text: str) -> str:
    try:
        value = Secret(text, os.environ.__getitem__).reveal()
    except ConfigurationError as error:
        raise ProjectError(f"{where}: {error.message}", code="E541", hint=error.hint) from None
    if len(value) < SHORTEST_SECRET:
        raise ProjectError(
            f"{where} has fewer than {SHORTEST_SECRET} characters", code="E541", hint="openssl rand -hex 32 makes one"
        )
    return value
