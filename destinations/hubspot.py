"""HubSpot CRM: contacts (`crm`) and tasks (`task`), both as batch upserts, so that a repetition has no second effect.

A task has no idempotency key of its own; it is upserted on a unique text property that holds the action id (create it
once on the task object, `task_id_property`). Wire format: `hubspot_wire`. Order of a batch: contacts, then tasks, then
the association of each task with its contact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

from destinations import classification
from destinations.base import Action, Capabilities, Clock, Destination, Limit, SecretLookup, Verdict
from destinations.classification import http_ruling, utc
from destinations.config import DestinationConfig, read_config, required_clock
from destinations.errors import ConfigurationError, DestinationError, PayloadError
from destinations.hubspot_wire import Row, error_text, found_ids, row_verdicts, text_value, wait_of
from destinations.json_body import encoded
from destinations.pace import Pace
from destinations.secret import Secret, secret_field, texts_of
from destinations.verdicts import trouble_verdict

if TYPE_CHECKING:
    from destinations.transport import Answer, Transport

# 100 requests in 10 s is the smallest plan; a little below it leaves room for others on the account.
_LIMITS = (Limit(90, timedelta(seconds=10)), Limit(250_000, timedelta(days=1)))


class HubspotConfig(DestinationConfig):
    """`token` is a reference to a private-app token.

    `id_property`: what identifies a contact, `email` or a unique custom property that then holds the contact id. By
    email HubSpot wants all the properties you own in every upsert; steps that set single fields need the custom one.
    `fields` renames fields to properties, `owners` maps owner names to HubSpot owner ids, `account_timezone` says when
    the daily limit starts anew, `associate: false` leaves tasks without their contact.
    """

    token: str
    base_url: str = "https://api.hubapi.com"
    objects_path: str = "/crm/v3/objects"
    associations_path: str = "/crm/v4/associations"
    id_property: str = "email"
    task_id_property: str = "penstock_action_id"
    fields: Mapping[str, str] = Field(default_factory=dict)
    owners: Mapping[str, str] = Field(default_factory=dict)
    associate: bool = True
    account_timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An answer, or the verdict (of no action in particular) that stands for it."""

    answer: Answer | None = None
    error: DestinationError | None = field(default=None, repr=False)


