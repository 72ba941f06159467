"""The destinations speak: one file per outside system, outbound and inbound together.

A destination type is one entry of `REGISTRY`. To add one: a module with a strict config model and a subclass of
`Destination`, an entry here, and its factory in the contract tests.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from destinations.base import Action, Capabilities, Clock, Destination, Role, SecretLookup, Verdict
from destinations.declared import Declared
from destinations.errors import ConfigurationError, DestinationError, TerminalError, TransientError
from destinations.fcm import Fcm
from destinations.hubspot import Hubspot
from destinations.inbound import Inbound, InboundEvent, InboundRefused, OptOut, Received
from destinations.mailgun import Mailgun
from destinations.postmark import Postmark
from destinations.recorder import Recorder
from destinations.salesforce import Salesforce
from destinations.sendgrid import Sendgrid
from destinations.ses import Ses
from destinations.slack import Slack
from destinations.smtp import Smtp
from destinations.twilio import Twilio
from destinations.webhook import Webhook

__all__ = [
    "REGISTRY",
    "Action",
    "Capabilities",
    "Clock",
    "ConfigurationError",
    "Destination",
    "DestinationError",
    "Inbound",
    "InboundEvent",
    "InboundRefused",
    "OptOut",
    "Received",
    "Role",
    "SecretLookup",
    "TerminalError",
    "TransientError",
    "Verdict",
    "create",
]

REGISTRY: Mapping[str, type[Destination]] = {
    "fcm": Fcm,
    "http": Declared,
    "hubspot": Hubspot,
    "mailgun": Mailgun,
    "postmark": Postmark,
    "recorder": Recorder,
    "salesforce": Salesforce,
    "sendgrid": Sendgrid,
    "ses": Ses,
    "slack": Slack,
    "smtp": Smtp,
    "twilio": Twilio,
    "webhook": Webhook,
}
"""Every destination type by the word that `type:` takes."""


def create(name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None) -> Destination:
    """The destination `name` from its mapping in `penstock.yaml` (`type` chooses the class).

    `secrets` maps the name of an environment variable to its value (KeyError when unset); it is called when a
    connection is opened and when something is sent. `clock` gives the present; every type but `recorder` needs it.
    Raises ConfigurationError.
    """
    kind = config.get("type")
    destination = REGISTRY.get(kind) if isinstance(kind, str) else None
    if destination is None:
        near = get_close_matches(str(kind), REGISTRY, 1)
        hint = f"did you mean {near[0]}?" if near else "set `type`"
        raise ConfigurationError(
            "D102", f"destination {name}: unknown type {kind!r}, allowed: {', '.join(sorted(REGISTRY))}", hint
        )
    return destination.from_config(name, config, secrets, clock)
