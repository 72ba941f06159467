"""The public log: journal rows as the lines of language §8, in the order of the simulation format."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flows.journal.tables import StateTables
from flows.warehouse.base import Warehouse

_DASH = "-"


@dataclass(frozen=True)
class LogRow:
    """One row of the log; `contact` with its entry key in brackets, `step` None where there is none."""

    executed_at: datetime
    due: datetime | None
    workflow: str
    contact: str
    step: str | None
    outcome: str

    def text(self, *, prefix: bool) -> str:
        """`executed_at | due | contact[key] | step | outcome`; `prefix` puts the workflow before the contact."""
        contact = f"{self.workflow}/{self.contact}" if prefix else self.contact
        due = _moment(self.due) if self.due is not None else _DASH
        return " | ".join((_moment(self.executed_at), due, contact, self.step or _DASH, self.outcome))

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return {
            "executed_at": _moment(self.executed_at), "due": _moment(self.due) if self.due else None,
            "workflow": self.workflow, "contact": self.contact, "step": self.step, "outcome": self.outcome,
        }  # fmt: skip


def _moment(moment: datetime) -> str:
    if moment.second or moment.microsecond:
        return moment.isoformat(timespec="seconds") + "Z"
    return moment.strftime("%Y-%m-%dT%H:%MZ")


def log_rows(
    warehouse: Warehouse, schema: str, *, workflow: str | None = None, contact: str | None = None,
    step: str | None = None, since: datetime | None = None, limit: int | None = None, destinations: bool = False,
) -> list[LogRow]:  # fmt: skip
    """The log, oldest first; with `limit` the newest rows; with `destinations` also which of them rest.

    Inside a tick: exits by goal, entries, exits of who entered, then each contact's steps along its path; a delivery
    stands at the place of its step, also when a later tick makes it.
    """
    state = StateTables(schema)
    text = _LOG if limit is None else _LOG + " LIMIT $limit"
    given = {
        "workflow": workflow, "contact": contact, "step": step, "since": since, "limit": limit,
        "destinations": destinations,
    }  # fmt: skip
    rows = warehouse.rows(state.statement(warehouse, text), given)
    return [
        LogRow(row["executed_at"], row["due"], row["workflow"] or _DASH, _contact(row), row["step"], _outcome(row))
        for row in rows
    ]


def _contact(row: dict[str, Any]) -> str:
    if row["contact_id"] is None:
        return _DASH
    return row["contact_id"] if row["key"] is None else f"{row['contact_id']}[{row['key']}]"


def _outcome(row: dict[str, Any]) -> str:
    match row["kind"]:
        case "enter":
            return "enter"
        case "exit" | "rejected":
            return f"{row['kind']} {row['outcome']}"
        case "split":
            return f"split={row['outcome']}"
        case "destination":
            return f"destination:{row['what']} {row['outcome']}"
        case _:
            return f"{row['what']} {row['outcome']}"


_LOG = """
    SELECT l.executed_at, CASE WHEN l.kind = 'exit' THEN NULL ELSE l.due END AS due, l.workflow, l.contact_id, l.key,
        CASE WHEN l.kind IN ('action', 'split', 'delivery') THEN l.step END AS step, l.kind, l.what, l.outcome
    FROM (
        SELECT j.*, i.seq AS decided_seq, i.executed_at AS decided_at, e.first_entry,
            min(CASE WHEN j.kind IN ('action', 'split', 'intent') THEN j.seq END)
                OVER (PARTITION BY j.tick, j.enrollment_id) AS first_step
        FROM journal AS j
        LEFT JOIN (
            SELECT n.tick, min(n.seq) AS first_entry FROM journal AS n
            WHERE n.kind IN ('enter', 'rejected') AND n.tick IN (
                SELECT x.tick FROM journal AS x
                WHERE x.kind = 'exit' AND ($workflow IS NULL OR x.workflow = $workflow)
                    AND ($contact IS NULL OR x.contact_id = $contact)
            )
            GROUP BY n.tick
        ) AS e ON j.kind = 'exit' AND e.tick = j.tick
        LEFT JOIN (
            SELECT d.action_id, d.seq, d.executed_at FROM journal AS d
            WHERE d.kind = 'intent' AND d.action_id IN (
                SELECT y.action_id FROM journal AS y
                WHERE y.kind = 'delivery' AND ($workflow IS NULL OR y.workflow = $workflow)
                    AND ($contact IS NULL OR y.contact_id = $contact)
            )
        ) AS i ON j.kind = 'delivery' AND i.action_id = j.action_id
        WHERE (
                j.kind IN ('enter', 'exit', 'rejected', 'action', 'split', 'intent', 'delivery')
                OR $destinations AND j.kind = 'destination'
            ) AND ($workflow IS NULL OR j.workflow = $workflow) AND ($contact IS NULL OR j.contact_id = $contact)
    ) AS l
    WHERE l.kind <> 'intent' AND ($step IS NULL OR l.step = $step) AND ($since IS NULL OR l.executed_at >= $since)
    ORDER BY l.executed_at,
        CASE
            WHEN l.kind = 'exit' AND l.outcome = 'error' THEN 4
            WHEN l.kind IN ('enter', 'rejected') THEN 1
            WHEN l.kind = 'exit' AND l.outcome IN (
                    'goal', 'exit_when', 'left_audience', 'expired', 'merged', 'step_removed'
                )
                AND (l.first_step IS NULL OR l.seq < l.first_step)
                THEN CASE WHEN l.seq < l.first_entry OR l.first_entry IS NULL THEN 0 ELSE 2 END
            ELSE 3
        END,
        l.workflow, l.contact_id, l.key,
        coalesce(l.decided_at, l.executed_at), coalesce(l.decided_seq, l.seq), l.seq
"""
