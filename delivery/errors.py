"""Every error this product raises, as one tree.

    DeliveryError
    ├ ConfigError                  a setting or policy is wrong; the message names it and the mend
    ├ InvalidEvent                 the caller's event is wrong; never retried
    │ ├ InvalidContext             ``user_id`` / ``run_id`` cannot address anybody
    │ ├ PayloadTooLarge            ``data`` is over 64 KiB encoded
    │ └ IdConflict                 the id is known with other content
    ├ Overloaded                   a bounded buffer is full; try again after ``retry_after`` seconds
    ├ IllegalTransition            a bug of ours: the lifecycle has no such edge
    ├ ProtocolError                a peer broke the wire contract; carries ``close_code``
    │ ├ InvalidFrame
    │ ├ Unauthenticated
    │ │ └ KeysUnavailable          the token may be good, but no key to check it can be had now
    │ └ UnknownAck
    ├ ChannelError                 a delivery attempt failed; ``retryable``: whether to try again
    │ ├ NotConnected
    │ ├ ChannelUnavailable
    │ ├ ChannelRejected
    │ │ └ Unrenderable             no message could be made of the event; nothing was sent
    │ └ OutcomeUnknown             the provider may have taken it
    ├ LedgerError
    │ ├ LedgerUnavailable          the database cannot be reached now; nothing was written
    │ └ SpoolFull
    ├ LinkInvalid                  a link of a mail or SMS was not made by us, or for something else
    │ └ LinkExpired                it was, and its time is over
    ├ RemoteError                  the HTTP API refused; carries ``status`` and ``problem``
    └ Unreachable                  the service did not answer

Vendor exceptions are translated where the vendor is called, ``raise … from``.
"""

from __future__ import annotations

import warnings
from typing import Any, Self


class DeliveryError(Exception):
    """Base of everything raised on purpose."""


class ConfigError(DeliveryError):
    """A setting is missing, malformed or unsafe. The message names it and says what to write."""


class InvalidEvent(DeliveryError):
    """The event cannot be accepted as it is; retrying the same event cannot help."""

    status = 422
    slug = "invalid-event"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidContext(InvalidEvent):
    """``user_id`` or ``run_id`` does not address anybody."""

    slug = "invalid-context"


class PayloadTooLarge(InvalidEvent):
    """``data`` is larger than the wire allows."""

    status = 413
    slug = "payload-too-large"


class IdConflict(InvalidEvent):
    """The id is already in the ledger with other content."""

    status = 409
    slug = "id-conflict"


class Overloaded(DeliveryError):
    """A bounded buffer is full. Nothing was accepted; try again after ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class IllegalTransition(DeliveryError):
    """The lifecycle has no such edge: a bug in this package."""


class ProtocolError(DeliveryError):
    """A peer broke the wire contract."""

    code = "bad_frame"

    def __init__(self, message: str, *, close_code: int) -> None:
        super().__init__(message)
        self.close_code = close_code


class InvalidFrame(ProtocolError):
    """A frame is not JSON, has an unknown type or a field of the wrong kind."""

    def __init__(self, message: str, *, close_code: int = 3501) -> None:
        super().__init__(message, close_code=close_code)


class Unauthenticated(ProtocolError):
    """The token is missing, malformed, expired or not for this audience."""

    code = "unauthorized"

    def __init__(self, message: str, *, close_code: int = 3500) -> None:
        super().__init__(message, close_code=close_code)


class KeysUnavailable(Unauthenticated):
    """The token cannot be checked now; the peer should come back, not give up."""

    def __init__(self, message: str, *, close_code: int = 3006) -> None:
        super().__init__(message, close_code=close_code)


class UnknownAck(ProtocolError):
    """An acknowledgement names something that was never sent on this connection."""

    code = "unknown_ack"

    def __init__(self, message: str, *, close_code: int = 3501) -> None:
        super().__init__(message, close_code=close_code)


class ChannelError(DeliveryError):
    """One delivery attempt failed.

    Attributes:
        retryable: whether the same attempt may succeed later.
        retry_after: seconds the provider asked for, if it did.
        health: what it says about the provider, for its breaker: ``True`` it works (it answered,
            and refused this recipient or message), ``False`` it does not, ``None`` nothing.
    """

    retryable = True
    health: bool | None = False

    def __init__(
        self, message: str, *, retryable: bool | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable
        self.retry_after = retry_after

    def of_recipient(self) -> Self:
        """Mark the error as about the recipient or the message: the provider works."""
        self.health = True
        return self

    def of_no_provider(self) -> Self:
        """Mark the error as about no provider: none was called."""
        self.health = None
        return self


class NotConnected(ChannelError):
    """The user has no live connection."""


class ChannelUnavailable(ChannelError):
    """The provider cannot be reached, is overloaded or its breaker is open."""


class ChannelRejected(ChannelError):
    """The provider refused for good (bad address, blocked, malformed)."""

    retryable = False
    health: bool | None = True


class Unrenderable(ChannelRejected):
    """No message could be made of the event, so nothing was sent and no provider was asked."""

    health = None


class OutcomeUnknown(ChannelError):
    """The request left, the answer was lost: the provider may have taken the message."""


class LedgerError(DeliveryError):
    """The ledger could not do what was asked."""


class LedgerUnavailable(LedgerError):
    """The database cannot be reached or is locked. Nothing was written; try again."""


class SpoolFull(LedgerError):
    """The local spool has reached its size limit; nothing more is accepted until it drains."""


class LinkInvalid(DeliveryError):
    """The token of a link is malformed, forged, or made for another purpose."""


class LinkExpired(LinkInvalid):
    """The link is ours and its time is over."""


class RemoteError(DeliveryError):
    """The HTTP API refused a request.

    Attributes:
        status: the HTTP status.
        problem: the ``application/problem+json`` document, ``{}`` if there was none.
    """

    def __init__(self, message: str, *, status: int, problem: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class Unreachable(DeliveryError):
    """The service did not answer within the deadline."""


class _AckTimeout(ChannelError):
    """Was never raised: an event that is not acknowledged in time is handed over to its chain."""


def __getattr__(name: str) -> Any:
    if name == "AckTimeout":
        return removed(name, stacklevel=3)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def removed(name: str, *, stacklevel: int) -> type[DeliveryError]:
    """An error that the next release no longer has.

    Args:
        stacklevel: whose line the warning names; 2 is the caller's.
    """
    warnings.warn(
        f"{name} is never raised, and the next release does not have it",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    return {"AckTimeout": _AckTimeout}[name]
