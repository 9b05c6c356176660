"""Figures of the last minutes, from the ledger, cheap enough to be read every second.

Owns: the sample. Figures since an instant come from an even sample (``window``) and are exact while
it holds every row; counts of unconfirmed and overdue events are always exact.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import LIVE
from delivery.domain.lifecycle import State
from delivery.domain.operators.figures import ChannelStats, Stats
from delivery.ledger.sql.bisection import ends_of, first_since
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import attempts, breakers, confirmations, events
from delivery.ledger.sql.transitions import unconfirmed
from delivery.ledger.stores.fallback.sweep import oldest_overdue

SAMPLE = 2_000
STRETCH = 16
"""Consecutive rows in one piece of the sample: they share pages."""

_PUSHED_AT = sa.case((events.c.not_before > events.c.at, events.c.not_before), else_=events.c.at)


@dataclass(frozen=True, slots=True)
class Window:
    """The numbers of a table's rows since an instant, or evenly spaced stretches of them.

    Attributes:
        step: how many rows each row of the sample stands for.
    """

    since: datetime
    numbers: range
    step: int

    def rows(self, number: sa.Column[int], at: sa.Column[datetime]) -> sa.ColumnElement[bool]:
        """The sample's rows, without those from before ``since`` whose numbers are later."""
        starts = self.numbers[:: STRETCH * self.step]
        sample = (one for start in starts for one in range(start, start + STRETCH))
        return sa.and_(any_of(number, sample), at >= self.since)


def window(
    connection: Connection, number: sa.Column[int], at: sa.Column[datetime], since: datetime
) -> Window:
    """The rows of a table since an instant.

    Args:
        number: indexed, and assigned in the order of ``at``, to within some seconds.
    """
    first, last = ends_of(connection, number)
    begin = first_since(connection, number, at, since, range(first, last + 1))
    step = max(1, -(-(last + 1 - begin) // SAMPLE))
    return Window(since, range(begin, last + 1), step)


_GOOD = ("delivered", "confirmed")


@dataclass(frozen=True, slots=True)
class _Recent:
    """Figures of the window's events; each row of the sample counts ``step`` times."""

    counts: Counter[str]
    fallen: int
    latencies: list[float]


class StatisticsSql:
    """``StatisticsStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest_types(self, limit: int = 10_000) -> dict[str, int]:
        """See the port."""
        newest = sa.select(events.c.type).order_by(events.c.position.desc()).limit(limit).subquery()
        counted = sa.select(newest.c.type, sa.func.count()).group_by(newest.c.type)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(counted)}

    def stats(self, window_s: int = 300) -> Stats:
        """See the port."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            since = now - timedelta(seconds=window_s)
            recorded = window(connection, events.c.position, events.c.recorded_at, since)
            recent = _recent(connection, recorded)
            total = recent.counts.total()
            waiting = recent.counts["accepted"] + recent.counts["sent"]
            settled = total - waiting
            return Stats(
                window_s=window_s,
                delivery_rate=recent.counts["confirmed"] / settled if settled else 1.0,
                fallback_share=recent.fallen / total if total else 0.0,
                events_per_s=total / window_s,
                ack_p50_ms=percentile(recent.latencies, 0.50),
                ack_p99_ms=percentile(recent.latencies, 0.99),
                states=_states(connection, recent.counts),
                channels=_channels(connection, recorded),
                oldest_overdue_s=oldest_overdue(connection, self._database.clock()),
            )


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of sorted samples, ``None`` without any."""
    if not samples:
        return None
    return samples[max(0, math.ceil(share * len(samples)) - 1)]


def _recent(connection: Connection, recorded: Window) -> _Recent:
    counts: Counter[str] = Counter()
    fallen = 0
    latencies: list[float] = []
    query = sa.select(
        events.c.state, events.c.handed_over_at.isnot(None), _PUSHED_AT, events.c.confirmed_at
    ).where(recorded.rows(events.c.position, events.c.recorded_at))
    for state, has_fallen, at, confirmed_at in connection.execute(query):
        counts[state] += recorded.step
        if has_fallen:
            fallen += recorded.step
        elif confirmed_at is not None:
            latencies.append(_ms(at, confirmed_at))
    return _Recent(counts, fallen, sorted(latencies))


def _states(connection: Connection, recent: Counter[str]) -> dict[str, int]:
    """Counts by state: all unconfirmed events, and the window's confirmed and expired ones."""
    query = sa.select(events.c.state, sa.func.count()).where(unconfirmed()).group_by(events.c.state)
    standing = {row[0]: row[1] for row in connection.execute(query)}
    ended = {state: recent[state] for state in ("confirmed", "expired")}
    return {state.value: 0 for state in State} | standing | ended


@dataclass(slots=True)
class _Channel:
    attempts: int = 0
    ok: int = 0
    latencies: list[float] = field(default_factory=list)


def _channels(connection: Connection, recorded: Window) -> dict[str, ChannelStats]:
    """Attempts by channel. A successful push has no attempt row: its confirmation is counted."""
    tried = _tried(connection, recorded.since)
    for name, confirmed in _pushed(connection, recorded).items():
        # The push of an auth event has an attempt row, too; it must not count twice.
        failed = tried[name].attempts - tried[name].ok
        tried[name] = _Channel(failed + confirmed.ok, confirmed.ok, confirmed.latencies)
    states: dict[str, str] = {
        row.name: row.state for row in connection.execute(sa.select(breakers))
    }
    return {
        name: ChannelStats(
            attempts=tried[name].attempts,
            ok=tried[name].ok,
            breaker=states.get(name, "closed"),
            latency_ms=percentile(sorted(tried[name].latencies), 0.50),
        )
        for name in sorted(tried.keys() | states.keys())
    }


def _tried(connection: Connection, since: datetime) -> defaultdict[str, _Channel]:
    """Attempts, successes and latencies of each channel, and of each provider that a step names,
    as ``channel/provider``."""
    started = window(connection, attempts.c.id, attempts.c.started_at, since)
    query = sa.select(
        attempts.c.channel,
        attempts.c.provider,
        attempts.c.outcome,
        attempts.c.started_at,
        attempts.c.ended_at,
    ).where(started.rows(attempts.c.id, attempts.c.started_at), attempts.c.outcome != "skipped")
    found: defaultdict[str, _Channel] = defaultdict(_Channel)
    for name, provider, outcome, begun_at, ended_at in connection.execute(query):
        for place in (name,) if provider is None else (name, f"{name}/{provider}"):
            channel = found[place]
            channel.attempts += started.step
            if outcome in _GOOD:
                channel.ok += started.step
                if ended_at is not None:
                    channel.latencies.append(_ms(begun_at, ended_at))
    return found


def _pushed(connection: Connection, recorded: Window) -> dict[str, _Channel]:
    """Confirmations over the live channels of the window's events."""
    query = (
        sa.select(
            confirmations.c.channel,
            events.c.handed_over_at.isnot(None),
            _PUSHED_AT,
            confirmations.c.at,
        )
        .join(events, events.c.id == confirmations.c.event_id)
        .where(recorded.rows(events.c.position, events.c.recorded_at))
        .where(confirmations.c.channel.in_(LIVE))
    )
    found: defaultdict[str, _Channel] = defaultdict(_Channel)
    for name, has_fallen, at, confirmed_at in connection.execute(query):
        channel = found[name]
        channel.ok += recorded.step
        if not has_fallen:
            channel.latencies.append(_ms(at, confirmed_at))
    return found


def _ms(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds() * 1_000.0)
