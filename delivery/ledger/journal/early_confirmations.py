"""Proofs that came before their events: another node still commits them, or has them in its spool.

Owns: how long such a proof is kept, and when it is offered again. Without it the event would be
sent once more, and acknowledged once more, after its ack timeout. Never does: keep one for ever; a
proof for an event that does not come is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from delivery.domain.lifecycle import Confirmation

KEPT = 60.0
AGAIN = 1.0
MOST = 20_000


class EarlyProofs:
    """Bounded; belongs to one thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        kept: float = KEPT,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = kept
        self._most = most
        self._clock = clock
        self._until: dict[Confirmation, float] = {}
        self._at = 0.0

    def __len__(self) -> int:
        return len(self._until)

    def due(self) -> list[Confirmation]:
        """Those to offer now; nothing when it was done a moment ago."""
        now = self._clock()
        if not self._until or now < self._at:
            return []
        self._at = now + AGAIN
        return list(self._until)

    def settle(self, offered: Iterable[Confirmation], missed: Iterable[Confirmation]) -> None:
        """What was offered is done with, except for what found no event: that is kept for a while.

        Args:
            offered: what ``due`` gave.
            missed: of these and of others, those that found no event.
        """
        now = self._clock()
        again = {proof: self._until.get(proof, now + self._kept) for proof in missed}
        for proof in offered:
            self._until.pop(proof, None)
        for proof, until in again.items():
            if until > now:
                self._until[proof] = until
        while len(self._until) > self._most:
            del self._until[next(iter(self._until))]  # the oldest has waited the longest in vain
