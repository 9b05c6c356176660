"""A search of events by any filter, newest first, and the count of its matches.

Owns: how many rows one call looks through: a filter that few of millions of events match reads a
window of them after the other, and says where the next call goes on. Never does: change an event.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import UNCONFIRMED
from delivery.domain.records import EventFilter, Matches, Stored
from delivery.ledger.sql.bisection import ends_of, first_since
from delivery.ledger.sql.rows import EVENT_COLUMNS, is_id, stored
from delivery.ledger.sql.tables import attempts, confirmations, events, runs
from delivery.ledger.sql.transitions import unconfirmed

WINDOW = 10_000
"""Events that one statement looks through."""
MAX_WINDOWS = 20
MAX_SECONDS = 3.0
"""After so many windows, or seconds, a call answers with what it has found."""
MAX_COUNT = 10_000
"""A count of more matches says that there are at least so many."""
EARLY, LATE = timedelta(hours=1), timedelta(days=1)
"""How far an event's ``at`` may lie from its recording: an emitter's clock may be wrong by that,
and so long it may have waited in a spool."""

_POSITION = re.compile("[0-9]{1,18}")  # what fits into a BIGINT
_LOWEST, _HIGHEST = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Base:
    """The part of a filter that an index serves in order of position.

    Attributes:
        conditions: none: all events.
        hint: the index, for SQLite, which would choose the one of the order.
    """

    conditions: tuple[Condition, ...] = ()
    hint: str | None = None

    def select(self, *columns: Any) -> sa.Select[Any]:
        """A query of the base's events."""
        query = sa.select(*columns).select_from(events).where(*self.conditions)
        return query if self.hint is None else query.with_hint(events, self.hint, "sqlite")


@dataclass(frozen=True, slots=True)
class Span:
    """Positions: from ``bottom`` to before ``top``; ``None``: without an end."""

    bottom: int | None = None
    top: int | None = None

    def conditions(self) -> list[Condition]:
        """As SQL."""
        found: list[Condition] = []
        if self.bottom is not None:
            found.append(events.c.position >= self.bottom)
        if self.top is not None:
            found.append(events.c.position < self.top)
        return found


def find(
    connection: Connection, which: EventFilter, *, after: str | None, limit: int
) -> tuple[list[Stored], str | None]:
    """See ``EventStore.find``."""
    base, span = base_of(connection, which), _span(connection, which)
    wanted, more = conditions(which), list[Condition]()
    if after is not None:
        span, more = _start(connection, which, span, after)
    wanted += more
    found: list[Stored] = []
    end: int | None = None
    for part in _downwards(connection, base, span, is_plain=_is_plain(which) and not more):
        query = base.select(*EVENT_COLUMNS).where(*wanted, *part.conditions())
        query = query.order_by(events.c.position.desc()).limit(limit + 1 - len(found))
        found += [stored(row) for row in connection.execute(query)]
        if len(found) > limit:
            return found[:limit], str(found[limit - 1].position)
        end = part.bottom
    return found, None if end is None or end == span.bottom else str(end)


def count(connection: Connection, which: EventFilter) -> Matches:
    """See ``EventStore.count``."""
    base, span = base_of(connection, which), _span(connection, which)
    wanted = conditions(which)
    total = 0
    end: int | None = None
    for part in _downwards(connection, base, span, is_plain=False):
        query = base.select(sa.literal_column("1")).where(*wanted, *part.conditions())
        matched = query.limit(MAX_COUNT + 1 - total).subquery()
        total += connection.execute(sa.select(sa.func.count()).select_from(matched)).scalar_one()
        if total > MAX_COUNT:
            return Matches(MAX_COUNT, is_exact=False)
        end = part.bottom
    return Matches(total, is_exact=end is None or end == span.bottom)


def open_of(connection: Connection, user_id: str) -> dict[str, int]:
    """See ``EventStore.open_of``."""
    newest = (
        sa.select(events.c.state)
        .where(events.c.user_id == user_id, unconfirmed())
        .order_by(events.c.position.desc())
        .limit(MAX_COUNT)
        .subquery()
    )
    counted = sa.select(newest.c.state, sa.func.count()).group_by(newest.c.state)
    return {row[0]: row[1] for row in connection.execute(counted)}


def base_of(connection: Connection, which: EventFilter) -> Base:
    """The best base for a filter."""
    found: list[Condition] = []
    user_id = which.user_id
    if user_id is None and which.run_id is not None:
        owner = sa.select(runs.c.user_id).where(runs.c.run_id == which.run_id).limit(2)
        owners = connection.execute(owner).scalars().all()
        if not owners:  # each run with an event has a row
            return Base((sa.false(),))
        user_id = owners[0] if len(owners) == 1 else None
    if user_id is not None:
        found.append(events.c.user_id == user_id)
    if which.state not in UNCONFIRMED:
        return Base(tuple(found))
    found += [unconfirmed(), events.c.state == which.state.value]
    return Base(tuple(found), "INDEXED BY ix_events_unconfirmed")


def _is_plain(which: EventFilter) -> bool:
    """Whether each event of the base matches."""
    state = which.state if which.state in UNCONFIRMED else None
    return which == EventFilter(user_id=which.user_id, state=state)


def upward_base(connection: Connection, which: EventFilter) -> Base:
    """The base for a walk from the oldest event on, within the filter's time."""
    base, span = base_of(connection, which), _span(connection, which)
    return Base((*base.conditions, *span.conditions()), base.hint)


