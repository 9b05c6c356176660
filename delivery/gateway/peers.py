"""Presence of the other nodes on the bus, and the nodes to which an event is pushed.

Owns: presence with its expiry, and the messages that this node publishes. Never does: choose a
user by a message's other fields: an event reaches only the connections of the user that it names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from delivery.domain.event import Event
from delivery.domain.node_messages import (
    Acked,
    Confirmed,
    Heartbeat,
    NodeMessage,
    PresenceChange,
    PresenceReport,
    Pushes,
)
from delivery.domain.ports import Bus

MAX_EVENTS = 200
MAX_BYTES = 256 * 1024
"""Of one message. An event is at most a quarter of it."""


class _PushBatch:
    """Events of one turn of the loop for the same nodes."""

    __slots__ = ("events", "size", "users")

    def __init__(self) -> None:
        self.users: list[str] = []
        self.events: list[msgspec.Raw] = []
        self.size = 0


class PushForwarder:
    """Batches pushes to other nodes, per turn of the loop. On the loop's thread."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loads: dict[tuple[str, Sequence[str]], _PushBatch] = {}

    def add(self, origin: str, to: tuple[str, ...], user_id: str, encoded: bytes) -> None:
        """Add one event.

        Args:
            origin: the node that accepted the event.
            to: names of the nodes that it is for; empty: all.
        """
        key = (origin, to)
        load = self._loads.get(key)
        if load is None:
            if not self._loads:
                asyncio.get_running_loop().call_soon(self._send_all)
            load = self._loads[key] = _PushBatch()
        load.users.append(user_id)
        load.events.append(msgspec.Raw(encoded))
        load.size += len(encoded)
        if len(load.users) >= MAX_EVENTS or load.size >= MAX_BYTES:
            self._send(origin, to, load)
            self._loads[key] = _PushBatch()

    def _send_all(self) -> None:
        loads, self._loads = self._loads, {}
        for (origin, to), load in loads.items():
            if load.users:
                self._send(origin, to, load)

    def _send(self, origin: str, to: Sequence[str], load: _PushBatch) -> None:
        pushes = Pushes(node=origin, users=load.users, events=load.events, to=list(to))
        self._bus.publish(pushes, to)


REPORT_EVERY = 10.0
HEARTBEAT_EVERY = 2.0
EXPIRY = 7.0
"""Seconds without a heartbeat after which a node is forgotten: three heartbeats may be lost. Rather
short: an event for a user of a dead node waits for its ack timeout, while an event for a user that
is wrongly taken for absent is handed over at once."""
CHUNK = 500
REMEMBERED = 10_000
"""Events of other nodes, at least, whose confirmation is published to their node; a receipt that
gets no message asks the ledger."""


class _Node:
    """Another node: its users by its last two full reports, of which one may be incomplete."""

    __slots__ = ("before", "until", "users")

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.before: set[str] = set()
        self.until = 0.0


