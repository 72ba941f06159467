"""The dispatcher: claim, check again, render, send, receipt, until nothing more can be claimed.

The warehouse is open only for the short transactions between sends, never while talking to the outside. Between them
the attempt log alone knows what is going on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from compiler.content import RenderError
from compiler.errors import DeliveryError, PenstockError
from destinations.base import Action, Destination, Verdict
from destinations.errors import DestinationError
from flows.engine.accounts import Accounts
from flows.engine.attempts import Attempt, AttemptLog
from flows.engine.claims import SEND_WITHIN, Claimed, Limits, Unchecked, abandoned, claim, claimed_now, noted, waiting
from flows.engine.clock import Clock
from flows.engine.crash import crash_point
from flows.engine.intents import Intent, Outcome, Recheck, Render, returned, ruled, unrenderable
from flows.engine.receipts import Position, position, sent_since, settle
from flows.journal.migrations import read_meta
from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

OpenWarehouse = Callable[[], AbstractContextManager[Warehouse]]
Done = tuple[Intent, Outcome]
MEMORY_WORKER = "memory"
"""The worker's name without an attempt log: in a simulation, where nobody else exists and nothing can be lost."""


@dataclass
class DeliveryReport:
    """What a pass did.

    Attributes:
        counts: outcome state -> rows (`sent`, `retry`, `skipped` …; `pending` went back unsent).
        ambiguous: attempts whose outcome was never learned.
        refused: receipts that came too late, because the claim was no longer this worker's.
        paused: destination -> why nothing more was sent to it in this pass.
        messages_blocked: why no message could be checked and none was sent, or empty.
        waiting: destination -> intents that could be claimed and were left.
    """

    counts: Counter[str] = field(default_factory=Counter)
    ambiguous: int = 0
    refused: int = 0
    paused: dict[str, str] = field(default_factory=dict)
    messages_blocked: str = ""
    waiting: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    """What a pass delivers with.

    Attributes:
        open_warehouse: a connection for a short transaction; closed at once after it.
        schema: of the state tables.
        destinations: by name, not yet entered.
        render: makes payloads.
        recheck: goals and consent at the claim; None checks only suppressions, addresses and expiry.
        clock: the time.
        log: the attempt log; None in memory only.
        batch: rows per claim.
        max_sends_per_day: of the target; None for no limit.
        stopping: asked before each claim and each call; True ends the pass after what is in flight.
        before_claim: brings in opt-outs that wait outside the warehouse; when it fails, no message is claimed.
    """

    open_warehouse: OpenWarehouse
    schema: str
    destinations: Mapping[str, Destination]
    render: Render
    clock: Clock
    recheck: Recheck | None = None
    log: AttemptLog | None = None
    batch: int = 500
    max_sends_per_day: int | None = None
    stopping: Callable[[], bool] = lambda: False
    before_claim: Callable[[Warehouse], None] = lambda warehouse: None


async def deliver(delivery: Delivery) -> DeliveryReport:
    """One pass: deliver every intent that may be delivered now.

    Raises:
        DeliveryError: E701, the attempt log cannot be written; what was sent before is recorded. E703, no state.
        WarehouseError: the warehouse cannot be opened or written; outcomes wait in the attempt log.
    """
    async with AsyncExitStack() as stack:
        work = _Pass(delivery, stack)
        await work.run()
        return work.report


