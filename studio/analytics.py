"""No telemetry: the analytics of the tools inside are switched off for every command."""

import os

SWITCHES = {
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
}
"""Environment variable -> the value that means off."""


def switch_off() -> None:
    """Sets the switches for this process and its children, whatever they were before."""
    os.environ.update(SWITCHES)


def still_on() -> list[str]:
    """Names of the switches that do not stand on off."""
    return [name for name, off in SWITCHES.items() if os.environ.get(name) != off]
