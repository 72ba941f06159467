"""A PostgreSQL cluster of the tests' own: in a temporary folder, on a free loopback port, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

_INSTALLED = Path("/usr/lib/postgresql")
USER = "penstock"


@dataclass(frozen=True)
class Server:
    """A running server; every database that a test asks for is a new one."""

    port: int
    control: tuple[str, ...] = ()

    def crash(self) -> None:
        """End every process of the server at once and start it again: what was not committed is gone."""
        _run([*self.control, "-m", "immediate", "-w", "restart"])

    def parameters(self, database: str = "postgres") -> dict[str, str | int]:
        """What libpq needs to connect."""
        return {"host": "127.0.0.1", "port": self.port, "user": USER, "dbname": database}

    def database(self) -> dict[str, str | int]:
        """The parameters of a new, empty database."""
        name = f"test_{uuid4().hex}"
        given: dict[str, Any] = {**self.parameters()}
        with psycopg.connect(autocommit=True, **given) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.parameters(name)


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, the newest version's; None when PostgreSQL is not installed."""
    found = sorted(_INSTALLED.glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]))
    if found:
        return found[-1]
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def why_not() -> str | None:
    """Why no server can be started here; None when one can."""
    if binaries() is None:
        return "PostgreSQL is not installed; as root: apt-get install postgresql"
    if os.getuid() == 0 and _unprivileged() is None:
        return "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'"
    return None


def _unprivileged() -> str | None:
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    return None


@contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """Start a cluster and stop it; its folder is removed. A `durable` one loses no commit when it crashes."""
    programs = binaries()
    if programs is None:
        raise RuntimeError(why_not())
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
    port = _free_port()
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c full_page_writes=off"
        f" -c synchronous_commit={'on' if durable else 'off'} -c max_connections=100 -c shared_buffers=32MB -c jit=off"
    )
    data, log = str(folder / "data"), str(folder / "log")
    user = _unprivileged() if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    try:
        made = ["-U", USER, "-A", "trust", "-E", "UTF8", "--lc-collate=C", "--lc-ctype=C.UTF-8", "--no-sync"]
        _run([str(programs / "initdb"), "-D", data, *made])
        control = (str(programs / "pg_ctl"), "-D", data, "-l", log, "-o", options)
        _run([*control, "-w", "start"])
        try:
            yield Server(port, control)
        finally:
            _run([str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str]) -> None:
    user = _unprivileged() if os.getuid() == 0 else None
    done = subprocess.run(
        command, user=user, group=pwd.getpwnam(user).pw_gid if user else None, extra_groups=[] if user else None,
        cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
