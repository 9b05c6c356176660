"""Deletion of ended events that are old enough, by state, beside all other writers.

Owns: the walk along ``position``, a window of rows per transaction. Never does: choose how long
events are kept; wait for a lock: a locked row is left for the next run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import format_instant
from delivery.domain.lifecycle import ENDED, State
from delivery.domain.records import Purged
from delivery.ledger.sql import bulk
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import (
    attempts,
    cloud_events,
    confirmations,
    events,
    inbox_marks,
    queue_copies,
    receipts,
)
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.webhooks import outcomes


class RetentionSql:
    """``RetentionStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def purge(
        self,
        before: Mapping[State, datetime],
        *,
        after: int = -1,
        limit: int = 1_000,
        dry_run: bool = False,
    ) -> Purged:
        """See the port."""
        if open_ones := sorted(set(before) - ENDED):
            raise ValueError(f"{open_ones[0]} events still wait for their user; nothing ends them")
        with self._database.read() as connection:
            window = connection.execute(
                sa.select(events.c.id, events.c.position, events.c.state, events.c.recorded_at)
                .where(events.c.position > after)
                .order_by(events.c.position)
                .limit(limit)
            ).all()
        old = {
            row.id: State(row.state)
            for row in window
            if (cut := before.get(State(row.state))) is not None and row.recorded_at < cut
        }
        if old and not dry_run:
            with self._database.write() as connection:
                old = {id_: old[id_] for id_ in _delete(connection, old)}
                record(connection, Counter(old.values()), before, self._database.now(connection))
        # Positions follow the time of recording: after a window of young events all are young.
        over = len(window) < limit or all(r.recorded_at >= max(before.values()) for r in window)
        return Purged(dict(Counter(old.values())), None if over else window[-1].position)


def record(
    connection: Connection,
    deleted: Mapping[State, int],
    before: Mapping[State, datetime],
    now: datetime,
) -> None:
    """Append a row to the compliance log, if anything was deleted."""
    if deleted:
        counts = {state.value: count for state, count in deleted.items()}
        cuts = {state.value: format_instant(cut) for state, cut in before.items()}
        facts = {"deleted": counts, "before": cuts}
        audit.append(connection, [audit.AuditRow("purged", None, "", facts, now)])


def _delete(connection: Connection, old: Mapping[str, State]) -> list[str]:
    """Delete events whose state is unchanged and whose rows are not locked; returns their ids."""
    deleted: list[str] = []
    for page in bulk.pages(sorted(old)):
        query = (
            sa.select(events.c.id, events.c.state)
            .where(any_of(events.c.id, page))
            .order_by(events.c.id)
            .with_for_update(skip_locked=True)
        )
        found = [row.id for row in connection.execute(query) if row.state == old[row.id].value]
        delete_records(connection, found)
        connection.execute(sa.delete(events).where(any_of(events.c.id, found)))
        deleted.extend(found)
    return deleted


def delete_records(connection: Connection, ids: Sequence[str]) -> None:
    """Delete what belongs to these events; the caller deletes the events."""
    carried = connection.execute(
        sa.select(attempts.c.digest_id)
        .where(any_of(attempts.c.event_id, ids), attempts.c.digest_id.isnot(None))
        .distinct()
    ).scalars()
    digest_ids = sorted(carried)
    for table in (attempts, confirmations, inbox_marks, queue_copies, cloud_events):
        connection.execute(sa.delete(table).where(any_of(table.c.event_id, ids)))
    outcomes.forget_events(connection, ids)
    if digest_ids:
        others = sa.exists().where(attempts.c.digest_id == receipts.c.digest_id)
        connection.execute(
            sa.delete(receipts).where(any_of(receipts.c.digest_id, digest_ids), ~others)
        )
