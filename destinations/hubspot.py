"""HubSpot CRM: contacts, companies and other records (`crm`), tasks (`task`), all as batch upserts, and memberships of
lists: a repetition has no second effect.

A task has no idempotency key of its own; it is upserted on a unique text property that holds the action id (create it
once on the task object, `task_id_property`). Wire format: `hubspot_wire`. Order of a batch: contacts, other records,
tasks, each followed by the association with their contacts, then lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field

from destinations import classification
from destinations.base import Action, Capabilities, Clock, Destination, Limit, SecretLookup, Verdict
from destinations.classification import http_ruling, utc
from destinations.config import DestinationConfig, read_config, required_clock
from destinations.errors import ConfigurationError, DestinationError, PayloadError
from destinations.hubspot_wire import Row, error_text, found_ids, missing_ids, row_verdicts, text_value, wait_of
from destinations.json_body import encoded
from destinations.pace import Pace
from destinations.secret import Secret, secret_field, texts_of
from destinations.verdicts import trouble_verdict

if TYPE_CHECKING:
    from destinations.transport import Answer, Transport

# 100 requests in 10 s is the smallest plan; a little below it leaves room for others on the account.
_LISTS = "/crm/v3/lists/"
_LIMITS = (Limit(90, timedelta(seconds=10)), Limit(250_000, timedelta(days=1)))


class RecordConfig(BaseModel):
    """A kind of record besides contacts: its name in the API, and the unique property that says which record it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    path: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    id_property: str


