"""Shares of the chain's queues: users take turns, so one user's flood delays no other user.

A *share* is the number of events of one user, of one class and on one step, that may be with the
broker at a time. Further ones wait for their *turn*: on the chain and due, but published only as
earlier ones go on. Owns: the size of a share, which events wait, and whose turn comes. Never does:
publish, or decide what comes next.

The cost does not depend on how many events wait: both queries read partial indexes, one of
what is published, one of what waits, a few rows of each user.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import CHAIN, EXTERNAL
from delivery.domain.records import Lane
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import PUBLISHED, WAITS_FOR_TURN, events

SHARE = 500
EXTERNAL_SHARE = 100
"""Of a step that calls a provider: its events take longer."""
LOOK_AGAIN = timedelta(minutes=30)
"""Time until a sweep looks again at an event that waits, whether or not its turn came: a
sweep of an earlier release knows of no shares, and takes it then. At most twice as long, each page
another time: a million events that wait are not due at once, before those of other users."""
_INTERNAL = frozenset({"", *(one.value for one in CHAIN if one not in EXTERNAL)})
MAX_LANES = 50
"""Lanes that one page of turns is taken from."""


def lane_of(user_id: str, event_class: str, step: str | None) -> Lane:
    """The lane of an event on a step; ``None`` before the first step."""
    return user_id, f"{event_class}/{step or ''}"


def share_of(lane: Lane) -> int:
    """How many events of a lane may be with the broker at a time."""
    # A step with a name of its own is most likely one of mails or texts.
    return SHARE if lane[1].rpartition("/")[2] in _INTERNAL else EXTERNAL_SHARE


def within(
    connection: Connection, lanes: Mapping[str, Lane], published: Collection[str]
) -> frozenset[str]:
    """Which of the events that are about to be published fit into the shares of their lanes.

    Args:
        lanes: id -> lane, in the order in which they have their turns.
        published: ids that were published before: they have their place already.
    """
    left = _room(connection, set(lanes.values()), published)
    chosen: list[str] = []
    for event_id in (*published, *(one for one in lanes if one not in published)):
        lane = lanes[event_id]
        if left[lane] > 0:
            left[lane] -= 1
            chosen.append(event_id)
    return frozenset(chosen)


def waiting(lane_name: str, now: datetime) -> dict[str, Any]:
    """The values of an event that waits in a lane of this name."""
    pause = LOOK_AGAIN * (1.0 + random.random())
    again = sa.literal(now + pause, UtcDateTime())
    return {
        "turn": lane_name,
        "publishes": 0,
        "due_at": transitions.not_after_expiry(again),
    }


def next_turns(
    connection: Connection, now: datetime, limit: int, after: Lane | None
) -> tuple[list[rows.AnyRow], Lane | None]:
    """Lock events whose turn has come, at most ``limit``, the first ones of each lane.

    Args:
        after: the lane after which to look; ``None`` to begin with the first one.

    Returns:
        The rows, and the lane after which to go on; ``None`` at the end.
    """
    lanes = _lanes(connection, after)
    left = _room(connection, set(lanes), [])
    taken: list[rows.AnyRow] = []
    for lane in lanes:
        if len(taken) >= limit:
            return taken, after
        room = min(left[lane], limit - len(taken))
        if room > 0:
            taken += _first(connection, now, lane, room)
        after = lane
    return taken, after if len(lanes) == MAX_LANES else None


def is_any_waiting(connection: Connection) -> bool:
    """Whether an event waits."""
    return bool(_lanes(connection, None, most=1))


def _room(connection: Connection, lanes: set[Lane], besides: Collection[str]) -> dict[Lane, int]:
    """How many more events of each lane may be published.

    Args:
        besides: ids that do not count as published.
    """
    left = {lane: share_of(lane) for lane in lanes}
    if not lanes:
        return left
    users = sorted({user_id for user_id, _ in lanes})
    wanted = (
        sa.select(events.c.user_id, events.c["class"], events.c.step, sa.func.count().label("of"))
        .where(PUBLISHED, any_of(events.c.user_id, users))
        .group_by(events.c.user_id, events.c["class"], events.c.step)
    )
    if besides:
        wanted = wanted.where(sa.not_(any_of(events.c.id, besides)))
    for row in connection.execute(wanted):
        lane = lane_of(row.user_id, row._mapping["class"], row.step)
        if lane in left:
            left[lane] -= row.of
    return left


def _lanes(connection: Connection, after: Lane | None, most: int = MAX_LANES) -> list[Lane]:
    """The next lanes with events that wait, a probe or two of the index for each."""
    found: list[Lane] = []
    while len(found) < most:
        if after is not None:
            user_id, name = after
            # Two ranges: for a comparison of pairs SQLite reads all that the user has.
            lane = _next(connection, events.c.user_id == user_id, events.c.turn > name)
            lane = lane or _next(connection, events.c.user_id > user_id)
        else:
            lane = _next(connection)
        if lane is None:
            break
        found.append(lane)
        after = lane
    return found


def _next(connection: Connection, *conditions: sa.ColumnElement[bool]) -> Lane | None:
    """The first lane in order of users and names."""
    row = connection.execute(
        sa.select(events.c.user_id, events.c.turn)
        .where(WAITS_FOR_TURN, *conditions)
        .order_by(events.c.user_id, events.c.turn)
        .limit(1)
    ).one_or_none()
    return None if row is None else (row.user_id, row.turn)


def _first(connection: Connection, now: datetime, lane: Lane, limit: int) -> Sequence[rows.AnyRow]:
    user_id, name = lane
    return connection.execute(
        sa.select(
            events.c.id,
            events.c.user_id,
            events.c["class"],
            events.c.state,
            events.c.step,
            events.c.publishes,
        )
        .where(
            WAITS_FOR_TURN,
            events.c.user_id == user_id,
            events.c.turn == name,
            events.c.expires_at > now,
            transitions.on_chain(),
        )
        .order_by(events.c.position)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
