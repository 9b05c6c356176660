"""Between the connections and the handler: what has come, what is done, who gets the answer.

Owns: the bounded buffer, duplicates across connections and transports, the status. Never does:
connect, or call the handler.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from delivery.client.link import Link, Status
from delivery.client.received import ReceivedEvent
from delivery.client.store import MemoryStore, Store
from delivery.client.stream import Stream
from delivery.protocol import Events

logger = logging.getLogger(__name__)

PASSED = 1_000
"""Ephemeral events that are remembered, so that a change of transport shows none twice."""


@dataclass(slots=True)
class Item:
    """An event and where it came from."""

    event: ReceivedEvent
    link: Link
    n: int


class Inbox:
    """What a ``Lifeline`` fills and a handler empties.

    Attributes:
        link: over which events come now.
        arrived: set when there may be something to ``pop``, or nothing more will come.
        status: what the badge was told last.
    """

    def __init__(
        self, store: Store, cursor: str | None, on_status: Callable[[Status], object] | None
    ) -> None:
        self.link: Link | None = None
        self.arrived = asyncio.Event()
        self.status = Status()
        self._store = store
        self._passed = MemoryStore(PASSED)
        self._cursor = cursor
        self._tell = on_status
        self._buffer: deque[Item] = deque()

    def pop(self) -> Item | None:
        """The next event that the handler has not seen; what it has seen is acknowledged again."""
        while self._buffer:
            item = self._buffer.popleft()
            self._hold_back()
            if item.event.id not in self._store and item.event.id not in self._passed:
                return item
            self._acknowledge(item)
        return None

    def finish(self, item: Item) -> None:
        """The event is handled: remember it, then acknowledge it."""
        self._remember(item.event)
        self._acknowledge(item)

    def finish_early(self, event: ReceivedEvent) -> None:
        """The same for an event that is not in hand."""
        self._remember(event)
        if self.link is not None and event.is_durable:
            self.link.acknowledge(event.id)

    def clear(self) -> None:
        """Nothing more is handled."""
        self._buffer.clear()
        self.arrived.set()

    def _remember(self, event: ReceivedEvent) -> None:
        # Ephemeral events have no place in the ledger, so they cannot be a cursor.
        if not event.is_durable:
            self._passed.remember(event.id)
        elif event.id not in self._store:
            self._store.remember(event.id)
            self._cursor = None

    def _acknowledge(self, item: Item) -> None:
        # A stream's acknowledgements go over HTTP, so they are good when it is over, too.
        if item.link is self.link or isinstance(item.link, Stream):
            item.link.on_handled(item.n, item.event.id, item.event.is_durable)
        elif self.link is not None and item.event.is_durable:
            self.link.acknowledge(item.event.id)

    def _hold_back(self) -> None:
        """A stream has no acknowledgements that would hold the gateway back: stop reading it."""
        if isinstance(self.link, Stream):
            self.link.pause(len(self._buffer) >= self.link.welcome.max_in_flight)

    # What the lifeline asks and tells

    def next_cursor(self) -> str | None:
        """See ``Owner``; so for the others."""
        return self._cursor or self._store.cursor

    def on_open(self, link: Link) -> None:
        """Events come over this link from now on."""
        self.link = link
        if link.welcome.recovered:
            # What waits here unhandled is unconfirmed, so it is replayed now, in order.
            self._buffer = deque(item for item in self._buffer if not item.event.is_durable)

    def on_events(self, link: Link, frame: Events) -> None:
        """Take what came; from a link that gave way, nothing: its successor brings it."""
        if link is not self.link:
            return
        first = frame.n - len(frame.events) + 1
        # The server keeps to max_in_flight; only ephemeral events can be more, and may be dropped.
        room = 2 * link.welcome.max_in_flight
        for offset, wire in enumerate(frame.events):
            event = ReceivedEvent(wire)
            if len(self._buffer) < room or isinstance(link, Stream):
                self._buffer.append(Item(event, link, first + offset))
            elif event.is_durable:
                raise ConnectionError("the gateway sends more than it may have in flight")
        self._hold_back()
        self.arrived.set()

    def on_end(self) -> None:
        """There is no link for the time being."""
        self.link = None

    def on_status(self, **change: Any) -> None:
        """Tell the badge, if this is news to it."""
        status = replace(self.status, **change)
        if status == self.status:
            return
        self.status = status
        if self._tell is None:
            return
        try:
            self._tell(status)
        except Exception:
            logger.exception("on_status failed")
