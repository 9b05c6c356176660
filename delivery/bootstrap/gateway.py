"""Gateways of a cluster: one process, or several that share a port.

Owns: the conditions for a start, and the order of the end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from delivery.bootstrap.ledger import database_url, owner_url, require_current
from delivery.bootstrap.node import Node
from delivery.config import Settings, load_settings, require_services, require_trust
from delivery.errors import ConfigError, LedgerUnavailable
from delivery.ledger import migrate
from delivery.process.event_loop import StopSignal, run
from delivery.process.reloading import Apply, Loaded
from delivery.process.supervisor import supervise
from delivery.telemetry import instruments

logger = logging.getLogger(__name__)

Ready = Callable[[str], None]

RELOAD_TIMEOUT = 30.0


def run_gateways(settings: Settings, processes: int, *, ready: Ready) -> None:
    """Serve until a signal stops it.

    Args:
        processes: how many share the port; the kernel spreads connections over them.
        ready: called with the address once the (first) gateway listens.

    Raises:
        ConfigError: a setting is wrong, or the tables are of another version.
    """
    require_trust(settings)
    require_services(settings)
    try:
        require_current(database_url(settings))
    except LedgerUnavailable as error:
        # The spool makes events durable while the ledger is away.
        logger.warning("%s; starting without it, events go to the spool", error)
    settings = with_port(settings)
    if processes == 1:
        run(run_gateway(settings, ready=ready))
        return
    if settings.redis_url is None:
        raise ConfigError("several processes need DELIVERY_REDIS_URL to reach each other's clients")

    instruments.share()

    def serve(index: int) -> None:
        instruments.identify(index)
        tell = ready if index == 0 else (lambda url: None)
        run(run_gateway(settings, index=index, ready=tell))

    supervise(processes, serve)


async def run_gateway(settings: Settings, *, index: int | None = None, ready: Ready) -> None:
    """Serve in this process until a signal stops it, then send the clients elsewhere and drain."""
    node = Node(settings, "gateway", index=index)
    stop_signal = StopSignal(
        by_parent=index is not None, on_reload=lambda: reload_node(node, node.use)
    )
    await node.open()
    try:
        await serve_node(node, reuse_port=index is not None)
        try:
            ready(settings.base_url)
            await stop_signal.wait()
        finally:
            await node.gateway.stop()
    finally:
        await node.close()


async def reload_node(node: Node, apply: Apply) -> None:
    """Read the settings anew and apply them on the loop; files are read in a thread."""
    loop = asyncio.get_running_loop()

    def on_loop(loaded: Loaded) -> None:
        async def applied() -> None:
            apply(loaded)

        asyncio.run_coroutine_threadsafe(applied(), loop).result(RELOAD_TIMEOUT)

    await asyncio.to_thread(node.reloader.reload, on_loop)


def node_from_environment(kind: str) -> Node:
    """A node on an empty or current ledger, for a process that was handed its settings.

    Effect: migrates the ledger.
    """
    settings = with_port(load_settings())
    migrate.upgrade(owner_url(settings))
    return Node(settings, kind)


async def serve_node(node: Node, *, reuse_port: bool = False) -> None:
    """Listen. Raises ``ConfigError`` when the address cannot be used."""
    settings = node.settings
    try:
        await node.gateway.start(settings.host, settings.port, reuse_port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "set DELIVERY_HOST and DELIVERY_PORT"
        ) from error


def with_port(settings: Settings) -> Settings:
    """The same settings with a port of their own in place of 0: links need it before it is bound.

    Raises:
        ConfigError: the host has no such address.
    """
    if settings.port:
        return settings
    version = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(version) as probe:
            probe.bind((settings.host, 0))
            return settings.model_copy(update={"port": probe.getsockname()[1]})
    except OSError as error:
        raise ConfigError(
            f"DELIVERY_HOST: cannot use {settings.host!r}: {error.strerror}"
        ) from error
