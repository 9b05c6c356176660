"""Endpoints for operators and monitoring: figures, health, metrics, the inbox.

Owns: ``/v1/stats``, ``/v1/inbox``, ``/inbox/{ticket}``, ``/healthz``, ``/readyz``, ``/metrics``.
Never does: cause load: an answer uses what is in memory or was read within the last second.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Sequence

from aiohttp import web

from delivery.api.operators.metrics import Figures, collect
from delivery.api.operators.node_figures import NodeFigures
from delivery.api.operators.outages import OutageBoard, Source
from delivery.api.operators.snapshot import SharedSnapshot, connections_of
from delivery.api.operators.stats_stream import StatsStream
from delivery.api.problems import Problem
from delivery.api.requests import json_response, service, stream_route
from delivery.api.views import mail_html, sink_view, stats_view
from delivery.callers.auth import Authenticator
from delivery.domain.operators.figures import Snapshot
from delivery.domain.operators.thresholds import BreakerAges, Thresholds
from delivery.domain.ports import Journal, Reads
from delivery.domain.transports import Inbox, SinkMessage
from delivery.errors import LedgerError
from delivery.gateway.registry import Registry
from delivery.telemetry import records_lost
from delivery.telemetry.instruments import expose

logger = logging.getLogger(__name__)

MAIL_HEADERS = {
    # The HTML of a mail is foreign: no script, no network, and an origin of its own. Its links
    # open in a new page.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
        "sandbox allow-popups allow-popups-to-escape-sandbox"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class OperationsApi:
    """Handlers for operators.

    Args:
        thresholds: limits of the conditions that the dashboard shows.
        inbox: the embedded sinks' messages, ``None`` in production.
        outages: give the outages that journal, bus and relay meet.
        figures: of this node, for metrics; default: without spool and connections.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        auth: Authenticator,
        *,
        node: str,
        journal: Journal,
        reads: Reads,
        registry: Registry,
        thresholds: Thresholds,
        inbox: Inbox | None = None,
        outages: Sequence[Source] = (),
        figures: NodeFigures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auth = auth
        self._node = node
        self._journal = journal
        self._reads = reads
        self._registry = registry
        self._inbox = inbox
        self._snapshot = SharedSnapshot(reads, clock)
        self._board = OutageBoard(reads, journal, outages, clock)
        self._stream = StatsStream(
            auth,
            self._snapshot,
            node=node,
            registry=registry,
            thresholds=thresholds,
            inbox=inbox,
            outages=self._board,
            clock=clock,
        )
        self._figures = figures or NodeFigures(node=node, journal=journal, registry=registry)
        self._thresholds = thresholds
        self._breakers = BreakerAges()
        self._clock = clock
        self._malformed_requests = 0
        self._is_draining = False
        self._ticket_key = secrets.token_bytes(32)
        self.background = (self._stream.sampling, self._figures.sampling)

    def use_thresholds(self, thresholds: Thresholds) -> None:
        """Judge by these limits from now on."""
        self._thresholds = thresholds
        self._stream.use_thresholds(thresholds)

    def count_malformed(self) -> None:
        """Count a request that could not be parsed."""
        self._malformed_requests += 1

    def drain(self) -> None:
        """Report this gateway as not ready from now on."""
        self._is_draining = True

    def routes(self) -> list[web.RouteDef]:
        """Routes to mount; the inbox only where there are embedded sinks."""
        routes = [
            web.get("/v1/stats", self.stats),
            stream_route("/v1/stats/stream", self._stream.serve),
            web.get("/healthz", self.alive),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]
        if self._inbox is not None:
            routes += [
                web.get("/v1/inbox", self.inbox),
                web.get("/inbox/{ticket}", self.mail),
            ]
        return routes

    async def stats(self, request: web.Request) -> web.Response:
        """``GET /v1/stats``: figures of the last minutes, with the connections of all gateways."""
        await service(request, self._auth, "read")
        snapshot = await self._snapshot.get()
        connections = await self.total()
        return json_response(stats_view(snapshot.stats, connections, snapshot.alerts))

    async def total(self) -> int:
        """Connections of all gateways."""
        snapshot = await self._snapshot.get()
        return connections_of(snapshot, self._node, self._registry.connections)

    async def inbox(self, request: web.Request) -> web.Response:
        """``GET /v1/inbox``: messages of the embedded mail and SMS sinks, newest first."""
        await service(request, self._auth, "read")
        messages = self._inbox.messages() if self._inbox is not None else []
        views = [sink_view(message, self._ticket(message)) for message in messages]
        return json_response({"messages": views})

    async def mail(self, request: web.Request) -> web.Response:
        """``GET /inbox/{ticket}``: a mail as a page, for a frame, which cannot send a token. The
        tickets of ``/v1/inbox`` cannot be guessed."""
        ticket = request.match_info["ticket"].encode()
        for message in self._inbox.messages() if self._inbox is not None else []:
            if hmac.compare_digest(self._ticket(message).encode(), ticket):
                return web.Response(
                    body=mail_html(message).encode(),
                    content_type="text/html",
                    charset="utf-8",
                    headers=MAIL_HEADERS,
                )
        raise Problem("not-found", "no message has this ticket")

    def _ticket(self, message: SinkMessage) -> str:
        return hmac.new(self._ticket_key, message.id.encode(), "sha256").hexdigest()

    async def alive(self, request: web.Request) -> web.Response:
        """``GET /healthz``: the event loop answers."""
        return json_response({"status": "ok", "node": self._node})

    async def ready(self, request: web.Request) -> web.Response:
        """``GET /readyz``: 503 only while this gateway cannot accept; other faults are reasons.

        A ledger that is away or slow is so for all gateways, which continue to accept: a balancer
        that removed them all would turn a delay into an outage.
        """
        refusal = self._journal.refusal
        refusals = [refusal] if refusal else []
        if self._is_draining:
            refusals.append("this gateway is draining")
        found = await self._board.look(max_age=0.0)
        reasons = refusals + [self._board.sentence(outage) for outage in found]
        if self._journal.set_aside:
            reasons.append(f"{self._journal.set_aside} accepted events are set aside in the spool")
        body = {
            "status": "not ready" if refusals else "ready",
            "node": self._node,
            "backlog": self._journal.backlog,
            "reasons": reasons,
            "outages": self._board.views(found),
        }
        return json_response(body, status=503 if refusals else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """``GET /metrics``: Prometheus text; without the ledger the local figures remain."""
        snapshot = None
        try:
            snapshot = await self._snapshot.get()
        except (LedgerError, TimeoutError) as error:
            logger.warning("metrics: ledger: %s", str(error) or "no answer in time")
        found = await self._board.look()
        self._figures.take()
        figures = Figures(
            node=self._node,
            stats=snapshot.stats if snapshot else None,
            alerts=snapshot.alerts if snapshot else [],
            malformed_requests=self._malformed_requests,
            log_records_lost=records_lost(),
            outages=self._board.lengths(found),
            open_for=self._open_for(snapshot),
        )
        # In a thread: the loop serves events meanwhile.
        body, content_type = await asyncio.to_thread(
            expose, request.headers.get("Accept", ""), [lambda: collect(figures)]
        )
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _open_for(self, snapshot: Snapshot | None) -> dict[str, float]:
        """Seconds by channel for which its breaker has not been closed."""
        if snapshot is None:
            return {}
        limit = self._thresholds.breaker_open.value
        return self._breakers.look(snapshot.stats, snapshot.alerts, limit, self._clock())
