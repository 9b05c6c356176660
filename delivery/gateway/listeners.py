"""Listeners of confirmations that come to this gateway: callbacks, and traces of the events.

Owns: who is told, and the bound on reads of traces that this process does not know. Never does:
hold up a confirmation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from delivery.domain.ports import Reads
from delivery.errors import LedgerError
from delivery.telemetry.tracing import Traced, Tracing

logger = logging.getLogger(__name__)

MAX_READS = 8
MAX_IDS = 500

OnConfirmed = Callable[[Sequence[str]], None]
"""Called with ids of confirmed events, on the loop's thread."""


class TracedConfirmations:
    """Makes a span of each confirmation of a traced event. On the loop's thread."""

    def __init__(self, tracing: Tracing, reads: Reads) -> None:
        self._tracing = tracing
        self._reads = reads
        self._reading: set[asyncio.Task[None]] = set()

    def tell(self, channel: str, ids: Sequence[str]) -> None:
        """Trace the confirmations of these events; beyond the bound they are left out."""
        known: list[Traced] = []
        unknown: list[str] = []
        for event_id in ids:
            found = self._tracing.of(event_id)
            if found is None:
                unknown.append(event_id)
            elif found:
                known.append((event_id, found))
        self._tracing.confirmed(channel, known)
        if unknown and len(self._reading) < MAX_READS:
            task = asyncio.get_running_loop().create_task(self._read(channel, unknown[:MAX_IDS]))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read(self, channel: str, ids: Sequence[str]) -> None:
        try:
            found = await self._reads.events(ids)
        except LedgerError as error:
            logger.debug("confirmations of %d events are not traced: %s", len(ids), error)
            return
        self._tracing.confirmed(
            channel,
            [
                (stored.event.id, stored.options.traceparent)
                for stored in found
                if stored.options is not None and stored.options.traceparent is not None
            ],
        )


class ConfirmationListeners:
    """Tells callbacks, and traces if there are any, of confirmations. On the loop's thread.

    Args:
        first: told first.
    """

    def __init__(self, first: OnConfirmed, traces: TracedConfirmations | None) -> None:
        self._callbacks = [first]
        self._traces = traces

    def add(self, callback: OnConfirmed) -> None:
        """Add a callback for all confirmations."""
        self._callbacks.append(callback)

    def tell(self, ids: Sequence[str]) -> None:
        """Tell the callbacks alone."""
        for callback in self._callbacks:
            callback(ids)

    def traced(self, channel: str) -> OnConfirmed | None:
        """What traces confirmations of a channel; ``None`` without traces."""
        return None if self._traces is None else partial(self._traces.tell, channel)

    def of(self, channel: str) -> OnConfirmed:
        """What tells callbacks and traces of confirmations that came by a channel."""
        trace = self.traced(channel)
        if trace is None:
            return self.tell

        def tell(ids: Sequence[str]) -> None:
            self.tell(ids)
            trace(ids)

        return tell
