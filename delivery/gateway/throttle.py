"""How many frames a client may send: a token bucket. Pure; ``now`` is passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Frames per second, the burst above it, and how many may be dropped in a row of trouble
    before the connection is closed."""

    per_second: float = 2_000.0
    burst: int = 4_000
    tolerance: int = 100


class Throttle:
    """A token bucket that also counts what it dropped since it was last full."""

    __slots__ = ("_at", "_level", "_rate", "dropped")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._level = float(rate.burst)
        self._at = now
        self.dropped = 0

    @property
    def is_exceeded(self) -> bool:
        """Whether more was dropped than is tolerated."""
        return self.dropped > self._rate.tolerance

    def admits(self, now: float) -> bool:
        """Take a token for one frame; ``False`` when there is none: drop the frame."""
        level = self._level + (now - self._at) * self._rate.per_second
        self._at = now
        if level >= self._rate.burst:
            level = float(self._rate.burst)
            self.dropped = 0
        if level < 1.0:
            self._level = level
            self.dropped += 1
            return False
        self._level = level - 1.0
        return True
