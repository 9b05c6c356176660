"""The other nodes of one bus: which users are connected where, and which nodes hear of an event.

Owns: presence with its expiry, and what this node says to the others. Never does: trust a message
for more than its own fields: an event reaches only the connections of the user that the event
itself names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

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
"""Of one message; an event is at most a quarter of that."""


class _Load:
    """What gathers for the same nodes."""

    __slots__ = ("events", "size", "users")

    def __init__(self) -> None:
        self.users: list[str] = []
        self.events: list[msgspec.Raw] = []
        self.size = 0


class Crossing:
    """The way to other nodes, for events. On the loop's thread."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loads: dict[tuple[str, Sequence[str]], _Load] = {}

    def add(self, origin: str, to: tuple[str, ...], user_id: str, encoded: bytes) -> None:
        """Take one event.

        Args:
            origin: the node whose event it is.
            to: the names of the nodes that it is for; none: all.
        """
        key = (origin, to)
        load = self._loads.get(key)
        if load is None:
            if not self._loads:
                asyncio.get_running_loop().call_soon(self._send_all)
            load = self._loads[key] = _Load()
        load.users.append(user_id)
        load.events.append(msgspec.Raw(encoded))
        load.size += len(encoded)
        if len(load.users) >= MAX_EVENTS or load.size >= MAX_BYTES:
            self._send(origin, to, load)
            self._loads[key] = _Load()

    def _send_all(self) -> None:
        loads, self._loads = self._loads, {}
        for (origin, to), load in loads.items():
            if load.users:
                self._send(origin, to, load)

    def _send(self, origin: str, to: Sequence[str], load: _Load) -> None:
        pushes = Pushes(node=origin, users=load.users, events=load.events, to=list(to))
        self._bus.publish(pushes, to)


REPORT_EVERY = 10.0
HEARTBEAT_EVERY = 2.0
EXPIRY = 7.0
"""Three heartbeats may be lost. A user believed to be on a dead node waits out the ack timeout; a
user wrongly believed to be on none is found by the chain: so rather short."""
CHUNK = 500
REMEMBERED = 10_000
"""Events of other nodes, at least, whose confirmation is passed on; a receipt that is not told
asks the ledger."""


class _Node:
    """Another node: its users by its last two full reports (one may be half read)."""

    __slots__ = ("before", "until", "users")

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.before: set[str] = set()
        self.until = 0.0


