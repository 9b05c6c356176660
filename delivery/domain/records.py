"""Values that the ledger takes and returns. Frozen but for ``Entry``; no SQL.

In the order of their stores: recording, events, retention, feed, chain, digests. Alerts and figures
are in ``operators``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome, State
from delivery.domain.options import Options
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import ReceiptRow, Suppress


class Entry(msgspec.Struct):
    """One event to be recorded. Mutable until the commit takes it: an ack that comes before the
    commit is added to ``confirmations`` and inserted with the event.

    Attributes:
        event: its ``seq`` is ``None`` when the ledger is to assign it from ``runs.last_seq``.
        ack_timeout: seconds from the insert to the hand-over.
        ttl: seconds from the insert to ``expired``.
        sent: the event was already pushed to a live socket.
        awaited: that socket is this node's, so that its confirmation may come in time for the
        insert.
        hand_over: no connection could be reached; the chain starts at once.
        pushes: fast-path attempts to record: ``(outcome, error)``.
        options: what the caller chose for it; ``None`` for nothing.

    A subclass may add fields that its submitter needs when the answer comes.
    """

    event: Event
    ack_timeout: float
    ttl: float
    sent: bool = False
    hand_over: bool = False
    awaited: bool = False
    confirmations: list[Confirmation] = []
    pushes: list[tuple[Outcome, str | None]] = []
    options: Options | None = None

    def choose(self, options: Options) -> None:
        """Set what the caller chose, with what follows from it."""
        self.options = options
        if options.ttl is not None:
            self.ttl = options.ttl

    @property
    def is_held(self) -> bool:
        """Whether it was accepted before the instant from which it may reach its user."""
        return self.options is not None and self.options.holds(self.event.at)


class SideAttempt(msgspec.Struct, frozen=True):
    """An attempt beside the chain, made at once for a sign-in event; see ``Attempt``."""

    event_id: str
    channel: str
    outcome: Outcome
    started_at: datetime
    ended_at: datetime
    error: str | None = None


class Recorded(enum.StrEnum):
    """The result of recording an entry."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


class Receipted(msgspec.Struct, frozen=True, gc=False):
    """The ledger's answer for one entry.

    Attributes:
        seq: the recorded number (of the first event, for a duplicate); ``None`` while only the
            spool has the event.
    """

    id: str
    outcome: Recorded
    seq: int | None


