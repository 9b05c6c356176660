"""Breakers of push hosts: a host that is away delays only the users who named it.

Owns: the breakers of one process, by host, bounded. Never does: share them between processes: users
could fill a table with hosts.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from delivery.domain.health import Breaker, BreakerState

CAPACITY = 1_000


class HostBreakers:
    """One breaker per name, at most ``capacity``; drops the least recently used. Thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        self._using = threading.Lock()

    def __len__(self) -> int:
        return len(self._breakers)

    def allows(self, name: str, *, probe: bool = True) -> bool:
        """Whether a call may pass now.

        Args:
            probe: whether the call may be the probe of an open breaker.
        """
        with self._using:
            breaker = self._breakers.get(name)
            if breaker is None:
                return True
            self._breakers.move_to_end(name)
            if breaker.state is BreakerState.CLOSED:
                return True
            now = self._clock()
            if not probe or not breaker.allows(now):
                return False
            self._breakers[name] = breaker.on_attempt(now)
            return True

    def report(self, name: str, ok: bool) -> None:
        """Count the outcome of a call that passed; a host that works has no entry."""
        with self._using:
            if ok:
                self._breakers.pop(name, None)
                return
            old = self._breakers.get(name, Breaker())
            self._breakers[name] = old.on_failure(self._clock())
            self._breakers.move_to_end(name)
            while len(self._breakers) > self._capacity:
                self._breakers.popitem(last=False)
