"""One page of due events: they enter the chain, have their step published again, or expire.

Users take turns: of one user's events only some are published at a time (``shares``).

Owns: the statements of a sweep, a fixed number for any number of events.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain import lifecycle
from delivery.domain.channels import Channel
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Cause, Outcome, State
from delivery.domain.records import Due, Lane, NextTurns, Swept
from delivery.domain.turns import take_turns
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import attempts, events
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.fallback import shares
from delivery.ledger.stores.fallback.shares import lane_of
from delivery.ledger.stores.webhooks import outcomes

REPUBLISH_PAUSE = 5.0
"""Seconds until a step is published again; doubles with every publish."""
MAX_REPUBLISH_PAUSE = 60.0
LEAST_TIMEOUT = 0.001
"""Seconds; an event that is released is due later than it was."""
TIMED_OUT = "no acknowledgement in time"
_DOUBLINGS = 4  # 5 s * 2**4 is over the maximum already

_HAND_OVER = lifecycle.sources(Cause.HAND_OVER)
_EXPIRE = lifecycle.sources(Cause.EXPIRE)


def sweep(
    connection: Connection,
    now: datetime,
    limit: int,
    ack_timeout: Callable[[EventClass], float],
) -> Swept:
    """Take at most ``limit`` due events; rows that another sweep has locked are skipped."""
    page = connection.execute(
        sa.select(
            events.c.id,
            events.c.user_id,
            events.c["class"],
            events.c.state,
            events.c.step,
            events.c.due_at,
            events.c.publishes,
            events.c.expires_at,
            events.c.generation,
            events.c.recorded_at,
            events.c.not_before,
        )
        .where(events.c.due_at <= now)
        .order_by(events.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not page:
        return Swept((), 0, is_last=True)
    over, held, entering, standing, strays = _sorted(page, now)
    expire(connection, now, over)
    _release(connection, now, held, ack_timeout)
    due = sorted(entering + standing, key=lambda row: row.due_at)
    lanes = _lanes(due)
    chosen = shares.within(connection, lanes, {row.id for row in standing if row.publishes > 0})
    _enter(connection, now, entering, chosen, lanes)
    _publish(connection, now, standing, chosen, lanes)
    _settle(connection, strays)
    return Swept(
        _in_turns([row for row in due if row.id in chosen], lanes),
        len(over),
        is_last=len(page) < limit,
        released=tuple(sorted({row.user_id for row in held})),
        entered=len(entering),
        waiting=len(due) - len(chosen),
    )


def next_turns(connection: Connection, now: datetime, limit: int, after: Lane | None) -> NextTurns:
    """Publish at most ``limit`` events whose turn has come."""
    found, after = shares.next_turns(connection, now, limit, after)
    lanes = _lanes(found)
    _publish(connection, now, found, lanes, lanes)
    return NextTurns(_in_turns(found, lanes), after)


def expire(connection: Connection, now: datetime, found: Sequence[rows.AnyRow]) -> None:
    """End events (locked rows with id, user_id and class) whose time to live is over."""
    if not found:
        return
    connection.execute(
        sa.update(events)
        .where(any_of(events.c.id, _ids(found)), transitions.before(Cause.EXPIRE))
        .values(state=transitions.after(Cause.EXPIRE), step=None, due_at=None, claimed_until=None)
    )
    outcomes.record_ended(connection, _ids(found), State.EXPIRED, now)
    _audit(connection, now, found, Cause.EXPIRE)


def _sorted(page: Iterable[rows.AnyRow], now: datetime) -> tuple[list[rows.AnyRow], ...]:
    """The page as: expired, held back until now, entering the chain, on the chain, due without a
    reason."""
    over, held, entering, standing, strays = [], [], [], [], []
    for row in page:
        state = row.state  # text: a state of a later release is a stray
        if row.expires_at <= now and state in _EXPIRE:
            over.append(row)
        elif state == State.ACCEPTED and row.not_before is not None and _is_held(row):
            held.append(row)
        elif state in _HAND_OVER:
            entering.append(row)
        elif state == State.FALLING_BACK:
            standing.append(row)
        else:
            strays.append(row)
    return over, held, entering, standing, strays


def _is_held(row: rows.AnyRow) -> bool:
    """Whether it was due because its caller held it back, and not for its acknowledgement."""
    return bool(row.due_at <= row.not_before)


def _release(
    connection: Connection,
    now: datetime,
    found: Sequence[rows.AnyRow],
    ack_timeout: Callable[[EventClass], float],
) -> None:
    """Let events be pushed from now on: they are due again when their acknowledgement is."""
    by_timeout: dict[float, list[rows.AnyRow]] = {}
    for row in found:
        timeout = max(LEAST_TIMEOUT, ack_timeout(rows.class_of(row._mapping["class"])))
        by_timeout.setdefault(timeout, []).append(row)
    for timeout, alike in by_timeout.items():
        due = sa.literal(now + timedelta(seconds=timeout), UtcDateTime())
        connection.execute(
            sa.update(events)
            .where(any_of(events.c.id, _ids(alike)), transitions.before(Cause.HAND_OVER))
            .values(due_at=transitions.not_after_expiry(due))
        )


def _enter(
    connection: Connection,
    now: datetime,
    found: Sequence[rows.AnyRow],
    chosen: Container[str],
    lanes: Mapping[str, Lane],
) -> None:
    """Hand events over to the chain, the chosen ones to be published now; pushed ones get a failed
    attempt with the reason."""
    if not found:
        return
    for ids, values in _places(now, found, chosen, lanes):
        connection.execute(
            sa.update(events)
            .where(any_of(events.c.id, ids), transitions.before(Cause.HAND_OVER))
            .values(
                state=transitions.after(Cause.HAND_OVER),
                step=None,
                handed_over_at=now,
                digest_id=None,
                **values,
            )
        )
    _record_timeouts(connection, now, [row for row in found if row.state == State.SENT])
    _audit(connection, now, found, Cause.HAND_OVER)


def _record_timeouts(connection: Connection, now: datetime, found: Sequence[rows.AnyRow]) -> None:
    """Write failed pushes in one statement; row by row would take a third of a sweep's time."""
    if not found:
        return
    ours = sa.and_(
        attempts.c.event_id == events.c.id,
        attempts.c.generation == events.c.generation,
        attempts.c.channel == Channel.WEBSOCKET,
    )
    last = sa.select(sa.func.max(attempts.c.number)).where(ours).correlate(events)
    values = {
        "event_id": events.c.id,
        "generation": events.c.generation,
        "channel": sa.literal(Channel.WEBSOCKET.value),
        "number": sa.func.coalesce(last.scalar_subquery(), 0) + 1,
        "outcome": sa.literal(Outcome.FAILED.value),
        "error": sa.literal(TIMED_OUT),
        "started_at": events.c.recorded_at,  # ``sent`` is written with the insert only
        "ended_at": sa.literal(now, UtcDateTime()),
    }
    columns = [value.label(name) for name, value in values.items()]
    rows_of = sa.select(*columns).where(any_of(events.c.id, _ids(found)))
    connection.execute(sa.insert(attempts).from_select(list(values), rows_of))


