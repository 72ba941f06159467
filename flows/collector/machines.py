"""Opens and clicks that no person made: mail programs that fetch images beforehand, scanners that follow links.

They cannot all be known. What is known has a name of its own, so that a condition about opens is one about people:
`email_machine_opened` instead of `email_opened`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Apple's Mail Privacy Protection fetches every image with nothing but this name.
_PREFETCHING = frozenset({"", "mozilla/5.0"})
_SCANNER = re.compile(
    r"bot\b|crawl|spider|slurp|scan|preview|prefetch|monitor|headless|phantom|barracuda|proofpoint|mimecast|safelinks"
    r"|symantec|trendmicro|fireeye|ironport|forcepoint|python|curl|wget|java/|go-http|okhttp|libwww|httpclient|axios"
    r"|node-fetch|guzzle|ruby|perl|yahoomailproxy",
    re.IGNORECASE,
)
_PURPOSES = ("purpose", "sec-purpose", "x-purpose", "x-moz")


def is_machine(headers: Mapping[str, str]) -> bool:
    """Whether a request looks like one that no person made. Google's image proxy fetches when a person opens."""
    agent = headers.get("user-agent", "").strip()
    if agent.lower() in _PREFETCHING or _SCANNER.search(agent):
        return True
    return any("prefetch" in headers.get(name, "").lower() or "preview" in headers.get(name, "").lower()
               for name in _PURPOSES)  # fmt: skip


def by_machine(name: str) -> str:
    """The name of an open or click that a machine made; other events keep theirs."""
    channel, _, what = name.partition("_")
    return f"{channel}_machine_{what}" if what in ("opened", "clicked") else name
