"""A small live project that sends mail, webhooks and CRM updates to loopback servers, and processes of it to kill.

The kiosk's contacts and events are tables written straight into the warehouse file, so no dbt runs. Every contact has
one event per workflow, and every workflow decides all its actions at once: who should get what is known beforehand.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from compiler.errors import WarehouseAway, WarehouseLocked
from flows.engine.dispatcher import DeliveryReport
from flows.project import Project, load_project
from flows.runner import Runner
from flows.warehouse import lease
from flows.warehouse.base import Warehouse
from studio import cli
from studio.demo.fake_crm import FakeCrm
from studio.demo.mail_server import MailServer
from studio.demo.sink import WebhookSink

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()
ENVIRONMENT = {"KIOSK_SECRET": SECRET, "KIOSK_TOKEN": "kiosk-token"}
STATE = "penstock"
"""Schema of the state tables; the target is live."""
_FILLED = ("penstock.yaml", "profiles.yml")
_IMPORTED = (
    "pytest", "studio.commands.run", "flows.warehouse.duckdb", "flows.warehouse.postgres", "psycopg",
    "destinations.transport", "sqlglot.dialects.duckdb", "flows.collecting", "flows.collector.server", "uvloop",
    "pandas", "pyarrow.dataset",
)  # fmt: skip
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "letter": ("confirm", "tell"), "desk": ("hook", "record"), "urgent": ("alarm",),
}  # fmt: skip
"""Workflow -> the steps of it that act on the outside, in order. `alarm` goes by the mail server that retries."""
_FILES = {
    "dbt_project.yml": "name: kiosk\nprofile: kiosk\nmodel-paths: [models]\n",
    "profiles.yml": "kiosk: {{target: prod, outputs: {{prod: {{{warehouse}, schema: shop}}}}}}\n",
    "models/schema.yml": """
models:
  - name: people
    columns: [{name: person_id, data_type: varchar}, {name: mail, data_type: varchar}]
  - name: happenings
    columns:
      - {name: id, data_type: varchar}
      - {name: person_id, data_type: varchar}
      - {name: name, data_type: varchar}
      - {name: happened_at, data_type: timestamp}
      - {name: loaded_at, data_type: timestamp}
""",
    "penstock.yaml": """
version: 1
contact: {{model: ref('people'), id: person_id, email: mail, fields: {{stage: text}}}}
events: {{model: ref('happenings'), id: id, contact: person_id, name: name, at: happened_at, loaded_at: loaded_at}}
destinations:
  post:
    {{type: smtp, default: true, host: 127.0.0.1, port: {mail}, tls: none, from: kiosk@shop.example,
     allow_hosts: [127.0.0.1]}}
  express:
    {{type: smtp, host: 127.0.0.1, port: {mail}, tls: none, from: kiosk@shop.example, allow_hosts: [127.0.0.1],
     on_unknown: retry, retry_after: {pauses}}}
  bell:
    {{type: webhook, url: "{hooks}/bell", secret: "{{{{ env_var('KIOSK_SECRET') }}}}",
     allow_hosts: [127.0.0.1], retry_after: {pauses}}}
  crm:
    {{type: hubspot, base_url: "{crm}", token: "{{{{ env_var('KIOSK_TOKEN') }}}}", allow_hosts: [127.0.0.1],
     retry_after: {pauses}, max_batch: 5}}
targets:
  prod: {{deliver: live}}
""",
    "templates/confirm.txt": "---\nsubject: Confirmed\n---\nHello {{ contact.person_id }}\n",
    "templates/alarm.txt": "---\nsubject: Alarm\n---\nHello {{ contact.person_id }}\n",
    "workflows/letter.yaml": """
version: 1
workflow: letter
trigger: {event: ordered}
steps:
  - {id: confirm, email: confirm}
  - {id: tell, notify: bell.desk, text: somebody ordered}
  - {id: mark, tag: buyer}
  - {id: bye, exit: done}
""",
    "workflows/desk.yaml": """
version: 1
workflow: desk
trigger: {event: visited}
steps:
  - {id: hook, webhook: bell, body: {who: contact.person_id}}
  - {id: record, crm: {object: contact, set: {lifecyclestage: "'customer'"}}}
  - {id: mark, tag: visitor}
  - {id: bye, exit: done}
""",
    "workflows/urgent.yaml": """
version: 1
workflow: urgent
trigger: {event: rang}
steps:
  - {id: alarm, email: alarm, to: express}
  - {id: mark, tag: urgent}
  - {id: bye, exit: done}
