"""Rendering: a claimed intent and its template become the payload that a destination takes (`destinations.base`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from compiler.content import RenderError, Template, parse_text, render
from compiler.errors import DefinitionError
from compiler.template_language import present
from compiler.workflow import Duration
from flows.engine.intents import Intent, Render


class Links(Protocol):
    """Puts links into messages that lead to the collector."""

    def leave(self, action_id: str, group: str | None) -> str:
        """Where the contact leaves the message's group, or everything."""
        ...

    def html(self, action_id: str, html: str, leave: str) -> str:
        """The HTML with its links."""
        ...

    def text(self, text: str, leave: str) -> str:
        """The plain text with its link."""
        ...


def renderer(templates: Mapping[str, Template], links: Links | None = None) -> Render:
    """A renderer over published templates, by hash; a pass makes one and so parses each short text once.

    With `links` an e-mail says where its contact leaves, and its opens and clicks are counted.
    """
    texts: dict[str, Any] = {}

    def text(source: str | None, values: Mapping[str, Any]) -> str | None:
        if source is None:
            return None
        if source not in texts:
            try:
                texts[source] = parse_text(source)
            except DefinitionError as error:
                raise RenderError(error.problems[0].message) from None
        return str(texts[source].render(values))

    def payload(intent: Intent) -> Mapping[str, Any]:
        values = present(intent.payload)
        step: Mapping[str, Any] = intent.payload.get("step") or {}
        contact = {"id": intent.contact_id, "email": intent.address or None}
        match intent.kind:
            case "email":
                return _linked(intent, _email(intent, templates, text(step.get("subject"), values)), links)
            case "sms" | "push":
                return _short(intent, templates, text(step.get("subject"), values))
            case "notify":
                return {"target": step.get("target"), "text": text(step.get("text"), values) or ""}
            case "task":
                return {
                    "title": text(step.get("title"), values), "owner": text(step.get("owner"), values),
                    "body": text(step.get("body"), values), "due": _due(intent, step.get("due")), "contact": contact,
                }  # fmt: skip
            case "crm":
                return {
                    "object": step.get("object", "contact"),
                    "set": intent.payload.get("values", {}),
                    "contact": contact,
                }
            case _:
                return {"body": _body(intent, contact)}

    return payload


def _email(intent: Intent, templates: Mapping[str, Template], subject: str | None) -> Mapping[str, Any]:
    template = templates.get(intent.template_hash or "")
    if template is None:
        raise RenderError(f"the template {intent.what} is not published")
    message = render(template, intent.payload, subject=subject)
    return {
        "to": intent.address, "from": message.sender, "reply_to": message.reply_to, "subject": message.subject,
        "html": message.html, "text": message.text,
    }  # fmt: skip


def _linked(intent: Intent, message: Mapping[str, Any], links: Links | None) -> Mapping[str, Any]:
    """The message with links to the collector; who gets it because of a transaction cannot leave that."""
    if links is None:
        return message
    leave = links.leave(intent.action_id, intent.group)
    html = message["html"]
    listed = {} if intent.transactional else {"list_unsubscribe": leave}
    return {
        **message, **listed, "html": html and links.html(intent.action_id, html, leave),
        "text": links.text(message["text"], leave),
    }  # fmt: skip


def _short(intent: Intent, templates: Mapping[str, Template], subject: str | None) -> Mapping[str, Any]:
    """A text message, or with a title a push notification."""
    message = _email(intent, templates, subject)
    title = {"title": message["subject"]} if intent.kind == "push" else {}
    return {"to": intent.address, **title, "text": message["text"]}


def _due(intent: Intent, after: str | None) -> str | None:
    """When a task is due: so long after the step's logical time, as ISO 8601 in UTC; without a length on that day.

    Never a function of the attempt: a repetition has to write the same task.
    """
    if intent.due is None:
        return None
    if after is None:
        return intent.due.replace(hour=0, minute=0, second=0, microsecond=0).isoformat() + "Z"
    return (intent.due + Duration.parse(after).elapsed).isoformat() + "Z"


def _body(intent: Intent, contact: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body of a webhook: the step's `body`, rebuilt from its leaves, or who and where when it has none."""
    leaves: Mapping[str, Any] = intent.payload.get("values") or {}
    if not leaves:
        return {"contact": contact, "workflow": intent.workflow, "step": intent.step, "entry_key": intent.key}
    root: dict[str, Any] = {}
    for path, value in leaves.items():
        *parents, last = path.split(".")
        here = root
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    rebuilt = _lists(root)
    return rebuilt if isinstance(rebuilt, dict) else {"items": rebuilt}


def _lists(value: Any) -> Any:
    """Maps whose keys are 0, 1, … are lists."""
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(inner) for key, inner in value.items()}
