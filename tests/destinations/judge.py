"""The vendor's own API description as judge of the requests that we really send.

Known defects of a description are listed in `DEFECTS` and mended before it judges; nothing else is.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openapi_core import Config, OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from openapi_schema_validator import OAS30Validator
from werkzeug.datastructures import Headers, ImmutableMultiDict

from tests.destinations.conftest import spec
from tests.destinations.vendor_server import Recorded


@dataclass(frozen=True)
class Defect:
    """What a description says wrongly, and how it is mended."""

    what: str
    mend: Callable[[dict[str, Any]], None]


def _slack(description: dict[str, Any]) -> None:
    for path in description["paths"].values():
        for operation in path.values():
            given = operation.get("parameters", [])
            operation["parameters"] = [one for one in given if (one["in"], one["name"]) != ("header", "token")]
            for one in operation["parameters"]:
                if one["name"] in ("blocks", "attachments", "metadata"):
                    one.pop("type", None)


DEFECTS: Mapping[str, Sequence[Defect]] = {
    "slack": [
        Defect("from 2021: a `token` header is required, and blocks are a text; the API takes a bearer token and JSON",
               _slack)
    ],
}  # fmt: skip
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
    for defect in DEFECTS.get(vendor, ()):
        defect.mend(description)
    if "operations" in description:
        return [text for request in requests for text in _by_botocore(description, request)]
    if "swagger" in description:
        return [text for request in requests for text in _by_swagger(description, request)]
    base = urlsplit(description["servers"][0]["url"]).path if description.get("servers") else ""
    description["servers"] = [{"url": "http://vendor" + base}]
    csv: Any = {"text/csv": lambda body, **_: body.decode()}
    judge = OpenAPI.from_dict(description, config=Config(extra_media_type_deserializers=csv))
    found = []
    for request in requests:
        if "form" in request.headers.get("content-type", ""):
            found += list(_by_form(description, request))
            continue
        try:
            judge.validate_request(_Request(request))
        except OpenAPIError as error:
            reasons = [str(reason) for reason in getattr(error.__cause__, "schema_errors", [])]
            found.append(f"{request.method} {request.path}: {error} {error.__cause__ or ''} {reasons}")
    return found


def form_of(request: Recorded) -> dict[str, str]:
    """A form, multipart or URL-encoded, read by another parser than ours."""
    if "multipart" not in request.headers["content-type"]:
        return dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))
    head = b"content-type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    message = message_from_bytes(head + request.body, policy=policy.HTTP)
    parts = list(message.iter_parts())
    return {str(part.get_param("name", header="content-disposition")): str(part.get_content()) for part in parts}


def _by_form(description: Mapping[str, Any], request: Recorded) -> Iterator[str]:
    """A form by its schema: openapi-core does not read multipart bodies of texts."""
    operation = _operation(description["paths"], request)
    if operation is None:
        yield f"no such path: {request.path}"
        return
    kind = request.headers["content-type"].split(";")[0]
    content = operation["requestBody"]["content"]
    if kind not in content:
        yield f"no such content type: {kind}"
        return
    schema = content[kind]["schema"]
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    form: dict[str, Any] = dict(form_of(request)) if b"=" in request.body else {}
    for name in form:
        # A form says a list by repeating a field; once is a list of one.
        if schema["properties"].get(name, {}).get("type") == "array":
            form[name] = [form[name]]
    yield from _against(schema, description, form)


def _by_swagger(description: Mapping[str, Any], request: Recorded) -> Iterator[str]:
    """A body by the form parameters of an OpenAPI 2 description."""
    operation = _operation(description["paths"], request, description.get("basePath", ""))
    if operation is None:
        yield f"no such path: {request.path}"
        return
    fields = {one["name"]: one for one in operation["parameters"] if one["in"] == "formData"}
    schema = {
        "type": "object", "additionalProperties": False,
        "properties": {name: {k: v for k, v in one.items() if k in ("type", "enum")} for name, one in fields.items()},
        "required": [name for name, one in fields.items() if one.get("required")],
    }  # fmt: skip
    yield from _against(schema, description, json.loads(request.body))


def _by_botocore(description: Mapping[str, Any], request: Recorded) -> Iterator[str]:
    """A body by the shapes of a botocore service model."""
    paths = {one["http"]["requestUri"]: one for one in description["operations"].values()}
    operation = paths.get(request.path)
    if operation is None or operation["http"]["method"] != request.method:
        yield f"no such path: {request.path}"
        return
    schema = _shape(description["shapes"], operation["input"]["shape"])
    yield from _against(schema, {}, json.loads(request.body))


def _shape(shapes: Mapping[str, Any], name: str) -> dict[str, Any]:
    shape = shapes[name]
    match shape["type"]:
        case "structure":
            members = {key: _shape(shapes, one["shape"]) for key, one in shape["members"].items()}
            required = shape.get("required", [])
            return {"type": "object", "properties": members, "required": required, "additionalProperties": False}
        case "list":
            return {"type": "array", "items": _shape(shapes, shape["member"]["shape"])}
        case "map":
            return {"type": "object", "additionalProperties": _shape(shapes, shape["value"]["shape"])}
        case "boolean":
            return {"type": "boolean"}
        case "integer" | "long" | "double" | "float" | "timestamp":
            return {"type": "number"}
        case _:
            limits = {"minLength": shape.get("min"), "maxLength": shape.get("max"), "enum": shape.get("enum"),
                      "pattern": shape.get("pattern")}  # fmt: skip
            return {"type": "string", **{key: value for key, value in limits.items() if value is not None}}


def _operation(paths: Mapping[str, Any], request: Recorded, base: str = "") -> Mapping[str, Any] | None:
    given = urlsplit(request.path).path.removeprefix(base).strip("/").split("/")
    for template, operations in paths.items():
        parts = template.strip("/").split("/")
        fits = len(parts) == len(given) and all(
            re.fullmatch(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(part)), one)
            for part, one in zip(parts, given, strict=True)
        )
        if fits and request.method.lower() in operations:
            found: Mapping[str, Any] = operations[request.method.lower()]
            return found
    return None


def _against(schema: Mapping[str, Any], description: Mapping[str, Any], value: Any) -> Iterator[str]:
    whole = {**schema, "components": description.get("components", {})}
    for error in OAS30Validator(whole).iter_errors(value):
        yield f"{error.json_path}: {error.message}"[:300]
