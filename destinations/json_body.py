"""A payload as compact JSON, also with the values a warehouse hands out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from destinations.errors import PayloadError


def encoded(value: object) -> bytes:
    """Compact JSON in UTF-8. Raises PayloadError for a value that JSON cannot hold."""
    try:
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_json_value
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError("unencodable", "the payload holds a value that JSON cannot express") from error


def _json_value(value: object) -> object:
    match value:
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case UUID():
            return str(value)
        case Mapping():
            return dict(value)
        case _:
            raise TypeError(type(value).__name__)
