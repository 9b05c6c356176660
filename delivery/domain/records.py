"""What parts hand to the ledger and get back from it: plain frozen values, no SQL in sight."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from delivery.domain.contact import Contact
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome, State


class Entry(msgspec.Struct):
    """One event on its way into the ledger. Mutable until the commit takes it: an ack that beats
    the commit is added to ``proofs`` and inserted with the event.

    Attributes:
        event: with ``seq=None`` when the ledger is to assign it from ``runs.last_seq``.
        ack_timeout: seconds from the insert to the hand-over.
        ttl: seconds from the insert to ``expired``.
        sent: the event was already pushed to a live socket.
        awaited: that socket is this node's, so that its proof may come in time for the insert.
        hand_over: nobody could be reached; the chain starts at once.
        pushes: fast-path attempts to record: ``(outcome, error)``.

    A submitter that needs more when the answer comes adds fields in a subclass of its own.
    """

    event: Event
    ack_timeout: float
    ttl: float
    sent: bool = False
    hand_over: bool = False
    awaited: bool = False
    proofs: list[Confirmation] = []
    pushes: list[tuple[Outcome, str | None]] = []


class Recorded(enum.StrEnum):
    """What became of an entry."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


class Receipted(msgspec.Struct, frozen=True, gc=False):
    """The ledger's answer for one entry. ``seq`` is the recorded one (of the first, for a
    duplicate; ``None`` when only the spool has it so far)."""

    id: str
    outcome: Recorded
    seq: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as the ledger has it.

    Attributes:
        position: order of recording; within a run it is the commit order.
        step: the channel of the chain on which the event stands, ``None`` before and after.
        handed_over_at: when this generation entered the chain.
    """

    event: Event
    position: int
    state: State
    step: str | None
    due_at: datetime | None
    expires_at: datetime
    generation: int
    recorded_at: datetime
    handed_over_at: datetime | None = None
    digest_id: str | None = None


@dataclass(frozen=True, slots=True)
class FeedMark:
    """Where a client that comes back is owed what it handled already: everything recorded at
    ``since`` or later, none of which stands at or before the position ``behind``."""

    since: datetime
    behind: int


class Owed(msgspec.Struct, frozen=True, gc=False):
    """An event that a connecting client is owed.

    Attributes:
        is_proved: confirmed, and by this very client's acknowledgement among others: one more
            would say nothing new.
    """

    event: Event
    position: int
    is_proved: bool = False


@dataclass(frozen=True, slots=True)
class ConfirmationRow:
    """A stored proof."""

    channel: str
    by: str
    evidence: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Timeline:
    """One event with everything that happened to it, oldest first."""

    stored: Stored
    attempts: tuple[Attempt, ...]
    confirmations: tuple[ConfirmationRow, ...]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a listing or a replay means; ``None`` means any."""

    user_id: str | None = None
    run_id: str | None = None
    state: State | None = None
    type: str | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Purged:
    """What one step of a purge deleted by state, and where the next one goes on; ``after`` is
    ``None`` at the end."""

    deleted: dict[State, int]
    after: int | None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a batch of proofs did. ``confirmed`` holds ids that are confirmed now (already
    confirmed ones too); ``unknown`` ids that are not this user's or not there."""

    confirmed: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Due:
    """An event whose due time has come; ``step`` is ``None`` on entering the chain."""

    id: str
    event_class: EventClass
    step: str | None


@dataclass(frozen=True, slots=True)
class Swept:
    """One page of a sweep: what is due now, how many were found expired, and whether nothing else
    was due."""

    due: tuple[Due, ...]
    expired: int
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to act for one event until the lease ends.

    Attributes:
        token: fencing token; a result with an older one is refused.
        attempts: this generation's, unfinished ones of dead workers already turned ``unknown``.
        contact: the user's, empty if none is stored.
        digests: pending digests of this event's user and run (or of the user): channel -> due.
        now: the ledger's clock at the claim.
    """

    stored: Stored
    token: int
    attempts: tuple[Attempt, ...]
    contact: Contact
    digests: dict[str, datetime]
    now: datetime

    @property
    def id(self) -> str:
        """The event's."""
        return self.stored.event.id


@dataclass(frozen=True, slots=True)
class Result:
    """The end of an attempt, to be recorded with the move that follows from it.

    ``health`` is what it says about the provider, see ``ChannelError.health``; it is not recorded.
    """

    outcome: Outcome
    error: str | None = None
    retryable: bool = True
    retry_after: float | None = None
    provider_id: str | None = None
    health: bool | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    """One message in the making, or made.

    Attributes:
        run_id: the run it is about; ``None`` for a digest merged over runs.
        number: attempts made so far.
        message_id: stable over retries.
        state: ``open`` (gathers), ``sent``, ``failed`` (given up), ``dropped`` (nothing was left to
            send), ``firing`` / ``resolved`` (alerts).
    """

    id: str
    user_id: str
    run_id: str | None
    channel: str
    state: str
    due_at: datetime | None
    number: int
    message_id: str
    token: int = 0


@dataclass(frozen=True, slots=True)
class DigestClaim:
    """A digest claimed for sending with its members, read again at this moment."""

    digest: Digest
    members: tuple[Stored, ...]
    contact: Contact
    now: datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure that is out of its limit: ``value`` beside ``limit``; ``where`` names the nodes or
    channels, if it is about some."""

    name: str
    value: float
    limit: float
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """One grouped alert: all dead events of one class, firing until each has ended otherwise; or,
    without a class, whatever is out of its limit: ``count`` conditions, no users, no sample.
    ``faults`` are errors of ours that events were given up with."""

    id: str
    event_class: EventClass | None
    since: datetime
    count: int
    users: int
    sample: tuple[str, ...]
    notified_at: datetime | None
    is_new: bool
    conditions: tuple[Condition, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What it is about, in one word."""
        return "thresholds" if self.event_class is None else self.event_class.value


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A process as it last reported itself; for display only."""

    node: str
    kind: str
    started_at: datetime
    seen_at: datetime
    connections: int
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """One channel over the statistics window; ``latency_ms`` is the median of what went well."""

    attempts: int
    ok: int
    breaker: str
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of the last ``window_s`` seconds, from the ledger."""

    window_s: int
    delivery_rate: float
    fallback_share: float
    events_per_s: float
    ack_p50_ms: float | None
    ack_p99_ms: float | None
    states: dict[str, int]
    channels: dict[str, ChannelStats]
    oldest_overdue_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What operators are shown, read together.

    Attributes:
        alerts: groups that fire.
        nodes: processes that were alive lately.
    """

    stats: Stats
    alerts: list[AlertGroup]
    nodes: list[NodeInfo]
