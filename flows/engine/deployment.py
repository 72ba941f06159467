"""What a tick evaluates: the plans of every published version that may still act, and what they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from sqlglot import exp

from compiler import frames
from compiler.audience import Audience, Group, grouped
from compiler.catalog import Catalog
from compiler.plan import AudienceEntry, EventEntry, Plan
from flows.engine.holding import Guard

BEGINNING = datetime(1, 1, 1)
"""Earlier than every event."""


@dataclass(frozen=True)
class Deployed:
    """The versions of one workflow: `current` admits (None when retired), `plans` finish what they began.

    `migrations`: versions to which contacts in flight in earlier ones move, with where removed steps lead (old -> new).
    """

    name: str
    current: int | None
    activated_at: datetime
    plans: Mapping[int, Plan]
    migrations: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def admitting(self) -> Plan | None:
        """The plan that admits, None when the workflow is retired."""
        return self.plans[self.current] if self.current is not None else None

    @property
    def earliest(self) -> datetime:
        """The time before which an event is no candidate: activation minus backfill."""
        plan = self.admitting
        if plan is None or plan.rules.backfill is None:
            return BEGINNING
        try:
            return self.activated_at - timedelta(seconds=plan.rules.backfill)
        except OverflowError:
            return BEGINNING


@dataclass(frozen=True)
class Deployment:
    """Everything published, compiled.

    Attributes:
        workspace: `<project>/<target>`, part of every identity.
        schema: of the state tables.
        catalog: the warehouse's tables and columns.
        default_zone: IANA name for contacts without a valid zone.
        workflows: by name.
        templates: name -> newest published hash.
        broken: published workflows that no longer compile against the warehouse -> why; they are left out.
        guard: what is too much to happen without a person; None: nothing is.
        audiences: the named ones, whose members are kept; none has the name of a workflow.
    """

    workspace: str
    schema: str
    catalog: Catalog
    default_zone: str
    workflows: Mapping[str, Deployed]
    templates: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    guard: Guard | None = None
    audiences: tuple[Audience, ...] = ()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """All plans, in the order in which they advance: priority, then name, then version."""
        found = [plan for deployed in self.workflows.values() for plan in deployed.plans.values()]
        return tuple(sorted(found, key=lambda plan: (-plan.priority, plan.workflow, plan.version)))

    @cached_property
    def audience_groups(self) -> tuple[Group, ...]:
        """The audience triggers of the plans that admit, and named audiences, as they are evaluated together."""
        entries = [deployed.admitting.entry for deployed in self.workflows.values() if deployed.admitting is not None]
        triggers = [entry.audience for entry in entries if isinstance(entry, AudienceEntry)]
        return grouped([*(each for each in triggers if each is not None), *self.audiences], self.catalog)

    def contact_rows(self, channels: Collection[str]) -> exp.Select:
        """Every contact with all columns that some plan reads, and what forbids a message on the channels."""
        columns = {column for plan in self.plans for column in plan.contact_columns}
        return frames.contact_rows(self.catalog, columns, None, channels)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that some plan has messages on."""
        kinds = {action.kind for plan in self.plans for action in plan.actions}
        return tuple(channel for channel in frames.CHANNELS if channel in kinds)

    def contact_zones(self) -> exp.Select:
        """The time zones that contacts have, each once."""
        rows = frames.contact_rows(self.catalog, (), self.default_zone, channels=())
        return exp.select("c.tz").distinct().from_(rows.subquery("c"))

    def event_rows(self) -> exp.Select:
        """Every visible event that some plan looks at; an event that was loaded twice stands there twice."""
        names = {name for plan in self.plans for name in plan.events}
        properties = {name: kind for plan in self.plans for name, kind in plan.properties.items()}
        return frames.event_rows(self.catalog, properties, names=sorted(names) or [""], unique=False)

    def earliest_event(self, tick_at: datetime, entries: datetime | None) -> datetime:
        """The event time before which no plan reads anything; `entries`: the earliest entry concerned, if any."""
        lookbacks = [plan.lookback for plan in self.plans]
        reaches = [lookback for lookback in lookbacks if lookback is not None]
        if len(reaches) < len(lookbacks):
            return BEGINNING
        try:
            return min(tick_at - timedelta(seconds=max(reaches, default=0.0)), entries or tick_at)
        except OverflowError:
            return BEGINNING

    @property
    def trigger_names(self) -> frozenset[str]:
        """Event names that some admitting plan is triggered by."""
        admitting = [deployed.admitting for deployed in self.workflows.values()]
        return frozenset(
            name for plan in admitting if plan and isinstance(plan.entry, EventEntry) for name in plan.entry.names
        )
