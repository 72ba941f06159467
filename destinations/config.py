"""The configuration every destination shares, read strictly: an unknown key is an error with its nearest match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from destinations.base import Capabilities, Clock, Limit, OnUnknown
from destinations.errors import ConfigurationError

_UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|sec|s|min|m|h|d)")
_RATE = re.compile(r"(\d+)\s*/\s*(\d+)?\s*(s|sec|m|min|h|d)")


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("a duration is a number and a unit: 500ms, 30s, 5m, 2h, 1d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _limits(value: object) -> tuple[Limit, ...]:
    found = []
    for text in value if isinstance(value, list | tuple) else [value]:
        match = _RATE.fullmatch(str(text).strip())
        if match is None or not int(match[1]) or match[2] == "0":
            raise ValueError("a rate is a number per time, or a list of them: 10/s, 600/m, [100/10s, 250000/d]")
        found.append(Limit(int(match[1]), timedelta(seconds=int(match[2] or 1) * _UNITS[match[3]])))
    return tuple(found)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
"""`30s`, `5m`, `2h`, `1d`, `500ms`."""

Limits = Annotated[tuple[Limit, ...], BeforeValidator(_limits)]
"""`10/s`, `600/m`, `100/10s`, or a list of them: how many requests may leave in each window."""


class DestinationConfig(BaseModel):
    """Keys of every destination. `type` and `default` belong to routing and are accepted so that the mapping of
    `penstock.yaml` can be handed over as it stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    type: str = ""
    default: bool = False
    allow_hosts: Sequence[str] = ()
    on_unknown: OnUnknown | None = None
    retry_after: Sequence[Duration] | None = None
    max_batch: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=64)] | None = None
    timeout: Duration | None = None
    rate: Limits | None = None
    account: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    def applied_to(self, capabilities: Capabilities) -> Capabilities:
        """`capabilities` with what this configuration overrides."""
        return replace(
            capabilities,
            on_unknown=self.on_unknown or capabilities.on_unknown,
            retry_after=capabilities.retry_after if self.retry_after is None else tuple(self.retry_after),
            max_batch=self.max_batch or capabilities.max_batch,
            concurrency=self.concurrency or capabilities.concurrency,
            account=self.account,
            limits=capabilities.limits if self.rate is None else self.rate,
        )


C = TypeVar("C", bound=DestinationConfig)


def read_config(model: type[C], name: str, config: Mapping[str, Any]) -> C:
    """`config` as `model`. Raises ConfigurationError with every finding; values are never repeated in it."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        findings = [_finding(model, item["type"], item["loc"], item["msg"]) for item in error.errors()]
    raise ConfigurationError(
        "D101", f"destination {name}: " + "; ".join(findings), "see `destinations` in penstock.yaml"
    ) from None


def _finding(model: type[DestinationConfig], kind: str, place: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in place)
    if kind != "extra_forbidden":
        return f"{key}: {message}"
    known = sorted(field.alias or name for name, field in model.model_fields.items())
    near = difflib.get_close_matches(key, known, 1)
    guess = f", did you mean {near[0]}?" if near else ""
    return f"unknown key {key}{guess} Allowed: {', '.join(known)}"


def required_clock(name: str, type_: str, clock: Clock | None) -> Clock:
    """The clock, or a ConfigurationError for the programmer who forgot to hand it in."""
    if clock is None:
        raise ConfigurationError(
            "D106", f"destination {name}: type {type_} writes times and needs a clock", "create(..., clock=clock.now)"
        )
    return clock
