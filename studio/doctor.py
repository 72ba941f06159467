"""`penstock doctor`: what on this machine would keep Penstock from working, with the next step for each finding.

Every check only looks: nothing is written into the project, no warehouse file is opened, a PostgreSQL target is the
only thing on the network that is asked, and of secrets only the names are shown.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from compiler.errors import PenstockError, ProjectError
from flows.dbt_files import find_profiles, read_dbt_project, read_target
from flows.engine.clock import SystemClock, naive_utc
from flows.project import find_project, load_project
from flows.warehouse.location import FileLocation, Location
from studio.analytics import SWITCHES, still_on

if TYPE_CHECKING:
    from rich.console import Console

Status = Literal["ok", "warning", "failed"]

OLDEST_PYTHON = (3, 11)
OLDEST_POSTGRES = 12
MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}
ENV_VAR = re.compile(r"""env_var\(\s*(['"])(?P<name>\w+)\1\s*(?P<default>,)?""")
# A file this much newer than the clock says that the clock went back; less is the grain of file systems.
CLOCK_SLACK = timedelta(minutes=2)


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        status: `failed` keeps Penstock from working, `warning` only some of it.
        detail: what was found.
        hint: what to do, or empty.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Examination:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(check.status == "failed" for check in self.checks)


def examine(project_dir: Path | None, target: str | None) -> Examination:
    """Makes all checks.

    Args:
        project_dir: folder with `penstock.yaml`, or None to look for it from the working directory upwards.
        target: the dbt target, or None for the default of the profile.
    """
    project, found = _project(project_dir)
    checks = [_python(), _packages(), _git(), _time_zones(), _analytics(), found]
    if project is not None:
        checks += [_clock(project), _secrets(project), _warehouse(project, target)]
    return Examination(tuple(checks))


def show(examination: Examination, out: "Console") -> None:
    """Prints the checks for people."""
    from rich.markup import escape

    width = max(len(check.name) for check in examination.checks)
    for check in examination.checks:
        out.print(f"{MARKS[check.status]} {check.name:<{width}}  {escape(check.detail)}")
        if check.hint:
            out.print(f"  {'':<{width}}  hint: {check.hint}", markup=False)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return Check(
            "python", "failed", f"{version}, needed is 3.11 or newer", "install Python 3.11, then `make setup`"
        )
    return Check("python", "ok", f"{version} ({sys.executable})")


def _packages() -> Check:
    from packaging.requirements import Requirement

    try:
        bounds = [Requirement(line) for line in metadata.requires("penstock") or ()]
    except metadata.PackageNotFoundError:
        return Check("packages", "failed", "penstock is not installed here", "`make setup`, or `pip install -e .`")
    wrong = []
    needed = [bound for bound in bounds if bound.marker is None or bound.marker.evaluate({"extra": ""})]
    for bound in needed:
        try:
            version = metadata.version(bound.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{bound.name} is missing")
            continue
        if not bound.specifier.contains(version, prereleases=True):
            wrong.append(f"{bound.name} {version} is outside {bound.specifier}")
    if wrong:
        return Check("packages", "failed", "; ".join(wrong), "`make setup` installs what requirements.lock names")
    return Check(
        "packages", "ok", f"{len(needed)} packages within the bounds of penstock {metadata.version('penstock')}"
    )


def _git() -> Check:
    program = shutil.which("git")
    if program is None:
        return Check(
            "git", "warning", "not found", "install git to keep the history of workflow files; a run does not need it"
        )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Check("git", "ok", version.removeprefix("git version "))


def _time_zones() -> Check:
    try:
        summer = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")).utcoffset()
        winter = datetime(2026, 1, 1, 12, tzinfo=ZoneInfo("America/New_York")).utcoffset()
    except ZoneInfoNotFoundError as error:
        return Check("time zones", "failed", f"{error}", "install the package tzdata")
    if (summer, winter) != (timedelta(hours=2), timedelta(hours=-5)):
        return Check("time zones", "failed", "offsets of known zones are wrong", "install a newer tzdata")
    return Check("time zones", "ok", f"tzdata {metadata.version('tzdata')}")


def _analytics() -> Check:
    if names := still_on():
        return Check("analytics", "warning", f"not switched off: {', '.join(names)}", "use the command `penstock`")
    return Check(
        "analytics", "ok", f"no telemetry: dbt, Prefect and Great Expectations are off ({', '.join(SWITCHES)})"
    )


def _project(project_dir: Path | None) -> tuple[Path | None, Check]:
    try:
        folder = find_project(project_dir)
        project = read_dbt_project(folder)
    except ProjectError as error:
        return None, Check("project", "failed", f"{error.code} {error.message}", error.hint)
    return folder, Check("project", "ok", f"{project.name} in {folder}")


def _clock(project: Path) -> Check:
    now = SystemClock().now()
    state = project / ".penstock"
    files = [project / "penstock.yaml", *(path for path in state.rglob("*") if path.is_file())]
    newest = max(files, key=lambda path: path.stat().st_mtime)
    ahead = naive_utc(datetime.fromtimestamp(newest.stat().st_mtime, UTC)) - now
    if ahead > CLOCK_SLACK:
        detail = f"{newest.relative_to(project)} is {ahead} ahead of the clock of this machine"
        return Check("clock", "failed", detail, "set the clock (NTP) before the next `penstock run`")
    return Check("clock", "ok", "not behind the project's files")


def _secrets(project: Path) -> Check:
    missing: dict[str, str] = {}
    files = [project / "penstock.yaml"]
    with suppress(ProjectError):  # a missing profiles.yml is the finding of the warehouse check
        files.append(find_profiles(project, None))
    for path in files:
        for name, line in _references(path):
            if not os.environ.get(name):
                missing.setdefault(name, f"{name} ({path.name}:{line})")
    if missing:
        detail = f"not set: {', '.join(missing.values())}"
        return Check("secrets", "warning", detail, "export them where `penstock run` starts; values are never shown")
    return Check("secrets", "ok", "every variable that the files name is set")


def _references(path: Path) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        for match in ENV_VAR.finditer(line):
            if not match["default"]:
                yield match["name"], number


def _warehouse(project: Path, target: str | None) -> Check:
    try:
        location = read_target(read_dbt_project(project), target).location
    except ProjectError as error:
        return Check("warehouse", "failed", f"{error.code} {error.message}", error.hint)
    return _file(location.path) if isinstance(location, FileLocation) else _server(project, target, location)


def _file(file: Path) -> Check:
    if not file.is_file():
        return Check("warehouse", "warning", f"{file} does not exist yet", "`penstock dbt build` makes it")
    if holders := _holders(file) | _holders(file.with_name(file.name + ".lock")):
        detail = f"{file} is held by {', '.join(sorted(holders))}"
        return Check("warehouse", "warning", detail, "wait, or end that process")
    return Check("warehouse", "ok", f"{file} ({file.stat().st_size / 1e6:,.1f} MB, nobody holds it)")


def _server(project: Path, target: str | None, location: Location) -> Check:
    """Whether the server answers, is new enough and lets the state tables be made."""
    try:
        with location.open("", read_only=True) as warehouse:
            [found] = warehouse.rows(_SERVER)
            schema = load_project(project, target).state_schema
            [place] = warehouse.rows(_STATE, {"schema": schema})
    except PenstockError as error:
        hint = error.hint or "is the server up, and may this user connect to the database and make temporary tables?"
        return Check("warehouse", "failed", f"{location.label}: {error.code} {error.message}", hint)
    detail = f"{location.label}, version {found['version']}"
    if found["number"] < OLDEST_POSTGRES * 10000:
        return Check("warehouse", "failed", detail, f"PostgreSQL {OLDEST_POSTGRES} or newer is needed")
    if not place["writes"]:
        hint = f"GRANT CREATE ON DATABASE … TO {found['user']}, or make schema {schema} and grant USAGE, CREATE on it"
        return Check("warehouse", "failed", f"{detail}: {found['user']} may not make schema {schema}", hint)
    return Check("warehouse", "ok", detail)


_SERVER = """
    SELECT current_setting('server_version') AS version, current_user AS "user",
        CAST(current_setting('server_version_num') AS integer) AS number
"""
_STATE = """
    SELECT coalesce(
        (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $schema),
        has_database_privilege(current_database(), 'CREATE')) AS writes
"""


def _holders(file: Path) -> set[str]:
    """Who locks a file, from the kernel's table: opening the live file to try would drop its owner's lock."""
    table = Path("/proc/locks")
    if not file.exists() or not table.is_file():
        return set()
    inode = f":{file.stat().st_ino}"
    found = set()
    for line in table.read_text().splitlines():
        fields = line.split()
        place = next((number for number, text in enumerate(fields) if text.endswith(inode)), None)
        if place and "->" not in fields:
            found.add(_process(fields[place - 1]))
    return found


def _process(pid: str) -> str:
    try:
        return f"{Path('/proc', pid, 'comm').read_text().strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}"
