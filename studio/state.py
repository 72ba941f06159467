"""Opening the state of a target to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from compiler.errors import ProjectError
from flows.journal.migrations import read_meta
from flows.project import Project
from flows.warehouse.base import Warehouse

LOOK = timedelta(seconds=10)
"""How long somebody who only wants to look waits for the warehouse."""


@contextmanager
def state_of(project: Project) -> Iterator[Warehouse]:
    """A connection to a warehouse that has state tables.

    Raises:
        ProjectError: E510, there is no warehouse or no state in it.
        WarehouseLocked: somebody else holds the warehouse; the message names the process.
    """
    if not project.warehouse.path.is_file():
        raise ProjectError(
            f"there is no warehouse at {project.warehouse.path}", code="E510", hint="`penstock dbt build` makes it"
        )
    with project.open_warehouse(read_only=True, wait=LOOK) as warehouse:
        if read_meta(warehouse, project.state_schema) is None:
            raise ProjectError(
                f"target '{project.target}' has no state in schema {project.state_schema}", code="E510",
                hint="`penstock apply` publishes the workflows",
            )  # fmt: skip
        yield warehouse
