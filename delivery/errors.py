"""Every error that this package raises, as one tree.

    DeliveryError
    ├ ConfigError             caller     a setting or policy is wrong; the message names it
    │ └ MissingExtra          caller     a package is missing; the message has the command
    ├ InvalidEvent            caller     the event is wrong; ``status``, ``slug``, ``field``
    │ ├ InvalidContext        caller     ``user_id`` or ``run_id`` cannot address a user or run
    │ ├ InvalidReceipt        caller     a provider's report has not the provider's shape
    │ ├ PayloadTooLarge       caller     ``data`` is over 64 KiB encoded
    │ └ IdConflict            caller     the id belongs to an event with other content
    ├ Overloaded              temporary  a bounded buffer is full; ``retry_after`` seconds
    │ └ RateLimited           temporary  the caller is over a rate limit; ``retry_after`` seconds
    ├ IllegalTransition       bug        the lifecycle has no such transition
    ├ ProtocolError           caller     a peer broke the wire protocol; ``close_code``
    │ ├ InvalidFrame          caller     a frame is malformed
    │ ├ Unauthenticated       caller     the token is not valid for this service
    │ │ └ KeysUnavailable     temporary  no key to check the token can be fetched now
    │ └ UnknownAck            caller     an acknowledgement of an event that was not sent
    ├ ChannelError            temporary  an attempt failed; ``retryable``, ``retry_after``
    │ ├ NotConnected          temporary  the user has no connection
    │ ├ ChannelUnavailable    temporary  unreachable, overloaded or behind an open breaker
    │ ├ ChannelRejected       caller     the provider refused this message or recipient for good
    │ │ └ Unrenderable        caller     no message can be made of the event; nothing was sent
    │ └ OutcomeUnknown        unknown    the provider may have taken the message
    ├ LedgerError             temporary  the ledger cannot do what was asked
    │ ├ LedgerUnavailable     temporary  the database cannot be reached now
    │ │ └ LedgerReadOnly      temporary  it answers and takes no writes: a standby, or read-only
    │ └ SpoolFull             temporary  the spool or its disk is full; nothing was accepted
    ├ LinkInvalid             caller     the link is malformed, forged or for another purpose
    │ └ LinkExpired           caller     the link was valid and has expired
    ├ RemoteError             by status  the HTTP API refused; ``status``, ``problem``
    └ Unreachable             unknown    the service did not answer; it may have taken the request

The second column says what to do:

- caller: the input, setting or token is at fault. The same call fails again; do not retry.
- temporary: retry, after ``retry_after`` seconds where the error has them.
- unknown: the effect may have happened. An event is recorded once per id, so emit it again; a step
  repeats as its ``on_unknown`` says.
- bug: a fault of this package; report it.
- by status: 429 and 5xx are temporary, other codes the caller's.

Adapters translate vendor exceptions at the call, ``raise … from``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Self


class DeliveryError(Exception):
    """Base of every error that this package raises."""


class ConfigError(DeliveryError):
    """A setting is missing, malformed or unsafe. The message names it and says what to write."""


class MissingExtra(ConfigError, ImportError):
    """A module of this package needs packages that an extra of it brings."""


def needs_extra(what: str, extra: str) -> MissingExtra:
    """The error of a part whose packages an extra of this one brings; names what to paste."""
    return MissingExtra(f"{what}: pip install 'delivery-ledger[{extra}]'")


class InvalidEvent(DeliveryError):
    """The event is not valid. Never retried.

    Attributes:
        field: the field at fault, ``None`` if it is not one.
    """

    status = 422
    slug = "invalid-event"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidContext(InvalidEvent):
    """``user_id`` or ``run_id`` is empty, too long or has characters that are not allowed."""

    slug = "invalid-context"


class InvalidReceipt(InvalidEvent):
    """A provider's report about a message has not the shape that the provider documents."""

    slug = "invalid-request"


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


class RateLimited(Overloaded):
    """The caller is over a rate limit. Nothing was done; try again after ``retry_after`` seconds.

    Attributes:
        headers: of the answer over HTTP.
    """

    code = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.headers = dict(headers or {})


class IllegalTransition(DeliveryError):
    """The lifecycle has no such transition: a bug of this package."""


class ProtocolError(DeliveryError):
    """A peer broke the wire protocol, ``docs/protocol.md``."""

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
    """The token cannot be checked now; the close code asks the client to reconnect."""

    def __init__(self, message: str, *, close_code: int = 3006) -> None:
        super().__init__(message, close_code=close_code)


class UnknownAck(ProtocolError):
    """An acknowledgement names an event that was not sent on this connection."""

    code = "unknown_ack"

    def __init__(self, message: str, *, close_code: int = 3501) -> None:
        super().__init__(message, close_code=close_code)


class ChannelError(DeliveryError):
    """One delivery attempt failed.

    Attributes:
        retryable: whether the same attempt may succeed later.
        retry_after: seconds that the provider asked for, ``None`` if it did not.
        health: the provider's state, for its breaker: ``True`` it works (it answered, and refused
            this recipient or message), ``False`` it does not, ``None`` unknown.
        suppress: the reason (``hard_bounce``, ``invalid_number``, ``complaint``) for which no
            further message goes to the address; ``None`` for a refusal that does not tell.
        code: the provider's code of such a refusal.
    """

    retryable = True
    health: bool | None = False
    suppress: str | None = None
    code: str | None = None

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

    def of_address(self, suppress: str | None, code: str | None) -> Self:
        """Mark the error as about the address itself, which gets no further message."""
        self.suppress, self.code = suppress, code
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
    """The provider refused for good: a wrong address, a blocked recipient, a malformed message."""

    retryable = False
    health: bool | None = True


class Unrenderable(ChannelRejected):
    """No message can be made of the event: nothing was sent and no provider was called."""

    health = None


class OutcomeUnknown(ChannelError):
    """The request was sent and the answer lost: the provider may have taken the message."""


class LedgerError(DeliveryError):
    """Base of the ledger's errors."""


class LedgerUnavailable(LedgerError):
    """The database cannot be reached, is locked or did not answer in time. Safe to retry.

    Attributes:
        cause: why, in words that everybody may read; ``None`` where that is unknown.
    """

    def __init__(self, message: str = "", *, cause: str | None = None) -> None:
        super().__init__(message)
        self.cause = cause


class LedgerReadOnly(LedgerUnavailable):
    """The database answers and takes no writes: it is a standby, or read-only by setting."""


class SpoolFull(LedgerError):
    """The spool or its disk is full; events are refused until it is drained."""


class LinkInvalid(DeliveryError):
    """The token of a link is malformed, forged, or for another purpose."""


class LinkExpired(LinkInvalid):
    """The token of a link was valid and has expired."""


class RemoteError(DeliveryError):
    """The HTTP API refused a request.

    Attributes:
        status: the HTTP status.
        problem: the ``application/problem+json`` document, ``{}`` if there is none.
    """

    def __init__(self, message: str, *, status: int, problem: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class Unreachable(DeliveryError):
    """The service did not answer within the timeout."""


class _AckTimeout(ChannelError):
    """Never raised: an event that is not acknowledged in time is handed over to its chain."""


def __getattr__(name: str) -> Any:
    if name == "AckTimeout":
        return removed(name, stacklevel=3)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def removed(name: str, *, stacklevel: int) -> type[DeliveryError]:
    """Return an error class that the next release removes, with a warning.

    Args:
        stacklevel: the frame that the warning names; 2 is the caller.
    """
    warnings.warn(
        f"{name} is never raised, and the next release does not have it",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    return {"AckTimeout": _AckTimeout}[name]