""",
}


@dataclass
class Kiosk:
    """The project with its three servers, as a context manager.

    Args:
        folder: an empty folder.
        database: parameters of an empty database of a PostgreSQL server; None for a DuckDB file in the folder.
        pause: before another attempt, as configured.
        on_mail: called when the mail server has taken a message and has not yet said so.
    """

    folder: Path
    database: Mapping[str, str | int] | None = None
    pause: str = "1ms"
    on_mail: Callable[[], None] = lambda: None
    events: list[tuple[str, str]] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.mail = self._stack.enter_context(MailServer(on_message=lambda mail: self.on_mail()))
        self.hooks = self._stack.enter_context(WebhookSink(secret=SECRET))
        self.crm = self._stack.enter_context(FakeCrm(token=ENVIRONMENT["KIOSK_TOKEN"]))
        places = {"mail": self.mail.port, "hooks": self.hooks.url, "crm": self.crm.url, "warehouse": self._warehouse()}
        for name, text in _FILES.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            filled = text.format(**places, pauses=[self.pause] * 40) if name in _FILLED else text
            (self.folder / name).write_text(filled, encoding="utf-8")
        with self.open() as warehouse:
            for statement in (
                "create schema shop", "create table shop.people (person_id varchar, mail varchar)",
                "create table shop.happenings (id varchar, person_id varchar, name varchar, happened_at timestamp, "
                "loaded_at timestamp)",
            ):  # fmt: skip
                warehouse.execute(statement)
        Runner(self.project).apply()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _warehouse(self) -> str:
        """The keys of the warehouse in profiles.yml."""
        if self.database is None:
            return "type: duckdb, path: kiosk.duckdb"
        keys = {"type": "postgres", "pass": "unused", **self.database}
        return ", ".join(f"{name}: {value}" for name, value in keys.items())

    def beside(self, folder: Path) -> Path:
        """Another machine's folder of the same project: the files, and nothing that an engine keeps locally."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".penstock", "*.duckdb*"))
        return folder

    @property
    def project(self) -> Project:
        """The project, read from its files."""
        return load_project(self.folder)

    @contextmanager
    def open(self) -> Iterator[Warehouse]:
        """The warehouse under its lock, or with the lease of the state."""
        with self.project.open_warehouse(wait=timedelta(seconds=30)) as warehouse:
            yield warehouse

    def add(self, contacts: int, *workflows: str) -> None:
        """New contacts, each with the event of each workflow (all three when none is named)."""
        names = {"letter": "ordered", "desk": "visited", "urgent": "rang"}
        chosen = workflows or tuple(names)
        first = len({person for person, _ in self.events})
        people = [f"p{number:04}" for number in range(first, first + contacts)]
        happened = [(person, workflow) for person in people for workflow in chosen]
        now = datetime.now(UTC).replace(tzinfo=None)
        rows = pa.table({
            "id": [f"{person}-{workflow}" for person, workflow in happened],
            "person_id": [person for person, _ in happened], "name": [names[workflow] for _, workflow in happened],
            "happened_at": [now] * len(happened), "loaded_at": [now] * len(happened),
        })  # fmt: skip
        contacts_table = pa.table({"person_id": people, "mail": [f"{person}@mail.example" for person in people]})
        # Rows of models come from elsewhere, so on a server they come without the lease.
        with self.project.warehouse.location.open("", wait=timedelta(seconds=30)) as warehouse, warehouse.transaction():
            warehouse.load(("shop", "people"), contacts_table)
            warehouse.load(("shop", "happenings"), rows)
        self.events += happened

    def environment(self, crash_at: str = "") -> dict[str, str]:
        """The environment of a process that works on the project."""
        return {**os.environ, **ENVIRONMENT, "CRASH_AT": crash_at}

    def command(self, *arguments: str) -> list[str]:
        """A command line of `penstock`, as its console script runs it."""
        return [sys.executable, "-c", "from studio.cli import main; main()", "--project-dir", str(self.folder),
                *arguments]  # fmt: skip

    def run(self, *arguments: str, crash_at: str = "") -> subprocess.CompletedProcess[str]:
        """`penstock run` in a process of its own."""
        return subprocess.run(self.command("run", *arguments), env=self.environment(crash_at), check=False,
                              capture_output=True, text=True, timeout=60)  # fmt: skip

    def finish(self) -> DeliveryReport:
        """Tick and deliver, unharmed, until only what is held is left; the report of the first pass."""
        runner = Runner(self.project)
        first: DeliveryReport | None = None
        for _ in range(200):
            runner.tick()
            report = runner.deliver()
            first = first or report
            with self.open() as warehouse:
                if not warehouse.rows(_OPEN)[0]["n"]:
                    return first
        raise AssertionError("deliveries are open that nobody holds")

    def settled(self, kills: int) -> Outcome:
        """Check every guarantee after `kills` kills and an unharmed end; says what became of the actions."""
        with self.open() as warehouse:
            check_ticks(warehouse)
            deliveries = warehouse.rows("select * from penstock.deliveries")
            attempts = warehouse.rows("select * from penstock.attempts")
        expected = Counter((w, person, step, 1) for person, w in self.events for step in ACTIONS[w])
        found = Counter((row["workflow"], row["contact_id"], row["step"], row["visit"]) for row in deliveries)
        assert found == expected, f"lost {expected - found}, too many {found - expected}"
        assert len({(r["enrollment_id"], r["step"], r["visit"]) for r in deliveries}) == len(deliveries)
        assert len({(row["action_id"], row["attempt"]) for row in attempts}) == len(attempts)
        ambiguous = Counter(row["action_id"] for row in attempts if row["ambiguous"])
        by_step: dict[str, dict[str, str]] = {}
        for row in deliveries:
            by_step.setdefault(row["step"], {})[row["action_id"]] = row["state"]
        outcome = Outcome(kills, len(deliveries))
        self._check_mail(by_step, ambiguous, outcome)
        self._check_web(by_step, ambiguous, deliveries, outcome)
        return outcome

    def _check_mail(self, by_step: dict[str, dict[str, str]], ambiguous: Counter[str], outcome: Outcome) -> None:
        copies = Counter(_action_id(mail.header("Message-ID") or "") for mail in self.mail.messages)
        for action, state in by_step.get("confirm", {}).items():
            assert state in ("sent", "unknown")
            assert copies[action] == 1 if state == "sent" else copies[action] <= 1
            assert ambiguous[action] == (state == "unknown")
            outcome.unknown += state == "unknown"
        for action, state in by_step.get("alarm", {}).items():
            assert state == "sent"
            assert 1 <= copies[action] <= 1 + ambiguous[action]
            outcome.second_copies += copies[action] - 1
        assert set(copies) <= {*by_step.get("confirm", {}), *by_step.get("alarm", {})}
        assert outcome.unknown <= outcome.kills
        assert outcome.second_copies <= outcome.kills
        outcome.ambiguous = ambiguous.total()

    def _check_web(
        self, by_step: dict[str, dict[str, str]], ambiguous: Counter[str], deliveries: list[dict[str, Any]],
        outcome: Outcome,
    ) -> None:  # fmt: skip
        held = {row["enrollment_id"] for row in deliveries if row["state"] == "unknown"}
        behind = {row["action_id"] for row in deliveries if row["step"] == "tell" and row["enrollment_id"] in held}
        rung = {**by_step.get("tell", {}), **by_step.get("hook", {})}
        for action, state in rung.items():
            assert state == ("pending" if action in behind else "sent")
        assert set(self.hooks.kept) == rung.keys() - behind
        assert self.hooks.unsigned == 0
        assert self.hooks.repeats <= sum(ambiguous[action] for action in rung)
        recorded = by_step.get("record", {})
        assert set(recorded.values()) <= {"sent"}
        assert self.crm.counters.duplicates == 0
        assert self.crm.counters.effects == len(self.crm.contacts) == len(recorded)
        outcome.repeats = self.hooks.repeats + self.crm.counters.repeats


