"""`penstock replay`: every decision of past ticks worked out again, and what differs, with its cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from compiler.errors import ProjectError
from compiler.workflow import Duration
from flows.engine.replay import ReplayedTick
from flows.project import load_project
from flows.replaying import replay
from studio.console import Console
from studio.options import Options
from studio.state import LOOK

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_SHOWN = 20


def run(options: Options, *, tick: str, contact: str | None, since: str | None) -> int:
    """Work ticks out again.

    Returns:
        The exit code: 1 when something differs, or the log of a tick is not as the tick wrote it.
    """
    project = load_project(options.project_dir, options.target)
    console = Console(options)
    found = replay(
        project, None if tick == "last" else _number(tick, "TICK"), since=_since(since), contact=contact, wait=LOOK
    )
    console.result(_data(found), lambda out: _show(found, out))
    return 0 if all(each.accuracy == 1 and each.intact for each in found) else 1


def _number(text: str, option: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise ProjectError(f"{option} {text}: this is no number of a tick", code="E515", hint="penstock replay last")
    return int(text)


def _since(text: str | None) -> int | timedelta | None:
    if text is None:
        return None
    if re.fullmatch(r"\d+[smhdw]", text):
        length: timedelta = Duration.parse(text).elapsed
        return length
    return _number(text, "--since")


def _totals(found: Sequence[ReplayedTick]) -> tuple[int, int, int]:
    """Decisions in the log, how many came out the same, and all that there should have been."""
    extra = sum(item.only == "replay" for each in found for item in each.differences)
    logged = sum(each.decisions for each in found)
    return logged, sum(each.same for each in found), logged + extra


def _data(found: Sequence[ReplayedTick]) -> dict[str, object]:
    logged, same, every = _totals(found)
    return {
        "decisions": logged, "same": same, "accuracy": same / every if every else 1.0,
        "ticks": [
            {"tick": each.tick, "tick_at": each.tick_at, "decisions": each.decisions, "same": each.same,
             "accuracy": each.accuracy, "intact": each.intact, "left_out": each.left_out,
             "differences": [asdict(item.decision) | {"only": item.only, "cause": item.cause}
                             for item in each.differences]}
            for each in found
        ],
    }  # fmt: skip


def _show(found: Sequence[ReplayedTick], out: RichConsole) -> None:
    shown = 0
    for each in found:
        if not each.intact:
            out.print(f"tick {each.tick}: the log is not as the tick wrote it (checksum)", markup=False)
        if each.left_out:
            out.print(f"tick {each.tick}: left out, they do not compile any more: {', '.join(each.left_out)}",
                      markup=False)  # fmt: skip
        for item in each.differences:
            shown += 1
            if shown > _SHOWN:
                continue
            where = "in the log only" if item.only == "log" else "came out now only"
            who = f"{item.decision.workflow}/{item.decision.contact}"
            out.print(f"tick {each.tick}  {who}  {item.decision.said}  {where}: {item.cause}", markup=False)
    if shown > _SHOWN:
        out.print(f"… and {shown - _SHOWN:,} more; --output json has them all", markup=False)
    logged, same, every = _totals(found)
    first, last = found[0], found[-1]
    ticks = f"tick {last.tick}" if len(found) == 1 else f"ticks {first.tick} to {last.tick}"
    share = same / every * 100 if every else 100.0
    out.print(f"{ticks}, {last.tick_at:%Y-%m-%d %H:%M:%S} · {logged:,} decisions worked out again · "
              f"{every - same:,} differ · accuracy {share:.2f} %", markup=False)  # fmt: skip
