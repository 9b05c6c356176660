"""Events on their way to other nodes: what goes to the same ones in one turn of the loop leaves as
one message.

Owns: the ``pushes`` message and its bounds. Never does: decide who must hear of an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

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
