"""The choice of the digest that an event joins: its run's or group's, its user's, or a new one.

Owns: the promise that a user gets one message, not forty. ``min_interval`` separates two messages
to one user: an event of another run joins the open digest (which becomes the user's), and after a
message was sent, the next digest is due when the interval is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
import uuid_utils
from sqlalchemy.engine import Connection

from delivery.domain.records import Claim, Digest, Stored
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.dialect import any_of, lock
from delivery.ledger.sql.tables import digests, events
from delivery.ledger.stores.fallback.fencing import held

LEFT = "its events went on without it"

MAX_OPEN = 20
"""Open digests of a user for a step: events of further runs share one, whatever the policy says.
Each join reads them all, and a user with a thousand runs would hold up the others."""


class Key(NamedTuple):
    """What a digest is about, beside its user: a run, a group, or (``WHOLE``) all of the user."""

    run_id: str | None = None
    group_key: str | None = None


WHOLE = Key()


def _key(stored: Stored, by: Sequence[str]) -> Key:
    """An event's group takes the place of its run."""
    if "run_id" not in by:
        return WHOLE
    group = stored.options.group if stored.options is not None else None
    return Key(stored.event.run_id) if group is None else Key(group_key=group)


def join(
    connection: Connection,
    now: datetime,
    claim: Claim,
    channel: str,
    by: Sequence[str],
    window: float,
    min_interval: float,
    step: str | None = None,
) -> Digest:
    """Find or open the digest and put the claimed event into it.

    Two workers that join for one user take turns, so both end in one digest.
    """
    event = claim.stored.event
    key = _key(claim.stored, by)
    lock(connection, "digest", event.user_id, channel)
    found = connection.execute(
        sa.select(*rows.DIGEST_COLUMNS)
        .where(
            digests.c.user_id == event.user_id,
            digests.c.channel == channel,
            digests.c.state == "open",
        )
        .order_by(digests.c.created_at)
        .with_for_update()
    ).all()
    # Of every step on the channel: one that has left the policies leaves no digest open.
    on_channel = [row for row in found if not _closed_if_left(connection, row, now)]
    gathering = [row for row in on_channel if row.step == step]
    is_full = len(gathering) >= MAX_OPEN
    digest = (
        _of_key(gathering, key)
        or (_merged(connection, gathering, now) if min_interval > 0 or is_full else None)
        or _opened(
            connection,
            on_channel,
            now,
            claim,
            channel,
            WHOLE if is_full else key,
            window,
            min_interval,
            step,
        )
    )
    ours = held(connection, sa.literal(now, UtcDateTime()), [claim], transitions.on_chain())
    connection.execute(
        sa.update(events).where(any_of(events.c.id, ours.ids)).values(digest_id=digest.id)
    )
    return digest


def count_message(
    connection: Connection, now: datetime, user_id: str, channel: str, most: int, period: float
) -> datetime | None:
    """Count a message that is sent now, unless ``most`` were sent within ``period`` seconds.

    Workers take turns for each user, so they count together.

    Returns:
        ``None`` if it may be sent; else when one may.

    Effect: one row for each of the last messages; older ones go.
    """
    lock(connection, "digest", user_id, channel)
    mine = (digests.c.user_id == user_id, digests.c.channel == channel)
    since = now - timedelta(seconds=period)
    sent: Sequence[datetime] = (
        connection.execute(
            sa.select(digests.c.sent_at)
            .where(*mine, digests.c.sent_at > since)
            .order_by(digests.c.sent_at.desc())
            .limit(most)
        )
        .scalars()
        .all()
    )
    if len(sent) >= most:
        return sent[-1] + timedelta(seconds=period)
    connection.execute(sa.delete(digests).where(*mine, digests.c.sent_at <= since))
    message_id = str(uuid_utils.uuid7())
    connection.execute(
        sa.insert(digests).values(
            id=message_id,
            user_id=user_id,
            channel=channel,
            state="sent",
            number=1,
            message_id=message_id,
            created_at=now,
            sent_at=now,
            ended_at=now,
        )
    )
    return None


def _closed_if_left(connection: Connection, row: rows.AnyRow, now: datetime) -> bool:
    """Close a digest whose time is over and whose events have all gone on without it, as when the
    user had no address or opted out then. What comes later has a window of its own."""
    if row.due_at is None or row.due_at > now or _is_claimed(row, now):
        return False
    waiting = sa.select(events.c.id).where(
        events.c.user_id == row.user_id,
        events.c.digest_id == row.id,
        events.c.step == (row.step or row.channel),
        transitions.on_chain(),
    )
    if connection.execute(waiting.limit(1)).first() is not None:
        return False
    connection.execute(
        sa.update(digests)
        .where(digests.c.id == row.id)
        .values(state="dropped", due_at=None, claimed_until=None, ended_at=now, error=LEFT)
    )
    return True


def _of_key(gathering: Sequence[rows.AnyRow], key: Key) -> Digest | None:
    """The run's or group's own digest, else the user's."""
    for wanted in dict.fromkeys((key, WHOLE)):
        for row in gathering:
            if Key(row.run_id, row.group_key) == wanted:
                return rows.digest(row)
    return None


def _merged(
    connection: Connection, gathering: Sequence[rows.AnyRow], now: datetime
) -> Digest | None:
    """Another run's or group's digest, changed to the user's; not one that is being sent."""
    for row in gathering:
        if not _is_claimed(row, now):
            connection.execute(
                sa.update(digests).where(digests.c.id == row.id).values(WHOLE._asdict())
            )
            return replace(rows.digest(row), run_id=None)
    return None


def _opened(
    connection: Connection,
    on_channel: Sequence[rows.AnyRow],
    now: datetime,
    claim: Claim,
    channel: str,
    key: Key,
    window: float,
    min_interval: float,
    step: str | None,
) -> Digest:
    """A new digest: the run's, due at the end of the window, or the user's, after the interval."""
    due_at = now + timedelta(seconds=window)
    user_id = claim.stored.event.user_id
    last = _last_sent(connection, on_channel, now, user_id, channel)
    interval = timedelta(seconds=min_interval)
    if last is not None and last + interval > now:
        key = WHOLE
        due_at = max(due_at, last + interval)
    digest_id = str(uuid_utils.uuid7())
    connection.execute(
        sa.insert(digests).values(
            id=digest_id,
            user_id=user_id,
            **key._asdict(),
            channel=channel,
            step=step,
            state="open",
            due_at=due_at,
            message_id=digest_id,
            created_at=now,
        )
    )
    return Digest(
        id=digest_id,
        user_id=user_id,
        run_id=key.run_id,
        channel=channel,
        state="open",
        due_at=due_at,
        number=0,
        message_id=digest_id,
        step=step,
    )


def _last_sent(
    connection: Connection,
    on_channel: Sequence[rows.AnyRow],
    now: datetime,
    user_id: str,
    channel: str,
) -> datetime | None:
    """When a message was last sent to the user; one that is being sent counts as sent now."""
    if any(_is_claimed(row, now) for row in on_channel):
        return now
    sent: datetime | None = connection.execute(
        sa.select(sa.func.max(digests.c.sent_at)).where(
            digests.c.user_id == user_id, digests.c.channel == channel
        )
    ).scalar_one()
    return sent


def _is_claimed(row: rows.AnyRow, now: datetime) -> bool:
    return row.claimed_until is not None and row.claimed_until > now
