"""Confirmations in traces: an event's trace is read from the ledger where this process does not
know it.

Owns: the bound on such reads. Never does: hold up a confirmation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from delivery.domain.ports import Reads
from delivery.errors import LedgerError
from delivery.telemetry.tracing import Traced, Tracing

logger = logging.getLogger(__name__)

MAX_READS = 8
MAX_IDS = 500


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
