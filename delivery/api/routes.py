"""The HTTP API as a list of routes, to be mounted by the server.

Owns: the assembly. The WebSocket and the users' stream are the server's own.
"""

from __future__ import annotations

from aiohttp import web

from delivery import resources
from delivery.api import openapi, static_files
from delivery.api.callbacks import Callbacks
from delivery.api.contacts import UsersApi
from delivery.api.demo import DemoApi
from delivery.api.events import EventsApi
from delivery.api.operations import OpsApi
from delivery.api.pages import Pages
from delivery.gateway.parts import GatewayParts


def mount(app: web.Application, parts: GatewayParts) -> None:
    """Add every route but ``/v1/ws`` and ``/v1/stream``, and what runs behind them.

    Raises:
        ConfigError: a callback's secret is malformed, or the package's files are missing.
    """
    ops = OpsApi(parts)
    app.router.add_routes(routes(parts, ops))
    app.cleanup_ctx.append(ops.sampling)


def routes(parts: GatewayParts, ops: OpsApi | None = None) -> list[web.RouteDef]:
    """The routes alone. Raises ``ConfigError``, see ``mount``."""
    return [
        *EventsApi(parts).routes(),
        *UsersApi(parts).routes(),
        *(ops or OpsApi(parts)).routes(),
        *DemoApi(parts).routes(),
        *Callbacks(parts).routes(),
        *Pages(parts).routes(),
        *openapi.routes(),
        *static_files.routes(resources.folder("web")),
    ]
