"""Salesforce: records and tasks as upserts by an external id, up to 200 per call, or as jobs of Bulk API 2.0."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from destinations.answers import Row, UnreadableAnswer, by_echo, in_order, json_of, listed, object_of, poll, verdict
from destinations.auth import Auth, Request
from destinations.base import Action, Capabilities, Limit, Verdict
from destinations.classification import RETRY, Ruling, http_ruling, utc
from destinations.config import DestinationConfig, Duration
from destinations.errors import PayloadError
from destinations.http_destination import HttpDestination, json_request
from destinations.oauth import ClientCredentials, ClientCredentialsConfig

if TYPE_CHECKING:
    from destinations.transport import Answer

_AGAIN = ("UNABLE_TO_LOCK_ROW", "SERVER_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_DONE = frozenset({"JobComplete", "Failed", "Aborted"})
_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,79}$"


class ObjectConfig(BaseModel):
    """A kind of record: its name in Salesforce, and the external id field that holds the contact's id."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    sobject: str = Field(pattern=_NAME)
    external_id: str = Field(default="Penstock_Id__c", pattern=_NAME)


class SalesforceConfig(DestinationConfig):
    """`base_url` is My Domain; the client is that of a connected app with client credentials.

    `fields` renames fields; `task_external_id` is a unique external id field on Task that holds the action id.
    With `bulk: true` records go as jobs of Bulk API 2.0, waited for at most `within`.
    """

    base_url: str
    client_id: str
    client_secret: str
    api_version: str = Field(default="v62.0", pattern=r"^v\d{2,3}\.0$")
    objects: Mapping[str, ObjectConfig] = Field(default_factory=lambda: {"contact": ObjectConfig(sobject="Contact")})
    fields: Mapping[str, str] = Field(default_factory=dict)
    owners: Mapping[str, str] = Field(default_factory=dict)
    task_external_id: str = Field(default="Penstock_Action_Id__c", pattern=_NAME)
    bulk: bool = False
    every: Duration = timedelta(seconds=5)
    within: Duration = timedelta(minutes=10)


class Salesforce(HttpDestination[SalesforceConfig]):
    """`crm` and `task` steps; both are upserts, so a repetition has no second effect."""

    type = "salesforce"
    config_model = SalesforceConfig
    capabilities = Capabilities(
        frozenset({"crm", "task"}), "natural_upsert", max_batch=200, max_bytes=5_000_000, on_unknown="retry",
        limits=(Limit(15_000, timedelta(days=1)),), refreshes=True,
    )  # fmt: skip

    @classmethod
    def abilities(cls, config: Mapping[str, Any]) -> Capabilities:
        """The objects are those of the configuration."""
        given = config.get("objects")
        objects = frozenset(map(str, given)) if isinstance(given, dict) else frozenset({"contact"})
        return Capabilities(cls.capabilities.roles, cls.capabilities.idempotency, objects=objects)

    def auth(self) -> Auth:
        """OAuth client credentials at My Domain."""
        config = self.config
        grant = ClientCredentialsConfig(
            token_url=f"{config.base_url}/services/oauth2/token", client_id=config.client_id,
            client_secret=config.client_secret,
        )  # fmt: skip
        return ClientCredentials(self.name, grant, self._lookup, self.clock)

    def row(self, action: Action) -> Row:
        """The record with its external id; records of one kind share a request."""
        contact = action.payload.get("contact") or {}
        if action.kind == "task":
            return self._task(action, str(contact.get("id") or action.contact_id))
        kind = str(action.payload.get("object", "contact"))
        known = self.config.objects.get(kind)
        if known is None:
            names = ", ".join(sorted(self.config.objects))
            raise PayloadError("unsupported_object", f"objects of {self.name} has no such kind; it has: {names}")
        key = str(contact.get("id") or action.contact_id)
        given = {self.config.fields.get(name, name): _value(v) for name, v in action.payload.get("set", {}).items()}
        if contact.get("email") and kind == "contact":
            given.setdefault("Email", contact["email"])
        return self._row(action, known.sobject, known.external_id, key, given)

    def _task(self, action: Action, contact: str) -> Row:
        payload, who = action.payload, self.config.objects.get("contact")
        # Without a due date the day of the attempt, not its second: a repetition then writes the same value.
        day = str(payload["due"])[:10] if payload.get("due") else f"{utc(self.clock()):%Y-%m-%d}"
        given: dict[str, Any] = {
            "Subject": str(payload.get("title") or action.what)[:255], "Status": "Not Started", "Priority": "Normal",
            "Description": payload.get("body"), "ActivityDate": day,
        }  # fmt: skip
        if payload.get("owner"):
            given["OwnerId"] = self.config.owners.get(str(payload["owner"]), str(payload["owner"]))
        if who is not None and not self.config.bulk:
            given["Who"] = {"attributes": {"type": who.sobject}, who.external_id: contact}
        kept = {name: value for name, value in given.items() if value is not None}
        return self._row(action, "Task", self.config.task_external_id, action.action_id, kept)

    def _row(self, action: Action, sobject: str, external_id: str, key: str, given: Mapping[str, Any]) -> Row:
        record = {"attributes": {"type": sobject}, external_id: key, **given}
        return Row(action, record, f"{sobject}/{key}", f"{sobject}/{external_id}")

    def request(self, rows: Sequence[Row]) -> Request:
        """A collection, or a new job."""
        sobject, external_id = rows[0].group.split("/")
        if self.config.bulk:
            job = {
                "object": sobject, "operation": "upsert", "externalIdFieldName": external_id, "contentType": "CSV",
                "lineEnding": "LF",
            }  # fmt: skip
            return json_request(self._url("jobs/ingest"), job)
        body = {"allOrNone": False, "records": [row.data for row in rows]}
        return json_request(self._url(f"composite/sobjects/{sobject}/{external_id}"), body, method="PATCH")

    def ruling(self, answer: Answer) -> Ruling:
        """403 is a limit as often as a missing permission."""
        return RETRY if answer.status == 403 and "REQUEST_LIMIT" in _error_code(answer) else http_ruling(answer.status)

    def code(self, answer: Answer) -> str:
        """Status and `errorCode`."""
        return f"{answer.status} {_error_code(answer)}".strip()

    def pause(self, answer: Answer) -> timedelta | None:
        """`Retry-After`, which Salesforce does not send with its limit; then a quarter of an hour."""
        asked = super().pause(answer)
        return asked if asked is not None or answer.status != 403 else timedelta(minutes=15)

    async def read(self, rows: Sequence[Row], answer: Answer) -> list[Verdict]:
        """One result per record in the same order; of a job, its results by external id."""
        if not self.config.bulk:
            return in_order(rows, listed(json_of(answer)), _judge)
        job = self._url("jobs/ingest/" + str(object_of(answer)["id"]))
        external_id = rows[0].group.split("/")[1]
        await self._accepted(Request(f"{job}/batches", _csv(rows), {"content-type": "text/csv"}, "PUT"))
        await self._accepted(json_request(job, {"state": "UploadComplete"}, method="PATCH"))

        async def done() -> str | None:
            told = await self.ask(Request(job, method="GET"))
            state = str(object_of(told).get("state")) if told.status < 300 else ""
            return state if state in _DONE else None

        await poll(done, [self.config.every] * max(1, int(self.config.within / self.config.every)))
        taken = _by(await self._accepted(Request(f"{job}/successfulResults", method="GET")), external_id)
        refused = _by(await self._accepted(Request(f"{job}/failedResults", method="GET")), external_id)
        return by_echo(
            [Row(row.action, row.data, str(row.data[external_id])) for row in rows], taken, refused, _judge_job, "200",
            lambda item: {"id": item["sf__Id"]},
        )  # fmt: skip

    async def _accepted(self, request: Request) -> Answer:
        """An answer that has to be a success. Raises UnreadableAnswer: an upsert may be repeated."""
        answer = await self.ask(request)
        if answer.status >= 300 or not answer.complete:
            raise UnreadableAnswer
        return answer

    def _url(self, path: str) -> str:
        return f"{self.config.base_url}/services/data/{self.config.api_version}/{path}"


