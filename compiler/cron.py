"""Cron lines and time zones: texts of the language that are types of their own."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_CRON = re.compile(
    r"(?:(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|SUN|MON|TUE|WED|THU|FRI|SAT|[0-9*,/#L-])+(?: |$)){5}", re.I
)


class Cron(str):
    """A cron line: minute, hour, day of month, month, day of week."""

    @classmethod
    def parse(cls, value: object) -> Cron:
        """Read a cron line.

        Raises:
            ValueError: it is none, or no day ever matches it.
        """
        from croniter import croniter

        text = " ".join(value.split()) if isinstance(value, str) else ""
        if not _CRON.fullmatch(text) or not croniter.is_valid(text):
            raise PydanticCustomError(
                "cron", "a schedule is minute, hour, day of month, month and day of week: '0 9 * * MON'"
            )
        try:
            croniter(text, datetime(2000, 1, 1)).get_next(datetime)
        except ValueError:
            raise PydanticCustomError("cron", "no day ever matches this schedule") from None
        return cls(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            cls.parse, core_schema.any_schema(), serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(),
        )  # fmt: skip


def _zone(value: str) -> str:
    try:
        if value != "contact":
            ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PydanticCustomError(
            "zone", "a time zone is `contact`, or a name of the IANA database: Europe/Berlin"
        ) from None
    return value


Zone = Annotated[str, AfterValidator(_zone)]
