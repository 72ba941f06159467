"""What keeps an action from being decided at a tick: reasons to skip it, and what holds a message in its step."""

from __future__ import annotations

from sqlglot import exp

from compiler.calendar import elapsed_more_than, shows_between
from compiler.lookup import frame, tick_at
from compiler.workflow import ActionStep, EmailStep, MessageStep, Policy

HELD = "held"
"""Outcome of a message that waits in its step: no row is written, and the next tick looks at it again."""

Reasons = list[tuple[exp.Expr, str]]


def skips(
    step: ActionStep, moment: exp.Expr, *, test: exp.Expr | None, require: exp.Expr | None, group: str | None
) -> Reasons:
    """Why an action is skipped, in the order in which the reasons are looked for (language §4).

    Args:
        step: the action.
        moment: the enrollment's logical time on reaching the step.
        test: its `if`, None without.
        require: the consent that messages on its channel need.
        group: the subscription group of the message.
    """
    found: Reasons = []
    if test is not None:
        found.append((exp.Not(this=exp.paren(test.copy())), "skipped(condition)"))
    if step.expires_after is not None:
        limit = step.expires_after.elapsed.total_seconds()
        found.append((elapsed_more_than(moment, tick_at(), limit), "skipped(too_late)"))
    if isinstance(step, EmailStep):
        found += [(forbidden, f"skipped({reason})") for forbidden, reason in _message_checks(step, require, group)]
    return found


def quiet(step: ActionStep, policy: Policy, zone: exp.Expr | None) -> exp.Expr | None:
    """Whether the contact's quiet hours hold a message at the tick; None for what they never hold."""
    hours = policy.quiet_hours
    if hours is None or hours.from_ == hours.to or not isinstance(step, MessageStep) or step.transactional:
        return None
    return shows_between(tick_at(), hours.from_, hours.to, zone)


def first_of(reasons: Reasons, otherwise: str) -> exp.Expr:
    """The word of the first reason that holds."""
    done = exp.Literal.string(otherwise)
    ifs = [exp.If(this=test, true=exp.Literal.string(word)) for test, word in reasons]
    return exp.Case(ifs=ifs, default=done) if ifs else done


def _message_checks(step: EmailStep, require: exp.Expr | None, group: str | None) -> Reasons:
    address = exp.Trim(this=exp.Coalesce(this=frame("m_email"), expressions=[exp.Literal.string("")]))
    checks: Reasons = [
        (exp.Coalesce(this=frame("m_bounced"), expressions=[exp.false()]), "bounced"),
        (exp.EQ(this=address, expression=exp.Literal.string("")), "no_address"),
    ]
    if not step.transactional:
        checks.append((exp.Coalesce(this=frame("m_unsubscribed"), expressions=[exp.false()]), "unsubscribed"))
        if group is not None:
            listed = exp.ArrayContains(this=frame("m_groups"), expression=exp.Literal.string(group))
            checks.append((exp.Coalesce(this=listed, expressions=[exp.false()]), "unsubscribed_group"))
    if require is not None:
        checks.append((exp.Not(this=exp.Coalesce(this=require.copy(), expressions=[exp.false()])), "no_consent"))
    return checks
