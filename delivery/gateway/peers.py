"""What nodes tell each other over the bus, and who is connected where.

Owns: the messages' shapes (docs below), presence with its expiry, and who must hear of an event.
Never does: trust what came from the bus for more than its own fields: an event reaches only the
connections of the user that the event itself names.

Messages, each with ``kind`` and ``node``:
    pushes    {"users": [user], "events": [<wire>], "to"?: [node]}  push to their connections here;
                                                   what was addressed and finds nobody goes to all
    presence  {"joined": [user], "left": [user]}   {"users": [user], "first": bool} every 10 s,
                                                   and bare every 2 s: its sender lives
    hello     {}                                   a node has come up; answer with presence
    bye       {}                                   a node has gone
    wake      {"users": [user]}                    catch up from the ledger
    gap       {}                                   the bus lost something: everybody catches up
    confirmed {"ids": [id]}                        receipts wait for these
    acked     {"user", "ids"}                      the user acknowledged them over HTTP
    resend    {"request", "user", "ids", "timeout"}  answered with resent {"request", "count"}
    disconnect {"user"}                            an operator's
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from delivery.domain.event import Event
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
            to: the names of the nodes that it is for; none: everybody.
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
        message: dict[str, Any] = {
            "kind": "pushes",
            "node": origin,
            "users": load.users,
            "events": load.events,
        }
        if to:
            message["to"] = to
        self._bus.publish(message, to)


BEAT = 10.0
ALIVE = 2.0
EXPIRY = 7.0
"""Three signs of life may be lost. Whoever is believed to be on a dead node waits out the ack
timeout; whoever is wrongly believed to be nowhere is found by the chain: so rather short."""
CHUNK = 500
_BARE = 2
"""Fields of a message that only says that its sender lives."""
REMEMBERED = 10_000
"""Events of other nodes, at least, whose confirmation is passed on; a receipt that is not told
asks the ledger."""


class _Node:
    """Another node: who is there, by its last two full reports (one may be half read)."""

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
        self._news: dict[str, bool] = {}
        self._hosts: dict[str, tuple[str, ...]] = {}  # found since the last news
        # Event -> whose it is. Two generations: bounded without an eviction each.
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

    def publish(self, kind: str, **fields: Any) -> None:
        """Send one message to every other node."""
        if self._bus is not None:
            self._bus.publish({"kind": kind, "node": self.node, **fields})

    def push(self, event: Event, encoded: bytes, *, is_here: bool) -> int:
        """Offer an event to the nodes that are known to host its user; how many those are. With
        nobody known here or there all of them hear it: a connection may be newer than its news."""
        hosts = self.hosts_of(event.user_id)
        if self._crossing is not None and (hosts or (self._nodes and not is_here)):
            self._crossing.add(self.node, hosts, event.user_id, encoded)
        return len(hosts)

    def pass_on(self, origin: str, user_id: str, encoded: bytes) -> None:
        """A push was addressed to this node, whose user has just left: others may have them."""
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
                self._tell(node, "confirmed", ids=heard[start : start + CHUNK])

    def acknowledged(self, user_id: str, ids: Sequence[str]) -> None:
        """Tell the nodes on which they may be in flight, and receipts may wait."""
        if self._nodes:
            self.publish("acked", user=user_id, ids=list(ids))

    def joined(self, user_id: str) -> None:
        """The user's first connection here."""
        self._moved(user_id, is_here=True)

    def left(self, user_id: str) -> None:
        """The user's last connection here is gone."""
        self._moved(user_id, is_here=False)

    def _moved(self, user_id: str, *, is_here: bool) -> None:
        """Who came and went in one turn of the loop is told as one: a crowd must not flood."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._tell_news)
        self._news[user_id] = is_here

    def _tell_news(self) -> None:
        news, self._news = list(self._news.items()), {}
        for start in range(0, len(news), CHUNK):
            chunk = news[start : start + CHUNK]
            joined = [user_id for user_id, is_here in chunk if is_here]
            left = [user_id for user_id, is_here in chunk if not is_here]
            self.publish("presence", joined=joined, left=left)

    def beat(self, users: Iterable[str]) -> None:
        """Say who is here, in chunks; also when it is nobody: it says that this node lives."""
        everyone = list(users)
        for start in range(0, max(1, len(everyone)), CHUNK):
            self.publish("presence", users=everyone[start : start + CHUNK], first=start == 0)

    def alive(self) -> None:
        """Say only that this node lives."""
        self.publish("presence")

    def _tell(self, to: str, kind: str, **fields: Any) -> None:
        if self._bus is not None:
            self._bus.publish({"kind": kind, "node": self.node, **fields}, (to,))

    # What it hears

    def is_for_us(self, message: dict[str, Any]) -> bool:
        """Whether it is addressed to this node, or to nobody in particular."""
        to = message.get("to")
        return not to or self.node in to

    def on_push(self, event_id: str, node: str) -> None:
        """Another node pushed this event; its confirmation is news there."""
        self._heard[event_id] = node
        if len(self._heard) > REMEMBERED:
            self._heard_before, self._heard = self._heard, {}

    def on_presence(self, message: dict[str, Any], now: float) -> None:
        """Another node said who is there, or just that it lives."""
        node = self._nodes.setdefault(message["node"], _Node())
        node.until = now + EXPIRY
        if len(message) > _BARE:
            self._hosts.clear()
        if message.get("first"):
            node.before = node.users
            node.users = set()
        node.users.update(message.get("users", ()), message.get("joined", ()))
        left = message.get("left", ())
        node.users.difference_update(left)
        node.before.difference_update(left)

    def on_hello(self, name: str, now: float) -> None:
        """Another node has come up, with nobody connected yet."""
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
