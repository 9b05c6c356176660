"""What waits to leave for the other nodes: bounded by number and by bytes, never by waiting.

Owns: the bounds and the count of what was dropped. Never does: send.
"""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger(__name__)

MAX_MESSAGES = 10_000
MAX_BYTES = 64 << 20
_BATCH = 200
_BATCH_BYTES = 512 << 10
"""Together the bounds of one envelope: far below what a server lets a slow subscriber owe."""


class Outbox:
    """A queue of ``(channel, raw)`` for one writer; on the loop.

    Attributes:
        dropped: messages that did not leave, ever.
        lossy: something was dropped since this was last set to ``False``.
    """

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(max_messages)
        self._max_bytes = max_bytes
        self._bytes = 0
        self.dropped = 0
        self.lossy = False

    def put(self, channel: str, raw: bytes) -> None:
        """Queue one message, or drop it when the bound is reached."""
        if self._queue.full() or self._bytes + len(raw) > self._max_bytes:
            self.drop(1)
            return
        self._queue.put_nowait((channel, raw))
        self._bytes += len(raw)

    async def take(self) -> list[tuple[str, bytes]]:
        """Wait for messages; you must call ``done`` with the batch afterwards."""
        batch = [await self._queue.get()]
        size = len(batch[0][1])
        while len(batch) < _BATCH and size < _BATCH_BYTES and not self._queue.empty():
            batch.append(self._queue.get_nowait())
            size += len(batch[-1][1])
        return batch

    def done(self, batch: list[tuple[str, bytes]]) -> None:
        """The batch has left, or is given up."""
        self._bytes -= sum(len(raw) for _, raw in batch)
        for _ in batch:
            self._queue.task_done()

    def drop(self, count: int) -> None:
        """Count messages that will not leave."""
        before, self.dropped, self.lossy = self.dropped, self.dropped + count, True
        # Said at 1, 2, 4, 8 …: an overload must not flood the log as well.
        if before.bit_length() != self.dropped.bit_length():
            log.warning("the bus dropped %d message(s) so far; the chain delivers", self.dropped)

    async def drained(self) -> None:
        """Wait until everything queued so far is done."""
        await self._queue.join()
