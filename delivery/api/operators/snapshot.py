"""The snapshot of the ledger that all readers share: figures, dashboard, metrics, samples.

Owns: how often the ledger is read: once a second at most, less often when a read takes long.
Never does: HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from delivery.domain.operators.figures import Snapshot
from delivery.domain.ports import Reads

READ_TIMEOUT = 5.0
FRESH_SECONDS = 1.0
SLOW = 0.5
REST = 20.0
"""A read of ``SLOW`` seconds or more is followed by ``REST`` times its duration without a read:
with millions of open events, monitoring must not load the ledger."""


class SharedSnapshot:
    """The latest snapshot of the ledger, for all readers of this process.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, reads: Reads, clock: Callable[[], float] = time.monotonic) -> None:
        self._reads = reads
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0
        self._stale_at = 0.0
        self._reading = asyncio.Lock()

    @property
    def is_resting(self) -> bool:
        """Whether the latest snapshot may be long out of date because its read took long."""
        return self._stale_at - self._read_at >= REST * SLOW

    async def get(self) -> Snapshot:
        """Get figures, alerts and nodes, at most a second old unless a read takes long.

        Raises:
            LedgerError, TimeoutError: the ledger cannot be read now.
        """
        async with asyncio.timeout(READ_TIMEOUT), self._reading:
            if self._snapshot is None or self._clock() >= self._stale_at:
                begun = self._clock()
                self._snapshot = await self._reads.snapshot()
                self._read_at = self._clock()
                took = self._read_at - begun
                self._stale_at = self._read_at + (REST * took if took >= SLOW else FRESH_SECONDS)
            return self._snapshot


def connections_of(snapshot: Snapshot, node: str, here: int) -> int:
    """Connections of all gateways; for this node ``here``, which is newer than its row."""
    return here + sum(other.connections for other in snapshot.nodes if other.node != node)