def _judge(row: Row, item: Any) -> Verdict:
    if isinstance(item, dict) and item.get("success") is True:
        return verdict(row, "sent", "200", receipt={"id": str(item.get("id"))})
    errors = item.get("errors") if isinstance(item, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code, message = str(first.get("statusCode", "error")), str(first.get("message", ""))
    again = any(word in code or word in message for word in _AGAIN)
    return verdict(row, "retry" if again else "failed", f"200 {code}", message)


def _judge_job(row: Row, item: Mapping[str, str]) -> Verdict:
    """`sf__Error` is `CODE:message:fields --`."""
    code, _, message = item["sf__Error"].partition(":")
    again = any(word in item["sf__Error"] for word in _AGAIN)
    return verdict(row, "retry" if again else "failed", f"200 {code}", message)


def _csv(rows: Sequence[Row]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row.data if name != "attributes"))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    # An empty cell changes nothing; #N/A clears a field.
    writer.writerows(["#N/A" if row.data.get(n, "") is None else row.data.get(n, "") for n in names] for row in rows)
    return out.getvalue().encode()


def _by(answer: Answer, external_id: str) -> Mapping[str, Mapping[str, str]]:
    found = {}
    for item in csv.DictReader(io.StringIO(answer.body.decode("utf-8", "replace"))):
        found[(item.get(external_id) or "").lower()] = item
    return found


def _error_code(answer: Answer) -> str:
    if answer.status < 300:
        return ""
    try:
        data = json_of(answer)
    except UnreadableAnswer:
        return ""
    first = data[0] if isinstance(data, list) and data else data
    return re.sub(r"[^A-Z_]", "", str(first.get("errorCode", "")))[:50] if isinstance(first, dict) else ""


def _value(value: object) -> object:
    """A field's value as JSON: times in UTC, lists as a multi-select."""
    match value:
        case datetime():
            return utc(value).isoformat().replace("+00:00", "Z")
        case list() | tuple():
            return ";".join(map(str, value))
        case dict():
            raise PayloadError("unencodable", "a field holds a value that Salesforce cannot take")
        case _:
            return value
