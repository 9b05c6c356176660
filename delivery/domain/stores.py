"""What the ledger promises: one Protocol per kind of thing that it keeps, and the ledger itself.

Everything here is synchronous and thread-safe; the event loop reaches it through the journal
(writes, without waiting) or a thread (reads). Every call may raise ``LedgerUnavailable``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from delivery.domain.contact import Contact
from delivery.domain.event import Event, EventClass
from delivery.domain.health import Breaker
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.policy import Policies
from delivery.domain.records import (
    AlertGroup,
    Claim,
    Condition,
    Confirmed,
    Digest,
    DigestClaim,
    Entry,
    EventFilter,
    FeedMark,
    NodeInfo,
    Owed,
    Purged,
    Receipted,
    Result,
    Stats,
    Stored,
    Swept,
    Timeline,
)


class RecordingStore(Protocol):
    """Where accepted events become durable."""

    def commit(
        self,
        entries: Sequence[Entry],
        proofs: Sequence[Confirmation] = (),
        *,
        drained: bool = False,
        missed: list[Confirmation] | None = None,
    ) -> list[Receipted]:
        """Record entries and proofs in one transaction (group commit); one answer per entry. Proofs
        for events that are not there are added to ``missed``.

        Effect: inserts events (state from ``sent`` / ``hand_over`` / ``proofs``), runs, fast-path
        attempts, confirmations; auth events also go to the audit log. Safe to repeat: a known id
        with the same content is a ``DUPLICATE``, with other content a ``CONFLICT``. With
        ``drained`` (from the spool) a conflict is recorded ``dead`` under a new id with
        ``meta.conflicts_with``.
        """


class ConfirmationStore(Protocol):
    """Proofs that events reached their users."""

    def confirm(self, proofs: Sequence[Confirmation]) -> Confirmed:
        """Store proofs; ids whose event is not the proof's ``user_id``'s are unknown.

        Effect: state ``confirmed`` (``expired`` stays), due time cleared, claim kept but stale for
        moves. Safe to repeat: the same (event, channel, by, evidence) adds no second row.
        """


class EventStore(Protocol):
    """Reading events, one by one and in pages."""

    def get(self, event_id: str) -> Timeline | None: ...

    def find(
        self, which: EventFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Stored], str | None]:
        """Newest first; ``after`` is the opaque ``next`` of the page before.

        Raises:
            ValueError: no page ends at this ``after``.
        """

    def read(self, event_ids: Sequence[str]) -> list[Stored]:
        """Those that exist, in order of recording."""


class FeedStore(Protocol):
    """What a connecting client reads."""

    def page(
        self,
        user_id: str,
        start: str | FeedMark | timedelta | None,
        *,
        by: str,
        after: int = -1,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        """What a connecting client is owed, in order of recording, positions over ``after``:
        unexpired unconfirmed events, plus the recent ones from ``start`` on.

        Args:
            start: the id of the last event that the client handled (recent means recorded since
                30 s before it), the mark that the page before answered, how far back from now, or
                ``None``: nothing.
            by: who acknowledges on this connection.

        Returns:
            The page and the mark for the next one; ``None`` when ``start`` is no event of this
            user.
        """

    def last_seqs(self, user_id: str, limit: int) -> dict[str, int]:
        """The last sequence number of each run among the user's last ``limit`` events."""


