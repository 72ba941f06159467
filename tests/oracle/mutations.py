"""Mistakes that somebody could make in the compiler or the engine, each planted while it runs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlglot import exp

import compiler.advance as advance
import compiler.calendar as calendar
import compiler.condition as condition
import compiler.frames as frames
import compiler.lookup as lookup
import compiler.messages as messages
import compiler.planner as planner
import flows.engine.admission as admission
import flows.engine.arrivals as arrivals
import flows.engine.audiences as audiences
import flows.engine.claims as claims
import flows.engine.decisions as decisions
import flows.engine.evaluator as evaluator
import flows.engine.intents as intents
import flows.engine.migrating as migrating
import flows.engine.occurrences as occurrences
import flows.engine.recheck as recheck
import flows.engine.turns as turns
from compiler.advance import Layers
from compiler.workflow import ActionStep, GotoStep, SplitStep, WaitForStep, WaitStep
from flows.engine.deployment import Deployment
from tests.oracle.planting import (
    Columns,
    both,
    columns_turned,
    everywhere,
    gives,
    in_module,
    layer,
    method_gives,
    says,
    turned,
    without,
)

Plant = Callable[[pytest.MonkeyPatch], None]


def _not_more_than(earlier: exp.Expr, later: exp.Expr, amount: float) -> exp.Expr:
    return exp.GTE(this=later.copy(), expression=exp.Add(this=earlier.copy(), expression=lookup.seconds(amount)))


def _plain_days(patch: pytest.MonkeyPatch) -> None:
    def after(moment: exp.Expr, duration: Any, _: exp.Expr | None) -> exp.Expr:
        return exp.Add(this=moment.copy(), expression=lookup.seconds(duration.elapsed.total_seconds()))

    everywhere(patch, calendar.after, after)


def _still_zones(patch: pytest.MonkeyPatch) -> None:
    original = evaluator._Tick._zones

    def zones(self: Any) -> str | None:
        digest = original(self)
        self.rezoned = frozenset()
        return digest

    patch.setattr(evaluator._Tick, "_zones", zones)


def _warehouse_says(old: str, new: str) -> Plant:
    import flows.warehouse.duckdb as duckdb

    return says(duckdb, old, new)


def _since_another(since: str) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        original = Layers._awaited

        def changed(self: Layers, node: Any, step: WaitForStep) -> None:
            original(self, node, step.model_copy(update={"since": since}) if step.since else step)

        patch.setattr(Layers, "_awaited", changed)

    return plant


def _unknown_is_false(patch: pytest.MonkeyPatch) -> None:
    def change(found: Any) -> Any:
        def known(node: exp.Expr) -> exp.Expr:
            if isinstance(node, exp.Not) and not isinstance(node.this, exp.Coalesce):
                return exp.Not(this=exp.Coalesce(this=exp.paren(node.this), expressions=[exp.false()]))
            return node

        return replace(found, tree=found.tree.transform(known))

    gives(condition.compile_condition, change)(patch)


def _weights_alone(columns: Columns, step: Any) -> Columns:
    """The second arm's weight is not added to the first's."""
    alone = list(step.split.values())[1]
    total = list(step.split.values())[0] + alone

    def change(node: exp.Expr) -> exp.Expr:
        return exp.Literal.number(f"{alone:.6f}") if node == exp.Literal.number(f"{total:.6f}") else node

    return {name: tree.copy().transform(change) for name, tree in columns.items()}


def _salted(change: Callable[[str], str]) -> Callable[[str, exp.Expr], exp.Expr]:
    from compiler.identity import bucket_tree

    return lambda salt, contact: bucket_tree(change(salt), contact)


def _first_reason_last(found: exp.Select | None) -> exp.Select | None:
    for case in found.find_all(exp.Case) if found is not None else ():
        if isinstance(case.parent, exp.Alias) and case.parent.alias == "reason":
            case.set("ifs", list(reversed(case.args["ifs"])))
    return found


def _gap_of_zero(patch: pytest.MonkeyPatch) -> None:
    original = arrivals.collect

    def collect(work: Any, before: Any, pending: Any) -> Any:
        events = replace(work.deployment.catalog.events, overlap_seconds=0)
        work.deployment = replace(work.deployment, catalog=replace(work.deployment.catalog, events=events))
        return original(work, before, pending)

    everywhere(patch, original, collect)


def _late_is_lost(rows: exp.Select) -> exp.Select:
    """What is loaded an hour after its time is left out."""
    soon = exp.Add(this=exp.column("event_time", table="w"), expression=lookup.seconds(3600))
    inside = exp.LT(this=exp.column("loaded_at", table="w"), expression=soon)
    return exp.select("w.*").from_(rows.subquery("w")).where(inside)


def _before_its_time(rows: exp.Expr) -> exp.Expr:
    """The event's own time is not compared with the tick."""

    def change(node: exp.Expr) -> exp.Expr:
        timed = isinstance(node, exp.LTE) and isinstance(node.this, exp.Column) and node.this.name == "event_time"
        return exp.true() if timed else node

    return rows.transform(change)


