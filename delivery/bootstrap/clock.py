"""The wall clock of a gateway's emitter."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


def millisecond_clock() -> Callable[[], datetime]:
    """UTC instants of a whole millisecond; within one it is the same object.

    Events come in bursts: an instant is made once for those of a millisecond, and whoever writes it
    as text can tell at a glance that it is the one before.
    """
    last = 0
    instant = datetime.now(UTC)

    def utcnow() -> datetime:
        nonlocal last, instant
        now = time.time_ns() // 1_000_000
        if now != last:
            last, instant = now, datetime.fromtimestamp(now / 1_000, UTC)
        return instant

    return utcnow
