"""The script for web pages, as the collector serves it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.collector.service import Collector

LARGEST = 2_048
"""Bytes; a page must not become slow because of it."""
_HEADERS = {
    "Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}  # fmt: skip


class Snippet:
    """`GET /penstock.js`."""

    def routes(self, collector: Collector) -> list[Route]:
        """The routes of this part."""
        return [Route("/penstock.js", self.script, methods=["GET"])]

    async def script(self, request: Request) -> Response:
        """The script, or 304 to who has it."""
        text = source()
        tag = f'"{hashlib.sha256(text).hexdigest()[:16]}"'
        headers = {**_HEADERS, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="text/javascript", headers=headers)


@cache
def source() -> bytes:
    """The script."""
    return resources.files(__package__).joinpath("snippet.js").read_bytes()