def _no_second_exits(patch: pytest.MonkeyPatch) -> None:
    original = evaluator._Tick._exits

    def exits(self: Any, plan: Any, which: str) -> None:
        if which != evaluator._ENTERED:
            original(self, plan, which)

    patch.setattr(evaluator._Tick, "_exits", exits)


def _trigger_counts(patch: pytest.MonkeyPatch) -> None:
    original = frames.build
    everywhere(patch, original, lambda *words, **options: original(*words, **{**options, "trigger": False}))


def _in_utc(patch: pytest.MonkeyPatch) -> None:
    original = messages.quiet
    everywhere(patch, original, lambda step, policy, _: original(step, policy, None))


def _swapped(found: list[Any]) -> list[Any]:
    return [found[1], found[0], *found[2:]] if len(found) > 1 else found


def _everybody_may(found: list[tuple[exp.Expr, str]]) -> list[tuple[exp.Expr, str]]:
    """An unknown consent is taken for one."""

    def change(node: exp.Expr) -> exp.Expr:
        return exp.Coalesce(this=node.this, expressions=[exp.true()]) if isinstance(node, exp.Coalesce) else node

    return [
        (exp.Not(this=change(test.this.copy())), word) if word == "no_consent" else (test, word) for test, word in found
    ]


def _first_visit_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Layers, "_visit", lambda self, node, here: {})


def _loaded_last(found: exp.Select) -> exp.Select:
    for ordered in found.find_all(exp.Ordered):
        if ordered.this.name == "loaded_at":
            ordered.set("desc", True)
    return found


def _activation_excluded(patch: pytest.MonkeyPatch) -> None:
    says(admission, "candidate_at < $earliest", "candidate_at <= $earliest")(patch)


def _two_pauses(patch: pytest.MonkeyPatch) -> None:
    original = intents._repeated

    def repeated(base: Any, intent: Any, verdict: Any, capabilities: Any, now: datetime) -> Any:
        pauses = (timedelta(minutes=5), timedelta(minutes=5))
        return original(base, intent, verdict, replace(capabilities, retry_after=pauses), now)

    patch.setattr(intents, "_repeated", repeated)


def _one_attempt_more(patch: pytest.MonkeyPatch) -> None:
    original = intents._repeated

    def repeated(base: Any, intent: Any, verdict: Any, capabilities: Any, now: datetime) -> Any:
        pauses = (*capabilities.retry_after, timedelta(minutes=20))
        return original(base, intent, verdict, replace(capabilities, retry_after=pauses), now)

    patch.setattr(intents, "_repeated", repeated)


def _timing(**changed: Any) -> Plant:
    return method_gives(planner._Planner, "_timing", lambda timing: replace(timing, **changed))


def _earliest_forgets(patch: pytest.MonkeyPatch) -> None:
    original = Deployment.earliest_event
    patch.setattr(
        Deployment, "earliest_event",
        lambda self, tick_at, entries: max(original(self, tick_at, entries), tick_at - timedelta(days=1)),
    )  # fmt: skip


def _entry_gte(node: exp.Expr) -> bool:
    return isinstance(node.expression, exp.Column) and node.expression.name == "entry_at"


def _within_gte(node: exp.Expr) -> bool:
    return isinstance(node.expression, exp.Sub)


def _hit(only: Callable[[exp.Expr], bool]) -> Plant:
    def change(tree: exp.Expr) -> exp.Expr:
        if any(only(node) for node in tree.find_all(exp.GTE)):
            changed: exp.Expr = turned(exp.GTE, exp.GT, only)(tree)
            return changed
        return tree

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = lookup.Lookup.hit
        patch.setattr(lookup.Lookup, "hit", lambda self: change(original(self)))

    return plant


def _count_lost(patch: pytest.MonkeyPatch) -> None:
    original = lookup.Lookup.read
    patch.setattr(
        lookup.Lookup, "read", lambda self: lookup.frame(self.column) if self.kind == "count" else original(self)
    )


def _later_of(_: exp.Expr, other: exp.Expr) -> exp.Expr:
    return other.copy()


