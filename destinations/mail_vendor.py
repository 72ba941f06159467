"""What the e-mail vendors over HTTP share: their configuration, and what a report of theirs means in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import Field

from destinations.config import DestinationConfig
from destinations.inbound import InboundEvent, OptOut


class MailVendorConfig(DestinationConfig):
    """`from` is the sender of messages that name none; `inbound_secret` is what proves the vendor's reports."""

    sender: str | None = Field(default=None, alias="from")
    inbound_secret: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a vendor's word for an event means: our name of it, and what it changes about who may be written to."""

    name: str
    opt_out: OptOut | None = None


ACCEPTED = Report("email_accepted")
DELIVERED = Report("email_delivered")
DEFERRED = Report("email_deferred")
BOUNCED = Report("email_bounced", OptOut("bounced", "email"))
SOFT_BOUNCED = Report("email_soft_bounced")
REJECTED = Report("email_rejected")
COMPLAINED = Report("email_complained", OptOut("complained", "email"))
UNSUBSCRIBED = Report("email_unsubscribed", OptOut("unsubscribed", "email"))
RESUBSCRIBED = Report("email_resubscribed", OptOut("unsubscribed", "email", lift=True))
OPENED = Report("email_opened")
CLICKED = Report("email_clicked")


def reported(
    report: Report, event_id: str, time: datetime, *, action_id: str | None, email: str | None,
    data: Mapping[str, Any], machine: bool = False,
) -> InboundEvent:  # fmt: skip
    """The event of a report."""
    return InboundEvent(event_id, report.name, time, action_id, email, None, data, report.opt_out, machine)
