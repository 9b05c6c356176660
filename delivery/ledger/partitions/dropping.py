"""Retention by whole partitions: one in which every event may be deleted is dropped.

Owns: the judgement, the detaching, and the deletion of what belongs to its events. Never does: drop
a partition with an event that is open, or kept for longer.

A partition that is detached is out of the ledger at once, with one row of the compliance log. Its
table stays until the attempts and confirmations of its events are deleted, page by page; a command
that is cut off leaves it to the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import State
from delivery.ledger.partitions import layout
from delivery.ledger.partitions.converting import LOCK_TIMEOUT, limit
from delivery.ledger.partitions.layout import TABLE, Partition
from delivery.ledger.sql import bulk
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import events
from delivery.ledger.stores import retention

logger = logging.getLogger(__name__)

PAGE = 2_000
"""Events whose records are deleted in one transaction."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What was in a partition before the lock.

    Attributes:
        last: the greatest position; a later row came in meanwhile.
    """

    counts: dict[State, int]
    last: int


def drop_old(
    database: Database,
    before: Mapping[State, datetime],
    sleep: Callable[[float], None] = time.sleep,
) -> dict[State, int]:
    """Drop the partitions in which every event was recorded before the instant of its state.

    Args:
        database: without a limit on answers.
        sleep: called between pages, so that other writers come in between.

    Returns:
        Deleted events by state; nothing where ``events`` is one table or this role does not own it.

    Effect: see above. Safe to repeat.
    """
    deleted: dict[State, int] = {}
    with database.read() as connection:
        found = layout.look(connection)
    if found is None or not found.is_owner:
        return deleted
    for name in found.detached:
        _delete_detached(database, name, sleep)
    for partition in found.partitions:
        # The newest stays: the next ones follow on it.
        if (
            partition.end is None
            or partition.end > max(before.values())
            or (partition.end == found.end)
        ):
            continue
        counts = _drop(database, partition, before)
        if counts is not None:
            _delete_detached(database, partition.name, sleep)
            for state, count in counts.items():
                deleted[state] = deleted.get(state, 0) + count
    return deleted


def _drop(
    database: Database, partition: Partition, before: Mapping[State, datetime]
) -> dict[State, int] | None:
    """Detach a partition; what was in it by state, ``None`` if it must stay."""
    table = events.to_metadata(sa.MetaData(), name=partition.name)
    with database.write() as connection:
        limit(connection, "statement_timeout", 0)
        content = _content(connection, table, before)
    if content is None:
        return None
    with database.write() as connection:
        limit(connection, "lock_timeout", LOCK_TIMEOUT)
        connection.exec_driver_sql(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
        if _has_changed(connection, table, content):
            logger.info("partition %s has changed: left for the next time", partition.name)
            return None
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} DETACH PARTITION {partition.name}")
        retention.record(connection, content.counts, before, database.now(connection))
    logger.info("partition %s dropped: %d events", partition.name, sum(content.counts.values()))
    return content.counts


def _content(
    connection: Connection, table: sa.Table, before: Mapping[State, datetime]
) -> _Content | None:
    """What is in it; ``None`` if an event of it must stay."""
    # By a partial index: the usual reason to stay is found before the whole is read.
    kept = [state.value for state in State if state.is_unconfirmed and state not in before]
    open_ones = sa.select(table.c.id).where(_unconfirmed(table), table.c.state.in_(kept)).limit(1)
    if connection.execute(open_ones).one_or_none() is not None:
        return None
    query = sa.select(
        table.c.state,
        sa.func.count().label("count"),
        sa.func.max(table.c.recorded_at).label("newest"),
        sa.func.max(table.c.position).label("last"),
    ).group_by(table.c.state)
    rows = connection.execute(query).all()
    for row in rows:
        cut = before.get(State(row.state))
        if cut is None or row.newest >= cut:
            return None
    counts: dict[State, int] = {State(row.state): int(row[1]) for row in rows}
    return _Content(counts, max((row.last for row in rows), default=0))


def _has_changed(connection: Connection, table: sa.Table, content: _Content) -> bool:
    """Whether an event came in or became open since; two looks into an index each."""
    last = connection.execute(sa.select(sa.func.max(table.c.position))).scalar_one() or 0
    waiting = sa.select(table.c.id).where(
        _unconfirmed(table),
        table.c.state.notin_([state.value for state in content.counts]),
    )
    return last != content.last or connection.execute(waiting.limit(1)).one_or_none() is not None


def _unconfirmed(table: sa.Table) -> sa.ColumnElement[bool]:
    """The condition of the partial index ``ix_events_unconfirmed``, in its words."""
    return table.c.state.notin_([sa.literal_column("'confirmed'"), sa.literal_column("'expired'")])


def _delete_detached(database: Database, name: str, sleep: Callable[[float], None]) -> None:
    """Delete what belongs to a detached partition's events, then the table."""
    table = events.to_metadata(sa.MetaData(), name=name)
    after: str | None = None
    while True:
        begun = time.monotonic()
        with database.write() as connection:
            query = sa.select(table.c.id).order_by(table.c.id).limit(PAGE)
            if after is not None:
                query = query.where(table.c.id > after)
            ids = list(connection.execute(query).scalars())
            if not ids:
                connection.exec_driver_sql(f"DROP TABLE {name}")
                return
            for page in bulk.pages(ids):
                # An id that was given again since is a new event, with records of its own.
                asked = sa.select(events.c.id).where(any_of(events.c.id, page))
                again = set(connection.execute(asked).scalars())
                retention.delete_records(connection, [one for one in page if one not in again])
        after = ids[-1]
        sleep(min(1.0, time.monotonic() - begun))
