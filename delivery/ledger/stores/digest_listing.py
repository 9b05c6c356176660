"""What a digest's message lists: read at the moment of sending, and looked up afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import Outcome, State
from delivery.domain.records import Stored
from delivery.ledger.sql import rows
from delivery.ledger.sql.tables import attempts, events

MAX_MEMBERS = 1_000
"""The oldest events go first; a message nobody can read helps nobody."""

_WAITING = (State.ACCEPTED, State.SENT, State.FALLING_BACK)
_DELIVERED = (Outcome.DELIVERED, Outcome.CONFIRMED)
_MAY_BE_OUT = (*_DELIVERED, Outcome.STARTED, Outcome.UNKNOWN)


def members(
    connection: Connection,
    digest: rows.AnyRow,
    now: datetime,
    types: Sequence[str],
    unknown_limit: int | None,
) -> list[Stored]:
    """Unconfirmed, unexpired events of the runs that joined, which this channel has not delivered
    in their generation. Those that joined belong whatever their type."""
    joined = events.alias("joined")
    runs = sa.select(joined.c.run_id).where(
        joined.c.digest_id == digest.id, joined.c.user_id == digest.user_id
    )
    delivered = sa.exists().where(
        attempts.c.event_id == events.c.id,
        attempts.c.generation == events.c.generation,
        attempts.c.channel == digest.channel,
        attempts.c.outcome.in_(_DELIVERED),
    )
    wanted = sa.select(*rows.EVENT_COLUMNS).where(
        events.c.user_id == digest.user_id,
        events.c.state.in_(_WAITING),
        events.c.expires_at > now,
        events.c.run_id.in_(runs),
        ~delivered,
    )
    if unknown_limit is not None:
        wanted = wanted.where(_unknown_attempts(digest.channel) <= unknown_limit)
    if types:
        wanted = wanted.where(sa.or_(events.c.type.in_(types), events.c.digest_id == digest.id))
    found = connection.execute(wanted.order_by(events.c.position).limit(MAX_MEMBERS))
    return [rows.stored(row) for row in found]


def _unknown_attempts(channel: str) -> sa.ScalarSelect[int]:
    """How often this channel may have delivered the event already."""
    return (
        sa.select(sa.func.count())
        .where(
            attempts.c.event_id == events.c.id,
            attempts.c.generation == events.c.generation,
            attempts.c.channel == channel,
            attempts.c.outcome == Outcome.UNKNOWN,
        )
        .scalar_subquery()
    )


def listed(connection: Connection, digest_id: str) -> tuple[str, ...]:
    """The ids in a digest's message, in order of their attempts; those of a failed attempt, which
    never went out, are not in it. A retry's message under the same link lists what the first one
    did and what has come since."""
    first = sa.func.min(attempts.c.id)
    wanted = (
        sa.select(attempts.c.event_id)
        .where(attempts.c.digest_id == digest_id, attempts.c.outcome.in_(_MAY_BE_OUT))
        .group_by(attempts.c.event_id)
        .order_by(first)
    )
    return tuple(connection.execute(wanted).scalars())