class _Pass:
    """The state of one pass."""

    def __init__(self, delivery: Delivery, stack: AsyncExitStack) -> None:
        self.delivery, self.stack = delivery, stack
        self.report = DeliveryReport()
        self.state = StateTables(delivery.schema)
        self.worker = delivery.log.worker if delivery.log is not None else MEMORY_WORKER
        self.ready: dict[str, Destination] = {}
        self.failure: DeliveryError | None = None
        self.key: str | None = None
        self.starting: list[tuple[list[tuple[str, int]], asyncio.Future[bool]]] = []
        self.claimed_at = delivery.clock.now()
        able = {name: destination.capabilities for name, destination in delivery.destinations.items()}
        self.accounts = Accounts(able)
        self.lifetimes = {name: one.key_lifetime for name, one in able.items() if one.key_lifetime is not None}

    async def run(self) -> None:
        done: list[Done] = []
        while True:
            claimed, unknown = self._session(done)
            done = []
            if self.failure is not None:
                raise self.failure
            if unknown:
                await self._enter(unknown)
            elif claimed.intents:
                crash_point("after_claim")
                done = await self._perform(claimed.intents)
                crash_point("before_receipts")
            elif not claimed.withdrawn:
                return

    # ------------------------------------------------------------ with the warehouse

    def _session(self, done: Sequence[Done]) -> tuple[Claimed, list[str]]:
        """Write what was done and claim more; instead of a claim, names of destinations that must be entered first."""
        nothing = Claimed((), ())
        with self.delivery.open_warehouse() as warehouse:
            key = self._recovered(warehouse)
            where = position(warehouse, self.state, self.delivery.clock.now())
            if done:
                with warehouse.transaction():
                    valid = settle(warehouse, self.state, done, self.worker, key, where)
                    self.accounts.save(warehouse, self.state, where)
                    crash_point("in_receipts")
                self._count(done, valid)
                crash_point("after_receipts")
                self._clear_log()
            if self.failure is not None or self.delivery.stopping():
                return nothing, []
            self.report.waiting = waiting(warehouse, self.state, where.now)
            if self.report.waiting:
                self.accounts.load(warehouse, self.state)
                resting = self.accounts.resting(where.now)
                self.report.paused |= {name: why for name, why in resting.items() if name in self.report.waiting}
            open_names = [name for name in self.report.waiting if name not in self.report.paused]
            if unknown := [name for name in open_names if name not in self.ready]:
                return nothing, unknown
            batch = self._allowed(warehouse, where.now)
            if not open_names or batch <= 0:
                return nothing, []
            allowed = self.accounts.allowed(open_names, where.now)
            limits = Limits(open_names, batch, allowed=allowed, lifetimes=self.lifetimes)
            return self._claim(warehouse, key, where, limits), []

    def _recovered(self, warehouse: Warehouse) -> str:
        """The key of address hashes; the first time, settles what dead workers left before anything else is claimed."""
        if self.key is not None:
            return self.key
        meta = read_meta(warehouse, self.delivery.schema)
        if meta is None:
            raise DeliveryError(
                f"there is no state in schema {self.delivery.schema}", code="E703", hint="`penstock apply` makes it"
            )
        log = self.delivery.log
        if claimed_now(warehouse, self.state):
            where = position(warehouse, self.state, self.delivery.clock.now())
            known = log.attempts() if log is not None else {}
            abilities = {name: d.capabilities for name, d in self.delivery.destinations.items()}
            with warehouse.transaction():
                left = abandoned(warehouse, self.state, self.worker, where.now, known, abilities)
                valid = settle(warehouse, self.state, left, None, meta.state_id, where)
                crash_point("in_recovery")
            self._count(left, valid)
            crash_point("after_recovery")
        self._clear_log()
        self.key = meta.state_id
        return self.key

    def _claim(self, warehouse: Warehouse, key: str, where: Position, limits: Limits) -> Claimed:
        """One claim; when messages cannot be checked, one without messages, now and for the rest of the pass."""
        if not self.report.messages_blocked:
            self._bring_opt_outs(warehouse)
        if not self.report.messages_blocked:
            try:
                return self._claim_once(warehouse, key, where, limits, self.delivery.recheck)
            except Unchecked as error:
                self.report.messages_blocked = str(error)
        return self._claim_once(warehouse, key, where, replace(limits, no_messages=True), None)

    def _bring_opt_outs(self, warehouse: Warehouse) -> None:
        try:
            self.delivery.before_claim(warehouse)
        except Exception as error:  # fail closed, whatever it was
            said = str(error) if isinstance(error, PenstockError) else type(error).__name__
            self.report.messages_blocked = f"opt-outs that came in cannot be read: {said}"

    def _claim_once(
        self, warehouse: Warehouse, key: str, where: Position, limits: Limits, recheck: Recheck | None
    ) -> Claimed:
        self.claimed_at = self.delivery.clock.now()
        with warehouse.transaction():
            claimed = claim(warehouse, self.state, self.worker, where.now, limits, key, recheck)
            if limits.allowed:
                taken = Counter(intent.destination for intent in claimed.intents)
                self.accounts.take(warehouse, self.state, taken, where.now)
            valid = settle(warehouse, self.state, claimed.withdrawn, self.worker, key, where)
        self._count(claimed.withdrawn, valid)
        return claimed

    def _allowed(self, warehouse: Warehouse, now: datetime) -> int:
        """How many rows may be claimed: the batch, or what is left of the target's limit per day."""
        most = self.delivery.max_sends_per_day
        if most is None:
            return self.delivery.batch
        left = most - sent_since(warehouse, self.state, now - timedelta(days=1))
        # What others have claimed may be sent any moment.
        left -= claimed_now(warehouse, self.state)
        if left <= 0:
            self.report.paused.update(dict.fromkeys(self.report.waiting, f"max_sends_per_day: {most} reached"))
        return min(self.delivery.batch, left)

    def _count(self, done: Sequence[Done], valid: set[str]) -> None:
        for intent, outcome in done:
            if intent.action_id in valid:
                self.report.counts[outcome.state] += 1
                self.report.ambiguous += outcome.ambiguous
            else:
                self.report.refused += 1

    def _clear_log(self) -> None:
        if self.delivery.log is not None:
            self.delivery.log.clear()

    # ------------------------------------------------------------ without it

    async def _enter(self, names: Sequence[str]) -> None:
        for name in names:
            destination = self.delivery.destinations.get(name)
            if destination is None:
                self.report.paused[name] = "not configured in penstock.yaml" if name else "the step has no destination"
                continue
            try:
                self.ready[name] = await self.stack.enter_async_context(destination)
            except DestinationError as error:
                self.report.paused[name] = str(error)

    async def _perform(self, intents: Sequence[Intent]) -> list[Done]:
        groups: dict[str, list[Intent]] = {}
        for intent in intents:
            groups.setdefault(intent.destination, []).append(intent)
        performed = await asyncio.gather(*(self._to(name, group) for name, group in groups.items()))
        # Journaled in the order of the claim, whichever answer came first.
        order = {intent.action_id: place for place, intent in enumerate(intents)}
        return sorted((done for group in performed for done in group), key=lambda done: order[done[0].action_id])

    async def _to(self, name: str, intents: Sequence[Intent]) -> list[Done]:
        """Everything of one claim for one destination."""
        done: list[Done] = []
        rendered: list[tuple[Intent, Action]] = []
        for intent in intents:
            try:
                payload = self.delivery.render(intent)
            except RenderError as error:
                done.append((intent, unrenderable(intent, error.reason)))
            except Exception as error:  # one poisoned row must not hold up the others
                done.append((intent, unrenderable(intent, type(error).__name__)))
            else:
                rendered.append((intent, _action(intent, payload)))
        destination = self.ready[name]
        size, gate = destination.capabilities.max_batch, asyncio.Semaphore(destination.capabilities.concurrency)

        async def call(chunk: Sequence[tuple[Intent, Action]]) -> list[Done]:
            async with gate:
                return await self._send(destination, chunk)

        chunks = [rendered[start : start + size] for start in range(0, len(rendered), size)]
        for answered in await asyncio.gather(*map(call, chunks)):
            done.extend(answered)
        return done

    async def _send(self, destination: Destination, chunk: Sequence[tuple[Intent, Action]]) -> list[Done]:
        """One call: noted before, noted after."""
        intents = [intent for intent, _ in chunk]
        started = self.delivery.clock.now()
        held_back = destination.name in self.report.paused or self.delivery.stopping()
        held_back = held_back or started - self.claimed_at > SEND_WITHIN
        if held_back or not await self._noted_start(intents, started):
            return [(intent, returned(intent)) for intent in intents]
        crash_point("before_send")
        verdicts = await _verdicts(destination, [action for _, action in chunk])
        crash_point("after_send")
        self._note_outcomes(intents, verdicts)
        now = self.delivery.clock.now()
        rests = self.accounts.observe(destination.name, verdicts, now)
        rests = rests or next((f"{v.stop} ({v.code})" for v in verdicts if v.stop is not None), None)
        if rests is not None:
            self.report.paused.setdefault(destination.name, rests)
        return [
            (intent, replace(ruled(intent, verdict, destination.capabilities, now), started_at=started))
            for intent, verdict in zip(intents, verdicts, strict=True)
        ]

    async def _noted_start(self, intents: Sequence[Intent], now: datetime) -> bool:
        """Whether the sends are in the attempt log; without that nothing is sent, in the rest of the pass either.

        What is about to be sent at the same moment shares one write and one wait for the disk.
        """
        if self.failure is not None:
            return False
        if self.delivery.log is None:
            return True
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.starting.append(([(intent.action_id, intent.attempt) for intent in intents], answer))
        if len(self.starting) == 1:
            asyncio.get_running_loop().call_soon(self._note_starts, self.delivery.log, now)
        return await answer

    def _note_starts(self, log: AttemptLog, now: datetime) -> None:
        """Write the starts that came together; what the log raises ends the pass."""
        together, self.starting = self.starting, []
        written = False
        try:
            log.starting([start for starts, _ in together for start in starts], now)
            written = True
        except DeliveryError as error:
            self.failure = error
        finally:
            for _, answer in together:
                if not answer.done():
                    answer.set_result(written)

    def _note_outcomes(self, intents: Sequence[Intent], verdicts: Sequence[Verdict]) -> None:
        if self.delivery.log is None:
            return
        try:
            self.delivery.log.finished(
                Attempt(intent.action_id, intent.attempt, noted(verdict), verdict.code)
                for intent, verdict in zip(intents, verdicts, strict=True)
            )
        except DeliveryError as error:
            self.failure = error


def _action(intent: Intent, payload: Mapping[str, Any]) -> Action:
    return Action(intent.action_id, intent.kind, intent.what, intent.contact_id, intent.attempt, payload)


async def _verdicts(destination: Destination, actions: Sequence[Action]) -> Sequence[Verdict]:
    """The destination's answers; a destination that breaks its contract leaves the outcome unknown."""
    try:
        verdicts = await destination.send(actions)
    except Exception as error:
        return [Verdict(action.action_id, "unknown", type(error).__name__) for action in actions]
    if [verdict.action_id for verdict in verdicts] != [action.action_id for action in actions]:
        return [Verdict(action.action_id, "unknown", "wrong_verdicts") for action in actions]
    return verdicts
