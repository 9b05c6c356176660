"""Claims of due events: locked, marked, and read with all that the next decision needs.

Owns: the statements of a claim, the same few for any number of events. Never does: move an event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.channels import Channel
from delivery.domain.lifecycle import LOST_WORKER, Attempt, Outcome, State
from delivery.domain.records import Claim
from delivery.domain.users.contact import Contact
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import attempts, contacts, digests, events
from delivery.ledger.stores.fallback import sweep
from delivery.ledger.stores.users import suppressions


def claim_free(
    connection: Connection, now: datetime, ids: Sequence[str], lease: float
) -> tuple[list[Claim], int]:
    """Lock, claim and read the free events; expired ones end instead, whose number is returned."""
    found = connection.execute(
        sa.select(*rows.EVENT_COLUMNS)
        .where(any_of(events.c.id, ids), transitions.on_chain())
        .order_by(events.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    on_chain = [row for row in found if row.state == State.FALLING_BACK]
    over = [row for row in on_chain if row.expires_at <= now]
    sweep.expire(connection, now, over)
    free = [
        row
        for row in on_chain
        if row.expires_at > now and (row.claimed_until is None or row.claimed_until <= now)
    ]
    if not free:
        return [], len(over)
    won = [row.id for row in free]
    until = now + timedelta(seconds=lease)
    connection.execute(
        sa.update(events)
        .where(any_of(events.c.id, won), transitions.on_chain())
        .values(
            token=events.c.token + 1,
            claimed_until=until,
            turn=None,
            due_at=transitions.not_after_expiry(sa.literal(until, UtcDateTime())),
        )
    )
    _end_lost(connection, now, free)
    return _claims(connection, now, free, until), len(over)


def _end_lost(connection: Connection, now: datetime, free: Sequence[rows.AnyRow]) -> None:
    """End unfinished attempts of lost workers as unknown. An attempt of a digest carries the token
    of the digest and is lost when the digest's lease has ended."""
    running = sa.select(digests.c.id).where(
        any_of(digests.c.user_id, sorted({row.user_id for row in free})),
        digests.c.state == "open",
        digests.c.claimed_until > now,
    )
    connection.execute(
        sa.update(attempts)
        .where(
            any_of(attempts.c.event_id, [row.id for row in free]),
            attempts.c.channel != Channel.WEBSOCKET,
            attempts.c.outcome == Outcome.STARTED.value,
            sa.or_(attempts.c.digest_id.is_(None), attempts.c.digest_id.notin_(running)),
        )
        .values(outcome=Outcome.UNKNOWN.value, ended_at=now, error=LOST_WORKER)
    )


def _claims(
    connection: Connection, now: datetime, won: Sequence[rows.AnyRow], until: datetime
) -> list[Claim]:
    users = sorted({row.user_id for row in won})
    tried = _attempts(connection, [row.id for row in won])
    reachable = {
        row.user_id: rows.contact(row)
        for row in connection.execute(sa.select(contacts).where(any_of(contacts.c.user_id, users)))
    }
    pending = _pending(connection, users)
    unverified = {user_id: one.unverified_channels() for user_id, one in reachable.items()}
    reachable = {user_id: one.only_verified() for user_id, one in reachable.items()}
    barred = suppressions.of_contacts(connection, now, reachable.values())
    claims = []
    for row in won:
        stored = rows.stored(row)
        key = (None, row.group_key) if row.group_key is not None else (row.run_id, None)
        of_key = pending.get((row.user_id, *key), {})
        claims.append(
            Claim(
                stored=replace(stored, due_at=min(until, stored.expires_at)),
                token=row.token + 1,
                attempts=tuple(tried[row.id]),
                contact=reachable.get(row.user_id) or Contact(row.user_id),
                digests={**pending.get((row.user_id, None, None), {}), **of_key},
                now=now,
                suppressed=unverified.get(row.user_id, {})
                | {channel: one.why for channel, one in barred.get(row.user_id, {}).items()},
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
        .where(any_of(attempts.c.event_id, won), attempts.c.channel != Channel.WEBSOCKET)
        .order_by(attempts.c.id)
    )
    by_event: dict[str, list[Attempt]] = defaultdict(list)
    for row in found:
        by_event[row.event_id].append(rows.attempt(row))
    return by_event


def _pending(
    connection: Connection, users: Sequence[str]
) -> dict[tuple[str, str | None, str | None], dict[str, datetime]]:
    """Due times of open digests: (user, run, group), of which one or both of the latter are
    ``None`` -> step -> due time."""
    found = connection.execute(
        sa.select(
            *(digests.c.user_id, digests.c.run_id, digests.c.group_key),
            *(sa.func.coalesce(digests.c.step, digests.c.channel), digests.c.due_at),
        ).where(
            any_of(digests.c.user_id, users),
            digests.c.state == "open",
            digests.c.due_at.isnot(None),
        )
    )
    pending: dict[tuple[str, str | None, str | None], dict[str, datetime]] = defaultdict(dict)
    for user_id, run_id, group, step, due_at in found:
        pending[user_id, run_id, group][step] = due_at
    return pending
