"""Threads that give messages to providers, so that a slow one holds up neither task nor other user.

Owns: how many calls run at once, in all and to one place (a mail domain). Never does: decide about
a message; each call records its own outcome, for the task may have ended before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

MAX_CALLS = 32
MAX_PER_PLACE = 8
"""Calls at once about one place: its slow server must leave room for the others'."""

ROOM_TIMEOUT = 1.0
"""Seconds to wait until one of a place's calls ends."""

FULL_RECHECK = 5.0
"""Seconds until the next decision on an event for whose message there was no room."""

T = TypeVar("T")


class Deliveries(Generic[T]):
    """Calls of one channel's provider. Thread-safe.

    Args:
        name: of the threads.
    """

    def __init__(
        self, name: str, *, most: int = MAX_CALLS, most_per_place: int = MAX_PER_PLACE
    ) -> None:
        self._name = name
        self._most = most
        self._most_per_place = most_per_place
        self._places: Counter[str] = Counter()
        self._changed = threading.Condition()

    @property
    def running(self) -> int:
        """The number of calls that have room."""
        return self._places.total()

    def enter(self, place: str, timeout: float) -> bool:
        """Take room for one call, which ``start`` or ``leave`` gives back.

        Args:
            timeout: seconds to wait for it.

        Returns:
            ``False`` if there was none in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(place), timeout):
                return False
            self._places[place] += 1
            return True

    def leave(self, place: str) -> None:
        """Give room back."""
        with self._changed:
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]
            self._changed.notify_all()

    def start(self, place: str, call: Callable[[], T]) -> Future[T]:
        """Make a call in a thread of its own; ``enter`` must have given room."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                # Raised again where the caller waits. It may be gone; then the lease ends.
                logger.warning("%s: a delivery failed: %s", self._name, type(error).__name__)
                future.set_exception(error)
            finally:
                self.leave(place)

        threading.Thread(target=work, name=f"delivery-{self._name}", daemon=True).start()
        return future

    def wait(self, timeout: float) -> bool:
        """Wait until no call runs; ``False`` if some still do after ``timeout`` seconds."""
        ends = time.monotonic() + timeout
        with self._changed:
            return self._changed.wait_for(lambda: not self._places, ends - time.monotonic())

    def _has_room(self, place: str) -> bool:
        return self.running < self._most and self._places[place] < self._most_per_place
