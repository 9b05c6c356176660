"""Ports between the parts: Protocols that ``bootstrap`` wires to implementations.

In the order of an event: the ledger from the loop, intake, push, bus, chain. The ledger's stores
are in ``stores``, those of transports in ``transports``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import msgspec

from delivery.domain.event import Event
from delivery.domain.lifecycle import Confirmation
from delivery.domain.node_messages import NodeMessage
from delivery.domain.operators.figures import Snapshot
from delivery.domain.operators.history import Point
from delivery.domain.policy import Policies, Priority
from delivery.domain.rates import Lease, Rate
from delivery.domain.records import (
    Confirmed,
    Digest,
    Entry,
    Erased,
    EventFilter,
    FeedMark,
    InboxFilter,
    InboxItem,
    Matches,
    Owed,
    Receipted,
    RecordedReceipt,
    SentMessage,
    Stored,
    Timeline,
)
from delivery.domain.run_tokens import RunRow
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import ProviderReceipt, Suppression
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.domain.users.web_push import WebPush

E = TypeVar("E", bound=Entry)

Answered = Callable[[Any, Receipted | Exception], None]
"""Called with an entry that was submitted, and with its receipt or error."""


class Journal(Protocol):
    """Writes to the ledger from the event loop: never waits; one thread commits in batches."""

    def submit(self, entry: E, answered: Callable[[E, Receipted | Exception], None]) -> None:
        """Queue an entry; ``answered`` runs on the loop after the commit (or the spool's fsync).
        An ``awaited`` entry may wait a few milliseconds, so that its confirmation is inserted with
        it.

        Raises:
            Overloaded: the bounded buffer is full; nothing was queued.
        """

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """Queue confirmations; merged into the insert when the event has not been committed yet."""

    def hand_over(self, event_id: str, reason: str) -> None:
        """Start the chain for this event after its insert."""

    async def flush(self, timeout: float = 10.0) -> None:
        """Wait until everything queued so far is durable; later entries are not waited for."""

    @property
    def backlog(self) -> int: ...

    @property
    def refusal(self) -> str | None:
        """Why an entry would be refused now; ``None`` while entries are accepted."""

    @property
    def set_aside(self) -> int:
        """Accepted events on this machine that a spool could not record, and no process will."""


class Reads(Protocol):
    """Reads of the ledger for the event loop: in threads, bounded in number, with a deadline.

    Every call may raise ``LedgerUnavailable``: the ledger is away, did not answer within 12 s, or
    too many calls wait already.
    """

    async def event(self, event_id: str) -> Timeline | None:
        """One event with its attempts and confirmations."""

    async def events(self, event_ids: Sequence[str]) -> list[Stored]:
        """Events that exist among these ids, in order of recording."""

    async def find(
        self, which: EventFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Stored], str | None]:
        """A page, newest first; see ``EventStore.find``."""

    async def count(self, which: EventFilter) -> Matches:
        """How many events match; see ``EventStore.count``."""

    async def open_events(self, user_id: str) -> dict[str, int]:
        """Unconfirmed events of a user by state; see ``EventStore.open_of``."""

    async def feed(
        self,
        user_id: str,
        start: FeedMark | timedelta | None,
        *,
        by: str,
        after: int,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        """A page of what a connection is owed; see ``FeedStore.page``."""

    async def first_feed(
        self, user_id: str, cursor: str | None, *, by: str, runs_of: int, limit: int
    ) -> tuple[dict[str, int], list[Owed], FeedMark | None]:
        """The last ``seq`` of each run among the user's last ``runs_of`` events, and the first
        page, read in this order: an event recorded in between is on the page, or has a higher
        ``seq``."""

    async def run(self, user_id: str, run_id: str) -> RunRow | None: ...

    async def digest(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        """A digest and the ids that its message listed."""

    async def contact(self, user_id: str) -> Contact | None: ...

    async def suppressed(self, contact: Contact) -> dict[str, Suppression]:
        """Channel -> the suppression of the contact's address there."""

    async def suppressions(
        self, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Suppression], str | None]:
        """A page, newest first; see ``SuppressionStore.page``."""

    async def snapshot(self) -> Snapshot:
        """Figures, firing alerts and nodes, read together."""

    async def sent_messages(self, event_id: str) -> list[SentMessage]:
        """The messages that carried an event; see ``SentMessageStore.of_event``."""

    async def sent_message(self, message_id: int) -> SentMessage | None: ...

    async def history(self, step: int, since: datetime, until: datetime) -> list[Point]:
        """Figures over time; see ``HistoryStore.read``."""

    async def now(self) -> datetime:
        """The ledger's clock."""

    async def revocations(
        self, since: datetime | None, after: Revocation | None, limit: int
    ) -> list[Revocation]:
        """A page of revoked tokens; see ``RevocationStore.page``."""

    async def ping(self) -> None:
        """Raises ``LedgerUnavailable`` when the ledger cannot serve."""


