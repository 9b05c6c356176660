"""Registry of connected users, and ``push``, the one entry to the live path.

Owns: user -> connections, one flush for all of them per turn of the loop, a breaker per user, the
limit of connections. Never does: write to sockets, wait, or store anything. On the loop's thread.
An event costs no task, future or timer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from delivery.domain.channels import Channel
from delivery.domain.event import Event, EventClass
from delivery.domain.health import OPEN_BELOW, Breaker, BreakerState
from delivery.domain.node_messages import Bye, PresenceChange, Wake
from delivery.domain.ports import Bus, Pushed
from delivery.domain.records import Stored
from delivery.gateway.expected import ExpectedUsers
from delivery.gateway.outbound import Item
from delivery.gateway.peers import HEARTBEAT_EVERY, REPORT_EVERY, Peers
from delivery.protocol import Close, encode_event
from delivery.telemetry import metrics

logger = logging.getLogger(__name__)

CLOSED = Breaker()


class Member(Protocol):
    """The port of a connection, as the registry uses it."""

    user: User | None
    is_marked: bool

    @property
    def id(self) -> str: ...
    @property
    def acked(self) -> int: ...
    @property
    def device(self) -> str | None: ...
    @property
    def transport(self) -> Channel: ...
    @property
    def opened_at(self) -> float: ...
    def score(self, now: float) -> int: ...
    def enqueue(self, item: Item, /) -> object: ...
    def flush(self) -> None: ...
    def release(self, ids: Sequence[str]) -> None: ...
    def catch_up(self) -> None: ...
    def tell_inbox(self) -> None: ...
    def probe(self) -> asyncio.Future[bool]: ...
    def resend(self, items: Iterable[Item]) -> bool: ...
    def reconnect(self, after_ms: int, reason: str) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


class User:
    """Connections of one user on this node, and their breaker."""

    __slots__ = ("breaker", "connections", "health", "id", "pushed")

    def __init__(self, user_id: str) -> None:
        self.id = user_id
        self.connections: list[Member] = []
        self.breaker = CLOSED
        self.health = 100  # of the best connection, every ``HEALTH_EVERY`` seconds
        self.pushed = Pushed(0)  # the result of a push, made once per change and not per event


MAX_PER_USER = 50
HEALTH_EVERY = 5.0
READ_AGAIN = 1.0
"""Seconds until a feed is read once more for events that were not committed at its first read."""
PACE = 0.02
"""Seconds between two clients that are told to reconnect, at most."""

_SHUTTING_DOWN = Pushed(0, "the node is shutting down")
_NOT_CONNECTED = Pushed(0, "nobody connected")
_EXPECTED = Pushed(0, "nobody connected", is_expected=True)
_BREAKER_OPEN = Pushed(0, "breaker open")


class Registry:
    """Implements the ``Push`` port.

    Args:
        node: this process's name on the bus.
        bus: to the other nodes; ``None`` where there are none.
        max_per_user: connections of one user on this node, at most.
        clock: monotonic seconds.
        jitter: uniform in [0, 1), spreads reconnects.
    """

    def __init__(
        self,
        node: str,
        bus: Bus | None = None,
        *,
        max_per_user: int = MAX_PER_USER,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.peers = Peers(node, bus)
        self.is_closing = False
        self.expected = ExpectedUsers(clock)
        self.on_expected: Callable[[str, Sequence[str]], None] = lambda user_id, ids: None
        self._users: dict[str, User] = {}
        self._connections = 0
        self._max_per_user = max_per_user
        self._clock = clock
        self._jitter = jitter
        self._marked: list[Member] = []
        self._is_scheduled = False
        self._health_at = 0.0
        self._report_at = 0.0
        self._heartbeat_at = 0.0

    @property
    def connections(self) -> int:
        """Connections on this node that have a user."""
        return self._connections

    def has_room(self, user_id: str) -> bool:
        """Whether this user may have one more connection here."""
        return self.connections_of(user_id) < self._max_per_user

    def connections_of(self, user_id: str) -> int:
        """Connections of this user on this node."""
        user = self._users.get(user_id)
        return 0 if user is None else len(user.connections)

    def members(self, user_id: str | None = None) -> Iterator[tuple[str, Member]]:
        """Each connection here with its user, of one user or of all."""
        users = (
            self._users.values() if user_id is None else filter(None, [self._users.get(user_id)])
        )
        return ((user.id, one) for user in users for one in user.connections)

    def acked(self, user_id: str) -> int:
        """The highest ``n`` that this user acknowledged on their oldest connection here."""
        user = self._users.get(user_id)
        return 0 if user is None else user.connections[0].acked

    def health(self, user_id: str) -> int:
        """Health of the user's best connection, at most ``HEALTH_EVERY`` seconds old."""
        user = self._users.get(user_id)
        return 100 if user is None else user.health

    # Push

    def push(self, event: Event, encoded: bytes) -> Pushed:
        """Push an event; see the port. Counts connections here and nodes that report the user."""
        user = self._users.get(event.user_id)
        if user is None or user.breaker is not CLOSED or self.peers.nodes or self.is_closing:
            return self._push_elsewhere_too(user, event, encoded)
        item = (event, encoded)
        for connection in user.connections:  # as ``_queue``, whose call costs as much
            connection.enqueue(item)
            if not connection.is_marked:
                self.mark(connection)
        return user.pushed

    def _push_elsewhere_too(self, user: User | None, event: Event, encoded: bytes) -> Pushed:
        """Push with other nodes, to an absent user, past a breaker, or during a drain."""
        if self.is_closing:
            return _SHUTTING_DOWN
        elsewhere = self.peers.push(event, encoded, is_here=user is not None)
        if user is None:
            return Pushed(elsewhere, is_here=False) if elsewhere else self._not_connected(event)
        if not self._passes(user):
            return Pushed(elsewhere, is_here=False) if elsewhere else _BREAKER_OPEN
        self._queue(user, (event, encoded))
        return Pushed(user.pushed.connections + elsewhere) if elsewhere else user.pushed

    def _not_connected(self, event: Event) -> Pushed:
        kind = event.event_class
        # Sign-in events take every way at once.
        if event.user_id in self.expected and kind.is_durable and kind is not EventClass.AUTH:
            return _EXPECTED
        return _NOT_CONNECTED

    def is_absent(self, user_id: str) -> bool:
        """Whether a push reaches no connection, and none is expected; see the port."""
        return (
            user_id not in self._users and not self.peers.has_nodes and user_id not in self.expected
        )

    def keep_waiting(self, event: Event, *, is_recorded: bool) -> None:
        """See the port."""
        if not is_recorded:
            self.expected.note_unrecorded(event.user_id)
        self.on_expected(event.user_id, (event.id,))

    def push_here(self, event: Event, encoded: bytes) -> None:
        """Push an event of another node to the connections of this node only."""
        user = self._users.get(event.user_id)
        if user is not None and not self.is_closing and self._passes(user):
            self._queue(user, (event, encoded))

    def mark(self, connection: Member) -> None:
        """Flush this connection at the end of this turn of the loop."""
        if connection.is_marked:
            return
        connection.is_marked = True
        self._marked.append(connection)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _queue(self, user: User, item: Item) -> None:
        for connection in user.connections:
            connection.enqueue(item)
            if not connection.is_marked:
                self.mark(connection)

    def _passes(self, user: User) -> bool:
        if user.breaker.state is BreakerState.CLOSED:
            return True
        now = self._clock()
        if not user.breaker.allows(now):
            return False
        user.breaker = user.breaker.on_attempt(now)
        return True

    def _flush(self) -> None:
        self._is_scheduled = False
        marked, self._marked = self._marked, []
        for connection in marked:
            connection.is_marked = False
            try:
                connection.flush()
            except Exception:
                # A failure of one connection must not stop the flush of the others.
                logger.exception("connection %s failed", connection.id)
                connection.close(Close.FORCED_RECONNECT, "internal error")

    # Connections

    def attach(self, connection: Member, user_id: str) -> bool:
        """Attach a connection and reset its user's breaker; ``False``: too many connections."""
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = User(user_id)
            self.peers.joined(user_id)
            if self.expected.discard(user_id):
                # What was pushed before its commit may be missing in the feed that is read now.
                asyncio.get_running_loop().call_later(READ_AGAIN, self.wake, user_id)
        elif len(user.connections) >= self._max_per_user:
            return False
        user.breaker = CLOSED
        user.connections.append(connection)
        user.pushed = Pushed(len(user.connections))
        connection.user = user
        self._connections += 1
        return True

    def detach(self, connection: Member, *, is_lost: bool = False) -> bool:
        """Forget a connection.

        Args:
            is_lost: its client did not say that it leaves, and is likely to come back.

        Returns:
            Whether it was its user's last one on any node.
        """
        user = connection.user
        if user is None:
            return False
        connection.user = None
        user.connections.remove(connection)
        user.pushed = Pushed(len(user.connections))
        self._connections -= 1
        if user.connections:
            return False
        del self._users[user.id]
        self.peers.left(user.id, is_lost=is_lost)
        if is_lost:
            self.expected.add(user.id)
        return not self.peers.hosts_of(user.id)

    def on_presence_change(self, change: PresenceChange) -> None:
        """Expect here, too, users whose last connection to another node was lost."""
        for user_id in change.joined:
            if self.expected.discard(user_id):
                wake = Wake(node=self.peers.node, users=[user_id])
                asyncio.get_running_loop().call_later(READ_AGAIN, self.peers.publish, wake)
        for user_id in change.lost:
            if user_id not in self._users:
                self.expected.add(user_id)

    def on_success(self, connection: Member) -> None:
        """Close the breaker after an acknowledgement, and read the events that it stopped."""
        user = connection.user
        if user is None or user.breaker is CLOSED:
            return
        was_open = user.breaker.state is not BreakerState.CLOSED
        user.breaker = CLOSED
        if was_open:
            self.wake(user.id)

    def on_failure(self, connection: Member) -> None:
        """Count a failed send or probe, or a refused event, against the breaker."""
        user = connection.user
        if user is not None:
            user.breaker = user.breaker.on_failure(self._clock())

    def acknowledged(self, user_id: str, ids: Sequence[str]) -> None:
        """Release ids that the user acknowledged over HTTP, on the connections of all nodes."""
        self.acknowledged_here(user_id, ids)
        self.peers.acknowledged(user_id, ids)

    def acknowledged_here(self, user_id: str, ids: Sequence[str]) -> None:
        """Release acknowledged ids on the connections of this node."""
        user = self._users.get(user_id)
        for connection in user.connections if user is not None else ():
            connection.release(ids)

    def wake(self, user_id: str) -> None:
        """Let the user's connections catch up from the ledger."""
        user = self._users.get(user_id)
        for connection in user.connections if user is not None else ():
            connection.catch_up()

    def wake_all(self) -> None:
        """Let all connections catch up, because messages between nodes were lost."""
        for user_id in self._users:
            self.wake(user_id)

    def tell_inbox(self, user_id: str) -> None:
        """Tell the user's clients here that the inbox changed."""
        user = self._users.get(user_id)
        for connection in user.connections if user is not None else ():
            connection.tell_inbox()

    def disconnect(self, user_id: str) -> int:
        """Close the user's connections here, on an operator's order. Returns how many."""
        user = self._users.get(user_id)
        connections = list(user.connections) if user is not None else []
        for connection in connections:
            connection.close(Close.OPERATOR, "disconnected by an operator")
        return len(connections)

    async def reconnect_gradually(self, reason: str, spread: float, back_in: float) -> int:
        """Tell clients to reconnect, one after the other, before ``close_all``. A client is served
        until its turn, so that it is away only while it reconnects.

        Args:
            spread: the longest duration in seconds; fewer clients take less.
            back_in: see ``close_all``.

        Returns:
            How many clients were told.
        """
        connections = [one for user in self._users.values() for one in user.connections]
        pause = min(PACE, spread / max(1, len(connections)))
        for connection in connections:
            connection.reconnect(int(self._jitter() * back_in * 1_000.0), reason)
            await asyncio.sleep(pause)
        return len(connections)

    def close_all(self, reason: str, back_in: float) -> int:
        """Tell every client to reconnect at a random time within ``back_in`` seconds, and close
        with 3001. No connection is attached afterwards. Returns how many there were."""
        self.is_closing = True
        connections = [one for user in self._users.values() for one in user.connections]
        for connection in connections:
            connection.reconnect(int(self._jitter() * back_in * 1_000.0), reason)
        self.peers.publish(Bye(node=self.peers.node))
        return len(connections)

    async def resend(self, user_id: str, stored: Sequence[Stored], timeout: float) -> int:
        """Serve the ``direct`` channel: probe the user's connections, the healthiest first, close
        those without a pong within ``timeout`` seconds so that their clients reconnect, resend to
        the others.

        Returns:
            How many connections took the events. Events of other users and confirmed events are not
            sent.
        """
        user = self._users.get(user_id)
        if user is None:
            return 0
        now = self._clock()
        ranked = sorted(user.connections, key=lambda one: one.score(now), reverse=True)
        probes = [(one, one.probe()) for one in ranked]
        await asyncio.wait([answer for _, answer in probes], timeout=timeout)
        items = [
            (row.event, encode_event(row.event))
            for row in stored
            if row.event.user_id == user_id and row.state.is_unconfirmed
        ]
        taken = 0
        for connection, answer in probes:
            if not answer.done():
                answer.cancel()
                connection.close(Close.NO_PONG, "no pong to a probe")
            elif not answer.result():
                connection.close(Close.FORCED_RECONNECT, "the socket is stuck")
            elif connection.resend(items):
                taken += 1
        return taken

    # Time

    def on_tick(self, now: float) -> None:
        """Publish presence and update health, every few seconds."""
        self.expected.on_tick(now)
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_EVERY
            self.peers.on_tick(now)
            if now >= self._report_at:
                self.report_presence()
            else:
                self.peers.heartbeat()
        if now >= self._health_at:
            self._health_at = now + HEALTH_EVERY
            self._check_health(self._users.values(), now)

    def report_presence(self) -> None:
        """Publish which users are connected here."""
        self._report_at = self._clock() + REPORT_EVERY
        self.peers.report_presence(self._users)

    def _check_health(self, users: Iterable[User], now: float) -> None:
        scores: Counter[int] = Counter()
        for user in users:
            best = max(connection.score(now) for connection in user.connections)
            user.health = best
            scores[best] += 1
            if best < OPEN_BELOW and user.breaker.state is BreakerState.CLOSED:
                user.breaker = Breaker(BreakerState.OPEN, user.breaker.failures, now)
        if scores:
            metrics.health_score.observe_all(scores)