class OperationStore(Protocol):
    """Changes to recorded events that are neither proofs nor steps of the chain."""

    def hand_over(self, ids: Sequence[str], reason: str) -> None:
        """Start the chain now for events still ``accepted`` or ``sent``; records a failed fast-path
        attempt with ``reason``. Others are left alone."""

    def expedite(self, ids: Sequence[str]) -> None:
        """Nobody can acknowledge these any more: the time to do so is over now for those that are
        still ``accepted`` or ``sent``. The next sweep takes them. One transaction: some thousands
        at most."""

    def replay(
        self,
        which: EventFilter | Sequence[str],
        *,
        policies: Policies,
        dry_run: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Start unconfirmed events anew: ``accepted``, generation + 1, time to live anew, due after
        the ack timeout. Returns the ids that matched, in order of recording: at most ``limit``
        behind the event ``after``.

        Raises:
            ValueError: no event has the id ``after``.
        """


class RetentionStore(Protocol):
    """Deleting what has ended."""

    def purge(
        self,
        before: Mapping[State, datetime],
        *,
        after: int = -1,
        limit: int = 1_000,
        dry_run: bool = False,
    ) -> Purged:
        """One step of deleting what has ended: looks at ``limit`` events behind the position
        ``after`` and deletes, with their rows, those recorded before their state's instant.

        Raises:
            ValueError: a state in ``before`` is not an end.
        """


class StatisticsStore(Protocol):
    """Figures of the last minutes."""

    def stats(self, window_s: int = 300) -> Stats: ...


class ChainStore(Protocol):
    """Due times, claims and moves of the fallback chain."""

    def sweep(self, limit: int = 500) -> Swept:
        """Take one page of what is due: events past their deadline enter the chain
        (``falling_back``), expired ones end, and each due time moves 5 s ahead, doubling up to
        60 s, so that a lost message is published again. Sweepers share the work: on PostgreSQL
        ``FOR UPDATE SKIP LOCKED``."""

    def oldest_overdue(self) -> float:
        """Age in seconds of the oldest due time that nobody has served; 0.0 if none."""

    def claim(self, ids: Sequence[str], lease: float) -> list[Claim]:
        """Claim those that are ``falling_back`` and not claimed by another for ``lease`` seconds.
        Unfinished attempts under an older token end as ``unknown``. Expired ones end."""

    def begin_all(self, starts: Sequence[tuple[Claim, int]], channel: str) -> list[bool]:
        """Write the ``started`` attempts, by number, before their side effect; ``False`` for an
        event that is no longer ``falling_back`` under this token (confirmed meanwhile, or the claim
        was lost)."""

    def end_all(
        self, starts: Sequence[tuple[Claim, int]], channel: str, result: Result
    ) -> list[bool]:
        """Record one outcome of begun attempts; ``False`` (nothing written) on a stale token."""

    def skip_all(self, skips: Sequence[tuple[Claim, str, str]]) -> list[bool]:
        """Record ``skipped`` attempts by channel and reason; ``False`` if the claim was lost."""

    def move_all(self, moves: Sequence[tuple[Claim, str, datetime]]) -> list[bool]:
        """Release the claims: each event stands on its step, due then; ``False`` if the claim was
        lost."""

    def finish_all(self, finishes: Sequence[tuple[Claim, bool]]) -> list[bool]:
        """The chains are over: ``dead`` where operators were alerted, else ``parked``; ``False`` if
        the claim was lost."""


class DigestStore(Protocol):
    """Digests: many events for one user in one message."""

    def join(
        self, claim: Claim, channel: str, *, by: Sequence[str], window: float, min_interval: float
    ) -> Digest:
        """Put the event into the open digest of its user (and run), opening one due after
        ``window`` seconds. With a ``min_interval`` an event of another run joins the digest that is
        open (it becomes the user's, ``run_id`` ``None``), and after a message within
        ``min_interval`` the next one is the user's and due at the end of the interval."""

    def claim(
        self,
        digest_id: str,
        lease: float,
        *,
        types: Sequence[str] = (),
        unknown_limit: int | None = None,
    ) -> DigestClaim | None:
        """Claim an open, due digest as one and read its members: the unconfirmed, unexpired open
        events of the runs that joined it, whose channel attempt was not delivered in this
        generation; ``types``, if any, limit those that did not join themselves, and an event with
        more than ``unknown_limit`` attempts here that may have gone out is left out. Writes one
        ``started`` attempt row each. ``None`` if it is taken, done, not yet
        due, or nothing is left to send (then it is closed). Members left ``started`` by a dead
        worker become ``unknown`` first."""

    def end(self, claim: DigestClaim, result: Result, *, retry_in: float | None) -> bool:
        """One outcome for every member. ``retry_in`` seconds reopens it, ``None`` closes it."""

    def get(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        """A digest and the ids its message listed."""

    def by_provider_id(
        self, channel: str, provider_id: str
    ) -> tuple[Digest, tuple[str, ...]] | None:
        """The digest whose message the provider knows by this id, and the ids it listed."""


class AlertStore(Protocol):
    """Grouped alerts to operators."""

    def fire(
        self, event_class: EventClass, claims: Sequence[Claim], faults: Sequence[str] = ()
    ) -> AlertGroup:
        """Put events into the firing alert group of their class, opening one if there is none;
        ``faults`` are the errors of ours that brought some of them here."""

    def watch(self, conditions: Sequence[Condition]) -> None:
        """What is out of its limit now: keeps the one group without a class in step with it.
        A condition that comes newly into a firing group counts as not yet told."""

    def notified(self, group_id: str) -> None:
        """The operators were told now."""

    def firing(self) -> list[AlertGroup]:
        """Groups that fire, with present counts; ``count`` 0 means that it is over."""

    def resolve(self, group_id: str) -> None: ...


class ContactStore(Protocol):
    """Contacts by user."""

    def get(self, user_id: str) -> Contact | None: ...
    def put(self, contact: Contact) -> None: ...
    def delete(self, user_id: str) -> bool: ...
    def opt_out(self, user_id: str, channel: str) -> None: ...


class BreakerStore(Protocol):
    """Breakers of external channels, shared by all workers; times are epoch seconds."""

    def get(self, name: str) -> Breaker: ...
    def allows(self, name: str, *, probe: bool = True) -> bool:
        """Whether a call may pass now (turns an open one half open for one probe, unless the call
        is none to probe with). The answer may be one second old; ``True`` when the ledger is
        away."""

    def report(self, name: str, ok: bool) -> Breaker: ...
    def all(self) -> dict[str, Breaker]: ...


class MailboxStore(Protocol):
    """The ``queue`` channel's second copy where there is no Redis."""

    def put(self, events: Sequence[Event]) -> None: ...
    def read(self, user_id: str, limit: int = 1_000) -> list[Event]: ...
    def trim(self, max_age: float) -> int: ...


class AuditStore(Protocol):
    """Append-only compliance log, chained by hash by one sealer."""

    def append(self, kind: str, event_id: str, user_id: str, facts: Mapping[str, Any]) -> None: ...
    def seal(self, limit: int = 1_000) -> int: ...
    def verify(self) -> list[str]:
        """Findings, empty when the chain is whole."""


class NodeStore(Protocol):
    """Heartbeats of processes, for display."""

    def beat(self, node: str, kind: str, connections: int, info: Mapping[str, Any]) -> None: ...
    def all(self, max_age: float = 60.0) -> list[NodeInfo]: ...
    def leave(self, node: str) -> None: ...


class Ledger(Protocol):
    """The one ledger, by what is asked of it."""

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
    def breakers(self) -> BreakerStore: ...
    @property
    def mailbox(self) -> MailboxStore: ...
    @property
    def audit(self) -> AuditStore: ...
    @property
    def nodes(self) -> NodeStore: ...
    def now(self) -> datetime: ...
    def ping(self) -> None: ...
    def close(self) -> None: ...