class Writes(Protocol):
    """Changes to the ledger for the event loop, on request. Raises as ``Reads`` does."""

    async def confirm(
        self, confirmations: Sequence[Confirmation], *, digest_id: str | None = None
    ) -> Confirmed:
        """See ``ConfirmationStore.confirm``."""

    async def cloud_event_ids(self, keys: Sequence[tuple[str, str]]) -> list[str]:
        """See ``CloudEventStore.ids``."""

    async def expedite(self, event_ids: Sequence[str]) -> None:
        """See ``OperationStore.expedite``."""

    async def replay(
        self,
        which: EventFilter | Sequence[str],
        *,
        policies: Policies,
        dry_run: bool = False,
        after: str | None = None,
        limit: int | None = None,
        actor: str = "",
    ) -> list[str]:
        """See ``OperationStore.replay``."""

    async def record_receipts(
        self, found: Sequence[ProviderReceipt]
    ) -> list[RecordedReceipt | None]:
        """See ``ReceiptStore.record``."""

    async def use_token(self, token: str, body: str) -> bool:
        """See ``ReceiptStore.use_token``."""

    async def unsuppress(self, address: str, *, actor: str = "") -> bool:
        """See ``SuppressionStore.remove``."""

    async def put_contact(
        self, contact: Contact, *, actor: str = "", keeps_verified: bool = False
    ) -> Contact: ...
    async def verify(self, user_id: str, channel: str, name: str) -> Contact | None: ...
    async def delete_contact(self, user_id: str, *, actor: str = "") -> bool: ...
    async def add_web_push(self, user_id: str, new: WebPush, *, actor: str = "") -> Contact:
        """See ``ContactStore.add_web_push``."""

    async def forget_web_push(self, user_id: str, endpoint: str, *, actor: str = "") -> bool:
        """See ``ContactStore.forget_web_push``."""

    async def erase_events(self, user_id: str, limit: int) -> int:
        """See ``ErasureStore.erase_events``."""

    async def erase_rest(self, user_id: str, *, events: int, actor: str) -> Erased:
        """See ``ErasureStore.erase_rest``."""

    async def record_act(self, kind: str, user_id: str, facts: Mapping[str, Any]) -> None:
        """Append a row about an act that changes nothing else in the ledger to the compliance
        log."""

    async def opt_out(self, user_id: str, channel: str) -> None: ...
    async def choose(
        self, user_id: str, channel: str, refused: Sequence[str]
    ) -> tuple[str, ...]: ...

    async def revoke(
        self,
        kind: RevocationKind,
        subject: str,
        *,
        before: datetime | None = None,
        lifetime: timedelta,
        actor: str = "",
    ) -> Revocation:
        """See ``RevocationStore.add``."""

    async def purge_revocations(self) -> int:
        """See ``RevocationStore.purge``."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The answer for one accepted event; ``durable`` for all but ephemeral ones."""

    id: str
    seq: int | None
    duplicate: bool
    durable: bool


class Intake(Protocol):
    """The emitter's entry for events that came as JSON objects (HTTP). On the loop."""

    def check_room(self, producer: str) -> None:
        """Refuse a request before it is read. Raises ``Overloaded``: too much of it waits."""

    async def accept(self, items: Sequence[Any], producer: str) -> list[Accepted | Exception]:
        """Validate and record a batch, in order; accepted events are pushed afterwards.

        Args:
            producer: whose events they are: producers take turns.

        Returns:
            One answer per item, once it is durable. ``InvalidEvent`` (or ``IdConflict``,
            ``PayloadTooLarge``, ``InvalidContext``) is the caller's fault, ``Overloaded`` and
            ``LedgerError`` are ours.
        """


