"""Destination × fault → outcome, found out by running it; `python -m tests.destinations.conformance` writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from destinations import Action, Capabilities, Verdict, create
from tests.destinations.conftest import SECRETS, clock
from tests.destinations.judge import DEFECTS
from tests.destinations.vendor_server import Effects, Fault, Recorded, Reply, VendorServer
from tests.destinations.vendors import VENDORS, Vendor, settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "destinations.md"

MakeFaults = Callable[[Vendor], Sequence[Fault | None]]


@dataclass(frozen=True)
class Row:
    """One line of the table: what goes wrong, at the first request."""

    name: str
    faults: MakeFaults
    poisoned: bool = False
    copies: int = 1
    endless: bool = False


def _status(status: int, **headers: str) -> MakeFaults:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda vendor: [Reply(status, vendor.error(status), named)]


def _spoiled(fault: Fault) -> MakeFaults:
    return lambda vendor: [fault]


ROWS: Sequence[Row] = (
    Row("all taken", lambda vendor: []),
    Row("one bad row of three", lambda vendor: [], poisoned=True),
    Row("the same call twice", lambda vendor: [], copies=2),
    Row("400", _status(400)),
    Row("401", lambda vendor: [Reply(401, vendor.error(401))] * 2),
    Row("403", _status(403)),
    Row("404", _status(404)),
    Row("409", _status(409)),
    Row("413", _status(413)),
    Row("429 with Retry-After: 7", _status(429, retry_after="7")),
    Row("429 without Retry-After", _status(429)),
    Row("500", _status(500)),
    Row("502", _status(502)),
    Row("503 with Retry-After: 7", _status(503, retry_after="7")),
    Row("redirect", _spoiled("redirect")),
    Row("no answer, nothing done", _spoiled("hang"), endless=True),
    Row("no answer, but done", _spoiled("hang after"), endless=True),
    Row("connection reset, nothing done", _spoiled("reset")),
    Row("connection reset inside the answer", _spoiled("reset mid-body")),
    Row("answer is garbage", _spoiled("garbage")),
    Row("answer has no body", _spoiled("empty body")),
    Row("answer is cut off", _spoiled("cut off")),
    Row("answer drips, a byte at a time", _spoiled("drip"), endless=True),
    Row("answer never ends", _spoiled("huge"), endless=True),
    Row("nobody listens", lambda vendor: []),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a fault, and of trying again as the dispatcher would."""

    first: tuple[Verdict, ...]
    last: tuple[Verdict, ...]
    effects: Mapping[str, int]
    requests: tuple[Recorded, ...]
    on_unknown: str
    alone: bool

    @property
    def words(self) -> str:
        """The cell of the table."""
        # Where every action is a request of its own, the fault is that of the first.
        seen = self.first[:1] if self.alone and self.first[1].status != "failed" else self.first
        counted = Counter(_word(verdict, self.on_unknown) for verdict in seen)
        if len(counted) == 1:
            return next(iter(counted))
        return ", ".join(f"{number} {word}" for word, number in counted.items())


def _word(verdict: Verdict, on_unknown: str) -> str:
    pause = f" in {verdict.retry_after.total_seconds():.0f} s" if verdict.retry_after is not None else ""
    match verdict.status, verdict.stop:
        case status, str() as stop:
            return f"rests ({stop})" if status != "failed" else f"failed, rests ({stop})"
        case "retry", _:
            return f"again{pause}"
        case "unknown", _:
            return "unknown, again" if on_unknown == "retry" else "unknown, held"
        case _:
            return verdict.status


@lru_cache(maxsize=1000)
def outcome(name: str, row: Row) -> Outcome:
    """Run one cell: three actions under the fault, then, without it, those that would be tried again."""
    vendor = VENDORS[name]
    effects = Effects()
    with VendorServer(vendor.fake(effects), row.faults(vendor)) as server:
        url = server.url if row.name != "nobody listens" else "http://127.0.0.1:9"
        first, able = _sent(vendor, url, vendor.actions(3, row.poisoned), row.copies, row.endless)
        again = [
            action for action, verdict in zip(vendor.actions(3, row.poisoned), first, strict=True)
            if verdict.status == "retry" or (verdict.status == "unknown" and able.on_unknown == "retry")
        ]  # fmt: skip
        server.script.clear()
        last, _ = _sent(vendor, server.url, again)
        recorded = tuple(server.requests)
        return Outcome(first, last, dict(effects.count), recorded, able.on_unknown, able.max_batch == 1)


def _sent(
    vendor: Vendor, url: str, actions: Sequence[Action], copies: int = 1, endless: bool = False
) -> tuple[tuple[Verdict, ...], Capabilities]:
    # What has no end is waited for a little; everything else has time, however busy the machine is.
    timeout = "400ms" if endless else "20s"

    async def work() -> tuple[tuple[Verdict, ...], Capabilities]:
        made = create("out", {**settings(vendor, url, timeout), "concurrency": 1}, SECRETS.__getitem__, clock)
        async with made as destination:
            for _ in range(copies - 1):
                await destination.send(actions)
            size = destination.capabilities.max_batch
            chunks = [actions[start : start + size] for start in range(0, len(actions), size)]
            verdicts = [verdict for chunk in chunks for verdict in await destination.send(chunk)]
            return tuple(verdicts), destination.capabilities

    return asyncio.run(work())


def table() -> str:
    """The page."""
    names = list(VENDORS)
    kinds = [
        create("out", settings(VENDORS[name], "http://127.0.0.1:9"), SECRETS.__getitem__, clock).capabilities
        for name in names
    ]
    lines = [
        "# What a destination makes of a fault",
        "",
        "Every cell was found out by a test that runs the destination against a server on the loopback. Three actions",
        "are sent; the fault hits the first request. `again`: not performed, tried again · `unknown`: may have been",
        "performed · `rests`: nothing more is sent to the destination, and all rows keep. Where a cell says `sent`",
        "for 400, 409 or 413, the batch was halved until the rows went through.",
        "",
        "| fault | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|" + "---|" * len(names),
        "| what makes a repetition safe | " + " | ".join(kind.idempotency for kind in kinds) + " |",
    ]
    for row in ROWS:
        lines.append(f"| {row.name} | " + " | ".join(outcome(name, row).words for name in names) + " |")
    lines += [
        "",
        "## Judged by the vendors' own descriptions",
        "",
        "Every request of these tests is valid by the API description of its vendor (the vendor's own, or one written",
        "from its documentation), and the same judge refuses spoiled ones. There is none for FCM.",
        "",
        "| destination | description | known defects, mended before it judges |",
        "|---|---|---|",
    ]
    for name, vendor in VENDORS.items():
        if vendor.spec is not None:
            folder, file = vendor.spec
            defects = "; ".join(defect.what for defect in DEFECTS.get(folder, ()))
            lines.append(f"| `{name}` | {file} | {defects or '–'} |")
    return "\n".join(lines) + "\n"


def secrets_in(text: str) -> list[str]:
    """The secrets of the tests that a text holds."""
    return [value for value in SECRETS.values() if value in text]


def main() -> None:
    """Write the page."""
    PAGE.write_text(table())


if __name__ == "__main__":
    main()
