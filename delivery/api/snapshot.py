"""One look at the ledger for everybody who asks: figures, page, metrics, samples.

Owns: that the ledger is read once a second at most, whoever asks, and more rarely when that takes
long. Never does: HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from delivery.domain.records import AlertGroup, NodeInfo, Stats
from delivery.gateway.parts import GatewayParts

READ_TIMEOUT = 5.0
FRESH_SECONDS = 1.0
SLOW = 0.5
REST = 20.0
"""A look that took ``SLOW`` seconds or more is followed by ``REST`` times as long without one: with
millions of events open, watching must not become the ledger's work."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the ledger said.

    Attributes:
        stale_at: monotonic seconds.
    """

    stats: Stats
    alerts: list[AlertGroup]
    nodes: list[NodeInfo]
    stale_at: float

    def connections(self, node: str, here: int) -> int:
        """Of all gateways; this node's own number is fresher than its row."""
        return here + sum(other.connections for other in self.nodes if other.node != node)


class Looker:
    """Shares a picture.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, parts: GatewayParts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._picture: Picture | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> Picture:
        """The ledger's figures, at most a second old unless reading them takes long.

        Raises:
            LedgerError, TimeoutError: it cannot be read now.
        """
        async with asyncio.timeout(READ_TIMEOUT), self._looking:
            picture = self._picture
            if picture is None or self._clock() >= picture.stale_at:
                picture = await self._parts.journal.call(self._read)
                self._picture = picture
            return picture

    def _read(self) -> Picture:
        ledger = self._parts.ledger
        begun = self._clock()
        stats, alerts = ledger.statistics.stats(), ledger.alerts.firing()
        nodes = ledger.nodes.all()
        now = self._clock()
        took = now - begun
        rest = REST * took if took >= SLOW else FRESH_SECONDS
        return Picture(stats, alerts, nodes, now + rest)
