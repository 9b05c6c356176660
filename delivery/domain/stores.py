"""The ledger's stores: one Protocol per question, and ``Ledger``, which has them all.

All of them are synchronous and thread-safe; the event loop uses the journal (writes, without
waiting) or a thread (reads) instead. Every call may raise ``LedgerUnavailable``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from delivery.domain.audit import Checkpoint, Verified
from delivery.domain.contact import Contact
from delivery.domain.event import Event, EventClass
from delivery.domain.health import Breaker
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.policy import Policies
from delivery.domain.receipts import ProviderReceipt, Suppress, Suppression
from delivery.domain.records import (
    AlertGroup,
    Claim,
    Condition,
    Confirmed,
    Digest,
    DigestClaim,
    Entry,
    Erased,
    EventFilter,
    FeedMark,
    NodeInfo,
    Owed,
    Purged,
    Receipted,
    RecordedReceipt,
    Result,
    SideAttempt,
    Stats,
    Stored,
    Swept,
    Timeline,
)
from delivery.domain.revocation import Revocation, RevocationKind


class RecordingStore(Protocol):
    """Records accepted events."""

    def commit(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation] = (),
        *,
        drained: bool = False,
        missed: list[Confirmation] | None = None,
    ) -> list[Receipted]:
        """Record entries and confirmations in one transaction (group commit); one answer per entry.
        Confirmations for unknown events are added to ``missed``.

        Effect: inserts events (state from ``sent`` / ``hand_over`` / ``confirmations``), runs,
        fast-path attempts, confirmations; auth events also go to the audit log. Safe to repeat: a
        known id with the same content is a ``DUPLICATE``, with other content a ``CONFLICT``. With
        ``drained`` (from the spool) a conflict is recorded ``dead`` under a new id with
        ``meta.conflicts_with``.
        """

    def add_attempts(self, attempts: Sequence[SideAttempt]) -> list[SideAttempt]:
        """Record attempts that were made beside the chain.

        Effect: one row each, under the next number of its channel and the event's generation.

        Returns:
            Those whose event is not recorded yet.
        """


class ConfirmationStore(Protocol):
    """Stores confirmations that events reached their users."""

    def confirm(
        self, confirmations: Sequence[Confirmation], *, digest_id: str | None = None
    ) -> Confirmed:
        """Store confirmations; ids whose event is not the confirmation's ``user_id``'s are unknown.

        Args:
            digest_id: the message by which they were confirmed: events that it did not list, or
                that were started anew since, are unknown.

        Effect: state ``confirmed`` (``expired`` stays), due time cleared, claim kept but stale for
        moves. Safe to repeat: the same (event, channel, by, evidence) adds no second row.
        """


class EventStore(Protocol):
    """Reads events, one by one and in pages."""

    def get(self, event_id: str) -> Timeline | None: ...

    def find(
        self, which: EventFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Stored], str | None]:
        """Newest first; ``after`` is the opaque ``next`` of the page before.

        Raises:
            ValueError: ``after`` is not the end of a page.
        """

    def read(self, event_ids: Sequence[str]) -> list[Stored]:
        """Events that exist among these ids, in order of recording."""


class FeedStore(Protocol):
    """Reads what a connecting client is owed."""

    def page(
        self,
        user_id: str,
        start: str | FeedMark | timedelta | None,
        *,
        by: str,
        after: int = -1,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        """A page of events, in order of recording, at positions over ``after``: unexpired
        unconfirmed ones, and the recent ones from ``start`` on.

        Args:
            start: the id of the last event that the client handled (recent events begin 30 s
                before it), the mark of the previous page, a time back from now, or ``None`` for no
                recent events.
            by: the name under which this connection acknowledges.

        Returns:
            The page and the mark for the next one; the mark is ``None`` when ``start`` is no event
            of this user.
        """

    def last_seqs(self, user_id: str, limit: int) -> dict[str, int]:
        """The last sequence number of each run among the user's last ``limit`` events."""


