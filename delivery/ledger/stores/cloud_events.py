"""Events of other systems: which id of ours one has, by the source and id that it has there.

Owns: that two processes give one foreign event one id. Never does: record the event itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
import uuid_utils
from sqlalchemy.engine import Connection

from delivery.ledger.sql import bulk
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import cloud_events, events

UNUSED = timedelta(days=7)
"""For how long an id is kept whose event was refused."""


class CloudEventSql:
    """``CloudEventStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ids(self, keys: Sequence[tuple[str, str]]) -> list[str]:
        """See the port."""
        found: dict[tuple[str, str], str] = {}
        # Sorted: two batches that share keys take their turns in the same order.
        wanted = sorted(set(keys))
        with self._database.write() as connection:
            now = self._database.now(connection)
            for page in bulk.pages(wanted):
                _add(connection, page, now)
                found |= _read(connection, page)
        return [found[key] for key in keys]

    def trim(self, limit: int = 1_000) -> int:
        """See the port."""
        with self._database.write() as connection:
            before = self._database.now(connection) - UNUSED
            unused = ~sa.exists().where(events.c.id == cloud_events.c.event_id)
            old = connection.scalars(
                sa.select(cloud_events.c.event_id)
                .where(cloud_events.c.recorded_at < before, unused)
                .limit(limit)
            ).all()
            for page in bulk.pages(old):
                connection.execute(
                    sa.delete(cloud_events).where(any_of(cloud_events.c.event_id, page))
                )
            return len(old)


def _add(connection: Connection, keys: Sequence[tuple[str, str]], now: datetime) -> None:
    rows = [
        {"source": source, "id": id_, "event_id": str(uuid_utils.uuid7()), "recorded_at": now}
        for source, id_ in keys
    ]
    connection.execute(insert(connection, cloud_events).on_conflict_do_nothing(), rows)


def _read(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    sources: dict[str, list[str]] = {}
    for source, id_ in keys:
        sources.setdefault(source, []).append(id_)
    found: dict[tuple[str, str], str] = {}
    for source, ids in sources.items():
        rows = connection.execute(
            sa.select(cloud_events).where(
                cloud_events.c.source == source, any_of(cloud_events.c.id, ids)
            )
        )
        found |= {(row.source, row.id): row.event_id for row in rows}
    return found
