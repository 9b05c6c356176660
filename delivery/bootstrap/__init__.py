"""The only place that wires parts together, and reads settings to do it.

``embedded`` runs everything in one process, ``gateway`` and ``workers`` the parts of a cluster,
``mount`` puts a gateway into another aiohttp application. Each command imports the one it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp.web import Application

    from delivery.bootstrap.mount import Mounted
    from delivery.config import Settings


def embed(app: Application, settings: Settings | None = None) -> Mounted:
    """Mount the gateway into an aiohttp application; see ``mount``.

    Args:
        settings: ``delivery.Settings(database_url=…, …)``; from the environment and the settings
            file if left out.

    Returns:
        The mounted gateway, which makes emitters once the application has started.

    Raises:
        ConfigError: a setting is missing or wrong.
    """
    from delivery.bootstrap.mount import mount

    return mount(app, settings)
