"""Figures of the last minutes, from the ledger and cheap enough to ask for every second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import State
from delivery.domain.records import ChannelStats, Stats
from delivery.ledger.database import Database
from delivery.ledger.models import attempts, breakers, confirmations, events
from delivery.ledger.queries import LIVE_CHANNELS, unconfirmed

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
    """Attempts by channel. A push that went well leaves no attempt row: its proof is counted."""
    tried, good = _attempts(connection, since)
    for name, proofs in _live_proofs(connection, since).items():
        # An auth event's push is a row as well; it must not count twice.
        tried[name] = tried.get(name, 0) - good.get(name, 0) + proofs
        good[name] = proofs
    states: dict[str, str] = {
        row.name: row.state for row in connection.execute(sa.select(breakers))
    }
    latencies = _channel_latencies(connection, since)
    return {
        name: ChannelStats(
            attempts=tried.get(name, 0),
            ok=good.get(name, 0),
            breaker=states.get(name, "closed"),
            latency_ms=percentile(latencies.get(name, ()), 0.50),
        )
        for name in sorted(tried.keys() | states.keys())
    }


def _attempts(connection: Connection, since: datetime) -> tuple[dict[str, int], dict[str, int]]:
    """How many were made on each channel, and how many of them went well."""
    is_good = sa.case((attempts.c.outcome.in_(_GOOD), 1), else_=0)
    query = (
        sa.select(attempts.c.channel, sa.func.count(), sa.func.sum(is_good))
        .where(attempts.c.started_at >= since, attempts.c.outcome != "skipped")
        .group_by(attempts.c.channel)
    )
    rows = connection.execute(query).all()
    return {row[0]: row[1] for row in rows}, {row[0]: int(row[2]) for row in rows}


def _live_proofs(connection: Connection, since: datetime) -> dict[str, int]:
    query = (
        sa.select(confirmations.c.channel, sa.func.count())
        .where(
            confirmations.c.event_id >= first_id(since),
            confirmations.c.channel.in_(LIVE_CHANNELS),
        )
        .group_by(confirmations.c.channel)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _channel_latencies(connection: Connection, since: datetime) -> dict[str, list[float]]:
    """Sorted milliseconds from start to end of attempts that went well, by channel."""
    recorded = (
        sa.select(attempts.c.channel, attempts.c.started_at, attempts.c.ended_at)
        .where(
            attempts.c.started_at >= since,
            attempts.c.ended_at.isnot(None),
            attempts.c.outcome.in_(_GOOD),
            attempts.c.channel.notin_(LIVE_CHANNELS),
        )
        .order_by(attempts.c.started_at.desc())
        .limit(CHANNEL_SAMPLE)
    )
    pushed = (
        sa.select(confirmations.c.channel, events.c.at, confirmations.c.at)
        .join(events, events.c.id == confirmations.c.event_id)
        .where(
            confirmations.c.event_id >= first_id(since),
            confirmations.c.channel.in_(LIVE_CHANNELS),
            events.c.handed_over_at.is_(None),
        )
        .order_by(confirmations.c.event_id.desc())
        .limit(CHANNEL_SAMPLE)
    )
    found: dict[str, list[float]] = {}
    for query in (recorded, pushed):
        for channel, started, ended in connection.execute(query):
            took = (ended - started).total_seconds() * 1_000.0
            found.setdefault(channel, []).append(max(0.0, took))
    return {name: sorted(values) for name, values in found.items()}
