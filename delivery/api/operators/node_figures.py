"""Figures of this process that are taken every so often, for metrics: gauges and the loop's lag.

Owns: when they are taken. Never does: read the ledger, or cost anything for a scrape more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from delivery.domain.ports import Journal
from delivery.gateway.registry import Registry
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

EVERY = 0.5
COUNT_EVERY = 10
"""Turns of ``EVERY`` seconds between two counts over all connections."""
_GAUGES = (
    metrics.connections,
    metrics.in_flight,
    metrics.backlog,
    metrics.spool_bytes,
    metrics.spool_age,
    metrics.set_aside,
    metrics.loop_tasks,
)


class NodeFigures:
    """Takes the figures of one node.

    Args:
        spool_bytes: bytes of the node's spool to be drained.
        in_flight: events in flight on all connections; a count over all of them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        node: str,
        journal: Journal,
        registry: Registry,
        spool_bytes: Callable[[], int] = lambda: 0,
        in_flight: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._journal = journal
        self._registry = registry
        self._spool_bytes = spool_bytes
        self._in_flight = in_flight
        self._clock = clock
        self._spooled_since: float | None = None

    async def sampling(self, app: web.Application) -> AsyncIterator[None]:
        """Take figures while the application runs (a ``cleanup_ctx``)."""
        task = asyncio.get_running_loop().create_task(self._sample_loop())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for gauge in _GAUGES:
            gauge.remove(self._node)

    async def _sample_loop(self) -> None:
        turn = 0
        while True:
            due = self._clock() + EVERY
            await asyncio.sleep(EVERY)
            metrics.loop_lag.observe(max(0.0, self._clock() - due))
            try:
                self._take_cheap()
                if turn % COUNT_EVERY == 0:
                    self._take_dear()
            except Exception:
                # A figure that cannot be taken must not end the others.
                logger.exception("figures of this node cannot be taken")
            turn += 1

    def take(self) -> None:
        """Set the gauges that a scrape shows as of now."""
        self._take_cheap()
        metrics.loop_tasks.set(len(asyncio.all_tasks()), self._node)

    def _take_cheap(self) -> None:
        node, journal = self._node, self._journal
        metrics.connections.set(self._registry.connections, node)
        metrics.backlog.set(journal.backlog, node)
        metrics.set_aside.set(journal.set_aside, node)
        size = self._spool_bytes()
        if not size:
            self._spooled_since = None
        elif self._spooled_since is None:
            self._spooled_since = self._clock()
        since = self._spooled_since
        metrics.spool_bytes.set(size, node)
        metrics.spool_age.set(0.0 if since is None else self._clock() - since, node)

    def _take_dear(self) -> None:
        """Set the gauges that cost as much as there are connections."""
        metrics.in_flight.set(self._in_flight(), self._node)
        metrics.loop_tasks.set(len(asyncio.all_tasks()), self._node)