class HubspotConfig(DestinationConfig):
    """`token` is a reference to a private-app token.

    `id_property`: what identifies a contact, `email` or a unique custom property that then holds the contact id. By
    email HubSpot wants all the properties you own in every upsert; steps that set single fields need the custom one.
    `fields` renames fields to properties, `owners` maps owner names to HubSpot owner ids, `account_timezone` says when
    the daily limit starts anew, `associate: false` leaves tasks and other records without their contact. `objects` are
    further kinds of records; which one is meant says the value that the step sets for their `id_property`.
    """

    token: str
    base_url: str = "https://api.hubapi.com"
    objects_path: str = "/crm/v3/objects"
    associations_path: str = "/crm/v4/associations"
    id_property: str = "email"
    task_id_property: str = "penstock_action_id"
    fields: Mapping[str, str] = Field(default_factory=dict)
    owners: Mapping[str, str] = Field(default_factory=dict)
    objects: Mapping[str, RecordConfig] = Field(
        default_factory=lambda: {"company": RecordConfig(path="companies", id_property="domain")}
    )
    associate: bool = True
    account_timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An answer, or the verdict (of no action in particular) that stands for it."""

    answer: Answer | None = None
    error: DestinationError | None = field(default=None, repr=False)


class Hubspot(Destination):
    """`crm: {object: contact}`, `company`, `list`, what `objects` names, and `task:` steps."""

    type = "hubspot"
    capabilities = Capabilities(
        roles=frozenset({"crm", "task"}),
        idempotency="natural_upsert",
        max_batch=100,
        max_bytes=4_000_000,
        concurrency=1,
        retry_after=(timedelta(minutes=5), timedelta(minutes=10)),
        on_unknown="retry",
        objects=frozenset({"contact", "company", "list"}),
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

    @classmethod
    def abilities(cls, config: Mapping[str, Any]) -> Capabilities:
        """Contacts, lists, and the objects of the configuration."""
        given = config.get("objects")
        known = frozenset(map(str, given)) if isinstance(given, dict) else frozenset({"company"})
        return replace(cls.capabilities, objects=known | {"contact", "list"})

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
        groups: dict[str, list[Row]] = {"contacts": []}
        for action in batch:
            try:
                kind, row = self._row(action)
            except PayloadError as error:
                verdicts[action.action_id] = Verdict(action.action_id, "failed", error.code, error.message)
            else:
                groups.setdefault(kind, []).append(row)
        for kind in sorted(groups, key=_place):
            for chunk in _chunks(groups[kind], self.capabilities.max_batch):
                stopped = next((verdict for verdict in verdicts.values() if verdict.stop), None)
                if stopped is not None:
                    made = [replace(stopped, action_id=row.action.action_id) for row in chunk]
                elif kind.startswith(_LISTS):
                    made = await self._list(kind, chunk)
                else:
                    made = await self._upsert(kind, chunk)
                    if kind != "contacts" and self._config.associate:
                        made = await self._associate(kind, chunk, made)
                verdicts |= {verdict.action_id: verdict for verdict in made}
        return [verdicts[action.action_id] for action in batch]

    def _row(self, action: Action) -> tuple[str, Row]:
        """The action as a row, and what it shares requests with."""
        kind = str(action.payload.get("object", "contact"))
        match action.kind, kind:
            case "task", _:
                return "tasks", self._task_row(action)
            case "crm", "contact":
                return "contacts", self._contact_row(action)
            case "crm", "list":
                return self._list_row(action)
            case "crm", _ if kind in self._config.objects:
                return self._config.objects[kind].path, self._record_row(action, self._config.objects[kind])
            case "crm", _:
                names = ", ".join(sorted({"contact", "list", *self._config.objects}))
                raise PayloadError("unsupported_object", f"HubSpot takes: {names}")
            case _:
                raise PayloadError("unsupported_kind", f"HubSpot cannot perform {action.kind}")

    def _record_row(self, action: Action, record: RecordConfig) -> Row:
        fields = {self._config.fields.get(name, name): value for name, value in action.payload.get("set", {}).items()}
        properties = {name: text_value(value) for name, value in fields.items()}
        key = properties.get(record.id_property, "").strip()
        if not key:
            raise PayloadError("no_key", f"the step sets no {record.id_property}, which says which record is meant")
        return Row(action, record.id_property, key, properties)

    def _list_row(self, action: Action) -> tuple[str, Row]:
        """`set: {list: <id>, member: true|false}`; who shares list and direction shares a request."""
        given = action.payload.get("set", {})
        number, member = str(given.get("list") or ""), given.get("member", True)
        if not number.isdigit():
            raise PayloadError("no_key", "the step sets no `list`, the number of a manual list")
        way = "add" if str(member).lower() in ("true", "1") else "remove"
        return f"{_LISTS}{number}/memberships/{way}", Row(action, "", self._contact_key(action), {})

    def _contact_row(self, action: Action) -> Row:
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

    async def _list(self, path: str, rows: Sequence[Row]) -> list[Verdict]:
        """Put contacts on a list, or take them off; a set, so a repetition changes nothing."""
        outcome, contacts = await self._contact_ids(sorted({row.key for row in rows}))
        if outcome.answer is not None and outcome.answer.status < 300:
            ids = sorted({contacts[row.key.lower()] for row in rows if row.key.lower() in contacts})
            outcome = await self._post(path, ids, "PUT")
        missing = missing_ids(outcome.answer) if outcome.answer is not None else frozenset()
        made = []
        for row in rows:
            found = contacts.get(row.key.lower())
            verdict = self._verdict(row.action, outcome)
            if verdict.status == "sent" and (found is None or found in missing):
                verdict = Verdict(row.action.action_id, "failed", "no_contact", "HubSpot has no such contact")
            made.append(verdict)
        return made

    async def _associate(self, kind: str, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Tie each record to its contact. Everything here may be repeated, so a hiccup makes the record a `retry`."""
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
                f"{self._config.associations_path}/{kind}/contacts/batch/associate/default", {"inputs": pairs}
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
                return replace(verdict, message=f"it stands without its contact: {problem.code} {problem.message}")
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

    async def _post(self, path: str, body: object, method: str = "POST") -> _Outcome:
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
            return _Outcome(await self._transport.request(method, url, encoded(body), headers))
        except DestinationError as error:
            return _Outcome(error=error)


def _place(kind: str) -> tuple[int, str]:
    """Contacts first, then other records, then tasks, then lists."""
    return (0 if kind == "contacts" else 2 if kind == "tasks" else 3 if kind.startswith(_LISTS) else 1), kind


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