def _publish(
    connection: Connection,
    now: datetime,
    found: Sequence[rows.AnyRow],
    chosen: Container[str],
    lanes: Mapping[str, Lane],
) -> None:
    """Record that the steps of chosen events on the chain are published (again)."""
    for ids, values in _places(now, found, chosen, lanes):
        connection.execute(
            sa.update(events)
            .where(any_of(events.c.id, ids), transitions.on_chain())
            .values(**values)
        )


def _places(
    now: datetime,
    found: Sequence[rows.AnyRow],
    chosen: Container[str],
    lanes: Mapping[str, Lane],
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Groups of ids with the values of what is published and of what waits."""
    published = sorted((row for row in found if row.id in chosen), key=_doublings)
    for doublings, group in groupby(published, key=_doublings):
        yield _ids(group), _published(now, doublings)
    waiting: dict[str, list[str]] = {}
    for row in found:
        if row.id not in chosen:
            waiting.setdefault(lanes[row.id][1], []).append(row.id)
    for name, ids in waiting.items():
        yield ids, shares.waiting(name, now)


def _published(now: datetime, doublings: int) -> dict[str, Any]:
    """The next due time, so that a lost task is published again: after 5 s, 10 s, … 60 s."""
    pause = timedelta(seconds=min(REPUBLISH_PAUSE * 2**doublings, MAX_REPUBLISH_PAUSE))
    again = sa.literal(now + pause, UtcDateTime())
    return {
        "due_at": transitions.not_after_expiry(again),
        "publishes": events.c.publishes + 1,
        "turn": None,
    }


def _settle(connection: Connection, found: Sequence[rows.AnyRow]) -> None:
    """Correct the due time of events in a state that has none, or they would come first in every
    sweep."""
    if not found:
        return
    parked = events.c.state == State.PARKED.value
    connection.execute(
        sa.update(events)
        .where(any_of(events.c.id, _ids(found)))
        .values(due_at=sa.case((parked, events.c.expires_at), else_=sa.null()), publishes=0)
    )


def oldest_overdue(connection: Connection, clock: sa.ColumnElement[datetime]) -> float:
    """Seconds since the oldest due time that no sweep has served; 0.0 if none is overdue."""
    oldest = connection.execute(
        sa.select(events.c.due_at, clock.label("now"))
        .where(events.c.due_at.isnot(None))
        .order_by(events.c.due_at)
        .limit(1)
    ).one_or_none()
    return 0.0 if oldest is None else max(0.0, (oldest.now - oldest.due_at).total_seconds())


def _audit(
    connection: Connection, now: datetime, found: Sequence[rows.AnyRow], cause: Cause
) -> None:
    facts = {"state": transitions.after(cause), "cause": cause.value}
    audit.record(
        connection,
        "state",
        now,
        [audit.Subject(row.id, row.user_id, row._mapping["class"], facts) for row in found],
    )


def _due(row: rows.AnyRow) -> Due:
    return Due(row.id, rows.class_of(row._mapping["class"]), _step(row))


def _in_turns(found: Sequence[rows.AnyRow], lanes: Mapping[str, Lane]) -> tuple[Due, ...]:
    """Events in the order of their messages: users alternate."""
    return tuple(_due(row) for row in take_turns(found, lambda row: lanes[row.id]))


def _lanes(found: Iterable[rows.AnyRow]) -> dict[str, Lane]:
    return {row.id: lane_of(row.user_id, row._mapping["class"], _step(row)) for row in found}


def _step(row: rows.AnyRow) -> str | None:
    """The step that the event is at; ``None`` before the first one."""
    return row.step if row.state == State.FALLING_BACK else None


def _doublings(row: rows.AnyRow) -> int:
    return min(int(row.publishes), _DOUBLINGS)


def _ids(found: Iterable[rows.AnyRow]) -> list[str]:
    return [row.id for row in found]