def _tick_excluded(patch: pytest.MonkeyPatch) -> None:
    original = occurrences.occurrences

    def earlier(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
        return [moment for moment in original(cron, zone, after, until) if moment < until]

    patch.setattr(occurrences, "occurrences", earlier)


def _no_redirect(patch: pytest.MonkeyPatch) -> None:
    original = migrating._migrate
    patch.setattr(migrating, "_migrate", lambda work, before, plan, _: original(work, before, plan, {}))


MUTATIONS: Mapping[str, Plant] = {
    # time
    "a wait ends strictly after its time": layer(WaitStep, columns_turned(exp.LTE, exp.LT)),
    "a wait leaves L": layer(WaitStep, without("l")),
    "days of a wait are 24 hours": _plain_days,
    "a wall time in a gap moves back": _warehouse_says(
        "ELSE wall AT TIME ZONE zone AT TIME ZONE 'UTC'",
        "ELSE (wall - INTERVAL 1 HOUR) AT TIME ZONE zone AT TIME ZONE 'UTC'",
    ),
    "a wall time that comes twice is the second one": _warehouse_says("wall - INTERVAL 1 DAY", "wall + INTERVAL 1 DAY"),
    "a changed time zone wakes nobody": _still_zones,
    "the local time may be L itself": gives(calendar.next_time, turned(exp.GT, exp.GTE)),
    "a window is open at its end": gives(calendar.opening, turned(exp.GT, exp.GTE)),
    "grace is reached when it is over": in_module(advance, "elapsed_more_than", _not_more_than),
    "an action never moves L": layer(ActionStep, without("l")),
    "an action is expired when it is as old": in_module(messages, "elapsed_more_than", _not_more_than),
    "an enrollment as old as allowed is expired": method_gives(
        planner._Planner,
        "_exits",
        lambda tree: (
            tree.transform(
                lambda node: (
                    exp.LTE(this=node.this, expression=node.expression)
                    if isinstance(node, exp.LT) and "entry_at" in node.this.sql()
                    else node
                )
            )
            if tree is not None
            else None
        ),
    ),
    # waiting for events
    "the deadline itself is no timeout": layer(WaitForStep, columns_turned(exp.LTE, exp.LT)),
    "an event at the deadline does not match": gives(
        lookup._between, lambda tree: turned(exp.LTE, exp.LT)(tree) if tree.find(exp.LTE) else tree
    ),
    "an event at the lower bound does not match": gives(lookup._between, turned(exp.GTE, exp.GT)),
    "a match sets L back": in_module(advance, "_later", _later_of),
    "since is always the entry": _since_another("entry"),
    "since is always the step": _since_another("step"),
    "lateness is not waited for": _timing(lateness=0.0),
    # events
    "a row that appears late is missed": _gap_of_zero,
    "an event that is loaded late wakes nobody": gives(arrivals._window, _late_is_lost),
    "conditions see events dated ahead": method_gives(Deployment, "event_rows", _before_its_time),
    "an event dated ahead enters at once": gives(arrivals._arrivals, _before_its_time),
    "an event that is loaded twice counts twice": in_module(
        evaluator, "_repeated", lambda: exp.select("e.*").from_("tick_events AS e").where(exp.false())
    ),
    "of two copies the last one counts": gives(frames.first_of_each, _loaded_last),
    "events of before yesterday are forgotten": _earliest_forgets,
    "the trigger itself matches": _trigger_counts,
    "an event at the entry is not since the entry": _hit(_entry_gte),
    "an event at the edge is not within": _hit(_within_gte),
    # conditions
    "not unknown is true": _unknown_is_false,
    "no event at all is an unknown count": _count_lost,
    # entry
    "an event at the activation is too early": _activation_excluded,
    "a trigger as old as allowed is stale": says(
        admission, "AND $tick_at > c.candidate_at +", "AND $tick_at >= c.candidate_at +"
    ),
    "exactly min_gap is too early": says(
        admission, "AND c.candidate_at < p.last_entry", "AND c.candidate_at <= p.last_entry"
    ),
    "after_exit lets one more in": says(admission, "p.active > 0", "p.active > 1"),
    "once is forgotten after the exit": says(admission, "'once' AND p.entered > 0", "'once' AND p.active > 0"),
    "the entry cap allows one more": says(admission, "r.entered >= $cap THEN", "r.entered > $cap THEN"),
    "an entry at the edge of the cap's window counts": says(
        admission, "n.entry_at > t.candidate_at - CAST($per", "n.entry_at >= t.candidate_at - CAST($per"
    ),
    "candidates come by id, not by time": says(
        admission, "ORDER BY since, NOT asked, entry_ref", "ORDER BY entry_ref, since, NOT asked"
    ),
    "who left an audience is not noticed": both(
        says(audiences, "SET member = FALSE, since = $tick_at", "SET since = $tick_at"),
        says(audiences, "audience_members.member <> c.inside", "c.inside AND NOT audience_members.member"),
    ),
    # exits
    "exit_when comes before the goal": method_gives(planner._Planner, "_exits", _first_reason_last),
    "goals are not read again after admission": _no_second_exits,
    "goals are not read again before a send": method_gives(planner._Planner, "_leaving", lambda _: []),
    # messages
    "quiet hours begin after their start": gives(calendar.shows_between, turned(exp.GTE, exp.GT)),
    "quiet hours last until their end is over": gives(calendar.shows_between, turned(exp.LT, exp.LTE)),
    "quiet hours do not cross midnight": gives(
        calendar.shows_between, lambda tree: turned(exp.Or, exp.And)(tree) if tree.find(exp.Or) else tree
    ),
    "quiet hours are in UTC": _in_utc,
    "the frequency cap allows one more": gives(
        messages.over_cap, lambda found: (turned(exp.GTE, exp.GT)(found[0]), found[1])
    ),
    "a message at the edge of the cap's window counts": gives(
        messages.sent_before, lambda fact: replace(fact, tree=turned(exp.GT, exp.GTE)(fact.tree.copy()))
    ),
    "what was skipped counts toward the cap": in_module(messages, "_UNCOUNTED", ("nothing",)),
    "deferred is skipped": gives(messages.over_cap, lambda found: (found[0], "skipped(frequency_cap)")),
    "bounced is asked last": gives(messages._message_checks, _swapped),
    "an unknown consent is one": gives(messages._message_checks, _everybody_may),
    "the holdout has another salt": in_module(messages, "bucket_tree", _salted(lambda salt: f"{salt}x")),
    # branches
    "weights are not added up": layer(SplitStep, _weights_alone, part="a"),
    "the salt is the step alone": in_module(advance, "bucket_tree", _salted(lambda salt: salt.split(":")[-1])),
    "a goto jumps once more": layer(GotoStep, columns_turned(exp.LT, exp.LTE)),
    "a second visit is the first one": _first_visit_again,
    # several workflows, tags and fields
    "the lower priority goes first": says(turns, "m.priority DESC", "m.priority"),
    "turns do not go by due": says(turns, "m.priority DESC, m.due,", "m.priority DESC,"),
    "an untagged tag of the model stays": says(
        decisions, "INSERT INTO contact_untags SELECT t.contact_id", "INSERT INTO contact_untags SELECT 'nobody'"
    ),
    "who leaves a campaign stays in it": says(decisions, "WHERE NOT t.member AND", "WHERE FALSE AND"),
    "of two values of a field the first one stays": says(
        decisions, "s.contact_id, s.name ORDER BY s.seq DESC", "s.contact_id, s.name ORDER BY s.seq"
    ),
    "an emitted event has the time of its tick": says(
        decisions, "d.what, d.due, $tick_at, d.payload, 'emit'", "d.what, $tick_at, $tick_at, d.payload, 'emit'"
    ),
    "who is enrolled enters with the time of the tick": says(decisions, ", d.due, 'asked'", ", $tick_at, 'asked'"),
    "who is enrolled has to be young": says(admission, "WHEN NOT c.asked AND CAST($max_age", "WHEN CAST($max_age"),
    "who was unenrolled gets what was decided": in_module(
        recheck, "WITHDRAWING", tuple(word for word in recheck.WITHDRAWING if word != "unenrolled")
    ),
    # schedules, ramps, pauses and versions
    "an occurrence at the tick itself is missed": _tick_excluded,
    "the ramp lets one more in": says(admission, "r.rank > $slots", "r.rank > $slots + 1"),
    "the ramp's window includes its edge": says(
        admission, "$tick_at) > $tick_at - CAST($per", "$tick_at) >= $tick_at - CAST($per"
    ),
    "a pause sends what waits for its next attempt": says(claims, "c.action = 'pause' AND (", "FALSE AND ("),
    "who comes during a pause is always lost": says(admission, "IS NOT NULL THEN $paused", "IS NOT NULL THEN 'paused'"),
    "a wait keeps its end in a new version": says(
        migrating, "due_at = $tick_at, moved", "due_at = enrollments.due_at, moved"
    ),
    "redirect is not read": _no_redirect,
    "who is migrated does again what was done": says(
        migrating, "w.action_id IS NOT NULL AND w.action_id NOT IN", "FALSE AND w.action_id NOT IN"
    ),
    # delivery
    "the last listed channel is chosen": gives(messages.channels_of, lambda found: tuple(reversed(found))),
    "nothing is withdrawn before its next attempt": in_module(recheck, "_withdrawn", lambda work, actions: {}),
    "the second pause is as short as the first": _two_pauses,
    "there is a fourth attempt": _one_attempt_more,
    "the next action does not wait for the one before": says(
        claims, "(e.tick < o.tick OR e.tick = o.tick AND e.seq < o.seq)", "FALSE"
    ),
}