First = tuple[str, str, str]
"""Id of an event that was confirmed for the first time, the channel, and its state before."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The result of a batch of confirmations.

    Attributes:
        confirmed: ids that are confirmed now, those confirmed before included.
        unknown: ids of no event, or of another user's.
        first: those that are confirmed for the first time.
    """

    confirmed: tuple[str, ...]
    unknown: tuple[str, ...]
    first: tuple[First, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as the ledger has it.

    Attributes:
        position: order of recording; within a run it is the commit order.
        step: channel of the event's present step; ``None`` before and after the chain.
        handed_over_at: when this generation was handed over to the chain.
        options: what the caller chose for it; ``None`` for nothing.
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
    options: Options | None = None


@dataclass(frozen=True, slots=True)
class ConfirmationRow:
    """A stored confirmation."""

    channel: str
    by: str
    evidence: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Timeline:
    """One event with its attempts and confirmations, oldest first, and what providers reported of
    the messages that carried it."""

    stored: Stored
    attempts: tuple[Attempt, ...]
    confirmations: tuple[ConfirmationRow, ...]
    receipts: tuple[ReceiptRow, ...] = ()


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The events that a listing or a replay selects; ``None`` selects any.

    Attributes:
        id_prefix: the beginning of a canonical id; prefixes of users and runs are exact, too.
        channel: one of the event's attempts or confirmations, or its present step.
        error: in the error of an attempt (on ``channel``, if that is given), in either case.
        before: recorded before it.
        since / until: the event's ``at`` is in this half-open interval.
    """

    user_id: str | None = None
    run_id: str | None = None
    state: State | None = None
    type: str | None = None
    before: datetime | None = None
    user_prefix: str | None = None
    run_prefix: str | None = None
    id_prefix: str | None = None
    event_class: EventClass | None = None
    channel: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Matches:
    """How many events a filter selects; at least that many where it is not ``is_exact``."""

    count: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """The messages of an inbox that a page selects.

    Attributes:
        types: of these types, with a title or without; none: every event that has a title.
        unread: only those, or only the others; ``None``: both.
        archived: only archived ones, or only the others.
    """

    types: tuple[str, ...] = ()
    run_id: str | None = None
    unread: bool | None = None
    archived: bool = False


@dataclass(frozen=True, slots=True)
class InboxItem:
    """One message of an inbox, with when it was read and archived."""

    stored: Stored
    read_at: datetime | None
    archived_at: datetime | None


@dataclass(frozen=True, slots=True)
class Purged:
    """What one page of a purge deleted, by state, and the position ``after`` which the next one
    continues; ``None`` at the end."""

    deleted: dict[State, int]
    after: int | None


@dataclass(frozen=True, slots=True)
class FeedMark:
    """The beginning of the recent events that a client is owed again, handled ones included: those
    recorded at ``since`` or later, all of them at positions over ``behind``.

    Attributes:
        is_cut: there are too many of them; the older ones are left out.
    """

    since: datetime
    behind: int
    is_cut: bool = False


class Owed(msgspec.Struct, frozen=True, gc=False):
    """An event that a connecting client is owed.

    Attributes:
        is_confirmed: confirmed, among others by this client's own acknowledgement: a further one
            would add nothing.
    """

    event: Event
    position: int
    is_confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """An event that is due; ``step`` is ``None`` when it enters the chain."""

    id: str
    event_class: EventClass
    step: str | None


@dataclass(frozen=True, slots=True)
class Swept:
    """One page of a sweep.

    Attributes:
        due: to be published now; users alternate.
        expired: the number of events that expired.
        is_last: nothing else was due.
        entered: how many events entered the chain.
        released: users of events that were held back until now: their connections read the ledger.
        waiting: how many wait for their turn, because many of their user's are published already.
    """

    due: tuple[Due, ...]
    expired: int
    is_last: bool = False
    released: tuple[str, ...] = ()
    entered: int = 0
    waiting: int = 0


Lane = tuple[str, str]
"""A user, and a class with a step: what has a share of a queue."""


@dataclass(frozen=True, slots=True)
class NextTurns:
    """One page of events whose turn has come, to be published now.

    Attributes:
        after: where the next page goes on; ``None`` when every user had a turn.
    """

    due: tuple[Due, ...]
    after: Lane | None


class HandedOn(enum.Enum):
    """What became of an event that was to be handed on."""

    PUBLISH = "publish"
    WAITS = "waits"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to act for one event until the lease ends.

    Attributes:
        token: fencing token; a result with an older one is refused.
        attempts: of this generation; unfinished ones of dead workers are ``unknown`` already.
        contact: the user's; without addresses if none is stored.
        digests: pending digests of this event's user and run (or of the user): step -> due.
        now: the ledger's clock at the claim.
        suppressed: channel -> why the contact's address there gets no message.
    """

    stored: Stored
    token: int
    attempts: tuple[Attempt, ...]
    contact: Contact
    digests: dict[str, datetime]
    now: datetime
    suppressed: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The event's id."""
        return self.stored.event.id


@dataclass(frozen=True, slots=True)
class Result:
    """The end of an attempt.

    Attributes:
        health: whether the provider works, if the attempt tells; see ``ChannelError.health``. Not
            recorded.
        suppress / code: why the address gets no further message, and the provider's code.
        provider: the name of the provider that did it; ``None`` for the one of the settings.
    """

    outcome: Outcome
    error: str | None = None
    retryable: bool = True
    retry_after: float | None = None
    provider_id: str | None = None
    health: bool | None = None
    suppress: Suppress | None = None
    code: str | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    """One message for several events of a user, open or sent.

    Attributes:
        run_id: the run of its events; ``None`` for a digest merged over runs.
        step: the name of the step that sends it, where it is not its channel's.
        number: attempts made so far.
        message_id: the same on every attempt.
        state: ``open`` (gathers events), ``sent``, ``failed`` (no further attempt), ``dropped``
            (nothing was left to send), ``firing`` / ``resolved`` (alerts).
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
    step: str | None = None

    @property
    def step_name(self) -> str:
        """The name of the step that sends it."""
        return self.step or self.channel


@dataclass(frozen=True, slots=True)
class DigestClaim:
    """A digest claimed for sending, with its members as of the claim; ``suppressed`` says why the
    contact's address gets no message, ``None`` if it may."""

    digest: Digest
    members: tuple[Stored, ...]
    contact: Contact
    now: datetime
    suppressed: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a message says, as it goes out; ``html`` of mails only."""

    subject: str
    text: str
    html: str | None = None


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message as it was handed to a provider; ``number`` is that of the attempt."""

    id: int
    digest_id: str
    user_id: str
    channel: str
    to: str
    number: int
    content: Rendered
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordedReceipt:
    """A receipt whose message is known.

    Attributes:
        listed: ids of the events in the message.
        failed: ids of the events whose attempt failed by it.
        is_delivery: the message was delivered, and no failure overrules that.
    """

    digest: Digest
    listed: tuple[str, ...]
    failed: tuple[str, ...] = ()
    is_delivery: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure deleted.

    Attributes:
        has_contact: whether there was contact data.
        unkeyed_rows: rows of an earlier release's log that still name the user: only the owner's
            role may change them.
    """

    events: int
    digests: int
    has_contact: bool
    unkeyed_rows: int
