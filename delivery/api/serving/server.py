"""The gateway as an HTTP server: routes, start, drain.

Owns: the aiohttp application and its life cycle. Never does: work per event.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Middleware

from delivery.api import routes
from delivery.api.origins import Handler, Origins
from delivery.api.problems import Problem, problem_middleware
from delivery.api.requests import (
    PROXIES,
    RATES,
    STANDING,
    address_of,
    client,
    count_rate,
    counted_address_of,
    stream_route,
)
from delivery.api.routes import Background, Handlers
from delivery.api.serving.admission import Admission, listen_backlog
from delivery.api.serving.listening import Site
from delivery.api.serving.runner import Runner, name_server
from delivery.callers.principal import Principal
from delivery.callers.rates import CONNECT, CONNECT_ADDRESS
from delivery.domain.limits import MAX_BODY_BYTES
from delivery.domain.ports import Journal
from delivery.errors import LedgerError
from delivery.gateway.fast_path import FastPath
from delivery.gateway.sockets.sse import serve_stream
from delivery.gateway.sockets.websocket import serve_socket

logger = logging.getLogger(__name__)

# A socket of IPv6 serves IPv6 alone: callers over IPv4 would be written as addresses of IPv6.
_IPV6, _IPV4 = "::", "0.0.0.0"  # noqa: S104
_UNSUPPORTED = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
MIN_CLOSE_WAIT = 0.5
IDLE_CLOSE_WAIT = 3.0
"""Seconds for which connections without a request stay open while the gateway stops: longer than a
proxy keeps them (``keepalive_timeout`` in ``config/nginx.conf``), also one on a busy machine, so
that none is closed here while a request is under way."""
BACK_IN = 0.2
"""Seconds within which clients reconnect elsewhere after a drain."""


class Gateway:
    """A gateway: ``start`` runs a server of its own, ``build_app`` is for another server.

    Args:
        handlers: of the HTTP API.
        background: work beside the requests, from start-up to clean-up.
        on_malformed: called for each request that could not be parsed.
        on_drain: called when this gateway begins to drain.
        admission: decides which connections are admitted; default: all.
        origins: rules for browsers; default: without CORS.
        admit_session: lets a session of the dashboard stand for a token where it counts.
        stream_caller: the client of ``/v1/stream``; default: by the bearer token.
        trusted_proxies: addresses whose ``X-Forwarded-For`` names the client.
    """

    def __init__(
        self,
        path: FastPath,
        journal: Journal,
        handlers: Sequence[Handlers] = (),
        background: Sequence[Background] = (),
        on_malformed: Callable[[], None] = lambda: None,
        on_drain: Callable[[], None] = lambda: None,
        admission: Admission | None = None,
        stream_caller: Callable[[web.Request], Awaitable[Principal]] | None = None,
        origins: Origins | None = None,
        trusted_proxies: Sequence[str] = (),
        admit_session: Callable[[web.Request], None] = lambda request: None,
    ) -> None:
        self.path = path
        self._journal = journal
        self._handlers = handlers
        self._background = background
        self._on_malformed = on_malformed
        self._on_drain = on_drain
        self._is_draining = False
        self._admission = admission or Admission()
        self._origins = origins or Origins()
        self._admit_session = admit_session
        self._own: frozenset[web.AbstractRoute] | None = None
        self._stream_caller = stream_caller or self._by_token
        self._trusted_proxies = tuple(trusted_proxies)
        self._runner: web.AppRunner | None = None
        self._sites: list[Site] = []
        self._is_drained = False

    def build_app(self) -> web.Application:
        """Make the application, usable on its own or with ``add_subapp``. It starts and stops the
        live path."""
        app = web.Application(middlewares=[self._middleware], client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.append(name_server)
        self._add_to(app)
        return app

    def mount(self, app: web.Application) -> None:
        """Add routes, life cycle and a middleware to another application, whose own routes they
        leave alone."""
        known = set(app.router.routes())
        self._add_to(app)
        self._own = frozenset(set(app.router.routes()) - known)
        app.middlewares.append(self._middleware)

    @property
    def _middleware(self) -> Middleware:
        @web.middleware
        async def rules(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not await self._is_own(request):
                return await handler(request)

            async def with_problems(request: web.Request) -> web.StreamResponse:
                return await problem_middleware(request, with_session)

            async def with_session(request: web.Request) -> web.StreamResponse:
                self._admit_session(request)
                return await handler(request)

            return await self._origins.handle(request, with_problems)

        return rules

    async def _is_own(self, request: web.Request) -> bool:
        """Whether the request is for a route of this gateway, or is a preflight for one."""
        if self._own is None or request.match_info.route in self._own:
            return True
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or not asked:
            return False
        found = await request.app.router.resolve(request.clone(method=asked))
        return found.route in self._own

    def _add_to(self, app: web.Application) -> None:
        app.router.add_routes(
            [stream_route("/v1/ws", self._socket), stream_route("/v1/stream", self._stream)]
        )
        app[RATES] = self.path.rates
        app[PROXIES] = self._trusted_proxies
        routes.mount(app, self._handlers, self._background)
        app.on_response_prepare.append(self._on_response)
        app.on_startup.append(self._on_startup)
        # Before runner.setup(), whose own on_shutdown waits for open sockets and closes none.
        app.on_shutdown.append(self._on_shutdown)

    async def start(self, host: str, port: int, reuse_port: bool = False) -> int:
        """Start the server. Returns the port, for ``port`` 0.

        Args:
            host: ``::`` stands for all addresses, those of IPv4 too.

        Raises:
            OSError: the address is taken.
        """
        runner = Runner(self.build_app(), self._on_malformed, self._admission, shutdown_timeout=5.0)
        await runner.setup()
        self._runner = runner
        bound = port
        try:
            for address in (host, _IPV4) if host == _IPV6 else (host,):
                await self._listen(runner, address, bound, reuse_port)
                bound = int(runner.addresses[0][1])
        except OSError:
            await self.stop(0.0)
            raise
        shown = f"[{host}]" if ":" in host else host
        logger.info("node %s serves http://%s:%d", self.path.node, shown, bound)
        return bound

    async def _listen(self, runner: Runner, host: str, port: int, reuse_port: bool) -> None:
        site = Site(runner, host, port, backlog=listen_backlog(), reuse_port=reuse_port or None)
        self._sites.append(site)
        try:
            await site.start()
        except OSError as error:
            # A machine without IPv4 has no second address to listen on.
            if len(self._sites) == 1 or error.errno not in _UNSUPPORTED:
                raise
            logger.info("no IPv4 here: %s", error)

    async def stop(self, drain: float = 5.0) -> None:
        """Accept no more connections, drain, end. Safe to repeat."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._start_draining()
        for site in self._sites:
            if site in runner.sites:
                await site.stop()
        until = asyncio.get_running_loop().time() + min(drain, IDLE_CLOSE_WAIT)
        # Before cleanup: from its first step, aiohttp reads nothing, not even a close frame.
        await self.drain(drain)
        await _until_left(runner, until)
        await runner.cleanup()

    async def drain(self, timeout: float) -> None:
        """Tell clients to reconnect, one by one, within ``timeout`` seconds, wait as long for their
        close frames, and flush the journal. Safe to repeat.

        Mounted in another application, you must call it before that application's cleanup.
        """
        if self._is_drained:
            return
        self._is_drained = True
        self._start_draining()
        registry = self.path.registry
        count = await registry.reconnect_gradually("shutdown", timeout, min(timeout, BACK_IN))
        count += registry.close_all("shutdown", min(timeout, BACK_IN))  # connections admitted since
        await self.path.close_rest(max(MIN_CLOSE_WAIT, timeout))
        try:
            await self._journal.flush(max(1.0, timeout))
        except (LedgerError, TimeoutError) as error:
            logger.error("journal not flushed: %s", error)
        logger.info("node %s drained; clients told to reconnect: %d", self.path.node, count)

    async def resend(self, user_id: str, event_ids: Sequence[str], timeout: float) -> int:
        """Resend events for the ``direct`` channel; see ``Registry.resend``.

        Raises:
            LedgerError: the events cannot be read now.
        """
        return await self.path.resend(user_id, event_ids, timeout)

    def wake(self, user_ids: Sequence[str]) -> None:
        """Let these users' connections catch up from the ledger."""
        self.path.wake(user_ids)

    def _start_draining(self) -> None:
        self._is_draining = True
        self._on_drain()

    async def _on_response(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._own is None or request.match_info.route in self._own:
            self._origins.add_headers(request, response)
        standing = request.get(STANDING)
        if standing is not None:
            for name, value in standing.headers().items():
                response.headers.setdefault(name, value)
        if self._is_draining and not isinstance(response, web.WebSocketResponse):
            # The next request goes to another node: its sender must be told, and aiohttp has
            # settled this header before it calls us.
            response.force_close()
            response.headers["Connection"] = "close"

    async def _on_startup(self, app: web.Application) -> None:
        await self.path.start()

    async def _on_shutdown(self, app: web.Application) -> None:
        await self.drain(0.0)
        await self.path.stop()

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        # Source: RFC 6455, section 4.1: the handshake is a request of HTTP/1.1 or later.
        if request.version < HttpVersion11:
            raise Problem("bad-request", "a WebSocket needs HTTP/1.1")
        # Before the upgrade: a client tries again, which it would not after 3505.
        await count_rate(request, CONNECT_ADDRESS, counted_address_of(request))
        return await serve_socket(request, self.path, address_of(request))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        await count_rate(request, CONNECT_ADDRESS, counted_address_of(request))
        principal = await self._stream_caller(request)
        await count_rate(request, CONNECT, principal.subject)
        return await serve_stream(request, self.path, principal)

    async def _by_token(self, request: web.Request) -> Principal:
        return await client(request, self.path.auth)


async def _until_left(runner: web.AppRunner, until: float) -> None:
    """Wait until the peers have closed all connections, or the loop's clock reaches ``until``."""
    loop = asyncio.get_running_loop()
    while runner.server is not None and runner.server.connections:
        if loop.time() >= until:
            break
        await asyncio.sleep(0.05)
