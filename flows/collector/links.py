"""The links of a message that lead to the collector: opens, clicks and leaving.

They are made when a message is rendered. A link in the HTML to one of the listed hosts is replaced by a signed one that
leads there through the collector; other links stay as they are, so that what somebody wrote into a field cannot borrow
the collector's name. `href="#unsubscribe"` in a template becomes the link to the page on which a contact leaves.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from html import escape, unescape
from urllib.parse import urlsplit

from flows.collector.tokens import Keyring

_HREF = re.compile(r"""(<a\b[^>]*?\bhref=)(["'])(https?://[^"'<>\s]+)\2""", re.IGNORECASE)
_LEAVE = re.compile(r"(?<![\w/&])#(?:unsubscribe|preferences)\b")
_LEAVE_HREF = re.compile(r"""(\bhref=["'])#(?:unsubscribe|preferences)(?=["'])""", re.IGNORECASE)
_BODY_END = re.compile(r"</body\s*>", re.IGNORECASE)
_LONGEST = 1_500
"""A longer address is left as it is: some mail programs cut links of more than 2,000 characters."""


@dataclass(frozen=True)
class MessageLinks:
    """Makes the links of messages.

    Attributes:
        url: of the collector, without a slash at its end.
        keyring: signs them.
        hosts: those whose links are counted; a host stands for those below it, too.
        opens: whether opens are counted.
    """

    url: str
    keyring: Keyring
    hosts: tuple[str, ...] = ()
    opens: bool = True

    def leave(self, action_id: str, group: str | None) -> str:
        """Where the contact leaves the message's group, or everything when it has none; also for one click."""
        return f"{self.url}/u/{self.keyring.message('leave', action_id, group or '')}"

    def html(self, action_id: str, html: str, leave: str) -> str:
        """The HTML of a message with its links."""

        def signed(match: re.Match[str]) -> str:
            before, quote, address = match.groups()
            target = unescape(address)
            if not counted(target, self.hosts) or len(target) > _LONGEST:
                return match[0]
            return f"{before}{quote}{self.url}/c/{self.keyring.message('click', action_id, target)}{quote}"

        found = _LEAVE_HREF.sub(lambda match: match[1] + escape(leave), _HREF.sub(signed, html))
        if not self.opens:
            return found
        pixel = (
            f'<img src="{self.url}/o/{self.keyring.message("open", action_id)}.gif" width="1" height="1" alt="" '
            'style="display:block;border:0">'
        )
        ends = [match.start() for match in _BODY_END.finditer(found)]
        place = ends[-1] if ends else len(found)
        return found[:place] + pixel + found[place:]

    def text(self, text: str, leave: str) -> str:
        """The plain text of a message with its link for leaving; addresses in it are read by people, and stay."""
        return _LEAVE.sub(lambda match: leave, text)


def counted(address: str, hosts: Collection[str]) -> bool:
    """Whether a link leads to one of the hosts, or to one below it."""
    try:
        parts = urlsplit(address)
        host, plain = (parts.hostname or "").rstrip("."), parts.username is None and parts.password is None
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not plain or not address.isprintable() or "\\" in address:
        return False
    return any(host == each or host.endswith(f".{each}") for each in hosts)
