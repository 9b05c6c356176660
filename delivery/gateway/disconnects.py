"""Disconnected clients: teardown a few per turn of the loop, and the grace period for reconnects.

Owns: the pace of teardowns, and how long unacknowledged events wait for their client before they
are handed over. Many clients that disconnect at once must not delay the connected ones. Never does:
close sockets, or decide what the chain does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

PER_TURN = 25
"""Teardowns per turn of the loop; each takes about 0.1 ms."""
GRACE = 1.0
"""Seconds in which a client may reconnect before its events are handed over."""
PORTION = 10_000
"""Events handed over in one write: large portions, because each write waits for the journal."""
MAX_IDS = 500_000
"""Events that wait for their client at most; further ones wait for their due time."""

Work = Callable[[], object]


class TeardownQueue:
    """A queue of teardowns, run a few per turn. On the loop's thread."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()

    def add(self, work: Work) -> None:
        """Queue one teardown."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        self._waiting.append(work)

    def _run(self) -> None:
        for _ in range(min(PER_TURN, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)


class ReconnectGrace:
    """Events that wait for their user to connect again, for a while.

    Args:
        is_away: whether the user has no connection, here or on another node.
        hand_over: hands events over to their chain, by id.
        seconds: how long they wait.
    """

    def __init__(
        self,
        is_away: Callable[[str], bool],
        hand_over: Callable[[Sequence[str]], Coroutine[Any, Any, None]],
        seconds: float,
    ) -> None:
        self._seconds = seconds
        self._is_away = is_away
        self._hand_over = hand_over
        self._waiting: deque[tuple[float, str, Sequence[str]]] = deque()
        self._ids = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, user_id: str, ids: Sequence[str]) -> None:
        """Start the grace period of these events."""
        if not ids or self._ids + len(ids) > MAX_IDS:
            return
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + self._seconds, user_id, ids))
        self._ids += len(ids)
        if self._task is None:
            self._task = loop.create_task(self._run())

    def close(self) -> None:
        """Forget all events, because the node shuts down: its clients reconnect to other nodes, and
        what they do not acknowledge there has its due time."""
        if self._task is not None:
            self._task.cancel()
        self._forget_all()

    async def _run(self) -> None:
        """Hand over portion by portion until no event waits."""
        try:
            while self._waiting:
                due_in = self._waiting[0][0] - asyncio.get_running_loop().time()
                if due_in > 0:
                    await asyncio.sleep(due_in)
                ids = self._next_portion()
                if ids:
                    await self._hand_over(ids)
        finally:
            self._forget_all()

    def _next_portion(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        due_ids: list[str] = []
        while self._waiting and self._waiting[0][0] <= now and len(due_ids) < PORTION:
            _, user_id, ids = self._waiting.popleft()
            self._ids -= len(ids)
            if self._is_away(user_id):
                due_ids += ids
        return due_ids

    def _forget_all(self) -> None:
        self._waiting.clear()
        self._ids = 0
        self._task = None