def window_after(connection: Connection, base: Base, position: int) -> int | None:
    """The last position of the next window after a position; ``None``: the rest is one."""
    query = base.select(events.c.position).where(events.c.position > position)
    end = query.order_by(events.c.position).offset(WINDOW - 1).limit(1)
    found: int | None = connection.execute(end).scalar_one_or_none()
    return found


def _downwards(connection: Connection, base: Base, span: Span, *, is_plain: bool) -> Iterator[Span]:
    """Windows from the top of a span on, until its bottom, or until enough were looked through.

    Args:
        is_plain: each row of the base matches: the index gives a page without a window.
    """
    if is_plain:
        yield span
        return
    ends = time.monotonic() + MAX_SECONDS
    top = span.top
    for _ in range(MAX_WINDOWS):
        query = base.select(events.c.position).where(*Span(span.bottom, top).conditions())
        query = query.order_by(events.c.position.desc()).offset(WINDOW - 1).limit(1)
        bottom: int | None = connection.execute(query).scalar_one_or_none()
        yield Span(span.bottom if bottom is None else bottom, top)
        if bottom is None or bottom == span.bottom or time.monotonic() > ends:
            return
        top = bottom


def _span(connection: Connection, which: EventFilter) -> Span:
    """The positions of a filter's time, widely: positions follow the time of recording."""
    if which.since is None and which.until is None:
        return Span()
    first, last = ends_of(connection, events.c.position)
    known = range(first, last + 1)
    bottom = top = None
    if which.since is not None:
        at = which.since - EARLY
        bottom = first_since(connection, events.c.position, events.c.recorded_at, at, known)
    if which.until is not None:
        at = which.until + LATE
        top = first_since(connection, events.c.position, events.c.recorded_at, at, known)
    return Span(bottom, top)


def _start(
    connection: Connection, which: EventFilter, span: Span, after: str
) -> tuple[Span, list[Condition]]:
    """Where a page begins. Raises ``ValueError``."""
    position = _position_of(connection, after, which.user_id)
    if position is None:
        return span, [events.c.id < after]
    top = position if span.top is None else min(position, span.top)
    return Span(span.bottom, top), []


def before(connection: Connection, after: str, user_id: str | None) -> Condition:
    """The condition that an event was recorded before another one.

    Args:
        after: the ``next`` of a page, or an event's id. An event that is not recorded yet, was
            purged or is another user's is compared by its id, which tells its time.
        user_id: whose event it must be; ``None``: anyone's.

    Raises:
        ValueError: neither.
    """
    position = _position_of(connection, after, user_id)
    return events.c.id < after if position is None else events.c.position < position


def _position_of(connection: Connection, after: str, user_id: str | None) -> int | None:
    if not is_id(after):
        if _POSITION.fullmatch(after) is None:
            raise ValueError(f"{after[:64]!r} is not the next of a page before")
        return int(after)
    named = sa.select(events.c.position).where(events.c.id == after)
    if user_id is not None:
        named = named.where(events.c.user_id == user_id)
    found: int | None = connection.execute(named).scalar_one_or_none()
    return found


def conditions(which: EventFilter) -> list[Condition]:
    """The filter as SQL conditions."""
    wanted: dict[Any, Any] = {
        events.c.user_id: which.user_id,
        events.c.run_id: which.run_id,
        events.c.state: None if which.state is None else which.state.value,
        events.c.type: which.type,
        events.c["class"]: None if which.event_class is None else which.event_class.value,
    }
    found: list[Condition] = [
        column == value for column, value in wanted.items() if value is not None
    ]
    for column, prefix in (
        (events.c.user_id, which.user_prefix),
        (events.c.run_id, which.run_prefix),
    ):
        if prefix is not None:  # not LIKE, which takes either case on SQLite
            found.append(sa.func.substr(column, 1, len(prefix)) == prefix)
    if which.id_prefix is not None:
        size = len(which.id_prefix)
        found += [
            events.c.id >= which.id_prefix + _LOWEST[size:],
            events.c.id <= which.id_prefix + _HIGHEST[size:],
        ]
    return found + _in_time(which) + _of_attempts(which)


def _in_time(which: EventFilter) -> list[Condition]:
    found: list[Condition] = []
    if which.before is not None:
        found.append(events.c.recorded_at < which.before)
    if which.since is not None:
        found.append(events.c.at >= which.since)
    if which.until is not None:
        found.append(events.c.at < which.until)
    return found


def _of_attempts(which: EventFilter) -> list[Condition]:
    if which.channel is None and which.error is None:
        return []
    tried: list[Condition] = [attempts.c.event_id == events.c.id]
    if which.channel is not None:
        tried.append(attempts.c.channel == which.channel)
    if which.error is not None:
        tried.append(attempts.c.error.icontains(which.error, autoescape=True))
        return [_exists(attempts, *tried)]
    confirmed = [confirmations.c.event_id == events.c.id, confirmations.c.channel == which.channel]
    return [
        sa.or_(
            events.c.step == which.channel,
            _exists(attempts, *tried),
            _exists(confirmations, *confirmed),
        )
    ]


def _exists(table: sa.Table, *wanted: Condition) -> Condition:
    """Whether the event has such a row. Not EXISTS: PostgreSQL may make it a join that reads the
    whole table."""
    found: sa.Select[Any] = (
        sa.select(sa.literal_column("1")).select_from(table).where(*wanted).limit(1)
    )
    return found.correlate(events).scalar_subquery().isnot(None)
