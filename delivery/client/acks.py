"""Which acknowledgements one connection owes. Pure.

Owns: when a count may speak for many events, and when only ids are safe.
"""

from __future__ import annotations

from delivery.protocol import MAX_ACK_IDS, Ack


class Acks:
    """Gathers what was handled; ``take`` gives the frames that say so."""

    def __init__(self) -> None:
        self._handled = 0
        self._acked = 0
        self._is_in_order = True
        self._ids: list[str] = []

    def on_handled(self, n: int, event_id: str, is_durable: bool) -> None:
        """The event that was number ``n`` on this connection is done.

        A count acknowledges everything up to it, so it is only used while every event so far was
        handled, in order; after the first gap ids are sent.
        """
        if self._is_in_order and n == self._handled + 1:
            self._handled = n
            return
        self._is_in_order = False
        if is_durable:
            self._ids.append(event_id)

    def add(self, event_id: str) -> None:
        """An event that came over an earlier connection is done."""
        self._ids.append(event_id)

    def take(self) -> list[Ack]:
        """The frames to send now; empty when nothing is owed."""
        frames = []
        if self._handled > self._acked:
            self._acked = self._handled
            frames.append(Ack(upto=self._handled))
        ids, self._ids = self._ids, []
        frames.extend(
            Ack(ids=ids[start : start + MAX_ACK_IDS]) for start in range(0, len(ids), MAX_ACK_IDS)
        )
        return frames
