"""Engine, dbt, a plain dbt, a writer and a notebook take turns at one file: no lost row, no crash, holders named."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from compiler.errors import WarehouseLocked
from flows.warehouse.duckdb import DuckDBWarehouse
from tests.load.turns import Turns, take_turns


def check(turns: Turns) -> None:
    print(f"\n{turns}")
    assert turns.failures == 0
    assert turns.missing_ticks == [], "ticks that were printed and are not there, or the other way round"
    assert turns.lost == 0, turns.kept
    assert all(turns.builds.values()), "both kinds of dbt had their turn"
    assert turns.written
    assert turns.kept["enrolled"]
    assert turns.notebook["through the project"]
    assert set(turns.notebook) <= {"through the project", "as a stranger", "stranger refused"}
    assert turns.holders, "somebody waited and was told for whom"
    wrong = [(pid, said) for pid, said in turns.holders if not said.startswith(turns.named.get(pid, ()))]
    assert wrong == [], "nobody was named who is not there"
    assert turns.unnamed == 0


def test_everybody_takes_turns_at_the_file(tmp_path: Path) -> None:
    check(take_turns(tmp_path, 20, "1s", build=["--exclude-resource-type", "test"]))


@pytest.mark.soak
def test_everybody_takes_turns_for_three_minutes(tmp_path: Path) -> None:
    check(take_turns(tmp_path, 180, "5s"))


def test_a_foreign_process_that_keeps_the_file_open_is_named_with_its_command(tmp_path: Path) -> None:
    file = tmp_path / "warehouse.duckdb"
    script = tmp_path / "look_around.py"
    script.write_text("import sys, duckdb\nc = duckdb.connect(sys.argv[1])\nprint('open', flush=True)\ninput()\n")
    command = [sys.executable, str(script), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as foreign:
        assert foreign.stdout is not None
        assert foreign.stdout.readline() == "open\n"
        with pytest.raises(WarehouseLocked, match=rf"held by process {foreign.pid} \(") as caught:
            DuckDBWarehouse(file, wait=timedelta(0))
        foreign.communicate("\n")
    if Path("/proc/self/cmdline").exists():
        assert f"(look_around.py {file})" in str(caught.value)
    with DuckDBWarehouse(file, wait=timedelta(0)):
        pass
