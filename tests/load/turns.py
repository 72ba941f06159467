"""Turns at one DuckDB file: the engine's loop, dbt under the lock, a plain dbt, a writer and a notebook.

    python -m tests.load.turns [seconds] [interval of the engine, such as 5s]

Every participant says what it committed; at the end all of it has to be in the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa

from flows.project import load_project
from flows.warehouse.duckdb import DuckDBWarehouse
from flows.warehouse.location import FileLocation
from studio.demo.project import shipped_project
from studio.demo.shop import generate, load

SEED = 7
CONTACTS = 200
SIGNED_UP = 100
"""So many of them have surely signed up: an event of another one would fail dbt's test of relationships."""
FILE = "warehouse.duckdb"
STATE = "penstock_demo"
_HELD = re.compile(r"held by process (\d+) \(([^)]*)\)")
_SCRIPTS = Path(sys.executable).parent
_LEFT_OUT = (".penstock", "target", "logs", "dbt_packages", ".user.yml", "*.duckdb*", "__pycache__")
_HOOK = "\non-run-end: [\"insert into raw.builds values ('{{ invocation_id }}')\"]\n"


@dataclass
class Build:
    """One `dbt build`: its process id, exit code and what it said."""

    pid: int
    code: int
    said: str


@dataclass
class Turns:
    """What the participants said they did, and what the file holds.

    Attributes:
        ticks: numbers that the engine's loop printed.
        run_code: its exit code.
        run_said: what it told people.
        builds: of dbt, by name of the participant.
        written: rows that the writer committed.
        notebook: answers and refusals of the reader.
        codes: exit codes of writer and notebook.
        holders: (process id, command) that somebody who waited was told.
        kept: what the file holds at the end.
        named: process id of each participant -> how the commands begin under which others may be told of it.
        unnamed: how often somebody was told that the file is held, and not by whom.
    """

    seconds: float
    ticks: list[int] = field(default_factory=list)
    run_code: int | None = None
    run_said: str = ""
    builds: dict[str, list[Build]] = field(default_factory=dict)
    written: int = 0
    notebook: Counter[str] = field(default_factory=Counter)
    codes: dict[str, int] = field(default_factory=dict)
    holders: Counter[tuple[int, str]] = field(default_factory=Counter)
    kept: dict[str, int] = field(default_factory=dict)
    missing_ticks: list[int] = field(default_factory=list)
    named: dict[int, tuple[str, ...]] = field(default_factory=dict)
    unnamed: int = 0

    def __str__(self) -> str:
        builds = "  ".join(f"{name} {len(found)}" for name, found in self.builds.items())
        commands = Counter(command for _, command in self.holders.elements())
        named = ", ".join(f"{command} {count}x" for command, count in commands.most_common())
        return (
            f"turns over {self.seconds:.0f} s: ticks {len(self.ticks)}  {builds}  rows written {self.written:,}  "
            f"notebook {dict(self.notebook)}  lost rows {self.lost}  exit codes other than 0 {self.failures}\n"
            f"who waited was told who holds the file: {named or 'nobody waited'}"
        )

    @property
    def lost(self) -> int:
        """Rows that somebody committed and the file does not hold."""
        builds = sum(len(found) for found in self.builds.values())
        return (
            abs(self.written - self.kept["rows"]) + abs(self.written - self.kept["seen"])
            + abs(self.written - self.kept["modelled"]) + abs(builds - self.kept["builds"]) + len(self.missing_ticks)
        )  # fmt: skip

    @property
    def failures(self) -> int:
        """Processes that did not end well."""
        codes = [build.code for found in self.builds.values() for build in found]
        return sum(code != 0 for code in [*codes, *self.codes.values(), self.run_code])


