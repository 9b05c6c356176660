"""A gateway inside of another aiohttp application.

Owns: its routes there, its life with the application's, and the emitters in the same process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from delivery.api.contacts import Contacts
from delivery.bootstrap.embedded import Embedded
from delivery.bootstrap.ledger import database_url, require_current
from delivery.bootstrap.node import Node
from delivery.config import Settings, load_settings, require_services, require_trust
from delivery.emitter.compat import set_tier_classes
from delivery.emitter.emitter import Emitter


class Mounted:
    """The mounted gateway; ``emitter`` works once the application has started."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def contacts(self) -> Contacts:
        """Addresses and preferences of users; works once the application has started."""
        return self._node.contacts

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> Emitter:
        """An emitter for one run of one user, in this process.

        Raises:
            InvalidContext: an id is not valid; ``Overloaded``: not started yet.
        """
        return self._node.emitter(user_id, run_id, thread_id, performance)


def mount(app: web.Application, settings: Settings | None = None) -> Mounted:
    """Add the gateway's routes (``/v1/…``, ``/confirm/…``, …) to ``app`` and run it with it.

    With a database set it is a gateway of a cluster, whose workers run elsewhere; without one
    everything runs in this process, as in ``delivery up``. Routes that ``app`` has already win.

    Raises:
        ConfigError: a setting is missing or wrong.
    """
    settings = settings or load_settings()
    if settings.tier_classes:
        set_tier_classes(settings.tier_classes)
    embedded = None
    if settings.database_url is None:
        embedded = Embedded(settings)
        node = embedded.node
    else:
        require_trust(settings)
        require_services(settings)
        require_current(database_url(settings))
        node = Node(settings, "gateway")
    owner = embedded or node

    async def life(app: web.Application) -> AsyncIterator[None]:
        await owner.open()
        yield
        await owner.close()

    # First of all: the gateway's own start-up needs the open parts.
    app.cleanup_ctx.append(life)
    node.gateway.mount(app)
    return Mounted(node)
