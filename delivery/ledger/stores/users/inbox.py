"""Inboxes: a user's messages among the events, and what was read and archived of them.

Owns: which events are messages, and their marks. An event without a mark has no row: what is unread
costs nothing to record. Each call looks at a window of the user's newest events, so that its cost
does not grow with them. Never does: read another user's events.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.records import InboxFilter, InboxItem, Stored
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.rows import EVENT_COLUMNS, is_id, stored
from delivery.ledger.sql.tables import events, inbox_marks
from delivery.ledger.stores.operators.search import before

WINDOW = 2_000
"""Events that one call looks at."""
MAX_COUNT = 100
"""Unread messages that are counted."""
# The ledger writes JSON without spaces. Nested titles match too: the page is looked at again.
_HAS_TITLE = events.c.data.like('%"title":"_%')


class _Titled(msgspec.Struct):
    title: str = ""


_titled = msgspec.json.Decoder(_Titled)


class InboxSql:
    """``InboxStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, user_id: str, which: InboxFilter, *, after: str | None = None, limit: int = 50
    ) -> tuple[list[InboxItem], str | None]:
        """See the port."""
        with self._database.read() as connection:
            bounds = [events.c.user_id == user_id]
            if after is not None:
                bounds.append(before(connection, after, user_id))
            return _page(connection, bounds, which, limit)

    def unread(self, user_id: str, types: Collection[str] = ()) -> int:
        """See the port."""
        which = InboxFilter(types=tuple(types), unread=True)
        with self._database.read() as connection:
            found, _ = _page(connection, [events.c.user_id == user_id], which, MAX_COUNT)
        return len(found)

    def mark(
        self, user_id: str, ids: Sequence[str], *, read: bool | None, archived: bool | None
    ) -> list[str]:
        """See the port."""
        with self._database.write() as connection:
            query = (
                sa.select(events.c.id)
                .where(any_of(events.c.id, [i for i in ids if is_id(i)]))
                .where(events.c.user_id == user_id)
                .order_by(events.c.id)
                # Against a purge in between; acknowledgements go on.
                .with_for_update(read=True, key_share=True)
            )
            known = [str(row.id) for row in connection.execute(query)]
            now = self._database.now(connection)
            _mark(connection, known, now, {"read_at": read, "archived_at": archived})
        return known

    def read_up_to(self, user_id: str, up_to: str | None, types: Collection[str]) -> list[str]:
        """See the port."""
        which = InboxFilter(types=tuple(types), unread=True)
        with self._database.read() as connection:
            bounds = [events.c.user_id == user_id]
            if up_to is not None:
                if not is_id(up_to):
                    raise ValueError(f"{up_to[:64]!r} is not an event's id")
                bounds.append(sa.or_(before(connection, up_to, user_id), events.c.id == up_to))
            found, _ = _page(connection, bounds, which, MAX_COUNT)
        ids = [one.stored.event.id for one in found]
        return self.mark(user_id, ids, read=True, archived=None) if ids else []


def _page(
    connection: Connection,
    bounds: Sequence[sa.ColumnElement[bool]],
    which: InboxFilter,
    limit: int,
) -> tuple[list[InboxItem], str | None]:
    newest = sa.select(events.c.position).where(*bounds).order_by(events.c.position.desc())
    lowest = connection.execute(newest.offset(WINDOW - 1).limit(1)).scalar_one_or_none()
    query = (
        sa.select(*EVENT_COLUMNS, inbox_marks.c.read_at, inbox_marks.c.archived_at)
        .select_from(events.outerjoin(inbox_marks, inbox_marks.c.event_id == events.c.id))
        .where(*bounds, *_conditions(which))
        .order_by(events.c.position.desc())
        .limit(limit + 1)
    )
    if lowest is not None:
        query = query.where(events.c.position >= lowest)
    rows = connection.execute(query).all()
    following = lowest if len(rows) <= limit else rows[limit - 1].position
    items = [InboxItem(stored(row), row.read_at, row.archived_at) for row in rows[:limit]]
    if not which.types:
        items = [one for one in items if _is_message(one.stored)]
    return items, None if following is None else str(following)


def _conditions(which: InboxFilter) -> list[sa.ColumnElement[bool]]:
    marks = inbox_marks.c
    found = [any_of(events.c.type, which.types) if which.types else _HAS_TITLE]
    found.append(marks.archived_at.isnot(None) if which.archived else marks.archived_at.is_(None))
    if which.run_id is not None:
        found.append(events.c.run_id == which.run_id)
    if which.unread is not None:
        found.append(marks.read_at.is_(None) if which.unread else marks.read_at.isnot(None))
    return found


def _is_message(one: Stored) -> bool:
    """Whether the event's data has a title of its own."""
    try:
        return bool(_titled.decode(one.event.raw_data).title.strip())
    except msgspec.DecodeError:  # of another type, too
        return False


def _mark(
    connection: Connection, ids: Sequence[str], now: datetime, marks: dict[str, bool | None]
) -> None:
    """Set or take off the marks that are not ``None``; one that stands keeps its time."""
    wanted = {name: now if is_set else None for name, is_set in marks.items() if is_set is not None}
    if not ids or not wanted:
        return
    statement = insert(connection, inbox_marks).values([{"event_id": i, **wanted} for i in ids])
    changes = {
        name: None if at is None else sa.func.coalesce(inbox_marks.c[name], at)
        for name, at in wanted.items()
    }
    connection.execute(statement.on_conflict_do_update(index_elements=["event_id"], set_=changes))