def take_turns(folder: Path, seconds: float, interval: str, *, build: Sequence[str] = ()) -> Turns:
    """Let everybody work on one file for a while.

    Args:
        folder: an empty folder.
        seconds: how long.
        interval: of the engine's loop.
        build: more words for each `dbt build`.
    """
    project = prepare(folder)
    turns = Turns(seconds)
    over = threading.Event()
    built = _dbt(project, "penstock dbt", build)
    assert built.code == 0, built.said
    turns.builds = {"penstock dbt build": [built], "dbt build": []}
    turns.ticks.append(_tick(project))
    loops = [
        threading.Thread(
            target=_builds, args=(project, "penstock dbt", build, turns.builds["penstock dbt build"], over)
        ),
        threading.Thread(target=_builds, args=(project, "dbt", build, turns.builds["dbt build"], over)),
    ]
    with (
        _process(project, _penstock("run", "--every", interval, "--output", "json")) as run,
        _process(project, [sys.executable, "-m", __name__, "writer", str(project)]) as writer,
        _process(project, [sys.executable, "-m", __name__, "notebook", str(project)]) as notebook,
    ):
        for loop in loops:
            loop.start()
        over.wait(seconds)
        over.set()
        for loop in loops:
            loop.join()
        ended = [process.stop() for process in (writer, notebook, run)]
    (turns.codes["writer"], written, writer_said), (turns.codes["notebook"], asked, notebook_said) = ended[:2]
    turns.run_code, ticked, turns.run_said = ended[2]
    turns.written = int(written.split()[-1])
    turns.notebook = Counter(json.loads(asked.splitlines()[-1]))
    assert turns.run_code == 0, (ticked, turns.run_said)
    turns.ticks += [json.loads(line)["tick"] for line in ticked.splitlines()]
    everything = [
        turns.run_said,
        writer_said,
        notebook_said,
        *(b.said for found in turns.builds.values() for b in found),
    ]
    turns.holders = Counter((int(pid), command) for said in everything for pid, command in _HELD.findall(said))
    turns.unnamed = sum(said.count("held by another process") for said in everything)
    module = f"{Path(sys.executable).name} -m {__name__}"
    turns.named = {
        run.process.pid: ("penstock run",), writer.process.pid: ("turns.py writer",),
        notebook.process.pid: ("turns.py notebook", module),
        **{build.pid: (command,) for command, found in turns.builds.items() for build in found},
    }  # fmt: skip
    turns.ticks.append(_tick(project))
    turns.builds["penstock dbt build"].append(_dbt(project, "penstock dbt", build))
    _look(project, turns)
    return turns


def _tick(project: Path) -> int:
    done = subprocess.run(_penstock("run", "--output", "json"), cwd=project, env=_environment(project), check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["tick"])


def prepare(folder: Path) -> Path:
    """The shipped project with a small shop, a counter of builds and a table for the writer."""
    project = folder / "shop"
    shutil.copytree(shipped_project(), project, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    with (project / "dbt_project.yml").open("a", encoding="utf-8") as stream:
        stream.write(_HOOK)
    with duckdb.connect(str(project / FILE)) as connection:
        load(connection, generate(SEED, CONTACTS))
        connection.execute("create table raw.builds (invocation_id varchar)")
    return project


def _look(project: Path, turns: Turns) -> None:
    """Count what the file holds, after one more tick and build, which had to take in everything."""
    with DuckDBWarehouse(project / FILE) as warehouse:
        for name, query in _KEPT.items():
            turns.kept[name] = warehouse.rows(query)[0]["n"]
        numbers = [row["tick"] for row in warehouse.rows("select tick from penstock_demo.ticks order by tick")]
    whole = set(range(1, max(turns.ticks) + 1))
    turns.missing_ticks = sorted((whole ^ set(numbers)) | (whole ^ set(turns.ticks)))


_KEPT = {
    "builds": "select count(distinct invocation_id) as n from raw.builds",
    "rows": "select count(*) as n from raw.web_events where event_id like 'turns-%'",
    "seen": "select count(*) as n from penstock_demo.event_seen where event_id like 'turns-%'",
    "modelled": "select count(*) as n from analytics.int_events_deduplicated where event_id like 'turns-%'",
    "enrolled": "select count(*) as n from penstock_demo.enrollments",
}


# ------------------------------------------------------------ participants


def _penstock(*words: str) -> list[str]:
    return [str(_SCRIPTS / "penstock"), *words]


def _environment(project: Path) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PENSTOCK_WAREHOUSE": str(project / FILE), "PENSTOCK_PROJECT_DIR": str(project),
            "PYTHONPATH": root, "DBT_PROFILES_DIR": str(project), "DO_NOT_TRACK": "1"}  # fmt: skip


