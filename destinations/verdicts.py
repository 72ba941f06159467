"""Verdicts for calls that ended without an answer."""

from __future__ import annotations

from destinations.base import Action, Verdict
from destinations.classification import TROUBLES, Trouble
from destinations.errors import AddressRefusedError, DestinationError, NotSentError, OutcomeUnknownError
from destinations.secret import scrub


def trouble_verdict(action: Action, error: DestinationError) -> Verdict:
    """The verdict for a call without an answer."""
    match error:
        case NotSentError() | OutcomeUnknownError():
            trouble = Trouble(error.code)
        case AddressRefusedError():
            trouble = Trouble.ADDRESS
        case _:
            trouble = Trouble.ANSWER
    ruling = TROUBLES[trouble]
    text = f"{error.message}. {error.hint}" if error.hint else error.message
    return Verdict(action.action_id, ruling.status, trouble.value, scrub(text), stop=ruling.stop)
