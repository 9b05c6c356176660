"""``GET /v1/stats/stream``: figures for the dashboard, sent when they change.

Owns: samples of the last hour (of this process; Prometheus keeps longer history), the level of each
condition, and the stream. Never does: read the ledger by itself: it uses the shared snapshot, once
a second at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from delivery.api.operators.outages import OutageBoard
from delivery.api.operators.snapshot import SharedSnapshot, connections_of
from delivery.api.requests import service
from delivery.api.views import node_view, stats_view
from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.domain.event import format_instant
from delivery.domain.lifecycle import State
from delivery.domain.operators.figures import Snapshot
from delivery.domain.operators.thresholds import (
    CONDITIONS,
    BreakerAges,
    Thresholds,
    breaches,
    broken,
)
from delivery.domain.transports import Inbox
from delivery.errors import LedgerError, Overloaded, Unauthenticated
from delivery.gateway.registry import Registry
from delivery.gateway.sockets.sse import HEADERS
from delivery.protocol import encode_json

logger = logging.getLogger(__name__)

SAMPLE_EVERY = 10.0
SAMPLES = 360
PUSH_EVERY = 1.0
CHECKS = 4
"""How often within that time a reader's token is checked."""
PING_EVERY = 15.0
MAX_READERS = 64
_LEVELS = {"performance_mode": "warn"}  # all other conditions: bad
_OPEN_STATES = (State.ACCEPTED.value, State.SENT.value, State.FALLING_BACK.value)


class StatsStream:
    """The stream of figures and its samples.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        auth: Authenticator,
        snapshot: SharedSnapshot,
        *,
        node: str,
        registry: Registry,
        thresholds: Thresholds,
        inbox: Inbox | None = None,
        outages: OutageBoard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auth = auth
        self._snapshot = snapshot
        self._node = node
        self._registry = registry
        self._thresholds = thresholds
        self._inbox = inbox
        self._board = outages
        self._clock = clock
        self._samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self._breakers = BreakerAges()
        self._readers = 0

    def use_thresholds(self, thresholds: Thresholds) -> None:
        """Judge by these limits from now on."""
        self._thresholds = thresholds

    async def sampling(self, app: web.Application) -> AsyncIterator[None]:
        """Take samples while the application runs, with readers or without (a ``cleanup_ctx``)."""
        task = asyncio.get_running_loop().create_task(self._sample_loop())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _sample_loop(self) -> None:
        while True:
            try:
                self._samples.append(self._sample(await self._snapshot.get()))
            except (LedgerError, TimeoutError) as error:
                logger.warning("sample skipped: ledger: %s", str(error) or "no answer in time")
            await asyncio.sleep(SAMPLE_EVERY)

    def _sample(self, snapshot: Snapshot) -> dict[str, Any]:
        stats = snapshot.stats
        return {
            "at": format_instant(datetime.now(UTC)),
            "delivery_rate": stats.delivery_rate,
            "fallback_share": stats.fallback_share,
            "events_per_s": stats.events_per_s,
            "p50": stats.ack_p50_ms,
            "p99": stats.ack_p99_ms,
            "connections": self._connections(snapshot),
            "dead": stats.states.get(State.DEAD.value, 0),
            "open_breakers": len(broken(snapshot.stats)),
        }

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/stats/stream``: ``history`` once, then ``stats`` after each change."""
        principal = await service(request, self._auth, "read")
        if self._readers >= MAX_READERS:
            raise Overloaded(f"{MAX_READERS} readers of the figures are connected to this node")
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        self._readers += 1
        try:
            await response.write(_message("history", {"samples": list(self._samples)}))
            await self._push_until(response, principal)
        except ConnectionError:
            logger.debug("reader of the figures disconnected")
        finally:
            self._readers -= 1
        return response

    async def _push_until(self, response: web.StreamResponse, principal: Principal) -> None:
        last: Any = None
        sent_at = self._clock()
        # The stream ends with its token, and when the node drains.
        while self._is_good(principal) and not self._registry.is_closing:
            now = self._clock()
            message = await self._figures()
            if message != last or message["moving"]:
                last, sent_at = message, now
                await response.write(_message("stats", message))
            elif now - sent_at >= PING_EVERY:
                sent_at = now
                await response.write(b": still here\n\n")
            await self._wait(principal)

    def _is_good(self, principal: Principal) -> bool:
        try:
            self._auth.check(principal)
        except Unauthenticated:
            return False
        return time.time() < principal.ends_at

    async def _wait(self, principal: Principal) -> None:
        """Wait for the next turn, or until the reader's token is refused."""
        for _ in range(CHECKS):
            await asyncio.sleep(PUSH_EVERY / CHECKS)
            if not self._is_good(principal):
                return

    async def _figures(self) -> dict[str, Any]:
        outages = self._board.views(await self._board.look())
        try:
            snapshot = await self._snapshot.get()
        except (LedgerError, TimeoutError) as error:
            logger.warning("figures: ledger: %s", str(error) or "no answer in time")
            return {"stats": None, "outages": outages, "moving": False}
        inbox = self._inbox
        return {
            "stats": stats_view(snapshot.stats, self._connections(snapshot), snapshot.alerts),
            "channel_ms": {n: c.latency_ms for n, c in snapshot.stats.channels.items()},
            "conditions": self._conditions(snapshot),
            "outages": outages,
            "nodes": [node_view(node) for node in snapshot.nodes],
            "inbox": None if inbox is None else [message.id for message in inbox.messages()[:50]],
            # A skipped step changes no figure, nor does anything while the figures rest: then the
            # message is sent every second, and the page reads its list anew.
            "moving": self._snapshot.is_resting
            or any(snapshot.stats.states.get(state, 0) for state in _OPEN_STATES),
        }

    def _connections(self, snapshot: Snapshot) -> int:
        return connections_of(snapshot, self._node, self._registry.connections)

    def _conditions(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """The level of each condition that can alert operators, by the rule of the alerts."""
        limits, stats = self._thresholds, snapshot.stats
        limit = limits.breaker_open.value
        open_for = self._breakers.look(stats, snapshot.alerts, limit, self._clock())
        out = {one.name: one for one in breaches(limits, stats, snapshot.nodes, open_for)}
        return [
            {
                "name": name,
                "level": _LEVELS.get(name, "bad") if name in out else "ok",
                "where": list(out[name].where) if name in out else [],
            }
            for name in CONDITIONS
        ]


def _message(name: str, value: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode_json(value))
