"""Figures over time: one point for each minute and each hour, and points of longer steps.

Owns: the steps, how long points are kept, and how points become one. Pure. Never does: measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

MINUTE, HOUR = 60, 3_600
"""Seconds of the steps that are kept."""
KEPT = timedelta(days=30)
MAX_POINTS = 2_000
"""Points of one answer, at most."""
STEPS = (MINUTE, 300, 900, HOUR, 6 * HOUR, 24 * HOUR)
"""The steps that a range is given in when none is asked for: the first with few points."""
FEW_POINTS = 400


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of one step.

    Attributes:
        at: its beginning.
        events: accepted in it.
        delivery_rate / fallback_share: of its events; ``None`` where there were none.
        ack_p50_ms / ack_p99_ms: milliseconds until a push was acknowledged; of a longer step the
            mean of its minutes, and the highest.
        connections / open_breakers: the most.
        dead: events that were dead at its end.
    """

    at: datetime
    events: int
    delivery_rate: float | None
    fallback_share: float | None
    ack_p50_ms: float | None
    ack_p99_ms: float | None
    connections: int
    dead: int
    open_breakers: int


def start_of(at: datetime, step: int) -> datetime:
    """The beginning of the step that an instant is in."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step, UTC)


def step_for(since: datetime, until: datetime) -> int:
    """Seconds of the step for a range that shall have few points."""
    length = (until - since).total_seconds()
    return next((step for step in STEPS if length <= step * FEW_POINTS), STEPS[-1])


def in_steps(points: Iterable[Point], step: int) -> list[Point]:
    """Points of a longer step from those of a shorter one, in order of time."""
    grouped = groupby(points, key=lambda point: start_of(point.at, step))
    return [merged(list(some), at) for at, some in grouped]


def merged(points: Sequence[Point], at: datetime) -> Point:
    """One point for several, at least one, in order of time."""
    return Point(
        at=at,
        events=sum(point.events for point in points),
        delivery_rate=_mean([(point.delivery_rate, point.events) for point in points]),
        fallback_share=_mean([(point.fallback_share, point.events) for point in points]),
        ack_p50_ms=_mean([(point.ack_p50_ms, point.events) for point in points]),
        ack_p99_ms=max((p.ack_p99_ms for p in points if p.ack_p99_ms is not None), default=None),
        connections=max(point.connections for point in points),
        dead=points[-1].dead,
        open_breakers=max(point.open_breakers for point in points),
    )


def _mean(weighted: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, max(1, weight)) for value, weight in weighted if value is not None]
    if not known:
        return None
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
