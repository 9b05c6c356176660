"""The feed of a connecting client: all unconfirmed events, and recent ones that it may have missed.

Owns: the meaning of a cursor. Never does: write. The cost of a page depends on its length and not
on the number of the user's events.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import Channel
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import State
from delivery.domain.records import FeedMark, Owed
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.rows import class_of, is_id, load
from delivery.ledger.sql.tables import confirmations, events
from delivery.ledger.sql.transitions import unconfirmed
from delivery.ledger.stores.events import released

CURSOR_OVERLAP = timedelta(seconds=30)
"""A commit that began before the cursor's may end after it; a commit takes 10 s at most."""
DISORDER = timedelta(seconds=15)
"""How far the orders of positions and of instants of recording may differ; the server ends a
transaction that is idle for as long."""

MAX_REPLAYED = 10_000
"""The latest events of a user, in which what a client may have missed is looked for: a client that
was away for longer is told so, and reads its own state anew."""
SOON = 200
"""The latest events that are looked at first: most clients come back before they are over."""

_USER = sa.bindparam("user_id", type_=events.c.user_id.type)
_AFTER = sa.bindparam("after", type_=sa.BigInteger())
_LIMIT = sa.bindparam("limit", type_=sa.Integer())
_EVENT = (
    events.c.id,
    events.c.type,
    events.c.run_id,
    events.c.thread_id,
    events.c.seq,
    events.c.at,
    events.c["class"],
    events.c.data,
    events.c.meta,
    events.c.position,
)
_CLASSES = {one.value: one for one in EventClass}
"""Faster than ``class_of``, which knows the others."""

# Built once: many clients that reconnect at the same time execute them thousands of times, and
# building one costs five times as much as executing it.
_RECORDED_AT = sa.select(events.c.recorded_at).where(
    events.c.id == sa.bindparam("id", type_=events.c.id.type), events.c.user_id == _USER
)
_LATEST = (
    sa.select(events.c.position, events.c.recorded_at)
    .where(events.c.user_id == _USER)
    .order_by(events.c.position.desc())
    .limit(_LIMIT)
    .subquery()
)
# Among the newest events alone: a cursor may be older than all that its user was sent in a month.
_BEHIND = sa.select(
    sa.func.max(
        sa.case(
            (
                _LATEST.c.recorded_at < sa.bindparam("before", type_=events.c.recorded_at.type),
                _LATEST.c.position,
            )
        )
    ).label("behind"),
    sa.func.min(_LATEST.c.position).label("oldest"),
    sa.func.count().label("length"),
)
_CONFIRMATION = sa.exists().where(
    confirmations.c.event_id == events.c.id,
    confirmations.c.channel == Channel.WEBSOCKET,
    confirmations.c.by == sa.bindparam("by", type_=confirmations.c.by.type),
)
# From the newest events: a user may have thousands of runs, and no index orders them.
_NEWEST = (
    sa.select(events.c.run_id, events.c.seq)
    .where(events.c.user_id == _USER)
    .order_by(events.c.position.desc())
    .limit(_LIMIT)
    .subquery()
)
_LAST_SEQS = (
    sa.select(_NEWEST.c.run_id, sa.func.max(_NEWEST.c.seq).label("last_seq"))
    .where(_NEWEST.c.seq.isnot(None))
    .group_by(_NEWEST.c.run_id)
)


class FeedSql:
    """``FeedStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        user_id: str,
        start: str | FeedMark | timedelta | None,
        *,
        by: str,
        after: int = -1,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        """See the port."""
        with self._database.read() as connection:
            return self._page(connection, user_id, start, by, after, limit)

    def first_page(
        self, user_id: str, cursor: str | None, *, by: str, runs_of: int, limit: int
    ) -> tuple[dict[str, int], list[Owed], FeedMark | None]:
        """See the port."""
        which = {"user_id": user_id, "limit": runs_of}
        with self._database.read() as connection:
            # In this order: what is committed in between is on the page, or ahead of its run.
            rows = connection.execute(_LAST_SEQS, which).all()
            owed, mark = self._page(connection, user_id, cursor, by, -1, limit)
        return {row.run_id: row.last_seq for row in rows}, owed, mark

    def _page(
        self,
        connection: Connection,
        user_id: str,
        start: str | FeedMark | timedelta | None,
        by: str,
        after: int,
        limit: int,
    ) -> tuple[list[Owed], FeedMark | None]:
        which = {"user_id": user_id, "after": after, "limit": limit}
        mark = self._mark(connection, user_id, start)
        found = {row.position: row for row in connection.execute(self._open, which)}
        if mark is not None:
            which |= {"after": max(after, mark.behind), "since": mark.since, "by": by}
            for row in connection.execute(self._recent, which):
                found.setdefault(row.position, row)
        return [_owed(user_id, found[position]) for position in sorted(found)[:limit]], mark

    @cached_property
    def _open(self) -> sa.Select[Any]:
        return (
            sa.select(*_EVENT, sa.false().label("is_confirmed"))
            # To SQLite the index of all events looks as good, and it changes its mind with a column
            # that the table gets.
            .with_hint(events, "INDEXED BY ix_events_unconfirmed", "sqlite")
            .where(events.c.user_id == _USER, events.c.position > _AFTER)
            .where(unconfirmed(), events.c.expires_at > self._database.clock())
            .where(released(self._database.clock()))
            .order_by(events.c.position)
            .limit(_LIMIT)
        )

    @cached_property
    def _recent(self) -> sa.Select[Any]:
        return (
            sa.select(
                *_EVENT,
                sa.and_(events.c.state == State.CONFIRMED.value, _CONFIRMATION).label(
                    "is_confirmed"
                ),
            )
            .where(events.c.user_id == _USER, events.c.position > _AFTER)
            .where(events.c.recorded_at >= sa.bindparam("since", type_=events.c.recorded_at.type))
            .where(released(self._database.clock()))
            .order_by(events.c.position)
            .limit(_LIMIT)
        )

    def _mark(
        self, connection: Connection, user_id: str, start: str | FeedMark | timedelta | None
    ) -> FeedMark | None:
        if start is None or isinstance(start, FeedMark):
            return start
        if isinstance(start, timedelta):
            since = self._database.now(connection) - start
        else:
            at = _recorded_at(connection, user_id, start)
            if at is None:
                return None
            since = at - CURSOR_OVERLAP
        for limit in (SOON, MAX_REPLAYED):
            which = {"user_id": user_id, "before": since - DISORDER, "limit": limit}
            found = connection.execute(_BEHIND, which).one()
            if found.behind is not None or found.length < limit:
                return FeedMark(since, -1 if found.behind is None else found.behind)
        return FeedMark(since, found.oldest - 1, is_cut=True)


def _recorded_at(connection: Connection, user_id: str, cursor: str) -> datetime | None:
    if not is_id(cursor):
        return None
    found: datetime | None = connection.execute(
        _RECORDED_AT, {"id": cursor, "user_id": user_id}
    ).scalar_one_or_none()
    return found


def _owed(user_id: str, row: sa.Row[*tuple[Any, ...]]) -> Owed:
    id_, type_, run_id, thread_id, seq, at, class_, data, meta, position, is_confirmed = row
    event = Event(
        id=id_,
        type=type_,
        user_id=user_id,
        run_id=run_id,
        seq=seq,
        at=at,
        event_class=_CLASSES.get(class_) or class_of(class_),
        raw_data=msgspec.Raw(data.encode()),
        thread_id=thread_id,
        meta=None if meta is None else load(meta),
    )
    return Owed(event, position, bool(is_confirmed))
