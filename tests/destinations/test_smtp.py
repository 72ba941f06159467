"""SMTP against real servers: our own with faults, aiosmtpd as an independent judge."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from destinations import Verdict
from studio.demo.certificate import server_context, write_certificate
from studio.demo.mail_server import MailFault, MailServer
from tests.destinations.conftest import LOOPBACK, SECRETS, email, make, run, send


def config(server: MailServer, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "smtp",
        "host": server.host,
        "port": server.port,
        "tls": server.tls,
        "allow_hosts": LOOPBACK,
        "timeout": "5s",
    }
    if server.ca_file is not None:
        found["ca_file"] = str(server.ca_file)
    return found | more


AUTH = {"username": "shop", "password": "{{ env_var('PASSWORD') }}"}


def test_smtp_message_arrives_as_written() -> None:
    html = "<p>Größe\n.\n..</p>" + "x" * 1200
    with MailServer() as server:
        action = email(
            subject="Grüße",
            text="Hi\n.\nfrom us ",
            html=html,
            reply_to="Help <help@example.test>",
            headers={"X-Campaign": "spring"},
            list_unsubscribe="https://shop.example.test/u/" + "t" * 200,
        )
        (verdict,) = send(config(server), action)
    (mail,) = server.messages
    assert (verdict.status, verdict.code) == ("sent", "250 2.0.0")
    assert verdict.receipt == {"message_id": "<a-1@example.test>", "queue_id": "00000001"}
    assert (mail.sender, mail.recipients) == ("shop@example.test", ("ann@example.test",))
    assert mail.text == "Hi\r\n.\r\nfrom us \r\n"
    assert (mail.html or "").replace("\r\n", "\n") == html + "\n"
    assert dict(mail.headers) | {"Content-Type": ""} == {
        "From": "Shop <shop@example.test>",
        "To": "ann@example.test",
        "Subject": "Grüße",
        "Reply-To": "Help <help@example.test>",
        "Date": "Mon, 02 Mar 2026 09:30:00 +0000",
        "Message-ID": "<a-1@example.test>",
        "List-Unsubscribe": f"<https://shop.example.test/u/{'t' * 200}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "X-Campaign": "spring",
        "MIME-Version": "1.0",
        "Content-Type": "",
    }
    assert max(len(line) for line in mail.data.split(b"\r\n")) <= 998
    assert mail.data.isascii()


def test_smtp_copies_of_a_message_are_identical() -> None:
    with MailServer(faults={"ann@example.test": ["drop kept"]}) as server:
        first = send(config(server), email(html="<p>Hi</p>"))
        second = send(config(server), email(html="<p>Hi</p>", attempt=2))
    assert [first[0].status, second[0].status] == ["unknown", "sent"]
    assert server.messages[0].data == server.messages[1].data


@pytest.mark.parametrize(
    ("fault", "status", "code", "suppress"),
    [
        ("421", "retry", "421 4.3.2", None),
        ("450 4.2.0", "retry", "450 4.2.0", None),
        ("451 4.7.1", "retry", "451 4.7.1", None),
        ("550 5.1.1", "failed", "550 5.1.1", "bounced"),
        ("554 5.7.1", "failed", "554 5.7.1", None),
        ("late 451", "retry", "451 4.3.0", None),
        ("late 552", "failed", "552 5.3.4", None),
        ("drop", "unknown", "reset", None),
        ("drop kept", "unknown", "reset", None),
        ("close after", "sent", "250 2.0.0", None),
    ],
)
def test_smtp_one_fault_is_one_row(fault: MailFault, status: str, code: str, suppress: str | None) -> None:
    """F49: the row of the fault gets its verdict, its neighbours on the same connection are sent."""
    with MailServer(faults={"bob@example.test": [fault]}) as server:
        verdicts = send(
            config(server), email("a-1"), email("a-2", "bob@example.test"), email("a-3", "cat@example.test")
        )
    assert [verdict.status for verdict in verdicts] == ["sent", status, "sent"]
    assert (verdicts[1].code, verdicts[1].suppress, verdicts[1].stop) == (code, suppress, None)
    kept = [mail.recipients[0].partition("@")[0] for mail in server.messages]
    assert kept == (["ann", "bob", "cat"] if fault in ("drop kept", "close after") else ["ann", "cat"])


def test_smtp_refusal_text_holds_no_address() -> None:
    class Handler:
        async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, _: object) -> str:
            return f"550 5.7.1 <{address}> is not wanted, said ann with Hello"

    verdicts = _with_aiosmtpd(Handler(), {"tls": "none"})
    assert verdicts[0].message == "5.7.1 <***> is not wanted, said ann with ***"


def test_smtp_one_connection_for_a_batch_and_the_next() -> None:
    async def work(server: MailServer) -> Sequence[Verdict]:
        async with make(config(server)) as destination:
            first = await destination.send([email(f"a-{n}") for n in range(20)])
            return [*first, *await destination.send([email("b-1")])]

    with MailServer() as server:
        verdicts = run(work(server))
    assert (len(server.messages), server.connections) == (21, 1)
    assert {verdict.status for verdict in verdicts} == {"sent"}


def test_smtp_idle_connection_that_the_server_closed_is_opened_again() -> None:
    async def work(server: MailServer) -> Sequence[Verdict]:
        async with make(config(server)) as destination:
            await destination.send([email("a-1")])
            server.close_connections()
            return await destination.send([email("a-2")])

    with MailServer() as server:
        (verdict,) = run(work(server))
    assert (verdict.status, len(server.messages), server.connections) == ("sent", 2, 2)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_smtp_tls_and_login(tls: Any) -> None:
    with MailServer(tls=tls, auth=("shop", SECRETS["PASSWORD"])) as server:
        (verdict,) = send(config(server, **AUTH), email())
    assert (verdict.status, len(server.messages)) == ("sent", 1)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_smtp_untrusted_certificate_stops(tls: Any) -> None:
    with MailServer(tls=tls) as server:
        found = config(server)
        del found["ca_file"]
        verdicts = send(found, email("a-1"), email("a-2"))
    assert {(v.status, v.code, v.stop) for v in verdicts} == {("retry", "certificate", "tls")}
    assert server.messages == []


def test_smtp_stripped_starttls_never_falls_back() -> None:
    """A server (or somebody in between) that does not offer STARTTLS gets neither credentials nor message."""
    with MailServer(auth=("shop", SECRETS["PASSWORD"])) as server:
        (verdict,) = send(config(server, tls="starttls", **AUTH), email())
    assert (verdict.status, verdict.code, verdict.stop, server.messages) == ("retry", "no_starttls", "tls", [])


def test_smtp_plaintext_needs_allow_hosts() -> None:
    async def work() -> None:
        async with make({"type": "smtp", "host": "mail.example.test", "tls": "none"}):
            pass

    with pytest.raises(Exception, match="D305 .*tls: none would send messages and credentials in the clear"):
        run(work())


def test_smtp_silent_server_is_a_retry() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = {"type": "smtp", "host": "127.0.0.1", "port": silent.getsockname()[1], "tls": "none"}
        (verdict,) = send(found | {"allow_hosts": LOOPBACK, "timeout": "50ms"}, email())
    assert (verdict.status, verdict.code) == ("retry", "connect_timeout")


def test_smtp_notify_goes_to_the_named_address() -> None:
    from destinations import Action

    with MailServer() as server:
        found = config(server, notify_to={"sales": "sales@example.test"}, **{"from": "bot@example.test"})
        verdicts = send(
            found,
            Action("n-1", "notify", "sales", "ann", 1, {"target": "sales", "text": "Big order\nfrom Ann"}),
            Action("n-2", "notify", "ops", "ann", 1, {"target": "ops", "text": "?"}),
        )
    assert [(verdict.status, verdict.code) for verdict in verdicts] == [
        ("sent", "250 2.0.0"),
        ("failed", "unknown_target"),
    ]
    assert server.messages[0].recipients == ("sales@example.test",)
    assert server.messages[0].header("subject") == "Big order from Ann"


def test_smtp_defaults_hold_unknown_outcomes_and_bound_them_to_one() -> None:
    capabilities = make({"type": "smtp", "host": "mail.example.test"}).capabilities
    assert (capabilities.on_unknown, capabilities.max_batch, capabilities.concurrency) == ("hold", 1, 1)
    assert capabilities.retry_after == (timedelta(minutes=5), timedelta(minutes=10))


class _Keep:
    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return "250 2.0.0 queued as abc"


class _FreePort(Controller):
    """aiosmtpd on a port that the system chooses; its own check of readiness wants to know it."""

    def _trigger_server(self) -> None:
        self.port = cast(asyncio.Server, self.server).sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


def _with_aiosmtpd(handler: object, more: dict[str, Any], **options: Any) -> Sequence[Verdict]:
    controller = _FreePort(handler, hostname="127.0.0.1", port=0, **options)
    controller.start()
    try:
        base = {"type": "smtp", "host": "127.0.0.1", "port": controller.port, "allow_hosts": LOOPBACK, "timeout": "5s"}
        return send(base | more, email())
    finally:
        controller.stop()


def test_smtp_independent_server_with_starttls_and_login(tmp_path: Path) -> None:
    path = write_certificate(tmp_path)
    seen: list[object] = []

    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        seen.append((mechanism, session.ssl is not None))
        good = isinstance(data, LoginPassword) and data.password.decode() == SECRETS["PASSWORD"]
        return AuthResult(success=good)

    handler = _Keep()
    context: ssl.SSLContext = server_context(path)
    options = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": check}
    (verdict,) = _with_aiosmtpd(handler, {"ca_file": str(path), **AUTH}, **options)
    assert (verdict.status, verdict.receipt["queue_id"]) == ("sent", "abc")
    assert seen == [("PLAIN", True)]
    assert handler.envelopes[0].rcpt_tos == ["ann@example.test"]
