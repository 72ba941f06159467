"""The vendor's own API description as judge of the requests that we really send.

Known defects of a description are listed in `DEFECTS` and mended before it judges; nothing else is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from werkzeug.datastructures import Headers, ImmutableMultiDict

from tests.destinations.conftest import spec
from tests.destinations.vendor_server import Recorded


@dataclass(frozen=True)
class Defect:
    """What a description says wrongly, and how it is mended."""

    what: str
    mend: Callable[[dict[str, Any]], None]


DEFECTS: Mapping[str, Sequence[Defect]] = {}
"""Vendor -> known defects of its description."""


class _Request:
    """A recorded request as openapi-core reads it; it adds what it finds in the path to `parameters`."""

    host_url = "http://vendor"

    def __init__(self, recorded: Recorded) -> None:
        url = urlsplit(recorded.path)
        self.path = url.path
        self.method = recorded.method.lower()
        self.body = recorded.body or None
        self.content_type = recorded.headers.get("content-type", "application/json")
        query = ImmutableMultiDict(parse_qsl(url.query))
        self.parameters = RequestParameters(query=query, header=Headers(list(recorded.headers.items())))


def problems(vendor: str, name: str, requests: Sequence[Recorded]) -> list[str]:
    """What the description has against the requests; skips the test where descriptions are not at hand."""
    description = copy.deepcopy(dict(spec(vendor, name)))
    base = urlsplit(description["servers"][0]["url"]).path if description.get("servers") else ""
    description["servers"] = [{"url": "http://vendor" + base}]
    for defect in DEFECTS.get(vendor, ()):
        defect.mend(description)
    judge = OpenAPI.from_dict(description)
    found = []
    for request in requests:
        try:
            judge.validate_request(_Request(request))
        except OpenAPIError as error:
            reasons = [str(reason) for reason in getattr(error.__cause__, "schema_errors", [])]
            found.append(f"{request.method} {request.path}: {error} {error.__cause__ or ''} {reasons}")
    return found
