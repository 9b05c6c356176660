"""What operators and machines ask of a running gateway: figures, health, metrics, the inbox.

Owns: ``/v1/stats``, ``/v1/inbox``, ``/inbox/{ticket}``, ``/healthz``, ``/readyz``, ``/metrics``.
Never does: cause work: every answer is made of what is known or read once per second.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable

from aiohttp import web

from delivery.api.metrics import CONTENT_TYPE, Figures, render
from delivery.api.problems import Problem
from delivery.api.requests import json_response, service
from delivery.api.snapshot import Looker
from delivery.api.stats_stream import StatsStream
from delivery.api.views import mail_html, sink_view, stats_view
from delivery.domain.ports import SinkMessage
from delivery.errors import LedgerError
from delivery.gateway.parts import GatewayParts
from delivery.telemetry import records_lost

logger = logging.getLogger(__name__)

PING_TIMEOUT = 1.0
MAX_READY_BACKLOG = 10_000
MAIL_HEADERS = {
    # A mail is somebody else's HTML: no script, no network, and an origin of its own. Its links
    # open in a page of their own.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
        "sandbox allow-popups allow-popups-to-escape-sandbox"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class OpsApi:
    """Handlers for operators.

    Args:
        parts: the gateway's parts.
        clock: monotonic seconds.
    """

    def __init__(self, parts: GatewayParts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._look = Looker(parts, clock).look
        self._stream = StatsStream(parts, self._look, clock)
        self._ticket_key = secrets.token_bytes(32)
        self.sampling = self._stream.sampling

    def routes(self) -> list[web.RouteDef]:
        """What to mount; the inbox only where there are embedded sinks."""
        routes = [
            web.get("/v1/stats", self.stats),
            web.get("/v1/stats/stream", self._stream.serve),
            web.get("/healthz", self.alive),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]
        if self._parts.inbox is not None:
            routes += [
                web.get("/v1/inbox", self.inbox),
                web.get("/inbox/{ticket}", self.mail),
            ]
        return routes

    async def stats(self, request: web.Request) -> web.Response:
        """``GET /v1/stats``: the last minutes in figures, connections of all gateways."""
        await service(request, self._parts.auth, "read")
        picture = await self._look()
        connections = picture.connections(self._parts.node, self._parts.registry.connections)
        return json_response(stats_view(picture.stats, connections, picture.alerts))

    async def inbox(self, request: web.Request) -> web.Response:
        """``GET /v1/inbox``: what the embedded mail and SMS sinks took, newest first."""
        await service(request, self._parts.auth, "read")
        messages = self._parts.inbox.messages() if self._parts.inbox is not None else []
        views = [sink_view(message, self._ticket(message)) for message in messages]
        return json_response({"messages": views})

    async def mail(self, request: web.Request) -> web.Response:
        """``GET /inbox/{ticket}``: a mail as its reader sees it, for a frame, which cannot send a
        token: ``/v1/inbox`` gives out tickets that cannot be guessed."""
        ticket = request.match_info["ticket"].encode()
        for message in self._parts.inbox.messages() if self._parts.inbox is not None else []:
            if hmac.compare_digest(self._ticket(message).encode(), ticket):
                return web.Response(
                    body=mail_html(message).encode(), content_type="text/html", charset="utf-8",
                    headers=MAIL_HEADERS,
                )  # fmt: skip
        raise Problem("not-found", "no such message, or it has gone")

    def _ticket(self, message: SinkMessage) -> str:
        return hmac.new(self._ticket_key, message.id.encode(), "sha256").hexdigest()

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
            malformed_requests=self._parts.malformed_requests,
            log_records_lost=records_lost(),
        )
        return web.Response(body=render(figures).encode(), headers={"Content-Type": CONTENT_TYPE})
