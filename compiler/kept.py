"""What an enrollment keeps about its steps between ticks: logical times, arms and visits, as columns and as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from sqlglot import exp

from compiler.columns import arm_column, visit_before, visit_column


def kept(times: Collection[str], splits: Collection[str], visits: Collection[str]) -> list[exp.Expr]:
    """What the enrollment keeps about its steps, as columns: logical times `s_<id>`, arms `arm_<id>`, visits `n_<id>`.

    The visits stand there twice: steps count `n_<id>` on, `w_<id>` stays.
    """
    found = _step_times(times)
    found += [_member("arms", step).as_(arm_column(step), quoted=True) for step in sorted(splits)]
    for step in sorted(visits):
        number = exp.Coalesce(this=exp.cast(_member("visits", step), "int"), expressions=[exp.Literal.number(0)])
        found += [number.copy().as_(name, quoted=True) for name in (visit_column(step), visit_before(step).name)]
    return found


def _member(column: str, step: str) -> exp.Expr:
    path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=step)])
    return exp.Paren(this=exp.JSONExtractScalar(this=exp.column(column, table="s"), expression=path))


def kept_object(members: Mapping[str, str]) -> exp.Expr:
    """What the enrollment keeps about its steps as JSON, step -> frame column; NULL when there is nothing to keep."""
    if not members:
        return exp.cast(exp.null(), "json")
    pairs: list[exp.Expr] = []
    for step, kept in sorted(members.items()):
        pairs += [exp.Literal.string(step), exp.column(kept, table="f", quoted=True)]
    return exp.Anonymous(this="json_object", expressions=pairs)


def _step_times(steps: Collection[str]) -> list[exp.Expr]:
    """The times of steps as columns `s_<id>`; the JSON text is parsed once for all of them."""
    if not steps:
        return []
    shape = json.dumps(dict.fromkeys(sorted(steps), "TIMESTAMP"))
    kept = exp.column("steps", table="s")
    times = exp.Anonymous(this="json_transform", expressions=[kept, exp.Literal.string(shape)])
    return [
        exp.Anonymous(this="struct_extract", expressions=[times.copy(), exp.Literal.string(step)]).as_(
            f"s_{step}", quoted=True
        )
        for step in sorted(steps)
    ]
