"""Receipts of providers: what a provider reports about a message, and what follows from it.

Owns: the statuses, what a delivery status code says about an address, and for how long an address
is suppressed. Pure. Never does: know a provider's own words (its adapter translates them).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

MAX_TEXT = 500
MAX_CODE = 64
SOFT_FIRST = timedelta(hours=6)
SOFT_LONGEST = timedelta(days=14)
"""A soft suppression lasts ``SOFT_FIRST``, twice as long with each repeat, up to this."""


class ReceiptStatus(enum.StrEnum):
    """What a provider reports about a message that it took."""

    DEFERRED = "deferred"  # not delivered yet; the provider tries again
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    FAILED = "failed"  # never left the provider
    UNDELIVERED = "undelivered"
    BOUNCED = "bounced"
    COMPLAINED = "complained"

    @property
    def is_failure(self) -> bool:
        """Whether the message's attempts failed by it."""
        return self in FAILURES


FAILURES = frozenset(
    {
        ReceiptStatus.FAILED,
        ReceiptStatus.UNDELIVERED,
        ReceiptStatus.BOUNCED,
        ReceiptStatus.COMPLAINED,
    }
)


class Suppress(enum.StrEnum):
    """Why no message goes to an address."""

    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    INVALID_NUMBER = "invalid_number"
    SOFT_BOUNCE = "soft_bounce"

    @property
    def expires(self) -> bool:
        """Whether the address may get messages again by itself."""
        return self is Suppress.SOFT_BOUNCE


@dataclass(frozen=True, slots=True)
class ProviderReceipt:
    """One report of a provider about one message to one address.

    Attributes:
        references: names of the message, the best one first: a digest's id, a ``Message-ID``, the
            provider's id.
        address: as the provider reports it; ``None`` if it does not.
        code: the provider's code of a failure.
        text: the provider's words, made fit for the ledger.
        suppress: why the address gets no further message; ``None`` if it may.
        at: the provider's instant, aware; ``None`` if it tells none.
        is_authentic: the report is surely the provider's. Without it only the address that the
            message went to can be suppressed.
    """

    channel: str
    provider: str
    status: ReceiptStatus
    references: tuple[str, ...]
    address: str | None = None
    code: str | None = None
    text: str | None = None
    suppress: Suppress | None = None
    at: datetime | None = None
    is_authentic: bool = True

    @property
    def error(self) -> str:
        """The error of an attempt that failed by it: ``bounced 5.1.1: no such user``."""
        head = f"{self.status.value} {self.code}" if self.code else self.status.value
        return (f"{head}: {self.text}" if self.text else head)[:MAX_TEXT]


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """A stored receipt, of an event's timeline."""

    channel: str
    provider: str
    status: str
    code: str | None
    at: datetime
    digest_id: str


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that gets no message.

    Attributes:
        address: in the form of ``address.comparable``.
        code: the provider's code.
        expires_at: when it ends by itself; ``None`` for never.
    """

    channel: str
    address: str
    reason: Suppress
    provider: str
    code: str | None
    since: datetime
    expires_at: datetime | None

    @property
    def why(self) -> str:
        """The reason of a skipped step."""
        return f"suppressed: {self.reason.value}" + (f" {self.code}" if self.code else "")


def soft_until(now: datetime, times: int) -> datetime:
    """When a soft suppression ends.

    Args:
        times: soft bounces so far, this one included.
    """
    doublings = min(max(times, 1) - 1, 16)
    return now + min(SOFT_FIRST * (1 << doublings), SOFT_LONGEST)


_ENHANCED = re.compile(r"(?<![0-9.])([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![0-9.])")
# X.1.x: bad mailbox, bad system, bad syntax, moved, no mail there. Source: RFC 3463, section 3.2;
# RFC 7505, section 4.2.
_NO_SUCH_ADDRESS = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10"})
# X.2.x: disabled, full, a list that cannot be expanded. Source: RFC 3463, section 3.3.
_MAILBOX = frozenset({"2.0", "2.1", "2.2", "2.4"})


def enhanced_code(text: str) -> str | None:
    """The first enhanced status code (``5.1.1``) in the first 500 characters of a text."""
    found = _ENHANCED.search(text[:MAX_TEXT])
    return found[0] if found else None


def suppress_by_code(code: str) -> Suppress | None:
    """What an enhanced status code says about the address.

    A refusal by policy (X.7), of a route, a protocol or the content says nothing about it.
    """
    kind, _, detail = code.partition(".")
    if kind == "5" and detail in _NO_SUCH_ADDRESS:
        return Suppress.HARD_BOUNCE
    if detail in _MAILBOX or (kind == "4" and detail in _NO_SUCH_ADDRESS):
        return Suppress.SOFT_BOUNCE
    return None


def suppress_bounce(code: str | None, *, is_permanent: bool) -> Suppress | None:
    """What a bounce says about the address: by its code, and by the provider's verdict where there
    is none or it is unspecific (``5.0.0``, ``5.1.0``)."""
    if code is not None and not code.endswith((".0.0", ".1.0")):
        return suppress_by_code(code)
    return Suppress.HARD_BOUNCE if is_permanent else Suppress.SOFT_BOUNCE