class OperationStore(Protocol):
    """Changes recorded events outside of confirmations and the chain."""

    def hand_over(self, ids: Sequence[str], reason: str) -> None:
        """Start the chain now for events still ``accepted`` or ``sent``; other events do
        not change.

        Effect: a failed fast-path attempt with ``reason`` for each.
        """

    def expedite(self, ids: Sequence[str]) -> None:
        """End the ack timeout of events still ``accepted`` or ``sent``, since no connection can
        acknowledge them: the next sweep takes them.

        Args:
            ids: some thousands at most; they are one transaction.
        """

    def replay(
        self,
        which: EventFilter | Sequence[str],
        *,
        policies: Policies,
        dry_run: bool = False,
        after: str | None = None,
        limit: int | None = None,
        actor: str = "",
    ) -> list[str]:
        """Start unconfirmed events anew: ``accepted``, generation + 1, a new time to live, due
        after the ack timeout.

        Returns:
            The ids that matched, in order of recording: at most ``limit``, after the event
            ``after``.

        Raises:
            ValueError: no event has the id ``after``.
        """


class RetentionStore(Protocol):
    """Deletes events that have ended."""

    def purge(
        self,
        before: Mapping[State, datetime],
        *,
        after: int = -1,
        limit: int = 1_000,
        dry_run: bool = False,
    ) -> Purged:
        """Delete one page: of ``limit`` events after the position ``after`` those recorded before
        the instant of their state, with their rows.

        Raises:
            ValueError: a state in ``before`` is not an end state.
        """


class StatisticsStore(Protocol):
    """Computes figures of the last minutes."""

    def stats(self, window_s: int = 300) -> Stats: ...


class ChainStore(Protocol):
    """Keeps due times, claims and attempts of the fallback chain."""

    def sweep(self, limit: int = 500) -> Swept:
        """Take one page of due events.

        Effect: events past their ack timeout become ``falling_back``, expired ones end, and each
        due time moves 5 s ahead, doubling up to 60 s, so that a lost message is published again.
        Concurrent sweeps take different events: on PostgreSQL by ``FOR UPDATE SKIP LOCKED``.
        """

    def oldest_overdue(self) -> float:
        """Age in seconds of the oldest due time that no sweep has taken; 0.0 if none."""

    def claim(self, ids: Sequence[str], lease: float) -> list[Claim]:
        """Claim events that are ``falling_back`` and unclaimed, for ``lease`` seconds.

        Effect: unfinished attempts under an older token become ``unknown``; expired events end.
        """

    def begin_all(self, starts: Sequence[tuple[Claim, int]], channel: str) -> list[bool]:
        """Write ``started`` attempts with these numbers, before their side effect; ``False`` for an
        event that is no longer ``falling_back`` under this token (confirmed, or the claim was
        lost)."""

    def end_all(
        self, starts: Sequence[tuple[Claim, int]], channel: str, result: Result
    ) -> list[bool]:
        """End begun attempts with one result; ``False`` (nothing written) on a stale token."""

    def skip_all(self, skips: Sequence[tuple[Claim, str, str]]) -> list[bool]:
        """Record ``skipped`` attempts by channel and reason; ``False`` if the claim was lost."""

    def move_all(self, moves: Sequence[tuple[Claim, str, datetime]]) -> list[bool]:
        """Release the claims, with each event's next channel and due time; ``False`` if the claim
        was lost."""

    def finish_all(self, finishes: Sequence[tuple[Claim, bool]]) -> list[bool]:
        """End the chains: ``dead`` where operators were alerted, else ``parked``; ``False`` if the
        claim was lost."""


