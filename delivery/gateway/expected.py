"""Users whose last connection was lost a moment ago, and who are likely to come back.

Owns: how long they are expected. What is emitted for them meanwhile waits for them and not in the
chain: a crowd whose lines break at once would otherwise set off a chain for every event, whose work
competes with the connects. Never does: keep an event.
"""

from __future__ import annotations

from collections.abc import Callable

EXPECTED_FOR = 3.0
"""Seconds after the loss; shorter than the time in which an acknowledgement is due."""
MAX_EXPECTED = 200_000


class ExpectedUsers:
    """On the loop's thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}  # in the order of their ends
        self._unrecorded: set[str] = set()

    def __contains__(self, user_id: str) -> bool:
        until = self._until.get(user_id)
        return until is not None and self._clock() < until

    def add(self, user_id: str) -> None:
        """Expect a user whose last connection was lost."""
        self._until.pop(user_id, None)
        if len(self._until) < MAX_EXPECTED:
            self._until[user_id] = self._clock() + EXPECTED_FOR

    def note_unrecorded(self, user_id: str) -> None:
        """An event that waits for this user is not in the ledger yet."""
        self._unrecorded.add(user_id)

    def discard(self, user_id: str) -> bool:
        """Expect a user no longer, who is back or has left; whether the ledger may not have had all
        events that wait for them."""
        self._until.pop(user_id, None)
        was_unrecorded = user_id in self._unrecorded
        self._unrecorded.discard(user_id)
        return was_unrecorded

    def on_tick(self, now: float) -> None:
        """Forget users who did not come back."""
        while self._until:
            user_id, until = next(iter(self._until.items()))
            if now < until:
                return
            self.discard(user_id)
