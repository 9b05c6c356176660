"""Stores of events: recorded, confirmed, read, counted, replayed, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.operators.figures import Stats
from delivery.domain.operators.history import Point
from delivery.domain.policy import Policies
from delivery.domain.records import (
    Confirmed,
    Entry,
    EventFilter,
    FeedMark,
    Matches,
    Owed,
    Purged,
    Receipted,
    Rendered,
    SentMessage,
    SideAttempt,
    Stored,
    Timeline,
)
from delivery.domain.run_tokens import RunRow


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
        """Newest first; ``after`` is the opaque ``next`` of the page before, or an event's id. A
        page may have fewer events than ``limit``, or none, and a ``next``: one call looks through
        a bounded number of events.

        Raises:
            ValueError: ``after`` is neither.
        """

    def count(self, which: EventFilter) -> Matches:
        """How many events match, up to a limit of matches and of events that are looked through."""

    def open_of(self, user_id: str) -> dict[str, int]:
        """How many of a user's newest unconfirmed events, at most 10,000, have each state."""

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

    def first_page(
        self, user_id: str, cursor: str | None, *, by: str, runs_of: int, limit: int
    ) -> tuple[dict[str, int], list[Owed], FeedMark | None]:
        """The last sequence number of each run among the user's last ``runs_of`` events, then
        ``page`` from its beginning: an event recorded meanwhile is on the page, or ahead of its
        run's number."""


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


class CloudEventStore(Protocol):
    """Ids of events that came as CloudEvents."""

    def ids(self, keys: Sequence[tuple[str, str]]) -> list[str]:
        """The id of each event, made on first sight.

        Args:
            keys: (source, id) of CloudEvents, at most 255 characters each; one may come twice.
        """

    def trim(self, limit: int = 1_000) -> int:
        """Delete ids made a week ago or earlier whose events are not in the ledger; returns how
        many."""


class RunStore(Protocol):
    """Reads runs."""

    def get(self, user_id: str, run_id: str) -> RunRow | None: ...


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


class PartitionStore(Protocol):
    """Keeps events by time, where an operator asked for it."""

    def make_ahead(self) -> Sequence[str]:
        """Make the partitions of the next periods that are missing; the names of those made.

        Nothing happens where events are not partitioned or this role may not do it.
        """


class StatisticsStore(Protocol):
    """Computes figures of the last minutes."""

    def stats(self, window_s: int = 300) -> Stats: ...

    def latest_types(self, limit: int = 10_000) -> dict[str, int]:
        """How many of the ``limit`` newest events have each type."""


class SentMessageStore(Protocol):
    """Keeps messages as they were handed to a provider."""

    def keep(
        self, digest_id: str, user_id: str, channel: str, to: str, number: int, content: Rendered
    ) -> None:
        """Keep one, without the tokens in its links.

        Args:
            number: of the attempt.
        """

    def of_event(self, event_id: str) -> list[SentMessage]:
        """Those that carried an event, oldest first."""

    def get(self, message_id: int) -> SentMessage | None: ...

    def trim(self, days: float) -> int:
        """Delete some that are older; returns how many."""


class HistoryStore(Protocol):
    """Keeps figures by minute and hour."""

    def record(self, point: Point) -> None:
        """Record the figures of a minute. Safe to repeat.

        Effect: the row of its hour follows; rows over 30 days old are deleted.
        """

    def read(self, step: int, since: datetime, until: datetime) -> list[Point]:
        """Points that begin in the half-open interval, oldest first.

        Args:
            step: ``MINUTE`` or ``HOUR``.
        """
