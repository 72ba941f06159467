"""Names of the frame's columns that hold what steps of the same tick may write."""

from __future__ import annotations

from sqlglot import exp


def tag_column(tag: str) -> str:
    """The frame column that says whether the contact has a tag."""
    return f"tag_{tag}"


def points_column(score: str) -> str:
    """The frame column with the contact's points of a score."""
    return f"points_{score}"


def enrolled_columns(workflow: str) -> tuple[str, str]:
    """The frame columns that say whether the contact is in a workflow, and where."""
    return f"x_in_workflow_{workflow}", f"x_position_in_{workflow}"


def campaign_column(campaign: str) -> str:
    """The frame column that says whether the contact is in a campaign."""
    return f"campaign_{campaign}"


def visit_column(step: str) -> str:
    """The frame column that counts the visits of a step, or the jumps of a goto, that can be met again."""
    return f"n_{step}"


def visit_before(step: str) -> exp.Column:
    """The count of `visit_column` when the tick looked: what is known of a message is known of that visit."""
    return exp.column(f"w_{step}", table="f", quoted=True)


def arm_column(step: str) -> str:
    """The frame column with the arm that the enrollment took at a split."""
    return f"arm_{step}"


def status_column(step: str) -> str:
    """The frame column with what became of a step's latest visit, as `steps.<id>.status` says it."""
    return f"x_status_{step}"
