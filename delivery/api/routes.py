"""The HTTP API as a list of routes, to be mounted by the server.

Owns: the assembly. The WebSocket and the users' stream are the server's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from aiohttp import web

from delivery import resources
from delivery.api import openapi, static_files


class Handlers(Protocol):
    """Handlers that belong together."""

    def routes(self) -> list[web.RouteDef]:
        """Paths, methods and what answers them."""


Background = Callable[[web.Application], AsyncIterator[None]]
"""Work beside the requests: runs from start-up to its end at clean-up."""


def mount(
    app: web.Application, handlers: Sequence[Handlers], background: Sequence[Background] = ()
) -> None:
    """Add every route but ``/v1/ws`` and ``/v1/stream``, and what runs behind them.

    Raises:
        ConfigError: the package's files are missing.
    """
    app.router.add_routes(routes(handlers))
    app.cleanup_ctx.extend(background)


def routes(handlers: Sequence[Handlers]) -> list[web.RouteDef]:
    """The routes alone. Raises ``ConfigError``, see ``mount``."""
    return [
        *(route for part in handlers for route in part.routes()),
        *openapi.routes(),
        *static_files.routes(resources.folder("web")),
    ]
