"""Connection health and the circuit breaker. Pure: instants are seconds passed in.

Owns: the score 0-100 of a connection and the three-state breaker used for users (in memory) and
for external channels (state kept in the ledger).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

OPEN_BELOW = 30
"""A connection scoring less than this opens its user's breaker."""
MAX_LINGER = 0.1
"""Upper limit of ``linger``, in seconds."""
RECOVERY = 30.0
"""Seconds a breaker stays open before one probe may pass."""
THRESHOLD = 5
"""Consecutive failures that open a breaker."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Inputs of a connection's score; durations in milliseconds."""

    round_trip_ms: float = 0.0
    ack_ms: float = 0.0
    missed_pongs: int = 0
    failures: int = 0
    queue_fill: float = 0.0


def score(vitals: Vitals) -> int:
    """Score of a connection, from 0 (dead) to 100 (perfect).

    Round trip and ack latency cost up to 20 points each (at 1 s and 5 s), a missed pong 25, a
    failed send 15 and a full outbound queue 30.
    """
    lost = 20.0 * min(1.0, vitals.round_trip_ms / 1_000.0)
    lost += 20.0 * min(1.0, vitals.ack_ms / 5_000.0)
    lost += 25.0 * vitals.missed_pongs
    lost += 15.0 * vitals.failures
    lost += 30.0 * min(1.0, max(0.0, vitals.queue_fill))
    return max(0, round(100.0 - lost))


def stretched(linger: float, health: int) -> float:
    """The linger for a user of this health, in seconds: a weak connection gets fewer, larger
    frames, up to twice the policy's ``linger`` and never over ``MAX_LINGER``."""
    return min(MAX_LINGER, linger * (2.0 - health / 100.0))


def smooth(old: float, sample: float, weight: float = 0.2) -> float:
    """Exponentially weighted average; the first sample (``old`` 0) counts whole."""
    return sample if old == 0.0 else old + weight * (sample - old)


class BreakerState(enum.StrEnum):
    """``closed`` lets everything pass, ``open`` nothing, ``half_open`` one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker as a value; every input answers with the next value.

    Attributes:
        failures: consecutive failures while closed.
        since: when the present state began, in the caller's seconds.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    since: float = 0.0

    def allows(self, now: float, recovery: float = RECOVERY) -> bool:
        """Whether a call may pass now. A half-open breaker whose probe got no answer lets another
        probe pass after the same recovery time."""
        return self.state is BreakerState.CLOSED or self._has_rested(now, recovery)

    def on_attempt(self, now: float, recovery: float = RECOVERY) -> Breaker:
        """The breaker before a call that ``allows`` let pass: an open one becomes half open."""
        if self.state is not BreakerState.CLOSED and self._has_rested(now, recovery):
            return replace(self, state=BreakerState.HALF_OPEN, since=now)
        return self

    def _has_rested(self, now: float, recovery: float) -> bool:
        # A clock that went back must not keep it open for as long as it went.
        return now - self.since >= recovery or now < self.since

    def on_success(self, now: float) -> Breaker:
        """The breaker after a call that succeeded: closed."""
        if self.state is BreakerState.CLOSED and self.failures == 0:
            return self
        return Breaker(BreakerState.CLOSED, 0, now)

    def on_failure(self, now: float, threshold: int = THRESHOLD) -> Breaker:
        """The breaker after a call that failed: open at the threshold, or when it was the probe."""
        failures = self.failures + 1
        if self.state is BreakerState.CLOSED and failures < threshold:
            return replace(self, failures=failures)
        return Breaker(BreakerState.OPEN, failures, now)
