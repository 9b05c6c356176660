"""Routes of the HTTP API, for the server to mount.

Owns: the list of routes. Never does: mount ``/v1/ws`` and ``/v1/stream`` (the server does).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from aiohttp import web

from delivery import resources
from delivery.api.openapi.document import routes as document_routes
from delivery.api.operators import static_files


class Handlers(Protocol):
    """A group of handlers."""

    def routes(self) -> list[web.RouteDef]:
        """Routes with their handlers."""


Background = Callable[[web.Application], AsyncIterator[None]]
"""Work beside the requests, from start-up to clean-up."""


def mount(
    app: web.Application, handlers: Sequence[Handlers], background: Sequence[Background] = ()
) -> None:
    """Add all routes but ``/v1/ws`` and ``/v1/stream``, and their background work.

    Raises:
        ConfigError: the package's files are missing.
    """
    app.router.add_routes(routes(handlers))
    app.cleanup_ctx.extend(background)


def routes(handlers: Sequence[Handlers]) -> list[web.RouteDef]:
    """The routes without background work. Raises ``ConfigError``, see ``mount``."""
    return [
        *(_with_any_id(route) for part in handlers for route in part.routes()),
        *document_routes(),
        *static_files.routes(resources.folder("web")),
    ]


def _with_any_id(route: web.RouteDef) -> web.RouteDef:
    """The route for every id that a user may have: aiohttp's ``{id}`` takes none with braces."""
    path = route.path.replace("{id}", "{id:[^/]+}")
    return web.RouteDef(route.method, path, route.handler, route.kwargs)
