"""Pings whose answer somebody waits for, on one connection."""

from __future__ import annotations

import asyncio


class Prober:
    """Matches pongs to the probes they answer. Bounded by its callers' timeouts: an abandoned probe
    is forgotten when its future is cancelled."""

    __slots__ = ("_count", "_pending")

    def __init__(self) -> None:
        self._count = 0
        self._pending: dict[bytes, tuple[float, asyncio.Future[bool]]] = {}

    def next_payload(self) -> bytes:
        """A payload that no ping of this connection had before."""
        self._count += 1
        return b"probe-%d" % self._count

    def expect(self, payload: bytes, future: asyncio.Future[bool], now: float) -> None:
        """The ping left: its pong sets the future."""
        self._pending[payload] = (now, future)
        future.add_done_callback(lambda _: self._pending.pop(payload, None))

    def on_pong(self, payload: bytes, now: float) -> float | None:
        """Answer a probe. Returns its round trip in seconds, ``None`` if no probe asked for it."""
        probe = self._pending.get(payload)
        if probe is None:
            return None
        asked_at, future = probe
        if not future.done():
            future.set_result(True)
        return now - asked_at

    def give_up(self) -> None:
        """The connection is over: whoever waits hears ``False``."""
        for _, future in tuple(self._pending.values()):
            if not future.done():
                future.set_result(False)
