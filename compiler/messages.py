"""What keeps an action from being decided at a tick: reasons to skip it, and what holds a message in its step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlglot import exp

from compiler.calendar import elapsed_more_than, shows_between
from compiler.frames import channel_suffix
from compiler.identity import bucket_tree
from compiler.lookup import TICK_AT, Fact, frame, seconds, tick_at
from compiler.workflow import (
    ActionStep,
    BaseStep,
    ChannelStep,
    EmailStep,
    FrequencyCap,
    MessageStep,
    Policy,
    PushStep,
    SmsStep,
)

INTERNAL = frozenset({"tag", "untag", "set", "score", "campaign", "emit", "enroll", "unenroll"})
"""Kinds of actions that the tick itself does; the others it only decides."""
HELD = "held"
"""Outcome of a message that waits in its step: no row is written, and the next tick looks at it again."""

Reasons = list[tuple[exp.Expr, str]]


def channels_of(step: ActionStep) -> tuple[str, ...]:
    """The channels a message may go out on, the preferred one first; none for other actions."""
    match step:
        case EmailStep():
            return ("email",)
        case SmsStep():
            return ("sms",)
        case PushStep():
            return ("push",)
        case ChannelStep():
            return tuple(step.channel)
        case _:
            return ()


def template_of(step: BaseStep, step_id: str) -> str | None:
    """The template of a message: until models choose, the first listed one; a `channel` step may leave it to its id."""
    match step:
        case EmailStep(email=named) | SmsStep(sms=named) | PushStep(push=named):
            return named if isinstance(named, str) else named.from_[0]
        case ChannelStep():
            return step.template or step_id
        case _:
            return None


def address(channel: str) -> exp.Column:
    """The contact's address on a channel."""
    return frame({"email": "m_email", "sms": "m_phone", "push": "m_push"}[channel])


def chosen(step: MessageStep, channel: str, require: Mapping[str, exp.Expr], group: str | None) -> exp.Expr | None:
    """Whether a message goes out on a channel: the first listed one that may be used, else just the first.

    None when there is no choice.
    """
    listed = channels_of(step)
    if len(listed) == 1:
        return None
    usable = {name: exp.Not(this=exp.paren(_refused(step, name, require, group))) for name in listed}
    place = listed.index(channel)
    others = listed[1:] if place == 0 else listed[:place]
    unusable = [exp.Not(this=usable[name].copy()) for name in others]
    if place == 0:
        return exp.or_(usable[channel], exp.and_(*unusable))
    return exp.and_(usable[channel], *unusable)


def _refused(step: MessageStep, channel: str, require: Mapping[str, exp.Expr], group: str | None) -> exp.Expr:
    return exp.or_(*(test for test, _ in _message_checks(step, channel, require.get(channel), group)))


def skips(
    step: ActionStep, moment: exp.Expr, *, test: exp.Expr | None, require: Mapping[str, exp.Expr], group: str | None
) -> Reasons:
    """Why an action is skipped, in the order in which the reasons are looked for (language §4).

    Args:
        step: the action.
        moment: the enrollment's logical time on reaching the step.
        test: its `if`, None without.
        require: the consent that messages need, by channel.
        group: the subscription group of the message.
    """
    found: Reasons = []
    if test is not None:
        found.append((exp.Not(this=exp.paren(test.copy())), "skipped(condition)"))
    if step.expires_after is not None:
        limit = step.expires_after.elapsed.total_seconds()
        found.append((elapsed_more_than(moment, frame(TICK_AT), limit), "skipped(too_late)"))
    if isinstance(step, MessageStep) and (listed := channels_of(step)):
        first = _message_checks(step, listed[0], require.get(listed[0]), group)
        others = [exp.paren(_refused(step, name, require, group)) for name in listed[1:]]
        found += [(exp.and_(forbidden, *others), f"skipped({reason})") for forbidden, reason in first]
    return found


def status(kind: str, reasons: Reasons) -> exp.Expr:
    """What `steps.<id>.status` says in the tick that decides, by the reasons to skip the action."""
    return first_of([(test, "skipped") for test, _ in reasons], "ok" if kind in INTERNAL else "pending")


def quiet(step: ActionStep, policy: Policy, zone: exp.Expr | None) -> exp.Expr | None:
    """Whether the contact's quiet hours hold a message at the tick; None for what they never hold."""
    hours = policy.quiet_hours
    if hours is None or hours.from_ == hours.to or not isinstance(step, MessageStep) or step.transactional:
        return None
    return shows_between(frame(TICK_AT), hours.from_, hours.to, zone)


