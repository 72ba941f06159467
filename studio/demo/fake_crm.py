"""A HubSpot on the loopback: the few CRM endpoints that the destination uses, with state, limits and faults.

It checks what the real one checks (token, batch size, text values, unique inputs, required properties), counts what
happened, and fails on request, also after it has committed. Faults depend on seed and request, not on timing.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

CrmFault = Literal[
    "429", "429 daily", "423", "477", "401", "403", "500", "500 after", "502 after", "hang after", "drop", "drop after",
    "redirect", "empty", "huge", "trickle"
]  # fmt: skip
"""An error before anything happened, or `… after` the write was committed: `hang` never answers, `drop` closes.
`empty` answers 200 with no rows and does nothing; `huge` and `trickle` commit and answer without end."""

_AFTER = frozenset({"500 after", "502 after", "hang after", "drop after", "huge", "trickle"})
_MAX_INPUTS = 100
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_NOW = "2026-01-01T00:00:00.000Z"
_OBJECTS = re.compile(r"/crm/v3/objects/(contacts|companies|tasks)/batch/(upsert|read)")
_ASSOCIATE = re.compile(r"/crm/v4/associations/(companies|tasks)/contacts/batch/associate/default")
_LIST = re.compile(r"/crm/v3/lists/(\d+)/memberships/(add|remove)")
_ID_PROPERTIES = {
    "contacts": {"email", "penstock_contact_id"}, "companies": {"domain"}, "tasks": {"penstock_action_id"},
}  # fmt: skip
_CATEGORY = {
    400: "VALIDATION_ERROR",
    401: "INVALID_AUTHENTICATION",
    403: "MISSING_SCOPES",
    404: "OBJECT_NOT_FOUND",
    423: "LOCKED",
    429: "RATE_LIMITS",
    477: "MIGRATION_IN_PROGRESS",
}


@dataclass
class CrmCounters:
    """What happened. `effects`: records created or changed · `repeats`: inputs that changed nothing ·
    `duplicates`: second and further effects of one action (one `objectWriteTraceId`).
    """

    requests: int = 0
    effects: int = 0
    repeats: int = 0
    duplicates: int = 0
    row_errors: int = 0
    throttled: int = 0
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class CrmRequest:
    """One recorded request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeCrm:
    """A context manager around a server thread on a free port.

    `shares` gives each fault a probability per request, drawn from `seed`, the request and how often it was seen, so a
    repeated request gets another draw and any order of requests gives the same faults. `script` is consumed first, one
    entry per request. `window_limit` requests per `window` seconds are allowed, as the rolling limit of the vendor.
    `removed` names properties that do not exist (any more). `on_effect(object type, record)` is called after a change.
    """

    def __init__(
        self,
        *,
        token: str = "demo-token",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        shares: Mapping[CrmFault, float] | None = None,
        script: Sequence[CrmFault | None] = (),
        window_limit: int | None = None,
        window: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        removed: frozenset[str] = frozenset(),
        keep_requests: bool = False,
        on_effect: Callable[[str, Mapping[str, str]], None] | None = None,
    ) -> None:
        self.token = token
        self.host = host
        self.port = port
        self.counters = CrmCounters()
        self.requests: list[CrmRequest] = []
        self.objects: dict[str, dict[str, dict[str, str]]] = {"contacts": {}, "companies": {}, "tasks": {}}
        self.lists: dict[str, set[str]] = {}
        self._index: dict[tuple[str, str, str], str] = {}
        self.associations: set[tuple[str, str]] = set()
        self.stopping = threading.Event()
        self._seed = seed
        self._shares = dict(shares or {})
        self._script = deque(script)
        self._window_limit = window_limit
        self._window = window
        self._monotonic = monotonic
        self._removed = removed
        self._keep_requests = keep_requests
        self._on_effect = on_effect
        self._recent: deque[float] = deque()
        self._seen: Counter[str] = Counter()
        self._effects_of: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens; a HubSpot destination takes it as `base_url`."""
        return f"http://{self.host}:{self.port}"

    @property
    def contacts(self) -> Sequence[Mapping[str, str]]:
        """The properties of every contact."""
        return list(self.objects["contacts"].values())

    @property
    def tasks(self) -> Sequence[Mapping[str, str]]:
        """The properties of every task."""
        return list(self.objects["tasks"].values())

    def __enter__(self) -> Self:
        self._server = _Server((self.host, self.port), self)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="fake-crm", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._thread.join()

    def answer(self, request: CrmRequest) -> tuple[_Reply, CrmFault | None]:
        """Decide about one request; the fault says how the reply has to be spoiled on its way back."""
        with self._lock:
            self.counters.requests += 1
            if self._keep_requests:
                self.requests.append(request)
            if request.headers.get("authorization") != f"Bearer {self.token}":
                return _error(401, "Authentication credentials not found."), None
            if self._throttled():
                self.counters.throttled += 1
                return self._limited("TEN_SECONDLY_ROLLING"), None
            fault = self._fault(request)
            if fault is not None:
                self.counters.faults[fault] += 1
                if fault not in _AFTER:
                    return self._before(fault), fault
            reply = self._route(request)
            if fault in ("500 after", "502 after"):
                return _error(int(fault[:3]), "internal error"), fault
            return reply, fault

    def _throttled(self) -> bool:
        if self._window_limit is None:
            return False
        now = self._monotonic()
        while self._recent and self._recent[0] <= now - self._window:
            self._recent.popleft()
        if len(self._recent) >= self._window_limit:
            return True
        self._recent.append(now)
        return False

    def _limited(self, policy: str) -> _Reply:
        headers = {
            "X-HubSpot-RateLimit-Max": str(self._window_limit or 100),
            "X-HubSpot-RateLimit-Remaining": "0",
            "X-HubSpot-RateLimit-Interval-Milliseconds": str(int(self._window * 1000)),
        }
        extra = {"errorType": "RATE_LIMIT", "policyName": policy}
        return _error(429, f"You have reached your {policy.lower()} limit.", extra, headers)

    def _fault(self, request: CrmRequest) -> CrmFault | None:
        if self._script:
            return self._script.popleft()
        digest = sha256(request.path.encode() + b"\n" + request.body).hexdigest()
        draw = random.Random(f"{self._seed}:{digest}:{self._seen[digest]}").random()
        self._seen[digest] += 1
        for fault, share in self._shares.items():
            if draw < share:
                return fault
            draw -= share
        return None

    def _before(self, fault: CrmFault) -> _Reply:
        match fault:
            case "429":
                return self._limited("TEN_SECONDLY_ROLLING")
            case "429 daily":
                return self._limited("DAILY")
            case "477":
                return _error(477, "migration in progress", headers={"Retry-After": "60"})
            case "redirect":
                return _Reply(302, {}, {"Location": f"{self.url}/elsewhere"})
            case "empty":
                return _Reply(200, _complete([]))
            case "drop":
                return _Reply(500, {})
            case _:
                return _error(int(fault), fault)

    def _route(self, request: CrmRequest) -> _Reply:
        if (found := _LIST.fullmatch(request.path)) is not None and request.method == "PUT":
            return self._list(found[1], found[2], json.loads(request.body))
        try:
            body = json.loads(request.body)
            inputs = body["inputs"]
        except (ValueError, KeyError, TypeError):
            return _error(400, "Invalid input JSON")
        if not isinstance(inputs, list) or not inputs or len(inputs) > _MAX_INPUTS:
            return _error(400, f"inputs must hold 1 to {_MAX_INPUTS} entries")
        if (tie := _ASSOCIATE.fullmatch(request.path)) is not None:
            return self._associate(tie[1], inputs)
        match = _OBJECTS.fullmatch(request.path)
        if match is None or request.method != "POST":
            return _error(404, "resource not found")
        if match[2] == "read":
            return self._read(match[1], str(body.get("idProperty", "")), inputs)
        return self._upsert(match[1], inputs)

    def _read(self, object_type: str, id_property: str, inputs: Sequence[Mapping[str, Any]]) -> _Reply:
        wanted = {(object_type, id_property, str(item.get("id", "")).lower()) for item in inputs}
        ids = [self._index[key] for key in sorted(wanted & self._index.keys())]
        found = [_record(record_id, self.objects[object_type][record_id]) for record_id in ids]
        status = 200 if len(found) == len(wanted) else 207
        return _Reply(status, _complete(found))

    def _upsert(self, object_type: str, inputs: Sequence[Mapping[str, Any]]) -> _Reply:
        problem = self._batch_problem(object_type, inputs)
        if problem is not None:
            return _error(400, problem)
        results: list[Mapping[str, Any]] = []
        errors: list[Mapping[str, Any]] = []
        for item in inputs:
            wrong = _row_problem(object_type, item)
            if wrong is not None:
                self.counters.row_errors += 1
                errors.append(_row_error(item, *wrong))
            else:
                results.append(self._write(object_type, item))
        # The vendor does not promise an order.
        results.reverse()
        if errors:
            return _Reply(207, {**_complete(results), "numErrors": len(errors), "errors": errors})
        return _Reply(200, _complete(results))

    def _batch_problem(self, object_type: str, inputs: Sequence[Any]) -> str | None:
        keys: set[str] = set()
        for item in inputs:
            if not isinstance(item, dict) or set(item) - {"id", "idProperty", "properties", "objectWriteTraceId"}:
                return "Invalid input JSON"
            properties = item.get("properties")
            if not isinstance(item.get("id"), str) or not isinstance(properties, dict):
                return "id and properties are required"
            if not all(isinstance(value, str) for value in properties.values()):
                return "Property values must be strings"
            if item.get("idProperty") not in _ID_PROPERTIES[object_type]:
                return f"idProperty {item.get('idProperty')} is not a unique property"
            missing = sorted(self._removed & set(properties))
            if missing:
                return f"Property {missing[0]} does not exist"
            if item["id"].lower() in keys:
                return "Duplicate IDs found in batch input"
            keys.add(item["id"].lower())
        return None

    def _write(self, object_type: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
        records = self.objects[object_type]
        id_property, key = str(item["idProperty"]), str(item["id"])
        found = self._index.get((object_type, id_property, key.lower()))
        before = None if found is None else dict(records[found])
        record_id = found or str(1001 + sum(map(len, self.objects.values())))
        after = {**(before or {id_property: key}), **item["properties"]}
        if after == before:
            self.counters.repeats += 1
        else:
            records[record_id] = after
            for name in _ID_PROPERTIES[object_type] & after.keys():
                self._index[object_type, name, after[name].lower()] = record_id
            self.counters.effects += 1
            trace = str(item.get("objectWriteTraceId") or "")
            self._effects_of[trace] += 1
            if trace and self._effects_of[trace] > 1:
                self.counters.duplicates += 1
            if self._on_effect is not None:
                self._on_effect(object_type, after)
        return {**_record(record_id, after), "new": found is None}

    def _list(self, number: str, way: str, ids: Sequence[str]) -> _Reply:
        members = self.lists.setdefault(number, set())
        known = {one for one in ids if one in self.objects["contacts"]}
        changed = known - members if way == "add" else known & members
        self.lists[number] = members | known if way == "add" else members - known
        self.counters.effects += len(changed)
        added, removed = (sorted(changed), []) if way == "add" else ([], sorted(changed))
        missing = sorted(set(ids) - known)
        return _Reply(200, {"recordsIdsAdded": added, "recordIdsRemoved": removed, "recordIdsMissing": missing})

    def _associate(self, object_type: str, inputs: Sequence[Mapping[str, Any]]) -> _Reply:
        for item in inputs:
            task, contact = str(item["from"]["id"]), str(item["to"]["id"])
            if task not in self.objects[object_type] or contact not in self.objects["contacts"]:
                return _error(400, "One or more objects do not exist")
            self.associations.add((task, contact))
        return _Reply(200, _complete([]))


def _row_problem(object_type: str, item: Mapping[str, Any]) -> tuple[str, str] | None:
    properties = item["properties"]
    email = item["id"] if item["idProperty"] == "email" else properties.get("email", "")
    if object_type == "contacts" and email and not _EMAIL.fullmatch(email):
        return "INVALID_EMAIL", "email"
    if object_type == "tasks":
        for name in ("hs_timestamp", "hs_task_subject"):
            if not properties.get(name):
                return "REQUIRED_FIELD", name
        if not properties.get("hubspot_owner_id", "0").isdigit():
            return "INVALID_OWNER_ID", "hubspot_owner_id"
    return None


def _row_error(item: Mapping[str, Any], code: str, name: str) -> Mapping[str, Any]:
    return {
        "status": "error",
        "category": "VALIDATION_ERROR",
        # The vendor repeats the value it did not like, personal or not.
        "message": f"Property values were not valid: {name} was {item['properties'].get(name, item['id'])}",
        "context": {"objectWriteTraceId": [item.get("objectWriteTraceId", "")]},
        "errors": [{"message": "not valid", "code": code, "context": {"propertyName": [name]}}],
        "links": {},
    }


def _record(record_id: str, properties: Mapping[str, str]) -> Mapping[str, Any]:
    return {
        "id": record_id,
        "properties": dict(properties),
        "createdAt": _NOW,
        "updatedAt": _NOW,
        "archived": False,
    }


def _complete(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"status": "COMPLETE", "results": results, "startedAt": _NOW, "completedAt": _NOW}


def _error(
    status: int, message: str, extra: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> _Reply:
    body = {
        "status": "error",
        "message": message,
        "correlationId": "00000000-0000-4000-8000-000000000000",
        "category": _CATEGORY.get(status, "INTERNAL_ERROR"),
    }
    return _Reply(status, {**body, **(extra or {})}, headers or {})


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: FakeCrm) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Close what clients keep alive, so that the connection threads end."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body in one packet; two small ones wait for each other.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        """Every endpoint but the lists is a POST."""
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply, fault = self.server.owner.answer(CrmRequest(self.command, self.path, headers, body))
        match fault:
            case "drop" | "drop after":
                self.close_connection = True
            case "hang after":
                self.server.owner.stopping.wait()
                self.close_connection = True
            case "huge" | "trickle":
                self._endless(fault)
            case _:
                self._reply(reply)

    do_PUT = do_POST

    def do_GET(self) -> None:
        """Only a followed redirect gets here."""
        self.server.owner.counters.faults["redirect followed"] += 1
        self._reply(_error(404, "resource not found"))

    def _reply(self, reply: _Reply) -> None:
        data = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _endless(self, fault: Literal["huge", "trickle"]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        owner = self.server.owner
        with contextlib.suppress(OSError):
            while not owner.stopping.is_set():
                self.wfile.write(b" " * (65536 if fault == "huge" else 1))
                self.wfile.flush()
                if fault == "trickle":
                    owner.stopping.wait(0.02)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the counters tell."""
