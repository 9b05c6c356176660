"""Changes of recorded events by operators and the fast path: hand over, expedite, replay."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import Channel
from delivery.domain.lifecycle import Cause, Outcome, State
from delivery.domain.policy import Policies
from delivery.domain.records import EventFilter
from delivery.ledger import counting
from delivery.ledger.sql import bulk, transitions
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.rows import AnyRow, attempt_values, class_of, is_id
from delivery.ledger.sql.tables import attempts, events
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.operators import search


class OperationSql:
    """``OperationStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hand_over(self, ids: Sequence[str], reason: str) -> None:
        """See the port."""
        for page in bulk.pages(sorted({i for i in ids if is_id(i)})):
            with self._database.write() as connection:
                moved = _hand_over(connection, page, reason, self._database.now(connection))
            counting.handed_over(reason, moved)

    def expedite(self, ids: Sequence[str]) -> None:
        """See the port."""
        known = sorted({i for i in ids if is_id(i)})
        with self._database.write() as connection:
            now = self._database.now(connection)
            waiting = sa.select(events.c.id).where(
                any_of(events.c.id, known),
                transitions.before(Cause.HAND_OVER),
                events.c.due_at > now,
            )
            if bulk.is_postgresql(connection):
                # A locked row is being changed to another state by its holder.
                waiting = waiting.order_by(events.c.id).with_for_update(skip_locked=True)
            connection.execute(sa.update(events).where(events.c.id.in_(waiting)).values(due_at=now))

    def replay(
        self,
        which: EventFilter | Sequence[str],
        *,
        policies: Policies,
        dry_run: bool = False,
        after: str | None = None,
        limit: int | None = None,
        actor: str = "",
    ) -> list[str]:
        """See the port. Each page is a transaction of its own, so no lock is held for long."""
        matched: list[str] = []
        position = -1 if after is None else self._position_of(after)
        wanted = [transitions.before(Cause.REPLAY), *_which(which)]
        base = self._base(which)
        while limit is None or len(matched) < limit:
            end = self._window_end(base, position)
            size = bulk.PAGE if limit is None else min(bulk.PAGE, limit - len(matched))
            page = (
                base.select(events.c.id, events.c.position, events.c.user_id, events.c["class"])
                .where(*wanted, events.c.position > position)
                .order_by(events.c.position)
                .limit(size)
            )
            if end is not None:
                page = page.where(events.c.position <= end)
            rows = self._look(page) if dry_run else self._replay_page(page, policies, actor)
            matched.extend(row.id for row in rows)
            if len(rows) == size:
                position = rows[-1].position
            elif end is None:
                break
            else:
                position = end
        return matched

    def _base(self, which: EventFilter | Sequence[str]) -> search.Base:
        if not isinstance(which, EventFilter):
            return search.Base((any_of(events.c.id, [i for i in which if is_id(i)]),))
        with self._database.read() as connection:
            return search.upward_base(connection, which)

    def _window_end(self, base: search.Base, position: int) -> int | None:
        """The position up to which one statement looks for events."""
        with self._database.read() as connection:
            return search.window_after(connection, base, position)

    def _look(self, page: sa.Select[Any]) -> Sequence[AnyRow]:
        with self._database.read() as connection:
            return connection.execute(page).all()

    def _replay_page(
        self, page: sa.Select[Any], policies: Policies, actor: str
    ) -> Sequence[AnyRow]:
        with self._database.write() as connection:
            rows = connection.execute(page.with_for_update()).all()
            if rows:
                now = self._database.now(connection)
                _restart(connection, [row.id for row in rows], policies, now)
                _audit(connection, rows, "replayed", now)
                _record_replay(connection, rows, actor, now)
            return rows

    def _position_of(self, event_id: str) -> int:
        query = sa.select(events.c.position).where(events.c.id == event_id)
        with self._database.read() as connection:
            found = connection.execute(query).scalar_one_or_none() if is_id(event_id) else None
        if found is None:
            raise ValueError(f"{event_id[:64]!r} is not the next of a page before")
        return int(found)


