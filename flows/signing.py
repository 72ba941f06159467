"""The secrets of a project's collector, and what they sign."""

from __future__ import annotations

import os

from compiler.errors import ProjectError
from destinations.errors import ConfigurationError
from destinations.secret import Secret
from flows.collector.links import MessageLinks
from flows.collector.tokens import SHORTEST_SECRET, Keyring
from flows.settings import CollectorSettings


def keyring(settings: CollectorSettings) -> Keyring:
    """What signs links and identities.

    Raises:
        ProjectError: E541.
    """
    return Keyring([secret(f"collector.secrets[{place}]", text) for place, text in enumerate(settings.secrets)])


def message_links(settings: CollectorSettings | None) -> MessageLinks | None:
    """What puts links to the collector into messages; None when there is no address for them.

    Raises:
        ProjectError: E541.
    """
    if settings is None or settings.url is None:
        return None
    return MessageLinks(settings.url.rstrip("/"), keyring(settings), settings.clicks, settings.opens)


def secret(where: str, text: str) -> str:
    """The value of a reference, long enough to be a secret.

    Raises:
        ProjectError: E541, it is not set or too short.
    """
    try:
        value = Secret(text, os.environ.__getitem__).reveal()
    except ConfigurationError as error:
        raise ProjectError(f"{where}: {error.message}", code="E541", hint=error.hint) from None
    if len(value) < SHORTEST_SECRET:
        raise ProjectError(
            f"{where} has fewer than {SHORTEST_SECRET} characters", code="E541", hint="openssl rand -hex 32 makes one"
        )
    return value
