"""What the local sinks took: newest first, bounded, in memory.

Owns: the messages and waiting for them. Never does: forward one anywhere.
"""

from __future__ import annotations

import threading
from collections import deque

from delivery.domain.ports import SinkMessage

MAX_MESSAGES = 200


class SinkInbox:
    """Messages of the sinks, newest first; the oldest go when it is full. Thread-safe."""

    def __init__(self, limit: int = MAX_MESSAGES) -> None:
        self._messages: deque[SinkMessage] = deque(maxlen=limit)
        self._arrived = threading.Condition()

    def add(self, message: SinkMessage) -> None:
        """Keep a message and wake whoever waits for one."""
        with self._arrived:
            self._messages.appendleft(message)
            self._arrived.notify_all()

    def messages(self) -> list[SinkMessage]:
        """A copy, newest first."""
        with self._arrived:
            return list(self._messages)

    def wait_for(self, count: int, timeout: float) -> list[SinkMessage]:
        """Wait until at least ``count`` messages are here; what is here then, or at the end."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._messages) >= count, timeout)
            return list(self._messages)

    def clear(self) -> None:
        """Forget everything."""
        with self._arrived:
            self._messages.clear()
