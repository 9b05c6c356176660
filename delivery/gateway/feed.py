"""The feed of one connection: the events it is owed, read from the ledger page by page.

Owns: the position of a catch-up, the meaning of a cursor, and the read of the queue copies while
the ledger is away. Never does: sockets, or reads on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from delivery.domain.event import Event
from delivery.domain.ports import Journal, Reads
from delivery.domain.records import FeedMark, Owed
from delivery.errors import ChannelError, LedgerError
from delivery.gateway.outbound import Item, Read
from delivery.protocol import encode_event

logger = logging.getLogger(__name__)

PAGE = 100
MAX_PAGE_BYTES = 1024 * 1024
"""Bytes at which a page ends: it waits here until the client has read it."""
MIN_PAGE = 8
RECENT = timedelta(seconds=10)
START = -1  # before all positions
KNOWN_EVENTS = 100
"""Latest events of a user whose runs a new connection gets the last numbers of; the first event of
any other run causes a read of the ledger."""
READ_TIMEOUT = 5.0
QUEUE_TIMEOUT = 30.0
FLUSH_TIMEOUT = 1.0
MAX_READERS = 16
"""Concurrent reads; many clients that reconnect at once must not exhaust the ledger."""

ReadQueueCopies = Callable[[str], Awaitable[list[Event]]]
"""Reads the queue copies of a user's events. Raises ``LedgerError`` or ``ChannelError``."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the feed, in order of recording.

    Attributes:
        is_last: whether the feed ends with this page.
        recovered: ``False`` when events may be missing since the client's cursor.
        is_degraded: the ledger is away; the items are queue copies, or none.
        seqs: on a first page, the last numbers of the user's runs before the page was read.
    """

    items: list[Item]
    is_last: bool
    recovered: bool = True
    is_degraded: bool = False
    seqs: Mapping[str, int] = field(default_factory=dict)


class FeedReader:
    """Reads of the feed, shared by all connections of a gateway.

    Args:
        queue_copies: reads the queue copies of a user's events, without blocking the loop.
    """

    def __init__(
        self,
        reads: Reads,
        journal: Journal,
        queue_copies: ReadQueueCopies | None = None,
        *,
        page: int = PAGE,
    ) -> None:
        self._reads = reads
        self._journal = journal
        self._second_copy = queue_copies
        self.size = page
        self._turns = asyncio.Semaphore(MAX_READERS)

    async def page(
        self, user_id: str, by: str, start: FeedMark | timedelta | None, after: int, limit: int
    ) -> tuple[list[Owed], FeedMark | None]:
        """Read the next events; see ``FeedStore.page``.

        Raises:
            LedgerError, TimeoutError: the ledger did not answer.
        """
        async with asyncio.timeout(QUEUE_TIMEOUT), self._turns, asyncio.timeout(READ_TIMEOUT):
            return await self._reads.feed(user_id, start, by=by, after=after, limit=limit)

    async def first(
        self, user_id: str, by: str, cursor: str | None
    ) -> tuple[dict[str, int], list[Owed], FeedMark | None]:
        """Read the last numbers of the user's runs, then the first events. In this order, an event
        recorded between the two reads is on the page or ahead of its run's number.

        Raises:
            LedgerError, TimeoutError: the ledger did not answer.
        """
        async with asyncio.timeout(QUEUE_TIMEOUT), self._turns, asyncio.timeout(READ_TIMEOUT):
            return await self._reads.first_feed(
                user_id, cursor, by=by, runs_of=KNOWN_EVENTS, limit=self.size
            )

    async def flush_journal(self) -> None:
        """Wait up to ``FLUSH_TIMEOUT`` until the events accepted so far are in the ledger."""
        try:
            await self._journal.flush(FLUSH_TIMEOUT)
        except (LedgerError, TimeoutError) as error:
            # What this read misses is handed over at its ack timeout.
            logger.debug("feed read before the journal is flushed: %s", error)

    async def copies(self, user_id: str) -> list[Item]:
        """Read the queue copies of this user's events; empty while they cannot be read."""
        if self._second_copy is None:
            return []
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                events = await self._second_copy(user_id)
        except (LedgerError, ChannelError, TimeoutError) as error:
            logger.warning("queue copies cannot be read: %s", error)
            return []
        return [(event, encode_event(event)) for event in events if event.user_id == user_id]


class Feed:
    """The position of one connection's catch-up.

    Args:
        by: the device or user that acknowledges on this connection.
    """

    __slots__ = (
        "_after",
        "_by",
        "_confirmed",
        "_includes_recent",
        "_mark",
        "_reader",
        "_size",
        "_user_id",
    )

    def __init__(self, reader: FeedReader, user_id: str, by: str) -> None:
        self._reader = reader
        self._user_id = user_id
        self._by = by
        self._mark: FeedMark | timedelta | None = None
        self._includes_recent = False
        self._after = START
        self._size = reader.size
        self._confirmed: set[str] = set()

    async def open(self, cursor: str | None) -> Page:
        """Read the first page for a client that handled everything up to ``cursor``."""
        try:
            seqs, rows, self._mark = await self._reader.first(self._user_id, self._by, cursor)
        except (LedgerError, TimeoutError) as error:
            return await self._degraded(error)
        recovered = cursor is None or (self._mark is not None and not self._mark.is_cut)
        return self._page(rows, recovered=recovered, seqs=seqs)

    async def read(self, what: Read) -> Page:
        """Read the page that ``Outbound.next_read`` asks for."""
        return await (self.again() if what is Read.AGAIN else self.more())

    async def more(self) -> Page:
        """Read the next page, or the queue copies while the ledger is away."""
        try:
            rows, self._mark = await self._reader.page(
                self._user_id, self._by, self._mark, self._after, self._size
            )
        except (LedgerError, TimeoutError) as error:
            return await self._degraded(error)
        return self._page(rows)

    def include_recent(self) -> None:
        """Let the next round include recent events, confirmed or not."""
        self._includes_recent = True

    async def again(self) -> Page:
        """Begin a round: read the first page of all unconfirmed events."""
        self._mark = RECENT if self._includes_recent else None
        self._includes_recent = False
        self._after = START
        await self._reader.flush_journal()
        return await self.more()

    def unconfirmed(self, ids: Sequence[str]) -> Sequence[str]:
        """Ids whose acknowledgement is new; a client acknowledges a repeated event again."""
        if not self._confirmed:
            return ids
        fresh = tuple(event_id for event_id in ids if event_id not in self._confirmed)
        self._confirmed.difference_update(ids)
        return fresh

    def _page(
        self, rows: list[Owed], *, recovered: bool = True, seqs: Mapping[str, int] | None = None
    ) -> Page:
        is_last = len(rows) < self._size
        self._size = min(self._reader.size, 2 * self._size)
        items: list[Item] = []
        size = 0
        for row in rows:
            if size >= MAX_PAGE_BYTES:
                # Large events: read fewer of them at a time, too.
                self._size, is_last = max(MIN_PAGE, len(items)), False
                break
            items.append((row.event, encode_event(row.event)))
            size += len(items[-1][1])
            self._after = row.position
            if row.is_confirmed:
                self._confirmed.add(row.event.id)
        return Page(items, is_last=is_last, recovered=recovered, seqs=seqs or {})

    async def _degraded(self, error: Exception) -> Page:
        logger.warning("feed without the ledger: %s", str(error) or type(error).__name__)
        items = await self._reader.copies(self._user_id)
        return Page(items, is_last=True, recovered=False, is_degraded=True)