class Pushed(msgspec.Struct, frozen=True, gc=False):
    """The result of a push.

    Attributes:
        connections: the number that took the event.
        reason: why no connection was reached.
        failed: a send was tried and failed, so that another one may succeed; ``False`` when the
            user has no connection.
        is_here: a connection of this node took it.
        is_expected: the user's connection was lost a moment ago: ``Push.keep_waiting`` takes the
            event in place of its chain.
    """

    connections: int
    reason: str | None = None
    failed: bool = False
    is_here: bool = True
    is_expected: bool = False


class Push(Protocol):
    """The fast path, on the loop's thread; never waits."""

    def push(self, event: Event, encoded: bytes) -> Pushed:
        """Queue one event, encoded once, on each of its user's connections, here and elsewhere."""

    def is_absent(self, user_id: str) -> bool:
        """Whether a push now reaches no connection: no other node is alive, and there is none here.
        The user may connect at any time; the connection is then fed from the ledger."""

    def keep_waiting(self, event: Event, *, is_recorded: bool) -> None:
        """Hand an event over in some seconds, unless its user is connected again by then.

        Args:
            is_recorded: whether the ledger has it already.
        """

    def health(self, user_id: str) -> int:
        """Score of the user's best connection here, 0-100; 100 without a connection."""


class Bus(Protocol):
    """Messages between nodes, at most once."""

    async def start(self, on_message: Callable[[NodeMessage], None]) -> None:
        """Call ``on_message`` on this loop with every message of another node. Malformed messages
        and those of another version are dropped; an error of ``on_message`` is logged as a bug."""

    def publish(self, message: NodeMessage, to: Collection[str] = ()) -> None:
        """Send to the nodes of these names, or to every other node; never waits, drops when
        overloaded. Other nodes may receive an addressed message too."""

    async def stop(self) -> None: ...


class OneTime(Protocol):
    """Values that are taken once, at any node, under a code that cannot be guessed. On the loop."""

    async def put(self, purpose: str, value: bytes, lifetime: float) -> str:
        """Keep a value for ``lifetime`` seconds. Returns its code.

        Raises:
            ChannelUnavailable: what keeps the values does not answer.
            Overloaded: too many values are kept already.
        """

    async def take(self, purpose: str, code: str) -> bytes | None:
        """Take the value out; ``None`` for an unknown, used or old code, or one of another purpose.

        Raises:
            ChannelUnavailable: what keeps the values does not answer.
        """

    async def close(self) -> None: ...


class RateLeases(Protocol):
    """Token buckets that all nodes share."""

    async def lease(self, name: str, caller: str, rate: Rate, cost: int, wanted: int) -> Lease:
        """Take ``wanted`` tokens, or as many as there are; at least ``cost`` if there is one.

        Raises:
            ChannelUnavailable: they do not answer now.
        """


class TaskQueue(Protocol):
    """Publishes tasks of the chain. A publish is a hint: losing it loses nothing."""

    def publish(self, channel: str, ids: Sequence[str], priority: Priority | None = None) -> None:
        """Queue ids for a channel's task; never blocks (a relay thread sends).

        Args:
            priority: of the task among those of its queue; a hint, too. ``None`` for none.
        """

    def verify(self, channel: str) -> None:
        """Queue the task that sends a channel's messages to unverified addresses; never blocks."""

    def send_webhooks(self) -> None:
        """Queue the task that tells the application's endpoints what is new; never blocks."""


class Resend(Protocol):
    """Resends to connected clients, for the ``direct`` channel; synchronous, for workers."""

    def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Probe the user's sockets, drop stale ones, resend.

        Args:
            timeout: seconds for everything.

        Returns:
            The number of live connections that took the events.
        """

    def wake(self, user_ids: Sequence[str]) -> None:
        """Tell gateways that these users have queue copies; a hint that may be lost."""


class UserInbox(Protocol):
    """Inboxes of users, for the event loop; see ``InboxStore``."""

    async def inbox(
        self, user_id: str, which: InboxFilter, *, after: str | None, limit: int
    ) -> tuple[list[InboxItem], str | None, int]:
        """A page, where the next one begins, and how many are unread."""

    async def mark_inbox(
        self, user_id: str, ids: Sequence[str], *, read: bool | None, archived: bool | None
    ) -> list[str]:
        """Set or take off marks; see ``InboxStore.mark``."""

    async def read_inbox(
        self, user_id: str, up_to: str | None, types: Collection[str]
    ) -> list[str]:
        """Mark messages as read; see ``InboxStore.read_up_to``."""


Jitter = Callable[[], float]
"""Random numbers, uniform in [0, 1): the source of jitter."""
