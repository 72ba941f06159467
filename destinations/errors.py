"""What can go wrong while speaking to an outside system.

    DestinationError                 code, what happened, and what to do next
    |-- TransientError               the same request may succeed later
    |   |-- NotSentError             nothing reached the other side: sending again is safe
    |   `-- OutcomeUnknownError      the request left, no usable answer came: sending again may act twice
    `-- TerminalError                repeating it changes nothing
        |-- ConfigurationError       the destination's own configuration or a secret is wrong or missing
        |-- AddressRefusedError      the host is not a public address and not in `allow_hosts`
        `-- PayloadError             this one action cannot be expressed (bad header, missing address)

Messages never hold a secret, an address of a contact or a value of a payload.
"""

from __future__ import annotations


class DestinationError(Exception):
    """Root of the tree. `code` is stable (D…), `hint` says what to do next ("" when nothing helps)."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{code} {message}" + (f" ({hint})" if hint else ""))
        self.code = code
        self.message = message
        self.hint = hint


class TransientError(DestinationError):
    """The same request may succeed later."""


class NotSentError(TransientError):
    """No byte of the request was acted upon; sending it again is always safe."""


class OutcomeUnknownError(TransientError):
    """The request was written and no usable answer came back; the other side may have acted."""


class TerminalError(DestinationError):
    """Sending the same again gives the same result."""


class ConfigurationError(TerminalError):
    """The configuration of a destination is wrong; the message names destination, key and allowed values."""


class AddressRefusedError(TerminalError):
    """The host resolves into a special-purpose range, or its port is not a web port, and it is not in `allow_hosts`."""


class PayloadError(TerminalError):
    """One action cannot be expressed for this destination. `code` becomes the code of its verdict."""
