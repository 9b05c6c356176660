"""The memory of all connections' queues together. Pure.

Owns: how many bytes wait for clients that do not read, and when that is too much. Never does:
choose a connection; each asks here before it queues more.
"""

from __future__ import annotations

MAX_WAITING_BYTES = 128 * 1024 * 1024
FAIR_BYTES = 256 * 1024
"""What each connection may queue even then, so that one that reads is not hindered by others."""
LARGE_BYTES = 32 * 1024 * 1024
"""So much that waited is worth giving back to the system."""


class WaitingBytes:
    """Bytes in the queues of one gateway. For one thread.

    Attributes:
        total: bytes that wait now; every queue adds and takes away its own.
    """

    __slots__ = ("_limit", "_most", "total")

    def __init__(self, limit: int = MAX_WAITING_BYTES) -> None:
        self._limit = limit
        self._most = 0
        self.total = 0

    def has_fallen(self) -> bool:
        """Whether much waited at one of the last calls, and a quarter of it at most does now."""
        self._most = max(self._most, self.total)
        if self._most < LARGE_BYTES or self.total > self._most // 4:
            return False
        self._most = self.total
        return True

    def is_too_much(self, own: int) -> bool:
        """Whether a connection with ``own`` bytes in its queue must not queue more."""
        return own > FAIR_BYTES and self.total > self._limit
