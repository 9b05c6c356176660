"""A user as the registry knows them, and what it asks of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from delivery.domain.health import Breaker
from delivery.domain.ports import Pushed
from delivery.gateway.outbound import Item

CLOSED = Breaker()


class Member(Protocol):
    """What the registry asks of a connection."""

    user: User | None
    is_marked: bool

    @property
    def id(self) -> str: ...
    @property
    def acked(self) -> int: ...
    def score(self, now: float) -> int: ...
    def enqueue(self, item: Item, /) -> object: ...
    def flush(self) -> None: ...
    def release(self, ids: Sequence[str]) -> None: ...
    def catch_up(self) -> None: ...
    def probe(self) -> asyncio.Future[bool]: ...
    def resend(self, items: Iterable[Item]) -> bool: ...
    def reconnect(self, after_ms: int, reason: str) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


class User:
    """One user's connections here and the breaker before them."""

    __slots__ = ("breaker", "connections", "health", "id", "pushed")

    def __init__(self, user_id: str) -> None:
        self.id = user_id
        self.connections: list[Member] = []
        self.breaker = CLOSED
        self.health = 100  # of the best connection, as of the last look
        self.pushed = Pushed(0)  # the answer of a push, made once per change and not per event
