"""Queue copies in the ledger, where there is no Redis: events by user, until trimmed.

Owns: the copies. Never does: read or change an event's state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import sqlalchemy as sa

from delivery.domain.event import Event, event_from_wire
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.tables import queue_copies

logger = logging.getLogger(__name__)

TRIM_PAGE = 1_000


class QueueCopySql:
    """``QueueCopyStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, events: Sequence[Event]) -> None:
        """Copy events; an existing copy stays as it is."""
        if not events:
            return
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                insert(connection, queue_copies).on_conflict_do_nothing(
                    index_elements=["user_id", "event_id"]
                ),
                [
                    {
                        "user_id": event.user_id,
                        "event_id": event.id,
                        "payload": rows.dump(event),
                        "at": now,
                    }
                    for event in events
                ],
            )

    def read(self, user_id: str, limit: int = 1_000) -> list[Event]:
        """The newest ``limit`` copies of one user, oldest first."""
        newest = (
            sa.select(queue_copies.c.payload)
            .where(queue_copies.c.user_id == user_id)
            .order_by(queue_copies.c.id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            payloads = connection.execute(newest).scalars().all()
        found = [_event(payload) for payload in reversed(payloads)]
        return [event for event in found if event is not None]

    def forget(self, user_id: str) -> None:
        """Delete all copies of a user."""
        with self._database.write() as connection:
            connection.execute(sa.delete(queue_copies).where(queue_copies.c.user_id == user_id))

    def trim(self, max_age: float) -> int:
        """Delete copies older than ``max_age`` seconds, a page per transaction.

        Returns:
            The number of deleted copies.
        """
        total = 0
        while True:
            with self._database.write() as connection:
                horizon = self._database.now(connection) - timedelta(seconds=max_age)
                old = (
                    sa.select(queue_copies.c.id).where(queue_copies.c.at < horizon).limit(TRIM_PAGE)
                )
                deleted = connection.execute(
                    sa.delete(queue_copies).where(queue_copies.c.id.in_(old))
                ).rowcount
            total += deleted
            if deleted < TRIM_PAGE:
                return total


def _event(payload: str) -> Event | None:
    """Decode a copy; ``None`` for a malformed one, which must not hide the others."""
    try:
        return event_from_wire(rows.load(payload))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
        logger.warning("queue copy skipped, malformed: %r", error)
        return None
