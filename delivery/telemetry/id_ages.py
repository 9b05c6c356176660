"""Ages of events by the instant in their ids, for histograms of many events at once.

Owns: the reading of that instant. An id that a caller made without one is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from delivery.telemetry.instruments import Histogram
from delivery.telemetry.tracing import sampled_event

MAX_AGE = 366 * 86_400.0
"""Seconds; an id that is older, or of the future, was not made when its event was."""


def observe_ages(
    histogram: Histogram, batches: Iterable[tuple[float, Sequence[str]]], *labels: str
) -> None:
    """Add the ages of events to a histogram.

    Args:
        batches: instants in seconds of the epoch, each with the ids whose age then is meant. Ids
            between two of one bucket count as of that bucket: a batch is in the order of its
            making, mostly, and costs as much as it has buckets.

    Source: RFC 9562, section 5.7: a UUID of version 7 begins with 48 bits of milliseconds.
    """
    buckets = histogram.buckets
    counts: dict[int, int] = {}
    total = 0.0
    exemplar: tuple[float, str] | None = None
    for now, ids in batches:
        if not ids:
            continue
        newest = _age(ids[-1], now)
        if exemplar is None and (trace := sampled_event(ids[-1])) is not None:
            exemplar = max(0.0, newest), trace
        spans = [(0, len(ids) - 1, _age(ids[0], now), newest)]
        for first, last, oldest, age in spans:  # grows meanwhile
            index = bisect_left(buckets, oldest)
            if first != last and (
                bisect_left(buckets, age) != index or (age < 0.0) != (oldest < 0.0)
            ):
                middle = (first + last) // 2
                spans.append((first, middle, oldest, _age(ids[middle], now)))
                spans.append((middle + 1, last, _age(ids[middle + 1], now), age))
            elif oldest >= 0.0:
                count = last - first + 1
                counts[index] = counts.get(index, 0) + count
                total += (age + oldest) * 0.5 * count
    if counts:
        histogram.add(counts, total, *labels, exemplar=exemplar)


def _age(event_id: str, now: float) -> float:
    """Seconds since the instant that an id begins with; -1.0 if it tells none."""
    if event_id[14:15] != "7":
        return -1.0
    try:
        age = now - int(event_id[:8] + event_id[9:13], 16) / 1_000.0
    except ValueError:
        return -1.0
    return max(0.0, age) if -1.0 < age < MAX_AGE else -1.0
