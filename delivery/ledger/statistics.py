"""Figures of the last minutes, from the ledger and cheap enough to ask for every second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import State
from delivery.domain.records import ChannelStats, Stats
from delivery.ledger.database import Database
from delivery.ledger.models import attempts, breakers, events
from delivery.ledger.queries import unconfirmed

_GOOD = ("delivered", "confirmed")
SAMPLE = 20_000
CHANNEL_SAMPLE = 2_000
"""Latencies read at most, of events and of attempts; percentiles are of raw samples."""


class Statistics:
    """The counting part of the event store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def stats(self, window_s: int = 300) -> Stats:
        """See the port."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            since = now - timedelta(seconds=window_s)
            recent = events.c.id >= first_id(since)
            counts = _by_state(connection, recent)
            total = sum(counts.values())
            waiting = counts.get("accepted", 0) + counts.get("sent", 0)
            settled = total - waiting
            fallen = connection.execute(
                sa.select(sa.func.count()).where(recent, events.c.handed_over_at.isnot(None))
            ).scalar_one()
            latencies = _latencies(connection, recent)
            return Stats(
                window_s=window_s,
                delivery_rate=counts.get("confirmed", 0) / settled if settled else 1.0,
                fallback_share=fallen / total if total else 0.0,
                events_per_s=total / window_s,
                ack_p50_ms=percentile(latencies, 0.50),
                ack_p99_ms=percentile(latencies, 0.99),
                states=_states(connection, counts),
                channels=_channels(connection, since),
                oldest_overdue_s=overdue(connection, now),
            )


def first_id(instant: datetime) -> str:
    """The smallest UUIDv7 of an instant: ids are ordered by time. Source: RFC 9562, 5.7."""
    digits = f"{int(instant.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of sorted samples, ``None`` without any."""
    if not samples:
        return None
    return samples[max(0, math.ceil(share * len(samples)) - 1)]


def overdue(connection: Connection, now: datetime) -> float:
    """Seconds since the oldest due time that nobody has served; 0.0 if none is overdue."""
    oldest = connection.execute(
        sa.select(events.c.due_at)
        .where(events.c.due_at.isnot(None))
        .order_by(events.c.due_at)
        .limit(1)
    ).scalar_one_or_none()
    return max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0


def _by_state(connection: Connection, *where: sa.ColumnElement[bool]) -> dict[str, int]:
    query = sa.select(events.c.state, sa.func.count()).where(*where).group_by(events.c.state)
    return {row[0]: row[1] for row in connection.execute(query)}


def _states(connection: Connection, recent: dict[str, int]) -> dict[str, int]:
    """Everything unconfirmed, and the window's confirmed and expired ones."""
    standing = _by_state(connection, unconfirmed())
    ended = {s: recent.get(s, 0) for s in ("confirmed", "expired")}
    return {state.value: 0 for state in State} | standing | ended


def _latencies(connection: Connection, recent: sa.ColumnElement[bool]) -> list[float]:
    query = (
        sa.select(events.c.at, events.c.confirmed_at)
        .where(recent, events.c.confirmed_at.isnot(None), events.c.handed_over_at.is_(None))
        .order_by(events.c.id.desc())
        .limit(SAMPLE)
    )
    return sorted(
        max(0.0, (row.confirmed_at - row.at).total_seconds() * 1000.0)
        for row in connection.execute(query)
    )


def _channels(connection: Connection, since: datetime) -> dict[str, ChannelStats]:
    good = sa.case((attempts.c.outcome.in_(_GOOD), 1), else_=0)
    query = (
        sa.select(attempts.c.channel, sa.func.count(), sa.func.sum(good))
        .where(attempts.c.started_at >= since, attempts.c.outcome != "skipped")
        .group_by(attempts.c.channel)
    )
    states: dict[str, str] = {
        row.name: row.state for row in connection.execute(sa.select(breakers))
    }
    rows: dict[str, Any] = {row[0]: row for row in connection.execute(query)}
    latencies = _channel_latencies(connection, since)
    return {
        name: ChannelStats(
            attempts=rows[name][1] if name in rows else 0,
            ok=int(rows[name][2]) if name in rows else 0,
            breaker=states.get(name, "closed"),
            latency_ms=percentile(latencies.get(name, ()), 0.50),
        )
        for name in sorted(rows.keys() | states.keys())
    }


def _channel_latencies(connection: Connection, since: datetime) -> dict[str, list[float]]:
    """Sorted milliseconds from start to end of attempts that went well, by channel."""
    query = (
        sa.select(attempts.c.channel, attempts.c.started_at, attempts.c.ended_at)
        .where(
            attempts.c.started_at >= since,
            attempts.c.ended_at.isnot(None),
            attempts.c.outcome.in_(_GOOD),
        )
        .order_by(attempts.c.started_at.desc())
        .limit(CHANNEL_SAMPLE)
    )
    found: dict[str, list[float]] = {}
    for row in connection.execute(query):
        took = (row.ended_at - row.started_at).total_seconds() * 1_000.0
        found.setdefault(row.channel, []).append(max(0.0, took))
    return {name: sorted(values) for name, values in found.items()}
