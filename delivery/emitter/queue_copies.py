"""Queue copies of sign-in events, made in a thread.

Owns: one thread and its bounded queue. Never does: wait on the loop, or delay acceptance: the
ledger has the event; its copy is read while the ledger is away.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from delivery.domain.event import Event
from delivery.errors import DeliveryError

logger = logging.getLogger(__name__)

MAX_WAITING = 1_000
BATCH = 100


class QueueCopyThread:
    """Copies events in batches; the chain's ``queue`` step copies those beyond its bound."""

    def __init__(self, copy: Callable[[Sequence[Event]], None]) -> None:
        self._copy = copy
        self._waiting: queue.Queue[Event | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="delivery-copies", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queue one event; never waits."""
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def stop(self, timeout: float = 5.0) -> None:
        """Copy the waiting events, then end the thread."""
        try:
            self._waiting.put(None, timeout=timeout)
        except queue.Full:
            logger.warning("%d queue copies not made at stop", self._waiting.qsize())
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        is_over = False
        while not is_over:
            events, is_over = self._take()
            if events:
                self._make(events)

    def _take(self) -> tuple[list[Event], bool]:
        """Wait for events, at most a batch, and whether they are the last ones."""
        events: list[Event] = []
        item = self._waiting.get()  # ends with ``stop``; the thread is a daemon
        while item is not None:
            events.append(item)
            if len(events) >= BATCH or self._waiting.empty():
                return events, False
            item = self._waiting.get_nowait()  # this thread alone takes
        return events, True

    def _make(self, events: list[Event]) -> None:
        try:
            self._copy(events)
        except DeliveryError as error:
            logger.warning("%d queue copies not made: %s", len(events), error)