class Peers:
    """The other nodes known to this one. ``bus`` is ``None`` where there are none.

    Attributes:
        nodes: those that are alive, by name; without one nothing is published per event.
    """

    def __init__(self, node: str, bus: Bus | None) -> None:
        self.node = node
        self._bus = bus
        self._forwarder = None if bus is None else PushForwarder(bus)
        self.nodes: dict[str, _Node] = {}
        self._changes: dict[str, bool] = {}  # user -> whether connected here now
        self._lost: set[str] = set()  # users who left without a farewell
        self._hosts: dict[str, tuple[str, ...]] = {}  # a cache, cleared when presence changes
        # Event -> its node. Two dicts that rotate: bounded without an eviction per event.
        self._origins: dict[str, str] = {}
        self._origins_before: dict[str, str] = {}

    @property
    def has_nodes(self) -> bool:
        """Whether another node is alive; without one nothing is published per event."""
        return bool(self.nodes)

    def hosts_of(self, user_id: str) -> tuple[str, ...]:
        """Names of the other nodes that report this user as connected."""
        hosts = self._hosts.get(user_id)
        if hosts is None:
            hosts = self._hosts[user_id] = tuple(
                name
                for name, node in self.nodes.items()
                if user_id in node.users or user_id in node.before
            )
        return hosts

    def present(self) -> Iterator[tuple[str, str]]:
        """Each user of another node, with the node's name."""
        for name, node in self.nodes.items():
            for user_id in node.users | node.before:
                yield user_id, name

    # Messages to other nodes

    def publish(self, message: NodeMessage, to: Sequence[str] = ()) -> None:
        """Send one message to the nodes of these names; none: to all."""
        if self._bus is not None:
            self._bus.publish(message, to)

    def push(self, event: Event, encoded: bytes, *, is_here: bool) -> int:
        """Push an event to the nodes that report its user. When no node reports the user, this one
        included, push to all: a connection may be newer than its report.

        Returns:
            How many nodes report the user.
        """
        hosts = self.hosts_of(event.user_id)
        if self._forwarder is not None and (hosts or (self.nodes and not is_here)):
            self._forwarder.add(self.node, hosts, event.user_id, encoded)
        return len(hosts)

    def forward(self, origin: str, user_id: str, encoded: bytes) -> None:
        """Push to all nodes an event addressed to this one, whose user has just disconnected."""
        if self._forwarder is not None:
            self._forwarder.add(origin, (), user_id, encoded)

    def confirmed(self, ids: Sequence[str]) -> None:
        """Publish confirmations to the nodes that pushed the events: receipts may wait there."""
        by_node: dict[str, list[str]] = {}
        for one in ids if self.nodes else ():
            node = self._origins.get(one) or self._origins_before.get(one)
            if node is not None:
                by_node.setdefault(node, []).append(one)
        for node, pushed in by_node.items():
            for start in range(0, len(pushed), CHUNK):
                chunk = pushed[start : start + CHUNK]
                self.publish(Confirmed(node=self.node, ids=chunk), (node,))

    def acknowledged(self, user_id: str, ids: Sequence[str]) -> None:
        """Publish acknowledgements: the events may be in flight, and receipts wait, on any node."""
        if self.nodes:
            self.publish(Acked(node=self.node, user=user_id, ids=list(ids)))

    def joined(self, user_id: str) -> None:
        """Publish that a user has a first connection here."""
        self._note_change(user_id, is_here=True)

    def left(self, user_id: str, *, is_lost: bool = False) -> None:
        """Publish that a user's last connection here has ended.

        Args:
            is_lost: the client did not say that it leaves.
        """
        self._note_change(user_id, is_here=False)
        if is_lost:
            self._lost.add(user_id)

    def _note_change(self, user_id: str, *, is_here: bool) -> None:
        """Publish the changes of one turn of the loop together, to limit the messages."""
        if not self._changes:
            asyncio.get_running_loop().call_soon(self._publish_changes)
        self._changes[user_id] = is_here
        self._lost.discard(user_id)

    def _publish_changes(self) -> None:
        changes, self._changes = list(self._changes.items()), {}
        lost, self._lost = self._lost, set()
        for start in range(0, len(changes), CHUNK):
            chunk = changes[start : start + CHUNK]
            joined = [user_id for user_id, is_here in chunk if is_here]
            left = [user_id for user_id, is_here in chunk if not is_here]
            gone = [user_id for user_id in left if user_id in lost]
            self.publish(PresenceChange(node=self.node, joined=joined, left=left, lost=gone))

    def report_presence(self, users: Iterable[str]) -> None:
        """Publish all users connected here, in chunks. Without users too: it is a heartbeat."""
        all_users = list(users)
        for start in range(0, max(1, len(all_users)), CHUNK):
            chunk = all_users[start : start + CHUNK]
            self.publish(PresenceReport(node=self.node, users=chunk, is_first=start == 0))

    def heartbeat(self) -> None:
        """Publish only that this node is alive."""
        self.publish(Heartbeat(node=self.node))

    # Messages of other nodes

    def is_addressed(self, to: Sequence[str]) -> bool:
        """Whether pushes to these names are for this node; no names: for all nodes."""
        return not to or self.node in to

    def on_push(self, event_id: str, node: str) -> None:
        """Note which node pushed an event, for its confirmation."""
        self._origins[event_id] = node
        if len(self._origins) > REMEMBERED:
            self._origins_before, self._origins = self._origins, {}

    def on_heartbeat(self, name: str, now: float) -> None:
        """Note that another node is alive."""
        self._alive(name, now)

    def on_presence_change(self, message: PresenceChange, now: float) -> None:
        """Note users that connected to another node or disconnected from it."""
        node = self._alive(message.node, now)
        node.users.update(message.joined)
        node.users.difference_update(message.left)
        node.before.difference_update(message.left)
        self._hosts.clear()

    def on_presence_report(self, message: PresenceReport, now: float) -> None:
        """Note the users of another node, or a chunk of them."""
        node = self._alive(message.node, now)
        if message.is_first:
            node.before = node.users
            node.users = set()
        node.users.update(message.users)
        self._hosts.clear()

    def _alive(self, name: str, now: float) -> _Node:
        node = self.nodes.setdefault(name, _Node())
        node.until = now + EXPIRY
        return node

    def on_hello(self, name: str, now: float) -> None:
        """Note a node that has just started, without users."""
        node = self.nodes[name] = _Node()
        node.until = now + EXPIRY
        self._hosts.clear()

    def on_bye(self, name: str) -> None:
        """Forget a node that has shut down."""
        self.nodes.pop(name, None)
        self._hosts.clear()

    def on_tick(self, now: float) -> None:
        """Forget nodes without a heartbeat for ``EXPIRY`` seconds."""
        self._hosts.clear()
        for name in [name for name, node in self.nodes.items() if node.until < now]:
            self.on_bye(name)
