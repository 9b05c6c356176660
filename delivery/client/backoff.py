"""The pause of a client after a lost connection. Pure: random numbers are passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FullJitter:
    """Exponential backoff with full jitter: a crowd that lost one server comes back spread out.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Attributes:
        base: the upper end of the first delay, in seconds.
        max: seconds that no delay exceeds.
    """

    base: float = 0.5
    max: float = 30.0

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds to wait after ``failures`` in a row, from 1; ``jitter`` in [0, 1)."""
        return jitter * self._ceiling(failures)

    def forgives(self, failures: int, lasted: float) -> bool:
        """Whether a link that stood for ``lasted`` seconds makes up for earlier failures: it
        outlived the longest wait that they would cost now. A server that welcomes and drops is
        still met ever more rarely; one that is restarted now and then costs no long absence."""
        return lasted > self._ceiling(failures + 1)

    def _ceiling(self, failures: int) -> float:
        return float(min(self.max, self.base * 2.0 ** min(max(failures, 1) - 1, 60)))