def held_out(step: ActionStep, policy: Policy) -> exp.Expr | None:
    """Whether the contact belongs to the holdout, whose messages are not delivered; None for what goes to everybody."""
    holdout = policy.holdout
    if holdout is None or not holdout.percent or not isinstance(step, MessageStep) or step.transactional:
        return None
    drawn = exp.Mul(this=exp.paren(bucket_tree(holdout.salt, frame("contact_id"))), expression=exp.Literal.number(100))
    return exp.LT(this=drawn, expression=exp.Literal.number(f"{holdout.percent:.6f}"))


SENT = "n"
"""Column of the layers: messages under the workflow's frequency cap that this tick decided on the way so far."""
SENT_BEFORE = "x_sent_before"
CHANNELS = ("email", "sms", "push")
_UNCOUNTED = ("skipped", "failed", "dead", "expired", "cancelled")


def capped_channels(step: ActionStep, policy: Policy) -> tuple[str, ...]:
    """The channels on which a message of the step would count against the workflow's frequency cap."""
    cap = policy.cap
    if cap is None or not isinstance(step, MessageStep) or step.transactional:
        return ()
    return tuple(channel for channel in channels_of(step) if channel in (cap.channels or CHANNELS))


def capped(step: MessageStep, policy: Policy, require: Mapping[str, exp.Expr], group: str | None) -> exp.Expr | None:
    """Whether a message goes out on a channel that the frequency cap is about; None when it never does."""
    about = capped_channels(step, policy)
    if not about:
        return None
    if len(about) == len(channels_of(step)):
        return exp.true()
    return exp.paren(exp.or_(*(chosen(step, channel, require, group) for channel in about)))


def over_cap(cap: FrequencyCap) -> tuple[exp.Expr, str]:
    """Whether the contact has had as many messages as the cap allows, and what then becomes of one more."""
    before = exp.Coalesce(this=frame(SENT_BEFORE), expressions=[exp.Literal.number(0)])
    sent = exp.Add(this=before, expression=frame(SENT))
    test = exp.GTE(this=sent, expression=exp.Literal.number(cap.max))
    return test, HELD if cap.on_cap == "defer" else "skipped(frequency_cap)"


def sent_before(cap: FrequencyCap, state_schema: str) -> Fact:
    """How many messages of the cap's channels were decided in (T - per, T], over all workflows.

    What this tick decided for enrollments whose turn came before counts too. What was skipped, failed for good or is
    transactional does not.
    """
    kind = exp.In(this=exp.column("kind", table="d"), expressions=_texts(cap.channels or CHANNELS))
    state = exp.In(this=exp.column("state", table="d"), expressions=_texts(_UNCOUNTED))
    opening = exp.Sub(this=tick_at(), expression=seconds(cap.per.elapsed.total_seconds()))
    decided = exp.column("decided_at", table="d")
    query = exp.select(exp.Count(this=exp.Star())).from_(exp.table_("deliveries", db=state_schema, alias="d"))
    query = query.where(exp.and_(
        exp.EQ(this=exp.column("contact_id", table="d"), expression=frame("contact_id")), kind,
        exp.GT(this=decided, expression=opening), exp.LTE(this=decided.copy(), expression=tick_at()),
        exp.Not(this=exp.column("transactional", table="d")), exp.Not(this=state),
    ))  # fmt: skip
    return Fact(SENT_BEFORE, exp.Subquery(this=query))


def _texts(words: Iterable[str]) -> list[exp.Expr]:
    return [exp.Literal.string(word) for word in words]


def first_of(reasons: Reasons, otherwise: str) -> exp.Expr:
    """The word of the first reason that holds."""
    done = exp.Literal.string(otherwise)
    ifs = [exp.If(this=test, true=exp.Literal.string(word)) for test, word in reasons]
    return exp.Case(ifs=ifs, default=done) if ifs else done


def _message_checks(step: MessageStep, channel: str, require: exp.Expr | None, group: str | None) -> Reasons:
    where = exp.Trim(this=exp.Coalesce(this=address(channel), expressions=[exp.Literal.string("")]))
    suffix = channel_suffix(channel)
    checks: Reasons = [
        (exp.Coalesce(this=frame(f"m_bounced{suffix}"), expressions=[exp.false()]), "bounced"),
        (exp.EQ(this=where, expression=exp.Literal.string("")), "no_address"),
    ]
    if not step.transactional:
        checks.append((exp.Coalesce(this=frame(f"m_unsubscribed{suffix}"), expressions=[exp.false()]), "unsubscribed"))
        if group is not None:
            listed = exp.ArrayContains(this=frame(f"m_groups{suffix}"), expression=exp.Literal.string(group))
            checks.append((exp.Coalesce(this=listed, expressions=[exp.false()]), "unsubscribed_group"))
    if require is not None:
        checks.append((exp.Not(this=exp.Coalesce(this=require.copy(), expressions=[exp.false()])), "no_consent"))
    return checks
