"""Lint rules of workflows, one class per rule; `RULES` is the registry, `lint` runs it."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.linter.leave import LeaveWithoutAudience
from compiler.linter.rule import Finding, Fix, Rule
from compiler.linter.same_arms import SameArms
from compiler.linter.too_early import AskedTooEarly
from compiler.parser import Document

__all__ = ["RULES", "Finding", "Fix", "Rule", "lint"]

RULES: tuple[Rule, ...] = (AskedTooEarly(), SameArms(), LeaveWithoutAudience())


def lint(document: Document, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """All findings of the rules in a workflow, in the order of their places."""
    found = [finding for rule in rules for finding in rule.check(document)]
    return sorted(found, key=lambda finding: (finding.problem.line, finding.problem.column, finding.problem.code))
