"""The destination that reaches nobody: it keeps actions, answers as scripted, and can write files you can open.

Simulations (`penstock test`) run against it with scripted answers; a target with `deliver: outbox` writes every message
into a folder: `.eml` and `.html` for e-mail, `.json` for everything else.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from destinations import classification
from destinations.base import Action, Capabilities, Clock, Destination, Role, SecretLookup, Verdict
from destinations.classification import TROUBLES, Trouble, http_ruling, smtp_ruling
from destinations.config import DestinationConfig, read_config
from destinations.errors import ConfigurationError, PayloadError
from destinations.json_body import encoded
from destinations.message import build_message

Scripted = int | str
"""One answer: an HTTP status (503), an SMTP code ("550 5.1.1") or a trouble ("timeout")."""

_ROLES: frozenset[Role] = frozenset({"email", "sms", "push", "crm", "task", "notify", "webhook", "audience"})
_SMTP = re.compile(r"[245]\d\d [245]\.\d{1,3}\.\d{1,3}")


class RecorderConfig(DestinationConfig):
    """`folder`: write files there · `answers`: per contact the answers to attempts 1, 2, … (then 202)."""

    folder: str | None = None
    answers: Mapping[str, Sequence[Scripted]] = Field(default_factory=dict)
    sender: str = Field(default="Penstock <outbox@penstock.invalid>", alias="from")


class Recorder(Destination):
    """Takes every role. `actions` holds every attempt it was given, in order, for the life of the object."""

    type = "recorder"
    capabilities = Capabilities(
        roles=_ROLES, idempotency="server_key", max_batch=500, concurrency=1, on_unknown="retry", outside=False
    )

    def __init__(self, name: str, config: RecorderConfig, clock: Clock | None = None) -> None:
        self.name = name
        self.capabilities = config.applied_to(type(self).capabilities)
        self.actions: list[Action] = []
        self._config = config
        self._clock = clock
        self._folder = None if config.folder is None else Path(config.folder)
        self._writers: Mapping[str, Callable[[Action, Path], None]] = {"email": self._write_mail}
        for contact, answers in config.answers.items():
            for answer in answers:
                _check(name, contact, answer)

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        """See `Destination.from_config`; no secret is ever asked for, the clock only dates `.eml` files."""
        return cls(name, read_config(RecorderConfig, name, config), clock)

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        """Record, write, and answer as scripted for the contact and the attempt."""
        self.actions.extend(batch)
        verdicts = [self._verdict(action) for action in batch]
        if self._folder is None:
            return verdicts
        # The files are the messages that left, so a scripted refusal leaves none.
        return await asyncio.to_thread(self._write, batch, verdicts)

    def _verdict(self, action: Action) -> Verdict:
        answers = self._config.answers.get(action.contact_id, ())
        answer = answers[action.attempt - 1] if action.attempt <= len(answers) else 202
        ruling, code = _ruling(answer), str(answer)
        receipt = {"id": action.action_id} if ruling.status == "sent" else {}
        return Verdict(action.action_id, ruling.status, code, receipt=receipt, suppress=ruling.suppress)

    def _write(self, batch: Sequence[Action], verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        folder = self._folder
        if folder is None:
            return verdicts
        folder.mkdir(parents=True, exist_ok=True)
        written: list[Verdict] = []
        for action, verdict in zip(batch, verdicts, strict=True):
            try:
                if verdict.status == "sent":
                    self._writers.get(action.kind, _write_json)(action, folder)
            except PayloadError as error:
                verdict = Verdict(action.action_id, "failed", error.code, error.message)
            written.append(verdict)
        return written

    def _write_mail(self, action: Action, folder: Path) -> None:
        stem = _stem(action)
        mail = build_message(action, self._config.sender, None, None if self._clock is None else self._clock())
        html = action.payload.get("html")
        if html:
            _replace(folder / f"{stem}.html", str(html).encode())
        _replace(folder / f"{stem}.eml", mail.data)


def _write_json(action: Action, folder: Path) -> None:
    record = {
        "action_id": action.action_id,
        "kind": action.kind,
        "what": action.what,
        "contact_id": action.contact_id,
        "payload": json.loads(encoded(action.payload)),
    }
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    _replace(folder / f"{_stem(action)}.json", text.encode())


def _replace(path: Path, data: bytes) -> None:
    """The same action again is the same file; a reader never sees half of one."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)


def _stem(action: Action) -> str:
    """A file name for the action: no separator, no leading dot, whatever the ids hold."""
    parts = (action.kind, action.what, action.action_id)
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "_", part).strip("_")[:64] or "_" for part in parts)


def _ruling(answer: Scripted) -> classification.Ruling:
    match answer:
        case int():
            return http_ruling(answer, classification.SCRIPTED)
        case str() if answer in set(Trouble):
            return TROUBLES[Trouble(answer)]
        case _:
            return smtp_ruling(answer)


def _check(name: str, contact: str, answer: Scripted) -> None:
    match answer:
        case int() if 100 <= answer <= 599:
            return
        case str() if answer in set(Trouble) or _SMTP.fullmatch(answer):
            return
    troubles = ", ".join(Trouble)
    raise ConfigurationError(
        "D302",
        f"destination {name}: answers.{contact} holds {answer!r}",
        f"allowed: an HTTP status, an SMTP code like '550 5.1.1', or {troubles}",
    )
