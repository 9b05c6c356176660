"""What a connection is owed, read from the ledger page by page.

Owns: the position of one connection's catch-up, the meaning of a cursor, and the second copy when
the ledger cannot be reached. Never does: sockets, or reads on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
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
LOOK_BACK = timedelta(seconds=10)
START = -1  # a position before all others
KNOWN_EVENTS = 100
"""The last events of a user, of whose runs a new connection is told the numbers; the first event of
any other run makes it ask the ledger what came before."""
READ_TIMEOUT = 5.0
QUEUE_TIMEOUT = 30.0
FLUSH_TIMEOUT = 1.0
MAX_READERS = 16
"""Reads at once; a crowd that reconnects waits its turn instead of exhausting the ledger."""

SecondCopy = Callable[[str], Awaitable[list[Event]]]
"""A user's events in the ``queue`` channel's copy. Raises ``LedgerError`` or ``ChannelError``."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of what is owed, in order of recording.

    Attributes:
        is_last: the ledger held nothing after it.
        recovered: nothing that the client may have missed is known to be left out.
        is_degraded: it came from the second copy (or from nowhere): the ledger is away.
        seqs: of a first page, the last numbers of the user's runs as they stood before it was read.
    """

    items: list[Item]
    is_last: bool
    recovered: bool = True
    is_degraded: bool = False
    seqs: Mapping[str, int] = field(default_factory=dict)


class Source:
    """The shared way to the ledger's feed.

    Args:
        second_copy: reads the ``queue`` channel's copy of a user's events, without blocking.
    """

    def __init__(
        self,
        reads: Reads,
        journal: Journal,
        second_copy: SecondCopy | None = None,
        *,
        page: int = PAGE,
    ) -> None:
        self._reads = reads
        self._journal = journal
        self._second_copy = second_copy
        self.size = page
        self._turns = asyncio.Semaphore(MAX_READERS)

    async def page(
        self, user_id: str, by: str, start: FeedMark | timedelta | None, after: int
    ) -> tuple[list[Owed], FeedMark | None]:
        """The next events, at most ``size``; see ``FeedStore.page``.

        Raises:
            LedgerError, TimeoutError: the ledger did not answer.
        """
        async with asyncio.timeout(QUEUE_TIMEOUT), self._turns, asyncio.timeout(READ_TIMEOUT):
            return await self._reads.feed(user_id, start, by=by, after=after, limit=self.size)

    async def first(
        self, user_id: str, by: str, cursor: str | None
    ) -> tuple[dict[str, int], list[Owed], FeedMark | None]:
        """The numbers of the user's runs, and then the first events: whatever is recorded in
        between is on the page, or ahead of its run's number. Raises as ``page``."""
        async with asyncio.timeout(QUEUE_TIMEOUT), self._turns, asyncio.timeout(READ_TIMEOUT):
            return await self._reads.first_feed(
                user_id, cursor, by=by, runs_of=KNOWN_EVENTS, limit=self.size
            )

    async def settle(self) -> None:
        """Let what was accepted so far reach the ledger before it is read, within reason."""
        try:
            await self._journal.flush(FLUSH_TIMEOUT)
        except (LedgerError, TimeoutError) as error:
            # A slow ledger; what is missed now comes by its ack timeout.
            logger.debug("reading the ledger before the journal is flushed: %s", error)

    async def copies(self, user_id: str) -> list[Item]:
        """The second copy of this user's events; empty when there is none or it is away too."""
        if self._second_copy is None:
            return []
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                events = await self._second_copy(user_id)
        except (LedgerError, ChannelError, TimeoutError) as error:
            logger.warning("the second copy cannot be read either: %s", error)
            return []
        return [(event, encode_event(event)) for event in events if event.user_id == user_id]


class Feed:
    """Where one connection's catch-up stands.

    Args:
        by: who acknowledges on this connection.
    """

    __slots__ = ("_after", "_by", "_looks_back", "_mark", "_proved", "_source", "_user_id")

    def __init__(self, source: Source, user_id: str, by: str) -> None:
        self._source = source
        self._user_id = user_id
        self._by = by
        self._mark: FeedMark | timedelta | None = None
        self._looks_back = False
        self._after = START
        self._proved: set[str] = set()

    async def open(self, cursor: str | None) -> Page:
        """The first page for a client that handled everything up to ``cursor``."""
        try:
            seqs, rows, self._mark = await self._source.first(self._user_id, self._by, cursor)
        except (LedgerError, TimeoutError) as error:
            return await self._degraded(error)
        return self._page(rows, recovered=cursor is None or self._mark is not None, seqs=seqs)

    async def read(self, what: Read) -> Page:
        """The page that an outbox asks for."""
        return await (self.again() if what is Read.AGAIN else self.more())

    async def more(self) -> Page:
        """The next page; the second copy when the ledger is away."""
        try:
            rows, self._mark = await self._source.page(
                self._user_id, self._by, self._mark, self._after
            )
        except (LedgerError, TimeoutError) as error:
            return await self._degraded(error)
        return self._page(rows)

    def look_back(self) -> None:
        """The next round brings what was recorded lately as well, whoever confirmed it."""
        self._looks_back = True

    async def again(self) -> Page:
        """The first page of a new round: everything unconfirmed, from the beginning."""
        self._mark = LOOK_BACK if self._looks_back else None
        self._looks_back = False
        self._after = START
        await self._source.settle()
        return await self.more()

    def unproved(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        """Those whose acknowledgement here says something new: what a client got a second time, it
        acknowledges a second time."""
        if not self._proved:
            return ids
        fresh = tuple(event_id for event_id in ids if event_id not in self._proved)
        self._proved.difference_update(ids)
        return fresh

    def _page(
        self, rows: list[Owed], *, recovered: bool = True, seqs: Mapping[str, int] | None = None
    ) -> Page:
        if rows:
            self._after = rows[-1].position
            self._proved.update(row.event.id for row in rows if row.is_proved)
        return Page(
            [(row.event, encode_event(row.event)) for row in rows],
            is_last=len(rows) < self._source.size,
            recovered=recovered,
            seqs=seqs or {},
        )

    async def _degraded(self, error: Exception) -> Page:
        logger.warning("a client is fed without the ledger: %s", str(error) or type(error).__name__)
        items = await self._source.copies(self._user_id)
        return Page(items, is_last=True, recovered=False, is_degraded=True)
