"""Reads of events: one with its timeline, and listings.

Owns: bounded queries. Never does: write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import LIVE
from delivery.domain.lifecycle import Attempt, Outcome
from delivery.domain.records import ConfirmationRow, EventFilter, Matches, Stored, Timeline
from delivery.domain.users.receipts import ReceiptRow
from delivery.ledger.sql import bulk
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.rows import (
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    attempt,
    confirmation,
    is_id,
    receipt,
    stored,
)
from delivery.ledger.sql.tables import attempts, confirmations, events, receipts
from delivery.ledger.stores.operators import search


class EventSql:
    """``EventStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, event_id: str) -> Timeline | None:
        """See the port."""
        if not is_id(event_id):
            return None
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(*EVENT_COLUMNS).where(events.c.id == event_id)
            ).one_or_none()
            if row is None:
                return None
            tries = connection.execute(
                sa.select(*ATTEMPT_COLUMNS)
                .where(attempts.c.event_id == event_id)
                .order_by(attempts.c.started_at, attempts.c.id)
            ).all()
            confirmed = connection.execute(
                sa.select(confirmations)
                .where(confirmations.c.event_id == event_id)
                .order_by(confirmations.c.at)
            ).all()
            carried = sorted({t.digest_id for t in tries if t.digest_id is not None})
            reported = _receipts(connection, carried) if carried else []
        timeline = _timeline(
            stored(row), [attempt(t) for t in tries], [confirmation(p) for p in confirmed]
        )
        return replace(timeline, receipts=tuple(reported))

    def find(
        self, which: EventFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[Stored], str | None]:
        """See the port. ``after`` is a position or an event's id: a malformed one is an error,
        because a start from the newest event would make a walk through the pages endless."""
        with self._database.read() as connection:
            return search.find(connection, which, after=after, limit=limit)

    def count(self, which: EventFilter) -> Matches:
        """See the port."""
        with self._database.read() as connection:
            return search.count(connection, which)

    def open_of(self, user_id: str) -> dict[str, int]:
        """See the port."""
        with self._database.read() as connection:
            return search.open_of(connection, user_id)

    def read(self, event_ids: Sequence[str]) -> list[Stored]:
        """See the port."""
        found: list[Stored] = []
        with self._database.read() as connection:
            for page in bulk.pages([i for i in event_ids if is_id(i)]):
                rows = connection.execute(
                    sa.select(*EVENT_COLUMNS).where(any_of(events.c.id, page))
                )
                found.extend(stored(row) for row in rows)
        return sorted(found, key=lambda one: one.position)


def _receipts(connection: Connection, digest_ids: Sequence[str]) -> list[ReceiptRow]:
    found = connection.execute(
        sa.select(receipts)
        .where(any_of(receipts.c.digest_id, digest_ids))
        .order_by(receipts.c.at, receipts.c.recorded_at)
    )
    return [receipt(row) for row in found]


def released(now: sa.ColumnElement[datetime]) -> sa.ColumnElement[bool]:
    """The event's caller does not hold it back any more."""
    return sa.func.coalesce(events.c.not_before, events.c.recorded_at) <= now


def _timeline(
    event: Stored, tries: list[Attempt], confirmations: list[ConfirmationRow]
) -> Timeline:
    """Add the successful push, which has no attempt row: its confirmation holds all facts."""
    live = next(
        (confirmation for confirmation in confirmations if confirmation.channel in LIVE), None
    )
    if live is not None and event.handed_over_at is None:
        number = 1 + sum(one.channel == live.channel for one in tries)
        tries.append(
            Attempt(
                event_id=event.event.id,
                generation=event.generation,
                channel=live.channel,
                number=number,
                outcome=Outcome.CONFIRMED,
                started_at=min(_pushed_at(event), live.at),
                ended_at=live.at,
            )
        )
    return Timeline(event, tuple(tries), tuple(confirmations))


def _pushed_at(event: Stored) -> datetime:
    not_before = None if event.options is None else event.options.not_before
    return event.event.at if not_before is None else max(event.event.at, not_before)
