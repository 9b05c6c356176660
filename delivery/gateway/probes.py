"""Probes of one connection: pings that a caller waits for.

Owns: which pongs are awaited. Never does: send a ping, or time out; the callers do.
"""

from __future__ import annotations

import asyncio


class PendingProbes:
    """Probes that wait for their pong. Bounded by the timeouts of the callers: a probe is forgotten
    when its future is cancelled."""

    __slots__ = ("_count", "_pending")

    def __init__(self) -> None:
        self._count = 0
        self._pending: dict[bytes, tuple[float, asyncio.Future[bool]]] = {}

    def next_payload(self) -> bytes:
        """A payload that is unique among the pings of this connection."""
        self._count += 1
        return b"probe-%d" % self._count

    def expect(self, payload: bytes, future: asyncio.Future[bool], now: float) -> None:
        """Wait for the pong of a ping that was sent at ``now``; it sets the future."""
        self._pending[payload] = (now, future)
        future.add_done_callback(lambda _: self._pending.pop(payload, None))

    def on_pong(self, payload: bytes, now: float) -> float | None:
        """Complete a probe. Returns its round trip in seconds, ``None`` for any other pong."""
        probe = self._pending.get(payload)
        if probe is None:
            return None
        asked_at, future = probe
        if not future.done():
            future.set_result(True)
        return now - asked_at

    def fail_all(self) -> None:
        """Set all futures to ``False``, because the connection has ended."""
        for _, future in tuple(self._pending.values()):
            if not future.done():
                future.set_result(False)
