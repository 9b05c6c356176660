"""The bus of a single process, and of several nodes on one loop in tests.

Owns: the same promises as the bus over Redis, without Redis. Never does: make a caller wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from delivery.bus.envelope import Reader, kind_of, pack, seal
from delivery.domain.node_messages import NodeMessage

logger = logging.getLogger(__name__)

OnMessage = Callable[[NodeMessage], None]


class LocalHub:
    """What the buses of one process share; lets tests run several nodes on one loop."""

    def __init__(self) -> None:
        self._buses: list[LocalBus] = []

    def join(self, bus: LocalBus) -> None:
        """From now on this bus hears the others."""
        if bus not in self._buses:
            self._buses.append(bus)

    def leave(self, bus: LocalBus) -> None:
        """It hears nothing more."""
        if bus in self._buses:
            self._buses.remove(bus)

    def spread(self, sender: LocalBus | None, raw: bytes) -> None:
        """Hand an envelope to every bus but the sender's."""
        for bus in self._buses:
            if bus is not sender:
                bus.take(raw)


class LocalBus:
    """The bus of a single process. With no hub of its own, a publish has no hearer.

    Attributes:
        reader: counts what this node could not read.
    """

    def __init__(self, hub: LocalHub | None = None) -> None:
        self.reader = Reader()
        self._hub = hub or LocalHub()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_message: OnMessage = lambda message: None

    @property
    def healthy(self) -> bool:
        """Whether messages of others arrive."""
        return self._loop is not None

    async def start(self, on_message: OnMessage) -> None:
        """Call ``on_message`` on this loop with every message of another node."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._hub.join(self)

    def publish(self, message: NodeMessage, to: Collection[str] = ()) -> None:
        """Send to every other node. Raises ``TypeError`` for what JSON cannot say."""
        self._hub.spread(self, seal("local", [pack(message)]))

    def take(self, raw: bytes) -> None:
        """Queue the messages of another node on this node's loop."""
        envelope = self.reader.unseal(raw)
        if self._loop is None or envelope is None:
            return
        for message in self.reader.unpack(envelope):
            self._loop.call_soon_threadsafe(carry_out, self._on_message, message)

    async def stop(self) -> None:
        """Hear nothing more."""
        self._hub.leave(self)
        self._loop = None


def carry_out(on_message: OnMessage, message: NodeMessage) -> None:
    """Hand one message to its handler. An error there is a bug of this node: it is logged as one,
    and the node goes on hearing the next."""
    try:
        on_message(message)
    except Exception:
        logger.exception(
            "the handler of a bus message failed: kind %s from node %r",
            kind_of(message),
            message.node[:100],
        )