class DigestStore(Protocol):
    """Keeps digests: one message for several events of a user."""

    def join(
        self, claim: Claim, channel: str, *, by: Sequence[str], window: float, min_interval: float
    ) -> Digest:
        """Put an event into the open digest of its user (and run); opens one if there is none.

        Args:
            by: whether digests are per user, or per user and run.
            window: seconds until a new digest is due.
            min_interval: seconds between two messages to a user; 0 for no limit. With a limit an
                event of another run joins the user's open digest, whose ``run_id`` becomes
                ``None``, and a digest within the interval after a message is due at its end.
        """

    def claim(
        self,
        digest_id: str,
        lease: float,
        *,
        types: Sequence[str] = (),
        unknown_limit: int | None = None,
    ) -> DigestClaim | None:
        """Claim an open, due digest and read its members: the unconfirmed, unexpired open events of
        the runs that joined it, whose attempt on this channel was not delivered in this generation.

        Args:
            types: types of members that did not join by themselves; empty for any.
            unknown_limit: leaves out events with more attempts of unknown outcome on this channel.

        Returns:
            ``None`` if the digest is claimed, done, not yet due, or has nothing left to send (then
            it is closed).

        Effect: one ``started`` attempt per member; attempts that a dead worker left ``started``
        become ``unknown`` first.
        """

    def end(self, claim: DigestClaim, result: Result, *, retry_in: float | None) -> bool:
        """End every member's attempt with one result. The digest is due again in ``retry_in``
        seconds; ``None`` closes it."""

    def get(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        """A digest and the ids that its message listed."""


class AlertStore(Protocol):
    """Keeps alert groups."""

    def fire(
        self, event_class: EventClass, claims: Sequence[Claim], faults: Sequence[str] = ()
    ) -> AlertGroup:
        """Put events into the firing alert group of their class; opens one if there is none.

        Args:
            faults: errors of ours for which some of the events left their chain.
        """

    def watch(self, conditions: Sequence[Condition]) -> None:
        """Set the conditions of the one group without a class, all that are out of their limit now.
        A condition that is new to a firing group makes it unnotified again."""

    def notified(self, group_id: str) -> None:
        """Note that operators were notified now."""

    def firing(self) -> list[AlertGroup]:
        """Firing groups with their present counts; ``count`` 0 means that a group is over."""

    def resolve(self, group_id: str) -> None: ...


class ContactStore(Protocol):
    """Keeps contacts, by user."""

    def get(self, user_id: str) -> Contact | None: ...
    def put(self, contact: Contact, *, actor: str = "") -> None:
        """Replace the user's contact. The compliance log gets the names of what changed.

        Args:
            actor: who did it, for the log; also of ``delete``.
        """

    def delete(self, user_id: str, *, actor: str = "") -> bool: ...
    def opt_out(self, user_id: str, channel: str) -> None: ...


class ReceiptStore(Protocol):
    """Keeps what providers report about messages."""

    def record(self, found: Sequence[ProviderReceipt]) -> list[RecordedReceipt | None]:
        """Record receipts, each in a transaction; ``None`` for one about an unknown message.

        Effect: the first receipt of a status adds a row. By a failure the attempts of all events in
        the message become ``failed`` for good, the next step of those on the chain is due now, and
        the address may be suppressed; by a delivery an attempt whose outcome was unknown becomes
        ``delivered``, and is not repeated. A confirmed event stays confirmed. Safe to repeat, in
        any order.
        """

    def use_token(self, token: str, body: str) -> bool:
        """Note a callback's token with the hash of its body; ``False`` if the token came with
        another body before. Both are hexadecimal hashes of 64 characters."""


class SuppressionStore(Protocol):
    """Keeps the addresses that get no message."""

    def page(
        self, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Suppression], str | None]:
        """Those in force, newest first; ``after`` is the opaque ``next`` of the page before.

        Raises:
            ValueError: ``after`` is not the end of a page.
        """

    def of(self, contact: Contact) -> dict[str, Suppression]:
        """Channel -> the suppression of the contact's address there."""

    def add(
        self, channel: str, address: str, reason: Suppress, *, provider: str, code: str | None
    ) -> None:
        """Suppress an address, or prolong a soft suppression; a permanent one stays as it is."""

    def remove(self, address: str, *, actor: str = "") -> bool:
        """Take an address off the list, on every channel; ``False`` if it was not on it."""


class PushTargets(Protocol):
    """Notes what push services answered about users' targets that are gone (404, 410)."""

    def gone(self, urls: Sequence[str]) -> frozenset[str]:
        """Those that were gone for a week: they are not called any more. None while the ledger is
        away."""

    def report(self, gone: Mapping[str, str], alive: Sequence[str]) -> None:
        """Note the answers to one notice; nothing while the ledger is away.

        Args:
            gone: URL -> the status that says so.
            alive: URLs that took it.
        """


class BreakerStore(Protocol):
    """Keeps breakers of external channels, shared by all workers; times are epoch seconds."""

    def get(self, name: str) -> Breaker: ...
    def allows(self, name: str, *, probe: bool = True) -> bool:
        """Whether a call may pass now. The answer may be one second old; ``True`` when the ledger
        is away.

        Args:
            probe: whether the call may be the probe of an open breaker, which becomes half open.
        """

    def report(self, name: str, ok: bool) -> Breaker: ...
    def all(self) -> dict[str, Breaker]: ...


class QueueCopyStore(Protocol):
    """The ``queue`` channel's copies of events: in Redis, or in the ledger where there is none."""

    def put(self, events: Sequence[Event]) -> None: ...
    def read(self, user_id: str, limit: int = 1_000) -> list[Event]: ...
    def trim(self, max_age: float) -> int: ...
    def forget(self, user_id: str) -> None:
        """Delete all copies of a user."""


