"""Bus within one process, also for several nodes on one loop in tests.

Owns: the guarantees of the bus over Redis, without Redis. Never does: make a caller wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from delivery.bus.envelope import Reader, kind_of, pack, seal
from delivery.domain.node_messages import NodeMessage
from delivery.domain.operators.outages import Outage

logger = logging.getLogger(__name__)

OnMessage = Callable[[NodeMessage], None]


class LocalHub:
    """The buses of one process, which receive each other's messages."""

    def __init__(self) -> None:
        self._buses: list[LocalBus] = []

    def join(self, bus: LocalBus) -> None:
        """Add a bus, which receives the messages of the others."""
        if bus not in self._buses:
            self._buses.append(bus)

    def leave(self, bus: LocalBus) -> None:
        """Remove a bus, which receives no further messages."""
        if bus in self._buses:
            self._buses.remove(bus)

    def broadcast(self, sender: LocalBus | None, raw: bytes) -> None:
        """Deliver an envelope to every bus but the sender's."""
        for bus in self._buses:
            if bus is not sender:
                bus.take(raw)


class LocalBus:
    """Bus of a single process. Without a shared hub, a published message has no receiver.

    Attributes:
        reader: counts malformed and ignored messages.
    """

    def __init__(self, hub: LocalHub | None = None) -> None:
        self.reader = Reader()
        self._hub = hub or LocalHub()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_message: OnMessage = lambda message: None

    @property
    def healthy(self) -> bool:
        """Whether messages of other nodes arrive."""
        return self._loop is not None

    def outages(self) -> list[Outage]:
        """None: there is no server that could fail."""
        return []

    async def start(self, on_message: OnMessage) -> None:
        """Call ``on_message`` on this loop with every message of another node."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._hub.join(self)

    def publish(self, message: NodeMessage, to: Collection[str] = ()) -> None:
        """Send to every other node. Raises ``TypeError`` for a value that JSON cannot hold."""
        self._hub.broadcast(self, seal("local", [pack(message)]))

    def take(self, raw: bytes) -> None:
        """Queue the messages of another node on this node's loop."""
        envelope = self.reader.unseal(raw)
        if self._loop is None or envelope is None:
            return
        for message in self.reader.unpack(envelope):
            self._loop.call_soon_threadsafe(carry_out, self._on_message, message)

    async def stop(self) -> None:
        """Receive no further messages."""
        self._hub.leave(self)
        self._loop = None


def carry_out(on_message: OnMessage, message: NodeMessage) -> None:
    """Call the handler of one message. An exception is a bug of this node: it is logged, and the
    node continues with the next message."""
    try:
        on_message(message)
    except Exception:
        logger.exception(
            "bus message handler failed: kind %s from node %r",
            kind_of(message),
            message.node[:100],
        )
