"""Lengths of time and rates as the language writes them: `2h`, `10 per 24h`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_DURATION = re.compile(r"^[0-9]{1,6}[smhdw]$")
_RATE = re.compile(r"^([0-9]{1,9}) per ([0-9]{1,6}[smhdw])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Duration(str):
    """A length of time: `<number><s|m|h|d|w>`."""

    @property
    def amount(self) -> int:
        """The number before the unit."""
        return int(self[:-1])

    @property
    def unit(self) -> str:
        """One of s, m, h, d, w."""
        return self[-1]

    @property
    def elapsed(self) -> timedelta:
        """The duration with d as 24 h and w as 7 x 24 h."""
        return timedelta(seconds=self.amount * _SECONDS[self.unit])

    @property
    def calendar_days(self) -> int | None:
        """Whole calendar days for d and w, None for elapsed units."""
        return {"d": self.amount, "w": 7 * self.amount}.get(self.unit)

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Read a duration.

        Raises:
            ValueError: the text is not a number and a unit, or longer than 100 years.
        """
        if not isinstance(value, str) or not _DURATION.fullmatch(value):
            raise PydanticCustomError("duration", "a duration is a number and a unit: 30s, 15m, 2h, 3d, 1w")
        duration = cls(value)
        if duration.elapsed > timedelta(days=36500):
            raise PydanticCustomError("duration", "a duration is at most 100 years")
        return duration

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            cls.parse, core_schema.any_schema(), serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=_DURATION.pattern),
        )  # fmt: skip


class Rate(str):
    """How often in a rolling window: `<count> per <duration>`."""

    @property
    def amount(self) -> int:
        """The number before `per`."""
        return int(self.split(" ")[0])

    @property
    def per(self) -> Duration:
        """The length of the window."""
        return Duration(self.split(" ")[2])

    @classmethod
    def parse(cls, value: object) -> Rate:
        """Read a rate.

        Raises:
            ValueError: the text is not `<count> per <duration>`, or one of them is zero.
        """
        match = _RATE.fullmatch(value) if isinstance(value, str) else None
        if match is None or not Duration.parse(match[2]).amount or not int(match[1]):
            raise PydanticCustomError("rate", "a rate is a count and a duration: 10 per 24h, 200 per 1d")
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            cls.parse, core_schema.any_schema(), serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=_RATE.pattern),
        )  # fmt: skip
