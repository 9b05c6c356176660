"""Rates: token buckets, alone in one process or as leases of a shared one. Pure; ``now`` is passed.

Owns: the arithmetic of a bucket. Never does: know what is counted, or who shares it.

A bucket admits while it holds a token, and takes all that the admitted request costs: it may go
below zero, so that a batch of any size passes some time, and is paid for by the time after it.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 10.0
"""Seconds of a rate that a bucket holds: its burst."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate per second over a window of ``WINDOW`` seconds."""

    per_second: float

    @property
    def burst(self) -> float:
        """Tokens of a full bucket, at least one."""
        return max(1.0, self.per_second * WINDOW)

    def wait(self, level: float) -> float:
        """Seconds until a bucket at ``level`` holds a token."""
        return max(0.0, (1.0 - level) / self.per_second)


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer of a shared bucket.

    Attributes:
        granted: tokens that its holder may use; 0: refused.
        level: tokens left in the shared bucket.
    """

    granted: float
    level: float


class Bucket:
    """One caller's tokens in this process: a bucket of its own, and a lease of the shared one.

    Attributes:
        leased: tokens of the lease that are left; ``leased_until``: when they are void.
        shared: level of the shared bucket at the last lease.
        refused_until: until then the shared bucket holds no token.
    """

    __slots__ = ("_at", "_level", "leased", "leased_until", "refused_until", "shared")

    def __init__(self, rate: Rate, now: float) -> None:
        self._level = rate.burst
        self._at = now
        self.leased = 0.0
        self.leased_until = now
        self.shared = rate.burst
        self.refused_until = now

    def level(self, rate: Rate, now: float) -> float:
        """Tokens of the own bucket now."""
        passed = max(0.0, now - self._at)
        return min(rate.burst, self._level + passed * rate.per_second)

    def take(self, rate: Rate, cost: float, now: float) -> bool:
        """Take from the own bucket; ``False``: it holds no token."""
        level = self.level(rate, now)
        self._at = now
        self._level = level if level < 1.0 else level - cost
        return level >= 1.0

    def take_leased(self, cost: float, now: float) -> bool:
        """Take from the lease; ``False``: it is void or too small."""
        if now >= self.leased_until:
            self.leased = 0.0
        if self.leased < cost:
            return False
        self.leased -= cost
        return True