def _which(which: EventFilter | Sequence[str]) -> list[sa.ColumnElement[bool]]:
    if isinstance(which, EventFilter):
        return search.conditions(which)
    return []  # the base has them


def _hand_over(connection: Connection, ids: Sequence[str], reason: str, now: datetime) -> int:
    """Hand events over that are not on the chain yet; returns their number."""
    query = (
        sa.select(events.c.id, events.c.generation, events.c.user_id, events.c["class"])
        .where(any_of(events.c.id, ids), transitions.before(Cause.HAND_OVER))
        .order_by(events.c.id)
    )
    if bulk.is_postgresql(connection):
        query = query.with_for_update()
    rows = connection.execute(query).all()
    if not rows:
        return 0
    moved = [row.id for row in rows]
    connection.execute(
        sa.update(events)
        .where(any_of(events.c.id, moved))
        .values(
            state=State.FALLING_BACK.value, step=None, due_at=now, handed_over_at=now, publishes=0
        )
    )
    _audit(connection, rows, "handed_over", now)
    tried = _tries(connection, moved)
    bulk.insert_attempts(
        connection,
        [
            attempt_values(
                row.id,
                row.generation,
                Channel.WEBSOCKET,
                tried.get((row.id, row.generation), 0) + 1,
                Outcome.FAILED,
                started_at=now,
                ended_at=now,
                error=reason[:500],
            )
            for row in rows
        ],
    )
    return len(rows)


def _audit(connection: Connection, rows: Sequence[AnyRow], kind: str, now: datetime) -> None:
    audit.record(
        connection,
        kind,
        now,
        [audit.Subject(row.id, row.user_id, row._mapping["class"], {}) for row in rows],
    )


def _record_replay(
    connection: Connection, rows: Sequence[AnyRow], actor: str, now: datetime
) -> None:
    """One row for each page of a replay, of whatever class its events are."""
    ids, users = [str(row.id) for row in rows], {row.user_id for row in rows}
    facts = {"events": len(ids), "first": ids[0], "last": ids[-1], "actor": actor}
    event_id = ids[0] if len(ids) == 1 else None
    user_id = users.pop() if len(users) == 1 else ""
    audit.append(connection, [audit.AuditRow("replay", event_id, user_id, facts, now)])


def _tries(connection: Connection, ids: Sequence[str]) -> dict[tuple[str, int], int]:
    """Highest attempt number of the fast path: (event, generation) -> number."""
    query = (
        sa.select(attempts.c.event_id, attempts.c.generation, sa.func.max(attempts.c.number))
        .where(any_of(attempts.c.event_id, ids), attempts.c.channel == Channel.WEBSOCKET)
        .group_by(attempts.c.event_id, attempts.c.generation)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def _restart(connection: Connection, ids: Sequence[str], policies: Policies, now: datetime) -> None:
    """Start a new generation: old tokens are stale, old attempts stay in the timeline."""
    found = connection.execute(
        sa.select(events.c.id, events.c["class"], events.c.ttl_ms, events.c.not_before).where(
            any_of(events.c.id, ids)
        )
    )
    alike: dict[tuple[str, int | None, datetime | None], list[str]] = {}
    for row in found:
        held_until = row.not_before if row.not_before and row.not_before > now else None
        alike.setdefault((row._mapping["class"], row.ttl_ms, held_until), []).append(row.id)
    for (name, ttl_ms, held_until), same in alike.items():
        policy = policies.of(class_of(name))
        ttl = policy.ttl if ttl_ms is None else ttl_ms / 1000
        expires = (held_until or now) + timedelta(seconds=ttl)
        due = held_until or min(now + timedelta(seconds=policy.ack_timeout), expires)
        connection.execute(
            sa.update(events)
            .where(any_of(events.c.id, same))
            .values(
                state=State.ACCEPTED.value,
                step=None,
                due_at=due,
                expires_at=expires,
                generation=events.c.generation + 1,
                token=events.c.token + 1,
                publishes=0,
                turn=None,
                claimed_until=None,
                digest_id=None,
                handed_over_at=None,
                confirmed_at=None,
            )
        )
