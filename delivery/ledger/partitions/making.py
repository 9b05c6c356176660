"""Partitions made ahead of time. Where one is missing, its events are in the default one.

Owns: their number and the moment. Never does: hold up events for longer than a lock timeout.
"""

from __future__ import annotations

import logging
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.ledger.partitions import layout
from delivery.ledger.partitions.converting import limit
from delivery.ledger.partitions.layout import DEFAULT, TABLE
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import MIGRATION, try_lock

logger = logging.getLogger(__name__)

AHEAD = 3
"""Partitions beyond the present one."""
MOVED_AT_MOST = 10_000
"""Events of a partition's time that move into it from the default one, in well under a second;
where there are more, they stay there, and that time gets no partition of its own."""
LOCK_TIMEOUT = 2


def make_ahead(database: Database) -> list[str]:
    """Make the partitions that are missing; the names of those made.

    Nothing happens where ``events`` is one table, this role does not own it, or another process
    does the same now.

    Raises:
        LedgerUnavailable: the table stayed locked.
    """
    with database.read() as connection:
        found = layout.look(connection)
        if found is None or not found.is_owner:
            return []
        start, last = found.end, found.period.start(database.now(connection))
    for _ in range(AHEAD):
        last = found.period.next(last)
    made: list[str] = []
    while start <= last:
        with database.write() as connection:
            if not try_lock(connection, MIGRATION):
                return made
            if _make(connection, start, found.period.next(start)):
                made.append(layout.name_of(start))
        start = found.period.next(start)
    return made


def _make(connection: Connection, start: datetime, end: datetime) -> bool:
    name = layout.name_of(start)
    lower, upper = layout.first_id(start), layout.first_id(end)
    if connection.execute(sa.text("select to_regclass(:name)"), {"name": name}).scalar_one():
        return False
    limit(connection, "lock_timeout", LOCK_TIMEOUT)
    # No statement that was planned without the partition runs on with it.
    connection.exec_driver_sql(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
    inside = f"id >= '{lower}' AND id < '{upper}'"
    rows = f"SELECT 1 FROM {DEFAULT} WHERE {inside} LIMIT {MOVED_AT_MOST + 1}"  # noqa: S608
    count = connection.exec_driver_sql(f"SELECT count(*) FROM ({rows}) AS r").scalar_one()  # noqa: S608
    if count > MOVED_AT_MOST:
        logger.warning("no partition %s: %s has over %d events of its time", name, DEFAULT, count)
        return False
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {TABLE} INCLUDING DEFAULTS)")
    if count:
        connection.exec_driver_sql(
            f"WITH moved AS (DELETE FROM {DEFAULT} WHERE {inside} RETURNING *) "  # noqa: S608
            f"INSERT INTO {name} SELECT * FROM moved"
        )
    connection.exec_driver_sql(
        f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM ('{lower}') TO ('{upper}')"
    )
    logger.info("partition %s made, %d events moved into it", name, count)
    return True