class Hubspot(Destination):
    """`crm: {object: contact}` and `task:` steps."""

    type = "hubspot"
    capabilities = Capabilities(
        roles=frozenset({"crm", "task"}),
        idempotency="natural_upsert",
        max_batch=100,
        max_bytes=4_000_000,
        concurrency=1,
        retry_after=(timedelta(minutes=5), timedelta(minutes=10)),
        on_unknown="retry",
        objects=frozenset({"contact"}),
        limits=_LIMITS,
    )

    def __init__(
        self, name: str, config: HubspotConfig, secrets: SecretLookup, clock: Clock, transport: Transport | None = None
    ) -> None:
        self.name = name
        self.capabilities = config.applied_to(type(self).capabilities)
        self._config = config
        self._clock = clock
        self._token = secret_field(name, "token", config.token, secrets)
        self._base = Secret(config.base_url, secrets)
        self._transport = transport
        self._pace = Pace(self.capabilities.limits)
        try:
            self._timezone = ZoneInfo(config.account_timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigurationError(
                "D308", f"destination {name}: account_timezone is not an IANA name", "for example Europe/Berlin"
            ) from None

    @classmethod
    def from_config(
        cls, name: str, config: Mapping[str, Any], secrets: SecretLookup, clock: Clock | None = None
    ) -> Self:
        """See `Destination.from_config`; needs a clock for due dates and for the daily limit."""
        return cls(name, read_config(HubspotConfig, name, config), secrets, required_clock(name, cls.type, clock))

    async def __aenter__(self) -> Self:
        """The token resolves before the first action is claimed."""
        self._token.reveal()
        self._base.reveal()
        if self._transport is None:
            # The HTTP libraries take half a second to import; checking definitions needs none of them.
            from destinations.transport import TIMEOUT, Transport

            self._transport = Transport(
                allow_hosts=self._config.allow_hosts,
                timeout=self._config.timeout or TIMEOUT,
                connections=self.capabilities.concurrency,
            )
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def send(self, batch: Sequence[Action]) -> Sequence[Verdict]:
        """Upsert in chunks of `max_batch`; each row gets its own verdict out of the batch answer."""
        verdicts: dict[str, Verdict] = {}
        contacts: list[Row] = []
        tasks: list[Row] = []
        for action in batch:
            try:
                match action.kind:
                    case "crm":
                        contacts.append(self._contact_row(action))
                    case "task":
                        tasks.append(self._task_row(action))
                    case _:
                        raise PayloadError("unsupported_kind", f"HubSpot cannot perform {action.kind}")
            except PayloadError as error:
                verdicts[action.action_id] = Verdict(action.action_id, "failed", error.code, error.message)
        for object_type, rows in (("contacts", contacts), ("tasks", tasks)):
            for chunk in _chunks(rows, self.capabilities.max_batch):
                stopped = next((verdict for verdict in verdicts.values() if verdict.stop), None)
                if stopped is not None:
                    made = [replace(stopped, action_id=row.action.action_id) for row in chunk]
                else:
                    made = await self._upsert(object_type, chunk)
                    if object_type == "tasks" and self._config.associate:
                        made = await self._associate(chunk, made)
                verdicts |= {verdict.action_id: verdict for verdict in made}
        return [verdicts[action.action_id] for action in batch]

    def _contact_row(self, action: Action) -> Row:
        kind = str(action.payload.get("object", "contact"))
        if kind != "contact":
            raise PayloadError("unsupported_object", "HubSpot upserts: contact")
        contact = action.payload.get("contact") or {}
        email = str(contact.get("email") or "").strip()
        fields = {self._config.fields.get(name, name): value for name, value in action.payload.get("set", {}).items()}
        properties = {name: text_value(value) for name, value in fields.items()}
        if email:
            properties.setdefault("email", email)
        return Row(action, self._config.id_property, self._contact_key(action), properties)

    def _contact_key(self, action: Action) -> str:
        contact = action.payload.get("contact") or {}
        email = str(contact.get("email") or "").strip()
        key = email if self._config.id_property == "email" else str(contact.get("id") or action.contact_id)
        if not key:
            raise PayloadError("no_address", "the contact has no e-mail address to upsert by")
        return key

    def _task_row(self, action: Action) -> Row:
        payload = action.payload
        # Without a due date the day of the attempt, not its second: a repetition then writes the same value.
        due = payload.get("due") or utc(self._clock()).replace(hour=0, minute=0, second=0, microsecond=0)
        properties = {
            "hs_task_subject": str(payload.get("title") or action.what),
            "hs_task_body": str(payload.get("body") or ""),
            "hs_timestamp": due if isinstance(due, str) else text_value(due),
            "hs_task_status": "NOT_STARTED",
            "hs_task_type": "TODO",
        }
        owner = payload.get("owner")
        if owner:
            owner_id = self._config.owners.get(str(owner), str(owner))
            if not owner_id.isdigit():
                known = ", ".join(sorted(self._config.owners)) or "none"
                raise PayloadError("unknown_owner", f"owners of {self.name} has no such name; it has: {known}")
            properties["hubspot_owner_id"] = owner_id
        return Row(action, self._config.task_id_property, action.action_id, properties)

    async def _upsert(self, object_type: str, rows: Sequence[Row]) -> list[Verdict]:
        """One request, or halves of it when one row spoils the whole (at most 2·log2(n)+1 more per bad row)."""
        body = {
            "inputs": [
                {
                    "idProperty": row.id_property,
                    "id": row.key,
                    "properties": row.properties,
                    "objectWriteTraceId": row.action.action_id,
                }
                for row in rows
            ]
        }
        outcome = await self._post(f"{self._config.objects_path}/{object_type}/batch/upsert", body)
        if outcome.answer is None:
            return self._all(rows, outcome)
        ruling = http_ruling(outcome.answer.status, classification.HUBSPOT)
        if ruling.split and len(rows) > 1:
            half = len(rows) // 2
            first = await self._upsert(object_type, rows[:half])
            stopped = next((verdict for verdict in first if verdict.stop), None)
            if stopped is not None:
                return first + [replace(stopped, action_id=row.action.action_id) for row in rows[half:]]
            return first + await self._upsert(object_type, rows[half:])
        if ruling.status != "sent":
            return self._all(rows, outcome)
        return row_verdicts(rows, outcome.answer, self._token.reveal())

    def _all(self, rows: Sequence[Row], outcome: _Outcome) -> list[Verdict]:
        """The same verdict for every row of a request."""
        return [self._verdict(row.action, outcome) for row in rows]

    def _verdict(self, action: Action, outcome: _Outcome) -> Verdict:
        answer = outcome.answer
        if answer is None:
            error = outcome.error or ConfigurationError("D107", f"destination {self.name} is not open")
            if isinstance(error, ConfigurationError):
                return Verdict(action.action_id, "retry", error.code, error.message, stop="configuration")
            if isinstance(error, PayloadError):
                return Verdict(action.action_id, "failed", error.code, error.message)
            return trouble_verdict(action, error)
        ruling = http_ruling(answer.status, classification.HUBSPOT)
        pause = wait_of(answer, self._clock(), self._timezone) if ruling.status == "retry" else None
        message = error_text(answer, [self._token.reveal(), *texts_of(action.payload)])
        return Verdict(action.action_id, ruling.status, str(answer.status), message, pause, stop=ruling.stop)

    async def _associate(self, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Tie each new task to its contact. Everything here may be repeated, so a hiccup makes the task a `retry`."""
        done = {verdict.action_id: verdict.receipt["id"] for verdict in verdicts if "id" in verdict.receipt}
        owners: dict[str, str] = {}
        for row in rows:
            if row.action.action_id in done:
                try:
                    owners[row.action.action_id] = self._contact_key(row.action)
                except PayloadError:
                    continue
        if not owners:
            return list(verdicts)
        outcome, contacts = await self._contact_ids(sorted(set(owners.values())))
        pairs = [
            {"from": {"id": done[action_id]}, "to": {"id": contacts[key.lower()]}}
            for action_id, key in owners.items()
            if key.lower() in contacts
        ]
        if pairs and outcome.answer is not None and outcome.answer.status < 300:
            outcome = await self._post(
                f"{self._config.associations_path}/tasks/contacts/batch/associate/default", {"inputs": pairs}
            )
        actions = {row.action.action_id: row.action for row in rows}
        return [
            self._tied(actions[verdict.action_id], verdict, outcome) if verdict.action_id in owners else verdict
            for verdict in verdicts
        ]

    def _tied(self, action: Action, verdict: Verdict, outcome: _Outcome) -> Verdict:
        problem = self._verdict(action, outcome)
        match problem.status:
            case "sent":
                return verdict
            case "failed":
                return replace(
                    verdict, message=f"the task stands without its contact: {problem.code} {problem.message}"
                )
            case _:
                return problem

    async def _contact_ids(self, keys: Sequence[str]) -> tuple[_Outcome, Mapping[str, str]]:
        """HubSpot ids by lower-case key; contacts that HubSpot does not know are created with nothing but the key."""
        id_property = self._config.id_property
        path = f"{self._config.objects_path}/contacts/batch"
        body = {"idProperty": id_property, "properties": [id_property], "inputs": [{"id": key} for key in keys]}
        outcome = await self._post(f"{path}/read", body)
        if outcome.answer is None or outcome.answer.status >= 300:
            return outcome, {}
        found = found_ids(outcome.answer, id_property)
        missing = [key for key in keys if key.lower() not in found]
        if missing:
            inputs = [{"idProperty": id_property, "id": key, "properties": {id_property: key}} for key in missing]
            outcome = await self._post(f"{path}/upsert", {"inputs": inputs})
            if outcome.answer is not None and outcome.answer.status < 300:
                found = {**found, **found_ids(outcome.answer, id_property)}
        return outcome, found

    async def _post(self, path: str, body: Mapping[str, Any]) -> _Outcome:
        if self._transport is None:
            return _Outcome()
        try:
            await self._pace.turn()
            headers = {
                "authorization": f"Bearer {self._token.reveal()}",
                "content-type": "application/json",
                "user-agent": "penstock",
            }
            url = self._base.reveal().rstrip("/") + path
            return _Outcome(await self._transport.post(url, encoded(body), headers))
        except DestinationError as error:
            return _Outcome(error=error)


def _chunks(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """In order, and no key twice in a chunk: HubSpot refuses a batch that names one object twice."""
    chunks: list[list[Row]] = []
    keys: set[str] = set()
    for row in rows:
        if not chunks or len(chunks[-1]) >= size or row.key.lower() in keys:
            chunks.append([])
            keys = set()
        chunks[-1].append(row)
        keys.add(row.key.lower())
    return chunks
