"""What operators and machines ask of a running gateway: figures, health, metrics, the inbox.

Owns: ``/v1/stats``, ``/v1/inbox``, ``/healthz``, ``/readyz``, ``/metrics``. Never does: cause
work: every answer is made of what is known or read once per second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from delivery.domain.records import AlertGroup, NodeInfo, Stats
from delivery.errors import LedgerError
from delivery.gateway.inbound import json_response, service
from delivery.gateway.metrics import CONTENT_TYPE, Figures, render
from delivery.gateway.parts import GatewayParts
from delivery.gateway.views import sink_view, stats_view

logger = logging.getLogger(__name__)

PING_TIMEOUT = 1.0
READ_TIMEOUT = 5.0
MAX_READY_BACKLOG = 10_000
FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One look at the ledger."""

    stats: Stats
    alerts: list[AlertGroup]
    nodes: list[NodeInfo]
    at: float


class OpsApi:
    """Handlers for operators.

    Args:
        parts: the gateway's parts.
        clock: monotonic seconds.
    """

    def __init__(self, parts: GatewayParts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._picture: Picture | None = None
        self._looking = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """What to mount; the inbox only where there are embedded sinks."""
        routes = [
            web.get("/v1/stats", self.stats),
            web.get("/healthz", self.alive),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]
        if self._parts.inbox is not None:
            routes.append(web.get("/v1/inbox", self.inbox))
        return routes

    async def stats(self, request: web.Request) -> web.Response:
        """``GET /v1/stats``: the last minutes in figures, connections of all gateways."""
        await service(request, self._parts.auth, "read")
        picture = await self._look()
        elsewhere = sum(n.connections for n in picture.nodes if n.node != self._parts.node)
        connections = self._parts.registry.connections + elsewhere
        return json_response(stats_view(picture.stats, connections, picture.alerts))

    async def inbox(self, request: web.Request) -> web.Response:
        """``GET /v1/inbox``: what the embedded mail and SMS sinks took, newest first."""
        await service(request, self._parts.auth, "read")
        messages = self._parts.inbox.messages() if self._parts.inbox is not None else []
        return json_response({"messages": [sink_view(message) for message in messages]})

    async def alive(self, request: web.Request) -> web.Response:
        """``GET /healthz``: the event loop answers."""
        return json_response({"status": "ok", "node": self._parts.node})

    async def ready(self, request: web.Request) -> web.Response:
        """``GET /readyz``: 503 with reasons while new work should go elsewhere."""
        reasons = []
        try:
            await asyncio.wait_for(self._parts.journal.call(self._parts.ledger.ping), PING_TIMEOUT)
        except (LedgerError, TimeoutError) as error:
            logger.warning("not ready: ledger: %s", str(error) or "no answer in time")
            reasons.append("the ledger does not answer")
        backlog = self._parts.journal.backlog
        if backlog > MAX_READY_BACKLOG:
            reasons.append(f"{backlog} events wait for their commit")
        body = {"status": "not ready" if reasons else "ready", "node": self._parts.node,
                "backlog": backlog, "reasons": reasons}  # fmt: skip
        return json_response(body, status=503 if reasons else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """``GET /metrics``: Prometheus text; without the ledger the local figures remain."""
        picture = None
        try:
            picture = await self._look()
        except (LedgerError, TimeoutError) as error:
            logger.warning("metrics: ledger: %s", str(error) or "no answer in time")
        figures = Figures(
            node=self._parts.node,
            connections=self._parts.registry.connections,
            backlog=self._parts.journal.backlog,
            stats=picture.stats if picture else None,
            alerts=picture.alerts if picture else [],
        )
        return web.Response(body=render(figures).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _look(self) -> Picture:
        """The ledger's figures, at most a second old: whoever asks, it is read once."""
        async with asyncio.timeout(READ_TIMEOUT), self._looking:
            picture = self._picture
            if picture is None or self._clock() - picture.at >= FRESH_SECONDS:
                picture = await self._parts.journal.call(self._read)
                self._picture = picture
            return picture

    def _read(self) -> Picture:
        ledger = self._parts.ledger
        return Picture(
            ledger.events.stats(), ledger.digests.firing(), ledger.nodes.all(), self._clock()
        )
