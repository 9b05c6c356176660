"""HTTP server below the application: admission, time limits, malformed requests.

Owns: the answer, the log line and the count of malformed requests, and the ``Server`` header.
Never does: handle a well-formed request; the application does.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

from delivery.api.problems import Problem
from delivery.api.serving.admission import Admission

logger = logging.getLogger(__name__)

SERVER = "delivery"
"""The ``Server`` header of every answer, without versions, which would help an attacker."""
MAX_REASON = 100
HEADER_TIMEOUT = 10.0
"""Seconds in which the first request of a connection must arrive with all its headers."""
KEEPALIVE_TIMEOUT = 75.0
"""Seconds that a connection may be idle between requests; longer than in common proxies."""
# The text of aiohttp names the fault first, then repeats the sender's bytes.
_BYTES = re.compile(r" b['\"]|[:\n]")


async def name_server(request: web.Request, response: web.StreamResponse) -> None:
    """Set the ``Server`` header, without versions (an ``on_response_prepare``)."""
    response.headers["Server"] = SERVER


class Runner(web.AppRunner):
    """Runs an application, and answers malformed requests as problems.

    Args:
        on_malformed: called for each malformed request.
        admission: decides which connections are admitted.
        shutdown_timeout: seconds that open connections have at the end.
    """

    def __init__(
        self,
        app: web.Application,
        on_malformed: Callable[[], None],
        admission: Admission,
        *,
        shutdown_timeout: float,
    ) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout)
        self._on_malformed = on_malformed
        self._admission = admission

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            self._on_malformed,
            self._admission,
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
        )


class _Server(web.Server):
    def __init__(
        self,
        on_malformed: Callable[[], None],
        admission: Admission,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.on_malformed = on_malformed
        self.admission = admission

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
        )


class _Connection(web.RequestHandler):
    """One connection of a client, from the first byte on."""

    __slots__ = ("_address", "_admission", "_headers_due", "_on_malformed")

    def __init__(self, server: _Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._on_malformed = server.on_malformed
        self._admission = server.admission
        self._address: str | None = None
        self._headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or reset it when its address has too many."""
        address = _address(transport)
        if not self._admission.enter(address):
            logger.warning("connection from %s refused: too many are open", address)
            _reset(transport)
            return
        self._address = address
        super().connection_made(transport)
        self._headers_due = self._loop.call_later(HEADER_TIMEOUT, self._on_headers_due)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting the connection."""
        if self._address is None:
            return  # it was refused
        self._admission.leave(self._address)
        if self._headers_due is not None:
            self._headers_due.cancel()
        super().connection_lost(exc)

    def _on_headers_due(self) -> None:
        # Later requests of the connection have ``KEEPALIVE_TIMEOUT``.
        if self._request_count == 0 and self.transport is not None:
            _reset(self.transport)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Answer; then end a connection whose compressed body was not read.

        aiohttp reads and discards the rest of a body. Of a compressed one it unpacks all of it: a
        few bytes would cost seconds, and a stranger needs no token to be refused.
        """
        is_unread = not request.content.is_eof() and "Content-Encoding" in request.headers
        if is_unread:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        if is_unread and self.transport is not None:
            self._force_close = True  # there is no public way to skip the reading
            self.transport.close()
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a malformed request, or one that the application failed on; end the connection."""
        if isinstance(exc, HttpProcessingError) and status < 500:
            self._on_malformed()
            reason = _reason(exc)
            logger.warning("malformed request from %s: %s", request.remote, reason)
            problem = Problem("bad-request", reason)
        elif isinstance(exc, ConnectionError):
            logger.debug("a client left before its answer: %s", exc)
            problem = Problem("bad-request", "the connection has ended")
        else:
            logger.error("a request from %s failed", request.remote, exc_info=exc)
            problem = Problem("internal", "the request failed; the log of the service says why")
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun and cannot be replaced")
        response = problem.response()
        response.headers["Server"] = SERVER
        response.force_close()
        return response


def _reset(transport: asyncio.BaseTransport) -> None:
    # Not asked by its class: those of uvloop are none of asyncio's.
    cast(asyncio.Transport, transport).abort()


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _reason(error: HttpProcessingError) -> str:
    fault = _BYTES.split(error.message, maxsplit=1)[0].strip()
    return f"{type(error).__name__}: {fault[:MAX_REASON]}"
