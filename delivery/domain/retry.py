"""Backoff with jitter. Pure: the random number is passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff.

    Attributes:
        base: seconds before the first retry.
        max: upper limit of a delay before jitter, in seconds.
        jitter: fraction by which a delay may be lengthened or shortened, 0-1.
    """

    base: float = 0.1
    max: float = 2.0
    jitter: float = 0.3

    def delay(self, retry: int, draw: float) -> float:
        """Seconds to wait before retry number ``retry`` (1-based).

        Args:
            retry: 1 for the first retry.
            draw: uniform in [0, 1): 0 gives the shortest delay, just under 1 the longest.
        """
        plain = min(self.max, self.base * 2.0 ** min(retry - 1, 60))
        return max(0.0, plain * (1.0 + self.jitter * (2.0 * draw - 1.0)))


PERFORMANCE = Backoff(base=0.001, max=0.001, jitter=0.0)