class AuditStore(Protocol):
    """Keeps the compliance log: numbered, append-only rows, chained under a key by one sealer."""

    def append(
        self, kind: str, event_id: str | None, user_id: str, facts: Mapping[str, Any]
    ) -> None:
        """Append a row.

        Args:
            user_id: whom it is about; empty for no user. The log has a pseudonym.
        """

    def seal(self, limit: int = 1_000) -> int: ...
    def head(self) -> Checkpoint | None:
        """A signed checkpoint of the last seal; ``None`` before the first."""

    def follows(self, checkpoint: Checkpoint) -> bool:
        """Whether the log goes on from a checkpoint, as far as its seals tell."""

    def verify(self, checkpoints: Sequence[Checkpoint] = ()) -> Verified:
        """Check the log, and that it goes on from each checkpoint; no finding when it is whole."""

    def export(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Every row after this number as a document, in order."""

    def prune(self, before: datetime, *, dry_run: bool = False) -> int:
        """Delete rows older than ``before`` from the log's beginning; returns their number."""


class RevocationStore(Protocol):
    """Keeps revocations of tokens until the tokens have expired."""

    def add(
        self,
        kind: RevocationKind,
        subject: str,
        *,
        before: datetime | None = None,
        lifetime: timedelta,
        actor: str = "",
    ) -> Revocation:
        """Revoke one token, or all that a user was issued before an instant.

        Args:
            before: of a user; ``None`` is now.
            lifetime: the longest time for which a token is valid after it was issued.

        Returns:
            The revocation that counts now: of two of one user the later instant.

        Raises:
            Overloaded: ``MAX_REVOCATIONS`` count already.

        Effect: one row. Safe to repeat.
        """

    def page(
        self, since: datetime | None, after: Revocation | None = None, limit: int = 1_000
    ) -> list[Revocation]:
        """Revocations that still count, recorded from ``since`` on (``None``: all), after the last
        one of the page before."""

    def purge(self) -> int:
        """Delete revocations of tokens that have expired. Returns how many."""


class ErasureStore(Protocol):
    """Erases users. Safe to repeat; events that come meanwhile are a new user's."""

    def erase_events(self, user_id: str, limit: int = 500) -> int:
        """Delete one page of the user's events with their attempts, confirmations and copies.

        Returns:
            Their number; fewer than ``limit`` when none is left.
        """

    def erase_rest(self, user_id: str, *, events: int, actor: str = "") -> Erased:
        """Delete contact, digests, runs and receipts, and the user's name in the compliance log.

        Args:
            events: how many were deleted before, for the log.
            actor: who did it, for the log.

        Effect: a row of the log; its earlier rows go on under the user's pseudonym.
        """


class NodeStore(Protocol):
    """Keeps heartbeats of processes, for display."""

    def beat(self, node: str, kind: str, connections: int, info: Mapping[str, Any]) -> None: ...
    def all(self, max_age: float = 60.0) -> list[NodeInfo]: ...
    def leave(self, node: str) -> None: ...


class Ledger(Protocol):
    """The ledger, by store."""

    @property
    def recording(self) -> RecordingStore: ...
    @property
    def confirmations(self) -> ConfirmationStore: ...
    @property
    def events(self) -> EventStore: ...
    @property
    def feed(self) -> FeedStore: ...
    @property
    def operations(self) -> OperationStore: ...
    @property
    def retention(self) -> RetentionStore: ...
    @property
    def statistics(self) -> StatisticsStore: ...
    @property
    def chain(self) -> ChainStore: ...
    @property
    def digests(self) -> DigestStore: ...
    @property
    def alerts(self) -> AlertStore: ...
    @property
    def contacts(self) -> ContactStore: ...
    @property
    def receipts(self) -> ReceiptStore: ...
    @property
    def suppressions(self) -> SuppressionStore: ...
    @property
    def push_targets(self) -> PushTargets: ...
    @property
    def breakers(self) -> BreakerStore: ...
    @property
    def queue_copies(self) -> QueueCopyStore: ...
    @property
    def audit(self) -> AuditStore: ...
    @property
    def erasure(self) -> ErasureStore: ...
    @property
    def nodes(self) -> NodeStore: ...
    @property
    def revocations(self) -> RevocationStore: ...
    def now(self) -> datetime: ...
    def ping(self) -> None: ...
    def close(self) -> None: ...