@dataclass
class Outcome:
    """What kills did: `unknown` mails held, `second_copies` of mails that are repeated, `repeats` without effect."""

    kills: int
    actions: int
    unknown: int = 0
    second_copies: int = 0
    repeats: int = 0
    ambiguous: int = 0

    def __str__(self) -> str:
        return (
            f"kills {self.kills}  actions {self.actions}  lost 0  second effects 0  mails unknown and held "
            f"{self.unknown}  second copies (on_unknown: retry) {self.second_copies}  repeated requests without effect "
            f"{self.repeats}  ambiguous attempts {self.ambiguous}"
        )


def check_ticks(warehouse: Warehouse) -> None:
    """Every tick is there with all its journal and outbox rows, or not at all; holds at any time, after any kill."""
    ticks = warehouse.rows("select tick from penstock.ticks order by tick")
    assert [row["tick"] for row in ticks] == list(range(1, len(ticks) + 1))
    assert warehouse.rows(_UNPAIRED) == []
    assert warehouse.rows(_TORN) == []
    assert warehouse.rows(_HALF_ENTERED) == []


def work(folder: str, environment: dict[str, str]) -> None:
    """Tick and deliver until killed; the body of a process."""
    os.environ.update(environment)
    runner = Runner(load_project(Path(folder)), wait=timedelta(seconds=30))
    while True:
        runner.tick()
        runner.deliver()


