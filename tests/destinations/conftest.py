"""What every test of this room needs: a clock that stands, a webhook receiver, actions of each kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pytest_httpserver import HTTPServer

from destinations import Action, Destination, Verdict, create


def service_account(email: str = "p@x.iam") -> str:
    """The JSON of a Google service account with a key of its own."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({"client_email": email, "private_key": pem, "token_uri": "https://oauth2.googleapis.com/token"})


SECRETS = {
    "TOKEN": "demo-token", "SIGNING": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "PASSWORD": "pa55-of-the-mail",
    "GOOGLE": service_account(),
}  # fmt: skip
NOW = datetime(2026, 3, 2, 9, 30)
LOOPBACK = ["127.0.0.1"]

T = TypeVar("T")


def clock() -> datetime:
    return NOW


def email(action_id: str = "a-1", to: str = "ann@example.test", attempt: int = 1, **payload: Any) -> Action:
    values = {"to": to, "from": "Shop <shop@example.test>", "subject": "Hello", "text": "Hi there", **payload}
    return Action(action_id, "email", "welcome", "ann", attempt, values)


def webhook(action_id: str = "a-1", body: Mapping[str, Any] | None = None) -> Action:
    return Action(action_id, "webhook", "orders", "ann", 1, {"body": {"n": 1} if body is None else body})


def crm(action_id: str = "a-1", contact: str = "ann", **fields: Any) -> Action:
    who = {"id": contact, "email": f"{contact}@example.test"}
    return Action(action_id, "crm", "contact", contact, 1, {"object": "contact", "set": fields, "contact": who})


def task(action_id: str = "a-1", contact: str = "ann", **payload: Any) -> Action:
    who = {"id": contact, "email": f"{contact}@example.test"}
    return Action(action_id, "task", "Call", contact, 1, {"title": "Call", "contact": who, **payload})


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def make(config: Mapping[str, Any], secrets: Callable[[str], str] = SECRETS.__getitem__) -> Destination:
    return create("out", config, secrets, clock)


def send(config: Mapping[str, Any], *actions: Action, secrets: Mapping[str, str] = SECRETS) -> Sequence[Verdict]:
    """One batch through a destination that is opened and closed for it."""

    async def work() -> Sequence[Verdict]:
        async with make(config, secrets.__getitem__) as destination:
            return await destination.send(actions)

    return run(work())


def spec(vendor: str, name: str) -> Mapping[str, Any]:
    """A vendor's API description from the folder beside the repository; skips the test where there is none."""
    path = Path(__file__).parents[2].parent / "shared" / "vendor_specs" / vendor / name
    if not path.is_file():
        pytest.skip("the vendor descriptions are not beside this repository")
    data: Mapping[str, Any] = json.loads(path.read_text())
    return data


@pytest.fixture(scope="session")
def _receiver() -> Iterator[HTTPServer]:
    # One for all tests: stopping it takes half a second.
    server = HTTPServer(host="127.0.0.1", port=0, threaded=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def receiver(_receiver: HTTPServer) -> HTTPServer:
    """A receiver of webhooks, with nothing in it."""
    _receiver.clear()
    return _receiver
