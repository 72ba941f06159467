"""The few pages that a contact sees: plain HTML without scripts, pictures or anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape

from starlette.responses import HTMLResponse

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#1f2328;"
    "background:#fff}h1{font-size:1.4rem}fieldset{border:1px solid #d0d7de;border-radius:6px;margin:1.5rem 0;"
    "padding:1rem}button{font:inherit;padding:.5rem 1rem;border:1px solid #1f2328;border-radius:6px;background:#fff;"
    "cursor:pointer}button:focus-visible,select:focus-visible{outline:3px solid #0969da;outline-offset:2px}"
    "label{display:flex;justify-content:space-between;gap:1rem;margin:.5rem 0}select{font:inherit}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
}  # fmt: skip
EVERYTHING = "all"


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """A page; `body` is HTML."""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>",
        status, HEADERS,
    )  # fmt: skip


def leaving(sender: str, group: str, groups: Mapping[str, str]) -> HTMLResponse:
    """Where a contact says what they want no more; nothing happens before a button is pressed."""
    named = groups.get(group, group)
    buttons = _button(group, f"Unsubscribe from {named}") if group else ""
    buttons += _button(EVERYTHING, f"Unsubscribe from all messages{_of(sender)}")
    choices = _choice(EVERYTHING, "All messages", {"join": "receive again"})
    choices += "".join(
        _choice(f"group.{name}", label, {"join": "receive", "leave": "do not receive"})
        for name, label in groups.items()
    )
    more = (
        f'<form method="post"><fieldset><legend>Choose what you receive</legend>{choices}'
        '<button name="choose" value="yes">Save</button></fieldset></form>'
    )
    return page(f"Messages{_of(sender)}", f'<form method="post">{buttons}</form>{more}')


def saved() -> HTMLResponse:
    """After a contact's wish is on the disk."""
    body = "<p>It holds for every message that is not on its way already.</p>"
    return page("Your choice is saved", body)


def unknown() -> HTMLResponse:
    """For a link that nobody here signed."""
    return page("This link is not valid", "<p>It may be cut off. Please use the link in your message.</p>", 404)


def not_saved() -> HTMLResponse:
    """When the disk does not take it, or too much comes at once."""
    return page("Please try again in a minute", "<p>Your choice could not be saved.</p>", 503)


def _button(value: str, text: str) -> str:
    return f'<p><button name="leave" value="{escape(value)}">{escape(text)}</button></p>'


def _choice(name: str, label: str, choices: Mapping[str, str]) -> str:
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in choices.items())
    return (
        f'<label>{escape(label)}<select name="{escape(name)}"><option value="">as it is</option>{options}'
        "</select></label>"
    )


def _of(sender: str) -> str:
    return f" from {sender}" if sender else ""