def work_once(folder: str, environment: dict[str, str]) -> None:
    """Tick and deliver once; the body of a process."""
    os.environ.update(environment)
    runner = Runner(load_project(Path(folder)))
    runner.tick()
    runner.deliver()


def work_beside(folder: str, environment: dict[str, str]) -> None:
    """Tick and deliver beside another engine until killed; a line in `refused` each time that it had to leave off."""
    os.environ.update(environment)
    lease.LIFE = timedelta(seconds=float(environment["LEASE_SECONDS"]))
    pause = threading.Event()
    while True:
        # As a new process: what it knew of the state is gone, and nothing of it may be needed.
        runner = Runner(load_project(Path(folder)), wait=timedelta(seconds=30))
        try:
            while not pause.wait(0.05):
                runner.tick()
                runner.deliver()
        except (WarehouseLocked, WarehouseAway) as error:
            with (Path(folder) / "refused").open("a", encoding="utf-8") as file:
                file.write(f"{type(error).__name__} {error.message}\n")


def penstock_run(folder: str, environment: dict[str, str]) -> None:
    """One `penstock run`, its output in `run.out`; the body of a process."""
    os.environ.update(environment)
    with (Path(folder) / "run.out").open("w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    sys.exit(cli.run(["run", "--output", "json", "--project-dir", folder]))


def penstock_loop(folder: str, environment: dict[str, str]) -> None:
    """`penstock run --every 1s` until a signal ends it, its output in `loop.out`; the body of a process."""
    os.environ.update(environment)
    with (Path(folder) / "loop.out").open("w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    sys.exit(cli.run(["run", "--every", "1s", "--project-dir", folder]))


def started(
    body: Callable[[str, dict[str, str]], None], kiosk: Kiosk, crash_at: str = "", *, folder: Path | None = None,
    **environment: str,
) -> BaseProcess:  # fmt: skip
    """A process of its own, forked from one that has imported everything already and does nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED])
    given = {**kiosk.environment(crash_at), **environment}
    process = context.Process(target=body, args=(str(folder or kiosk.folder), given))
    process.start()
    return process


def ran(kiosk: Kiosk, crash_at: str = "") -> int:
    """The exit code of one `penstock run`, negative when a signal ended it."""
    process = started(penstock_run, kiosk, crash_at)
    process.join(60)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("penstock run does not end")
    return process.exitcode


def _action_id(message_id: str) -> str:
    match = re.fullmatch(r"<([^@]+)@.*>", message_id.strip())
    assert match is not None, message_id
    return match[1]


_OPEN = """
    select count(*) as n from penstock.outbox as o
    where o.state <> 'unknown' and not exists (
        select 1 from penstock.outbox as e where e.enrollment_id = o.enrollment_id and e.state = 'unknown'
    )
"""
# An intent in the journal without its row in the outbox, or the other way round, or in another tick.
_UNPAIRED = """
    select coalesce(d.action_id, j.action_id) as action_id from penstock.deliveries as d
    full join (select * from penstock.journal where kind = 'intent') as j on j.action_id = d.action_id
    where d.action_id is null or j.action_id is null or d.tick <> j.tick
"""
# Ticks whose own journal rows are not those that the tick row was written for; receipts are journaled later.
_TORN = """
    select t.tick from penstock.ticks as t left join (
        select tick, string_agg(concat_ws('|', seq, enrollment_id, step, kind, outcome), ';' order by seq) as said
        from penstock.journal where kind <> 'delivery' group by tick
    ) as j on j.tick = t.tick
    where md5(coalesce(j.said, '')) <> t.checksum
    union all select tick from penstock.journal group by tick, seq having count(*) > 1
    union all select tick from penstock.journal where tick not in (select tick from penstock.ticks)
"""
_HALF_ENTERED = """
    select enrollment_id from penstock.enrollments as n
    where n.exit is null or not exists (select 1 from penstock.contact_tags as t where t.contact_id = n.contact_id)
"""
