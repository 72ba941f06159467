"""The demo: build the shop's warehouse with dbt, run the six workflows over simulated weeks, and measure what came out.

Nothing here reads a clock or a random source that the scale does not name: equal scales give equal figures. Times of
the journey are simulated; how long the machine took is measured by the caller's `Progress`.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from compiler.errors import ProjectError
from flows.build import run_dbt
from flows.engine.clock import VirtualClock
from flows.engine.overview import Overview, overview
from flows.project import Project, load_project
from flows.runner import Runner
from studio.demo import shop
from studio.demo.customers import Customers, Export
from studio.demo.front import Front
from studio.demo.project import TARGET, copy_project, shipped_project
from studio.demo.raw import clear_database, open_raw
from studio.demo.stage import Stage
from studio.demo.world import World

MARK = "made_by_penstock_demo"
PROJECT = "project"
_GROUP = re.compile(r"^group: *(\w+)", re.MULTILINE)
_SUBJECT = re.compile(r'^subject: *"?(.*?)"? *$', re.MULTILINE)


@dataclass(frozen=True)
class Scale:
    """How big the demo is: contacts ever, simulated days from `shop.START`, and the time between two ticks."""

    contacts: int = shop.CONTACTS
    days: int = shop.HORIZON_DAYS
    every: timedelta = timedelta(hours=12)
    seed: int = shop.SEED

    @property
    def end(self) -> datetime:
        """The end of the simulated period, naive UTC; the last tick lies before it."""
        return shop.START + timedelta(days=self.days)

    def ticks(self) -> Iterator[datetime]:
        """The tick times."""
        moment = shop.START
        while moment < self.end:
            yield moment
            moment += self.every


class Progress(Protocol):
    """Who is told how far the demo is."""

    def begin(self, name: str, what: str, total: int | None = None) -> None:
        """A part begins; `total` is the number of its steps when it is known."""
        ...

    def advance(self, done: int, total: int, note: str = "") -> None:
        """The part that began last is so far."""
        ...

    def finish(self, what: str) -> None:
        """The part that began last has ended; `what` says what came of it."""
        ...


class Quiet:
    """Nobody is told."""

    def begin(self, name: str, what: str, total: int | None = None) -> None:
        """See `Progress.begin`."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.advance`."""

    def finish(self, what: str) -> None:
        """See `Progress.finish`."""


@dataclass
class Counts:
    """What the simulated weeks brought: ticks, raw rows that landed after the start, decisions, deliveries.

    `requests` are those that customers and the mail system made to the collector, by kind.
    """

    ticks: int = 0
    landed: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    decided: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)


