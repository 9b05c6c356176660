"""All connections of one gateway, their one ticker, and what other nodes ask of them.

Owns: opening and forgetting connections, the only timer of the fast path, incoming bus messages.
Never does: HTTP routing or sockets.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from delivery.domain.event import decode_event
from delivery.domain.ports import Bus, Reads
from delivery.errors import LedgerError
from delivery.gateway.connection import SEND_TIMEOUT, Connection, Surroundings
from delivery.gateway.departures import Leavers
from delivery.gateway.feed import Source
from delivery.gateway.outcomes import Outcomes
from delivery.gateway.registry import Registry
from delivery.gateway.session import Session
from delivery.gateway.sink import Sink
from delivery.protocol import Close, Limits, encode_event

if TYPE_CHECKING:
    from delivery.gateway.auth import Authenticator, Principal

logger = logging.getLogger(__name__)

TICK = 0.25
MAX_RESENDS = 32
MAX_RESEND_IDS = 1_000
MAX_RESEND_TIMEOUT = 30.0


class FastPath:
    """The live side of a gateway.

    Args:
        node: this process's name, as in ``connected`` frames.
        send_timeout: seconds a client may leave its socket full.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        node: str,
        *,
        auth: Authenticator,
        bus: Bus,
        outcomes: Outcomes,
        reads: Reads,
        registry: Registry,
        source: Source,
        limits: Limits | None = None,
        send_timeout: float = SEND_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.auth = auth
        self.registry = registry
        self.limits = limits or Limits()
        self.clock = clock
        self._bus = bus
        self._outcomes = outcomes
        self._reads = reads
        self._around = Surroundings(
            node=node,
            source=source,
            registry=registry,
            outcomes=outcomes,
            send_timeout=send_timeout,
            clock=clock,
        )
        self._connections: set[Connection] = set()
        self._emptied: asyncio.Event | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._resends: set[asyncio.Task[None]] = set()
        self._leavers = Leavers()
        # Takes what ends a connection whose peer is gone; a crowd leaves a few at a time.
        self.leave = self._leavers.add

    def open(
        self, sink: Sink, header: Principal | None = None, *, is_stream: bool = False
    ) -> Connection:
        """A new connection, not yet anybody's."""
        session = Session(
            uuid.uuid4().hex,
            self.limits,
            self.clock(),
            header_token=header is not None,
            is_stream=is_stream,
        )
        connection = Connection(session, sink, self._around, header)
        self._connections.add(connection)
        return connection

    def forget(self, connection: Connection) -> None:
        """Its handler is done."""
        self._connections.discard(connection)
        connection.detach()
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    @property
    def sockets(self) -> int:
        """Handlers that still run, attached or not."""
        return len(self._connections)

    @property
    def live(self) -> int:
        """Connections to which pushes go straight."""
        return sum(connection.is_live for connection in self._connections)

    async def close_rest(self, timeout: float) -> None:
        """Wait until every handler has ended; after ``timeout`` seconds end those that have not."""
        for connection in tuple(self._connections):
            connection.close(Close.SHUTDOWN, "shutting down")  # those nobody was admitted on
        if not self._connections:
            return
        self._emptied = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied.wait()
        except TimeoutError:
            logger.info("%d clients did not say goodbye in time", len(self._connections))
            for connection in tuple(self._connections):
                connection.sink.abort()

    async def start(self) -> None:
        """Listen to the bus, say hello, start the ticker."""
        await self._bus.start(self.on_message)
        self.registry.peers.publish("hello")
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self) -> None:
        """Stop the ticker, pending resends and the bus."""
        self._outcomes.close()
        tasks = [*self._resends, *([self._ticker] if self._ticker is not None else [])]
        self._ticker = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._bus.stop()

    def wake(self, user_ids: Sequence[str]) -> None:
        """Let these users' connections catch up from the ledger."""
        for user_id in user_ids:
            self.registry.wake(user_id)

    async def resend(self, user_id: str, ids: Sequence[str], timeout: float) -> int:
        """Read these events and resend them to the user's sockets here; see ``Registry.resend``.

        Raises:
            LedgerError: the events cannot be read now.
        """
        if not self.registry.connections_of(user_id):
            return 0
        stored = await self._reads.events(ids)
        return await self.registry.resend(user_id, stored, timeout)

    def on_message(self, message: dict[str, Any]) -> None:
        """Another node said something. Nothing malformed may harm this one."""
        try:
            self._on_message(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning("a bus message of kind %r is malformed: %r", message.get("kind"), error)

    def _on_message(self, message: dict[str, Any]) -> None:
        registry = self.registry
        match message["kind"]:
            case "pushes":
                self._on_pushes(message)
            case "presence":
                registry.peers.on_presence(message, self.clock())
            case "hello":
                registry.peers.on_hello(message["node"], self.clock())
                registry.beat()
            case "bye":
                registry.peers.on_bye(message["node"])
            case "wake":
                self.wake(message["users"])
            case "gap":
                registry.wake_all()
            case "confirmed":
                self._outcomes.on_confirmed([str(event_id) for event_id in message["ids"]])
            case "acked":
                ids = [str(event_id) for event_id in message["ids"]]
                self._outcomes.on_confirmed(ids)
                registry.acknowledged_here(str(message["user"]), ids)
            case "disconnect":
                registry.disconnect(message["user"])
            case "resend":
                self._on_resend(message)
            case _:
                return  # of a newer version, or for somebody else

    def _on_pushes(self, message: dict[str, Any]) -> None:
        registry, peers = self.registry, self.registry.peers
        if not peers.is_for_us(message):
            return
        node, is_addressed = message["node"], bool(message.get("to"))
        for user_id, raw in zip(message["users"], message["events"], strict=True):
            if registry.connections_of(user_id):
                event = decode_event(raw)
                peers.on_push(event.id, node)
                registry.push_here(event, encode_event(event))
            elif is_addressed:
                peers.pass_on(node, user_id, raw)

    def _on_resend(self, message: dict[str, Any]) -> None:
        if len(self._resends) >= MAX_RESENDS:
            logger.warning("too many resends at once; the chain asks again")
            return
        ids = [str(event_id) for event_id in message["ids"]][:MAX_RESEND_IDS]
        timeout = min(MAX_RESEND_TIMEOUT, float(message["timeout"]))
        work = self._answer_resend(message["request"], str(message["user"]), ids, timeout)
        task = asyncio.get_running_loop().create_task(work)
        self._resends.add(task)
        task.add_done_callback(self._resends.discard)

    async def _answer_resend(
        self, request: Any, user_id: str, ids: list[str], timeout: float
    ) -> None:
        try:
            count = await self.resend(user_id, ids, timeout)
        except LedgerError as error:
            logger.warning("cannot resend: %s", error)
            count = 0
        self.registry.peers.publish("resent", request=request, count=count)

    async def _tick(self) -> None:
        period = min(TICK, self.limits.heartbeat / 4.0)
        while True:
            await asyncio.sleep(period)
            now = self.clock()
            self.registry.on_tick(now)
            for connection in tuple(self._connections):
                try:
                    connection.on_tick(now)
                except Exception:
                    # One broken connection must not stop the clock of the others.
                    logger.exception("connection %s failed", connection.session.connection_id)
                    connection.detach("internal error")
