"""Claiming a batch of events: the right to act for them, with all that a decision needs.

Owns: the statements of a claim, a handful for any number of events. Rows are locked in order of
their ids and locked ones are passed over, so claims that overlap never wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import Channel
from delivery.domain.contact import Contact
from delivery.domain.lifecycle import Attempt, Outcome, State
from delivery.domain.records import Claim
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.dialect import among
from delivery.ledger.sql.tables import UtcDateTime, attempts, contacts, digests, events
from delivery.ledger.stores.sweep import expire

LOST = "the worker was lost"


def claim(connection: Connection, now: datetime, ids: Sequence[str], lease: float) -> list[Claim]:
    """Claim what is on the chain and free; expired events end instead."""
    found = connection.execute(
        sa.select(*rows.EVENT_COLUMNS)
        .where(among(events.c.id, ids), transitions.on_chain())
        .order_by(events.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    on_chain = [row for row in found if row.state == State.FALLING_BACK]
    expire(connection, now, [row for row in on_chain if row.expires_at <= now])
    free = [
        row
        for row in on_chain
        if row.expires_at > now and (row.claimed_until is None or row.claimed_until <= now)
    ]
    if not free:
        return []
    won = [row.id for row in free]
    until = now + timedelta(seconds=lease)
    connection.execute(
        sa.update(events)
        .where(among(events.c.id, won), transitions.on_chain())
        .values(
            token=events.c.token + 1,
            claimed_until=until,
            due_at=transitions.not_after_expiry(sa.literal(until, UtcDateTime())),
        )
    )
    _end_lost(connection, now, free)
    return _claims(connection, now, free, until)


def _end_lost(connection: Connection, now: datetime, free: Sequence[rows.AnyRow]) -> None:
    """Attempts that a dead worker left unfinished end as unknown. Those of a digest carry the
    digest's token and are lost when its claim has run out."""
    running = sa.select(digests.c.id).where(
        among(digests.c.user_id, sorted({row.user_id for row in free})),
        digests.c.state == "open",
        digests.c.claimed_until > now,
    )
    connection.execute(
        sa.update(attempts)
        .where(
            among(attempts.c.event_id, [row.id for row in free]),
            attempts.c.channel != Channel.WEBSOCKET,
            attempts.c.outcome == Outcome.STARTED.value,
            sa.or_(attempts.c.digest_id.is_(None), attempts.c.digest_id.notin_(running)),
        )
        .values(outcome=Outcome.UNKNOWN.value, ended_at=now, error=LOST)
    )


def _claims(
    connection: Connection, now: datetime, won: Sequence[rows.AnyRow], until: datetime
) -> list[Claim]:
    users = sorted({row.user_id for row in won})
    tried = _attempts(connection, [row.id for row in won])
    reachable = {
        row.user_id: rows.contact(row)
        for row in connection.execute(sa.select(contacts).where(among(contacts.c.user_id, users)))
    }
    pending = _pending(connection, users)
    claims = []
    for row in won:
        stored = rows.stored(row)
        of_run = pending.get((row.user_id, row.run_id), {})
        claims.append(
            Claim(
                stored=replace(stored, due_at=min(until, stored.expires_at)),
                token=row.token + 1,
                attempts=tuple(tried[row.id]),
                contact=reachable.get(row.user_id) or Contact(row.user_id),
                digests={**pending.get((row.user_id, None), {}), **of_run},
                now=now,
            )
        )
    return claims


def _attempts(connection: Connection, won: Sequence[str]) -> dict[str, list[Attempt]]:
    """The attempts of each event's present generation on the chain, oldest first."""
    found = connection.execute(
        sa.select(*rows.ATTEMPT_COLUMNS)
        .join(
            events,
            sa.and_(
                events.c.id == attempts.c.event_id,
                events.c.generation == attempts.c.generation,
            ),
        )
        .where(among(attempts.c.event_id, won), attempts.c.channel != Channel.WEBSOCKET)
        .order_by(attempts.c.id)
    )
    by_event: dict[str, list[Attempt]] = defaultdict(list)
    for row in found:
        by_event[row.event_id].append(rows.attempt(row))
    return by_event


def _pending(
    connection: Connection, users: Sequence[str]
) -> dict[tuple[str, str | None], dict[str, datetime]]:
    """Open digests as (user, run or ``None``) -> channel -> due."""
    found = connection.execute(
        sa.select(digests.c.user_id, digests.c.run_id, digests.c.channel, digests.c.due_at).where(
            among(digests.c.user_id, users),
            digests.c.state == "open",
            digests.c.due_at.isnot(None),
        )
    )
    pending: dict[tuple[str, str | None], dict[str, datetime]] = defaultdict(dict)
    for user_id, run_id, channel, due_at in found:
        pending[user_id, run_id][channel] = due_at
    return pending
