"""A lock whose waiters get it in the order in which they came.

Owns: that order. With another lock a thread that writes again and again has it back before any
waiter wakes, and keeps the others away until their timeouts.
"""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A reentrant lock; ``release`` hands it to the thread that has waited longest."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[_Waiter] = deque()
        self._owner: int | None = None
        self._depth = 0

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock, waiting for at most so many seconds; whether it was taken."""
        me = threading.get_ident()
        with self._guard:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return True
            if timeout <= 0.0:
                return False
            waiter = _Waiter(me)
            self._waiting.append(waiter)
        if waiter.turn.acquire(timeout=timeout):
            return True
        with self._guard:
            if self._owner == me:  # handed over in the moment in which the time was up
                return True
            self._waiting.remove(waiter)
            return False

    def release(self) -> None:
        """Give the lock back as often as it was taken.

        Raises:
            RuntimeError: this thread does not have it.
        """
        with self._guard:
            if self._owner != threading.get_ident():
                raise RuntimeError("released by a thread that does not have the lock")
            self._depth -= 1
            if self._depth:
                return
            self._owner = None
            if self._waiting:
                first = self._waiting.popleft()
                self._owner, self._depth = first.thread, 1
                first.turn.release()


class _Waiter:
    """A thread that waits, and the lock it sleeps on, which is released when its turn comes."""

    __slots__ = ("thread", "turn")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.turn = threading.Lock()
        self.turn.acquire()