def _dbt(project: Path, how: str, more: Sequence[str]) -> Build:
    words = ["build", "--quiet", *more]
    if how == "penstock dbt":
        command = _penstock("dbt", *words)
    else:
        command = [str(_SCRIPTS / "dbt"), *words, "--target-path", "target_plain", "--log-path", "logs_plain"]
    with subprocess.Popen(command, cwd=project, env=_environment(project), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:  # fmt: skip
        said, _ = process.communicate()
    return Build(process.pid, process.returncode, said)


def _builds(project: Path, how: str, more: Sequence[str], found: list[Build], over: threading.Event) -> None:
    while not over.wait(3):
        found.append(_dbt(project, how, more))


class _Running:
    """A process that works until it is told to stop; what it says goes to files, so that no pipe fills up."""

    def __init__(self, process: subprocess.Popen[str], out: IO[str], err: IO[str]) -> None:
        self.process, self._out, self._err = process, out, err

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        self._out.seek(0)
        self._err.seek(0)
        return code, self._out.read(), self._err.read()


@contextmanager
def _process(project: Path, command: Sequence[str]) -> Iterator[_Running]:
    with (
        tempfile.TemporaryFile("w+", dir=project) as out, tempfile.TemporaryFile("w+", dir=project) as err,
        subprocess.Popen(command, cwd=project, env=_environment(project), stdout=out, stderr=err, text=True) as process,
    ):  # fmt: skip
        try:
            yield _Running(process, out, err)
        finally:
            process.kill()


def _until_stopped(step: Callable[[], None], pause: float) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: over.set())
    while not over.wait(pause):
        step()


def write(project: Path) -> None:
    """Commits clicks as an ingest job would, some at a time; says at the end how many."""
    where, written = load_project(project), 0

    def step() -> None:
        nonlocal written
        now = datetime.now(UTC).replace(tzinfo=None)
        numbers = range(written, written + 5)
        rows = pa.table({
            "event_id": [f"turns-{number}" for number in numbers],
            "contact_id": [f"C-{number % SIGNED_UP + 1:05}" for number in numbers],
            "event_type": ["link_clicked"] * 5, "page": ["pricing"] * 5, "occurred_at": [now] * 5,
            "_loaded_at": [now] * 5,
        })  # fmt: skip
        with where.open_warehouse(wait=timedelta(minutes=5)) as warehouse, warehouse.transaction():
            warehouse.load(("raw", "web_events"), rows)
        written += 5

    _until_stopped(step, 0.3)
    print(written)


def ask(project: Path) -> None:
    """Asks as a notebook does: through the project, waiting for its turn, and as a stranger with a short look."""
    where, answers = load_project(project), Counter[str]()
    location = where.warehouse.location
    assert isinstance(location, FileLocation)

    def step() -> None:
        with where.open_warehouse(read_only=True, wait=timedelta(minutes=5)) as warehouse:
            warehouse.rows("select count(*) as n from raw.web_events")
        answers["through the project"] += 1
        try:
            with duckdb.connect(str(location.path), read_only=True) as connection:
                connection.execute("select count(*) from raw.web_events").fetchall()
            answers["as a stranger"] += 1
        except duckdb.IOException as error:
            answers["stranger refused" if "lock" in str(error) else str(error)] += 1

    _until_stopped(step, 0.5)
    print(json.dumps(answers))


def main(words: Sequence[str]) -> None:
    """One participant, or all of them."""
    match words:
        case ["writer", project]:
            write(Path(project))
        case ["notebook", project]:
            ask(Path(project))
        case _:
            seconds = float(words[0]) if words else 180.0
            with tempfile.TemporaryDirectory(prefix="penstock-turns-") as folder:
                turns = take_turns(Path(folder), seconds, words[1] if len(words) > 1 else "5s")
            print(turns)
            sys.exit(1 if turns.lost or turns.failures else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
