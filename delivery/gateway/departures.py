"""Those who leave: torn down a few per turn of the loop, and what they left unacknowledged goes to
the chain unless they are back soon.

Owns: the pace, and the moment of grace. A crowd that is cut off at once must not hold up those who
stay. Never does: close sockets, or decide what the chain does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

PER_TURN = 25
"""Handlers that end in one turn; a tenth of a millisecond each."""
GRACE = 1.0
"""Seconds that a client gets to come back before its events are handed over."""
PORTION = 10_000
"""Events that are given up at once: few and large, because each waits for its turn to write."""
MAX_IDS = 500_000
"""Beyond that many events, what leaves unacknowledged waits for its due time."""

Work = Callable[[], object]


class Leavers:
    """Runs what ends a connection, a few per turn. On the loop's thread."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()

    def add(self, work: Work) -> None:
        """In its turn, soon."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        self._waiting.append(work)

    def _run(self) -> None:
        for _ in range(min(PER_TURN, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)


class Departures:
    """Events that were in flight to a user's last connection when it ended.

    Args:
        is_away: whether the user is connected nowhere now.
        give_up: takes event ids to the chain.
    """

    def __init__(
        self,
        is_away: Callable[[str], bool],
        give_up: Callable[[Sequence[str]], Coroutine[Any, Any, None]],
    ) -> None:
        self._is_away = is_away
        self._give_up = give_up
        self._waiting: deque[tuple[float, str, Sequence[str]]] = deque()
        self._ids = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, user_id: str, ids: Sequence[str]) -> None:
        """The user left, with these unacknowledged."""
        if not ids or self._ids + len(ids) > MAX_IDS:
            return
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + GRACE, user_id, ids))
        self._ids += len(ids)
        if self._task is None:
            self._task = loop.create_task(self._run())

    def close(self) -> None:
        """The node shuts down: its clients come back elsewhere, and what they do not acknowledge
        there has its due time."""
        if self._task is not None:
            self._task.cancel()
        self._forget_all()

    async def _run(self) -> None:
        """One portion after the other, until nobody is left."""
        try:
            while self._waiting:
                due_in = self._waiting[0][0] - asyncio.get_running_loop().time()
                if due_in > 0:
                    await asyncio.sleep(due_in)
                ids = self._next_portion()
                if ids:
                    await self._give_up(ids)
        finally:
            self._forget_all()

    def _next_portion(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        given_up: list[str] = []
        while self._waiting and self._waiting[0][0] <= now and len(given_up) < PORTION:
            _, user_id, ids = self._waiting.popleft()
            self._ids -= len(ids)
            if self._is_away(user_id):
                given_up += ids
        return given_up

    def _forget_all(self) -> None:
        self._waiting.clear()
        self._ids = 0
        self._task = None