@dataclass
class Demo:
    """A demo in a folder.

    Args:
        folder: emptied first, unless it holds something that no demo made.
        scale: how big.
        progress: who is told.
        target: of the shipped profile; one of a server makes its database, which is emptied likewise, the warehouse.
    """

    folder: Path
    scale: Scale
    progress: Progress
    target: str | None = None

    def __post_init__(self) -> None:
        self.clock = VirtualClock(shop.START)
        self.counts = Counts()
        self.stage = Stage(
            self.customers, self._addresses(), subjects(), self.scale.seed, self.clock.now
        )  # fmt: skip

    @cached_property
    def world(self) -> World:
        """The whole course of the shop."""
        scale = self.scale
        return shop.world(scale.seed, scale.contacts, shop.START, shop.HISTORY_DAYS, shop.HORIZON_DAYS)

    @cached_property
    def customers(self) -> Customers:
        """Who reacts to the messages."""
        return Customers(self.world, self.scale.seed)

    @property
    def project_folder(self) -> Path:
        """Where the demo's project is."""
        return self.folder / PROJECT

    @cached_property
    def project(self) -> Project:
        """The demo's project, for its only target."""
        return load_project(self.project_folder, TARGET, profiles_dir=self.project_folder)

    def run(self, then: Callable[[Runner], None] = lambda runner: None) -> None:
        """Build, publish and simulate; `then` is called at the end, with the warehouse and the servers still there.

        Raises:
            ProjectError: E530, the folder holds something else; E531, dbt could not build the models.
        """
        clear(self.folder)
        with self.stage:
            copy_project(self.project_folder, self.stage.destinations, self.stage.collector, self.target)
            clear_database(self.project.warehouse.location)
            self.generate()
            self.build()
            with self.project.open_warehouse() as warehouse:
                if self.project.warehouse.type == "duckdb":
                    warehouse.execute(_ONE_THREAD)
                runner = Runner(self.project, self.clock, keep_open=warehouse)
                self.publish(runner)
                with Front(self.project, self.stage.front, shop.START, self.stage.write_key) as front:
                    self.simulate(runner, front)
                then(runner)

    # ------------------------------------------------------------ parts

    def generate(self) -> None:
        """Write the raw tables that are known when the simulation starts."""
        self.progress.begin("demo warehouse", "raw tables of a shop")
        scale = self.scale
        tables = shop.generate(scale.seed, scale.contacts, shop.START, shop.HISTORY_DAYS)
        with open_raw(self.project.warehouse.location) as raw:
            rows = raw.load(tables)
        events = rows["web_events"] + rows["mail_events"]
        self.progress.finish(f"{scale.contacts:,} contacts · {events:,} events · {shop.HISTORY_DAYS} days")

    def build(self) -> None:
        """Build and test the models with dbt."""
        self.progress.begin("dbt build", "models and their tests")
        kinds: Counter[str] = Counter()
        planned: set[int] = set()

        def listen(event: Any) -> None:
            match event.info.name:
                case "LogStartLine":
                    planned.add(event.data.total)
                case "LogModelResult" | "LogTestResult" | "LogSeedResult":
                    kinds[event.info.name.removeprefix("Log").removesuffix("Result").lower()] += 1
                    self.progress.advance(kinds.total(), max(planned))

        outcome = run_dbt(self.project, ["build", "--quiet"], profiles_dir=self.project_folder, listeners=[listen])
        if outcome.exit_code:
            raise ProjectError(
                f"dbt could not build the demo's models: {outcome.message or 'a node failed, see above'}", code="E531",
                hint=f"its log: {self.project_folder / 'logs' / 'dbt.log'}",
            )  # fmt: skip
        self.progress.finish(", ".join(f"{number} {kind}s" for kind, number in sorted(kinds.items())))

    def publish(self, runner: Runner) -> None:
        """Publish the six workflows."""
        self.progress.begin("workflows", "compile and publish")
        changes = runner.apply(who="penstock demo")
        published = [change.name for change in changes if change.kind == "workflow"]
        templates = sum(change.kind == "template" for change in changes)
        self.progress.finish(f"{len(published)} published · {templates} templates")

    def simulate(self, runner: Runner, front: Front) -> None:
        """Run the ticks: rows land and requests come in, a tick decides, it is delivered, customers answer."""
        export = Export(self.customers, shop.START)
        moments = list(self.scale.ticks())
        span = f"{shop.START:%Y-%m-%d} → {self.scale.end:%Y-%m-%d}"
        self.progress.begin("time travel", span, len(moments))
        with open_raw(self.project.warehouse.location) as raw:
            for number, moment in enumerate(moments, start=1):
                front.perform(export.calls(moment))
                self.clock.advance_to(moment)
                self.counts.landed += sum(raw.land(export.due(moment)).values())
                report = runner.tick()
                self.counts.set_aside.update(report.set_aside)
                self.counts.decided += sum(report.counts.get(word, 0) for word in ("decided", "done", "skipped"))
                delivered = runner.deliver()
                self.counts.attempts += sum(delivered.counts.values())
                export.react(self.stage.new_messages())
                self.progress.advance(number, len(moments), f"{moment:%b %d}")
        self.counts.ticks, self.counts.requests = len(moments), front.answered
        hours = self.scale.every // timedelta(hours=1)
        self.progress.finish(
            f"{span} · {len(moments)} ticks, one every {hours} h · {self.counts.landed:,} rows landed · "
            f"{self.counts.requests.total():,} reports, opens, clicks and opt-outs over HTTP"
        )

    def overview(self, runner: Runner) -> Overview:
        """The figures of `penstock status` at the end of the period."""
        with runner.open() as warehouse:
            return overview(warehouse, self.project.state_schema, self.scale.end)

    def _addresses(self) -> dict[str, str]:
        contacts = self.world.tables["crm_contacts"].filter(pl.col("email").is_not_null())
        return dict(contacts.select("email", "contact_id").unique().iter_rows())


def subjects() -> dict[str, str]:
    """Template -> subject, as the shipped project has them."""
    return _front_matter(_SUBJECT)


def groups() -> dict[str, str]:
    """Template -> message group, as the shipped project has them."""
    return _front_matter(_GROUP)


def _front_matter(wanted: re.Pattern[str]) -> dict[str, str]:
    found = {}
    for file in sorted((shipped_project() / "templates").glob("*.mjml")):
        match = wanted.search(file.read_text(encoding="utf-8"))
        if match:
            found[file.stem] = match[1]
    return found


def clear(folder: Path) -> None:
    """Empty a folder that an earlier demo made, or make it.

    Raises:
        ProjectError: E530, it holds something that no demo made.
    """
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARK).is_file():
            raise ProjectError(
                f"{folder} holds something that no demo made", code="E530",
                hint="start it in another folder, or name one: penstock demo --folder DIR",
            )  # fmt: skip
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("Made by `penstock demo`, which may delete everything in this folder.\n")


_ONE_THREAD = "SET threads = 1"
"""Statements over a few rows cost less without handing them to other threads, which the servers need anyway."""
