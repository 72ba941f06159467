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


def check_there(project: Project) -> None:
    """Refuse a target without a warehouse.

    Raises:
        ProjectError: E510.
    """
    location = project.warehouse.location
    if location.missing():
        raise ProjectError(
            f"there is no warehouse at {location.label}", code="E510", hint="`penstock dbt build` makes it"
        )


@contextmanager
def state_of(project: Project) -> Iterator[Warehouse]:
    """A connection to a warehouse that has state tables.

    Raises:
        ProjectError: E510, there is no warehouse or no state in it.
        WarehouseLocked: somebody else holds the warehouse; the message names the process.
    """
    check_there(project)
    with project.open_warehouse(read_only=True, wait=LOOK) as warehouse:
        if read_meta(warehouse, project.state_schema) is None:
            raise ProjectError(
                f"target '{project.target}' has no state in schema {project.state_schema}", code="E510",
                hint="`penstock apply` publishes the workflows",
            )  # fmt: skip
        yield warehouse
