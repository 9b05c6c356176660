"""Connections of one gateway, their ticker, and the messages of other nodes.

Owns: opening and forgetting connections, the only timer of the live path, incoming bus messages.
Never does: HTTP routing or sockets.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, assert_never

import msgspec

from delivery.callers.rates import Rates
from delivery.callers.revocations import Revocations, message_of, of_message
from delivery.domain.event import decode_event
from delivery.domain.node_messages import (
    Acked,
    Bye,
    Confirmed,
    ConnectionsAsked,
    ConnectionsTold,
    Disconnect,
    Gap,
    Heartbeat,
    Hello,
    InboxMarked,
    NodeMessage,
    PresenceChange,
    PresenceReport,
    Pushes,
    ResendAnswer,
    ResendRequest,
    Revoked,
    Wake,
)
from delivery.domain.ports import Bus, Reads
from delivery.domain.users.revocation import Revocation
from delivery.errors import LedgerError
from delivery.gateway.connection import Connection
from delivery.gateway.connection_context import SEND_TIMEOUT, ConnectionContext
from delivery.gateway.disconnects import TeardownQueue
from delivery.gateway.feed import FeedReader
from delivery.gateway.frame_writer import FrameWriter
from delivery.gateway.memory import give_back
from delivery.gateway.outcomes import Outcomes
from delivery.gateway.registry import Registry
from delivery.gateway.reports import ConnectionReports
from delivery.gateway.session import Session
from delivery.protocol import Close, Limits, encode_event

if TYPE_CHECKING:
    from delivery.callers.auth import Authenticator
    from delivery.callers.principal import Principal

logger = logging.getLogger(__name__)

TICK = 0.25
MAX_RESENDS = 32
MAX_RESEND_IDS = 1_000
MAX_RESEND_TIMEOUT = 30.0


class FastPath:
    """The live path of a gateway.

    Args:
        node: this process's name, as in ``connected`` frames.
        send_timeout: seconds a client may leave its socket full.
        revocations: where those of other nodes are added.
        check: see ``Authenticator.check``; when its answers change, ``check_principals`` must be
            called.
        clock: monotonic seconds.

    Attributes:
        malformed_events: events from other nodes that could not be decoded.
        reports: who is connected, for operators.
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
        feed_reader: FeedReader,
        limits: Limits | None = None,
        rates: Rates | None = None,
        send_timeout: float = SEND_TIMEOUT,
        revocations: Revocations | None = None,
        check: Callable[[Principal], None] = lambda principal: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.auth = auth
        self.registry = registry
        self.limits = limits or Limits()
        self.rates = Rates() if rates is None else rates
        self.clock = clock
        self.malformed_events = 0
        self._bus = bus
        self._outcomes = outcomes
        self._reads = reads
        self._context = ConnectionContext(
            node=node,
            feed_reader=feed_reader,
            registry=registry,
            outcomes=outcomes,
            send_timeout=send_timeout,
            clock=clock,
            check=check,
        )
        self.revocations = Revocations() if revocations is None else revocations
        self._connections: set[Connection] = set()
        self._emptied: asyncio.Event | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._background_tasks: set[asyncio.Task[None]] = set()
        self._resends: set[asyncio.Task[None]] = set()
        self.reports = ConnectionReports(registry, clock)
        self._teardowns = TeardownQueue()
        # Takes the end of a connection whose peer is gone: a few run per turn of the loop.
        self.defer_teardown = self._teardowns.add

    def open(
        self, writer: FrameWriter, header: Principal | None = None, *, is_stream: bool = False
    ) -> Connection:
        """Create a connection, which has no user yet."""
        session = Session(
            uuid.uuid4().hex,
            self.limits,
            self.clock(),
            header_token=header is not None,
            is_stream=is_stream,
        )
        connection = Connection(session, writer, self._context, header)
        self._connections.add(connection)
        return connection

    def forget(self, connection: Connection) -> None:
        """Forget a connection whose handler has ended."""
        self._connections.discard(connection)
        connection.detach()
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    @property
    def sockets(self) -> int:
        """Connections whose handlers run, with a user or without."""
        return len(self._connections)

    @property
    def live(self) -> int:
        """Connections that are live, not catching up."""
        return sum(connection.is_live for connection in self._connections)

    @property
    def in_flight(self) -> int:
        """Events sent on connections here and unacknowledged."""
        most = self.limits.max_in_flight
        return sum(most - one.session.in_flight.room for one in self._connections)

    async def close_rest(self, timeout: float) -> None:
        """Wait until every handler has ended; after ``timeout`` seconds abort the other sockets."""
        for connection in tuple(self._connections):
            connection.close(Close.SHUTDOWN, "shutting down")  # connections without a user
        if not self._connections:
            return
        self._emptied = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied.wait()
        except TimeoutError:
            count = len(self._connections)
            logger.info("%d connections aborted: no close frame within %g s", count, timeout)
            for connection in tuple(self._connections):
                connection.writer.abort()

    async def start(self) -> None:
        """Start the bus, announce this node, start the ticker."""
        await self._bus.start(self.on_message)
        self.registry.peers.publish(Hello(node=self.node))
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self) -> None:
        """Stop the ticker, pending resends and the bus."""
        self._outcomes.close()
        tasks = [*self._background_tasks, *([self._ticker] if self._ticker is not None else [])]
        self._ticker = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._bus.stop()

    def wake(self, user_ids: Sequence[str]) -> None:
        """Let the connections of these users catch up from the ledger."""
        for user_id in user_ids:
            self.registry.wake(user_id)

    async def resend(self, user_id: str, ids: Sequence[str], timeout: float) -> int:
        """Read events and resend them to the user's connections here; see ``Registry.resend``.

        Raises:
            LedgerError: the events cannot be read now.
        """
        if not self.registry.connections_of(user_id):
            return 0
        stored = await self._reads.events(ids)
        return await self.registry.resend(user_id, stored, timeout)

    def revoke(self, revoked: Revocation) -> None:
        """Refuse these tokens from now on and end their connections, here and on other nodes."""
        self.revocations.add([revoked])
        self.registry.peers.publish(message_of(self.node, revoked))

    def disconnect(self, user_id: str) -> None:
        """Close the user's connections, here and on other nodes."""
        self.registry.disconnect(user_id)
        self.registry.peers.publish(Disconnect(node=self.node, user=user_id))

    def tell_inbox(self, user_id: str) -> None:
        """Tell the user's clients that the inbox changed, here and on other nodes."""
        self.registry.tell_inbox(user_id)
        self.registry.peers.publish(InboxMarked(node=self.node, user=user_id))

    def check_principals(self) -> None:
        """End the connections whose token is not accepted any more."""
        for connection in tuple(self._connections):
            try:
                connection.check_principal()
            except Exception:
                # A failure of one connection must not keep the others open.
                logger.exception("connection %s failed", connection.session.connection_id)
                connection.close(Close.INVALID_TOKEN, "unauthorized")

    def on_message(self, message: NodeMessage) -> None:
        """Handle a message of another node. The message was checked when it was decoded: what this
        raises is a bug of this node, and the bus logs it as one."""
        registry, peers = self.registry, self.registry.peers
        match message:
            case Pushes():
                self._on_pushes(message)
            case Confirmed():
                self._outcomes.on_confirmed(message.ids)
            case Acked():
                self._outcomes.on_confirmed(message.ids)
                registry.acknowledged_here(message.user, message.ids)
            case Heartbeat():
                peers.on_heartbeat(message.node, self.clock())
            case PresenceChange():
                peers.on_presence_change(message, self.clock())
                registry.on_presence_change(message)
            case PresenceReport():
                peers.on_presence_report(message, self.clock())
            case Hello():
                peers.on_hello(message.node, self.clock())
                registry.report_presence()
            case Bye():
                peers.on_bye(message.node)
            case Wake():
                self.wake(message.users)
            case Gap():
                registry.wake_all()
            case Disconnect():
                registry.disconnect(message.user)
            case ConnectionsAsked():
                self.reports.on_asked(message)
            case ConnectionsTold():
                self.reports.on_told(message)
            case InboxMarked():
                registry.tell_inbox(message.user)
            case Revoked():
                self.revocations.add([of_message(message)])
            case ResendRequest():
                self._on_resend_request(message)
            case ResendAnswer():
                pass  # addressed to the worker that sent the request
            case _:
                assert_never(message)

    def _on_pushes(self, message: Pushes) -> None:
        registry, peers = self.registry, self.registry.peers
        if not peers.is_addressed(message.to):
            return
        for user_id, raw in zip(message.users, message.events, strict=True):
            if registry.connections_of(user_id):
                self._push_from(message.node, raw)
            elif message.to:
                peers.forward(message.node, user_id, raw)

    def _push_from(self, node: str, raw: msgspec.Raw) -> None:
        """Push an event of another node; a failure leaves the other events of its message."""
        try:
            event = decode_event(raw)
        except ValueError as error:
            self.malformed_events += 1
            if self.malformed_events & (self.malformed_events - 1) == 0:  # 1, 2, 4, 8 …
                logger.warning(
                    "malformed events from other nodes, %d so far, the last from %r: %.200s",
                    self.malformed_events,
                    node[:100],
                    error,
                )
            return
        try:
            self.registry.peers.on_push(event.id, node)
            self.registry.push_here(event, encode_event(event))
        except Exception:
            logger.exception("event %s of node %r was not pushed", event.id, node[:100])

    def _on_resend_request(self, message: ResendRequest) -> None:
        if len(self._resends) >= MAX_RESENDS:
            logger.warning("%d resends at once; dropped one, the chain asks again", MAX_RESENDS)
            return
        task = self._in_background(self._answer_resend(message))
        self._resends.add(task)
        task.add_done_callback(self._resends.discard)

    async def _answer_resend(self, message: ResendRequest) -> None:
        timeout = min(MAX_RESEND_TIMEOUT, message.timeout)
        try:
            count = await self.resend(message.user, message.ids[:MAX_RESEND_IDS], timeout)
        except LedgerError as error:
            logger.warning("resend failed: ledger: %s", error)
            count = 0
        answer = ResendAnswer(node=self.node, request=message.request, count=count)
        self.registry.peers.publish(answer)

    def _in_background(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)
        return task

    async def _tick(self) -> None:
        period = min(TICK, self.limits.heartbeat / 4.0)
        while True:
            await asyncio.sleep(period)
            now = self.clock()
            self.registry.on_tick(now)
            self._outcomes.count_acks()
            if self._context.waiting.has_fallen():
                self._in_background(asyncio.to_thread(give_back))
            for connection in tuple(self._connections):
                try:
                    connection.on_tick(now)
                except Exception:
                    # A failure of one connection must not stop the ticker of the others.
                    logger.exception("connection %s failed", connection.session.connection_id)
                    connection.detach("internal error")