class Peers:
    """The other nodes, as far as this one has heard of them. ``bus`` ``None``: there are none."""

    def __init__(self, node: str, bus: Bus | None) -> None:
        self.node = node
        self._bus = bus
        self._crossing = None if bus is None else Crossing(bus)
        self._nodes: dict[str, _Node] = {}
        self._changes: dict[str, bool] = {}  # user -> whether connected here now
        self._hosts: dict[str, tuple[str, ...]] = {}  # found since presence last changed
        # Event -> its node. Two generations: bounded without an eviction each.
        self._heard: dict[str, str] = {}
        self._heard_before: dict[str, str] = {}

    @property
    def are_there(self) -> bool:
        """Whether any other node lives; without one nothing is published per event."""
        return bool(self._nodes)

    def hosts_of(self, user_id: str) -> tuple[str, ...]:
        """The other nodes that said that this user is connected there."""
        hosts = self._hosts.get(user_id)
        if hosts is None:
            hosts = self._hosts[user_id] = tuple(
                name
                for name, node in self._nodes.items()
                if user_id in node.users or user_id in node.before
            )
        return hosts

    # What this node says

    def publish(self, message: NodeMessage, to: Sequence[str] = ()) -> None:
        """Send one message to the nodes of these names, or to every other node."""
        if self._bus is not None:
            self._bus.publish(message, to)

    def push(self, event: Event, encoded: bytes, *, is_here: bool) -> int:
        """Offer an event to the nodes that are known to host its user; how many those are. With
        no connection known here or there all hear it: a connection may be newer than its news."""
        hosts = self.hosts_of(event.user_id)
        if self._crossing is not None and (hosts or (self._nodes and not is_here)):
            self._crossing.add(self.node, hosts, event.user_id, encoded)
        return len(hosts)

    def pass_on(self, origin: str, user_id: str, encoded: bytes) -> None:
        """Offer to all nodes a push that was addressed to this one, whose user has just left."""
        if self._crossing is not None:
            self._crossing.add(origin, (), user_id, encoded)

    def confirmed(self, ids: Sequence[str]) -> None:
        """Tell the nodes on which receipts may wait: those that pushed the events here."""
        by_node: dict[str, list[str]] = {}
        for one in ids if self._nodes else ():
            node = self._heard.get(one) or self._heard_before.get(one)
            if node is not None:
                by_node.setdefault(node, []).append(one)
        for node, heard in by_node.items():
            for start in range(0, len(heard), CHUNK):
                chunk = heard[start : start + CHUNK]
                self.publish(Confirmed(node=self.node, ids=chunk), (node,))

    def acknowledged(self, user_id: str, ids: Sequence[str]) -> None:
        """Tell the nodes on which they may be in flight, and receipts may wait."""
        if self._nodes:
            self.publish(Acked(node=self.node, user=user_id, ids=list(ids)))

    def joined(self, user_id: str) -> None:
        """The user's first connection here."""
        self._moved(user_id, is_here=True)

    def left(self, user_id: str) -> None:
        """The user's last connection here is gone."""
        self._moved(user_id, is_here=False)

    def _moved(self, user_id: str, *, is_here: bool) -> None:
        """Changes of one turn of the loop are told as one: a crowd must not flood the bus."""
        if not self._changes:
            asyncio.get_running_loop().call_soon(self._tell_changes)
        self._changes[user_id] = is_here

    def _tell_changes(self) -> None:
        changes, self._changes = list(self._changes.items()), {}
        for start in range(0, len(changes), CHUNK):
            chunk = changes[start : start + CHUNK]
            joined = [user_id for user_id, is_here in chunk if is_here]
            left = [user_id for user_id, is_here in chunk if not is_here]
            self.publish(PresenceChange(node=self.node, joined=joined, left=left))

    def report_presence(self, users: Iterable[str]) -> None:
        """Tell all users connected here, in chunks; also when there are none: it is a heartbeat."""
        everyone = list(users)
        for start in range(0, max(1, len(everyone)), CHUNK):
            chunk = everyone[start : start + CHUNK]
            self.publish(PresenceReport(node=self.node, users=chunk, is_first=start == 0))

    def heartbeat(self) -> None:
        """Tell only that this node lives."""
        self.publish(Heartbeat(node=self.node))

    # What it hears

    def is_addressed(self, to: Sequence[str]) -> bool:
        """Whether pushes to these nodes are for this one; no names: for all."""
        return not to or self.node in to

    def on_push(self, event_id: str, node: str) -> None:
        """Another node pushed this event; its confirmation is news there."""
        self._heard[event_id] = node
        if len(self._heard) > REMEMBERED:
            self._heard_before, self._heard = self._heard, {}

    def on_heartbeat(self, name: str, now: float) -> None:
        """Another node lives."""
        self._heard_from(name, now)

    def on_presence_change(self, message: PresenceChange, now: float) -> None:
        """Users came to another node, or left it."""
        node = self._heard_from(message.node, now)
        node.users.update(message.joined)
        node.users.difference_update(message.left)
        node.before.difference_update(message.left)
        self._hosts.clear()

    def on_presence_report(self, message: PresenceReport, now: float) -> None:
        """Another node told its users, or a part of them."""
        node = self._heard_from(message.node, now)
        if message.is_first:
            node.before = node.users
            node.users = set()
        node.users.update(message.users)
        self._hosts.clear()

    def _heard_from(self, name: str, now: float) -> _Node:
        node = self._nodes.setdefault(name, _Node())
        node.until = now + EXPIRY
        return node

    def on_hello(self, name: str, now: float) -> None:
        """Another node has come up, with no user connected yet."""
        node = self._nodes[name] = _Node()
        node.until = now + EXPIRY
        self._hosts.clear()

    def on_bye(self, name: str) -> None:
        """Another node is gone."""
        self._nodes.pop(name, None)
        self._hosts.clear()

    def on_tick(self, now: float) -> None:
        """Forget nodes that have not been heard of for long."""
        self._hosts.clear()
        for name in [name for name, node in self._nodes.items() if node.until < now]:
            self.on_bye(name)
