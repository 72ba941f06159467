"""Slack: notifications to channels, by `chat.postMessage`. Slack says 200 also when it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from destinations.answers import Row, UnreadableAnswer, for_all, object_of
from destinations.auth import Auth, Request, bearer
from destinations.base import Action, Capabilities, Limit, Verdict
from destinations.classification import CREDENTIALS, FAILED, RETRY, Ruling, http_ruling
from destinations.config import DestinationConfig
from destinations.errors import PayloadError
from destinations.http_destination import HttpDestination, json_request
from destinations.secret import secret_field

if TYPE_CHECKING:
    from destinations.transport import Answer

_AGAIN = frozenset({"ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"})
_ACCOUNT = frozenset(
    {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "missing_scope"}
)
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class SlackConfig(DestinationConfig):
    """`token` is a bot token; `targets` maps the targets of `notify` steps to channel ids."""

    token: str
    targets: Mapping[str, str] = Field(default_factory=dict)
    base_url: str = "https://slack.com/api"


class Slack(HttpDestination[SlackConfig]):
    """`notify` steps. A retry may post twice: there is no key, so an unknown outcome is held."""

    type = "slack"
    config_model = SlackConfig
    capabilities = Capabilities(frozenset({"notify"}), "none", limits=(Limit(1, timedelta(seconds=1)),))

    def auth(self) -> Auth:
        """A bearer token."""
        return bearer(secret_field(self.name, "token", self.config.token, self._lookup))

    def row(self, action: Action) -> Row:
        """Channel and text; what came from a contact is no markup."""
        target = str(action.payload.get("target", action.what))
        channel = self.config.targets.get(target, target if not self.config.targets else "")
        if not channel:
            known = ", ".join(sorted(self.config.targets))
            raise PayloadError("unknown_target", f"targets of {self.name} has no such name; it has: {known}")
        text = str(action.payload.get("text", ""))[:40_000].translate(_ESCAPED)
        return Row(action, {"channel": channel, "text": text or "(no text)", "unfurl_links": False})

    def request(self, rows: Sequence[Row]) -> Request:
        """POST chat.postMessage."""
        kind = {"content-type": "application/json; charset=utf-8"}
        return json_request(f"{self.config.base_url}/chat.postMessage", rows[0].data, kind)

    def ruling(self, answer: Answer) -> Ruling:
        """By `error` of a 200."""
        word = _error(answer)
        if not word:
            return http_ruling(answer.status)
        return CREDENTIALS if word in _ACCOUNT else RETRY if word in _AGAIN else FAILED

    def code(self, answer: Answer) -> str:
        """Status and `error`."""
        return f"{answer.status} {_error(answer)}".strip()

    def verdicts(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """`ok` with the time stamp that names the message."""
        stamp = str(object_of(answer).get("ts") or "")
        return for_all(rows, str(answer.status), {"ts": stamp} if stamp else {})


def _error(answer: Answer) -> str:
    if answer.status >= 300:
        return ""
    try:
        data = object_of(answer)
    except UnreadableAnswer:
        return ""
    return "" if data.get("ok") is True else str(data.get("error") or "not_ok")[:60]
