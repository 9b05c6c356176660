"""Digests: many events for one user in one message, claimed, sent and ended as one.

Owns: the members of a digest, and its claim, so that two workers never send it twice. Never does:
decide whether to try again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import LOST_WORKER, Outcome, State
from delivery.domain.records import Claim, Digest, DigestClaim, Result, Stored
from delivery.domain.users.contact import Contact
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import attempts, contacts, digests, events
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.events import released
from delivery.ledger.stores.fallback import digest_joining
from delivery.ledger.stores.fallback.chain import outcome_values
from delivery.ledger.stores.users import suppressions

MAX_MEMBERS = 1_000
"""Events in one message, the oldest first; a longer message would not be read."""

_WAITING = (State.ACCEPTED, State.SENT, State.FALLING_BACK)
_DELIVERED = (Outcome.DELIVERED, Outcome.CONFIRMED)
MAY_BE_OUT = (*_DELIVERED, Outcome.STARTED, Outcome.UNKNOWN)


def members(
    connection: Connection,
    digest: rows.AnyRow,
    now: datetime,
    classes: Sequence[str],
    unknown_limit: int | None,
    refused: Sequence[str],
) -> list[Stored]:
    """Unconfirmed, unexpired events of the runs and groups in the digest that this step has not
    delivered in their generation, but for those of ``refused`` classes. ``classes`` does not apply
    to events that joined by themselves.
    """
    joined = events.alias("joined")
    mine = (joined.c.digest_id == digest.id, joined.c.user_id == digest.user_id)
    runs = sa.select(joined.c.run_id).where(*mine, joined.c.group_key.is_(None))
    groups = sa.select(joined.c.group_key).where(*mine, joined.c.group_key.isnot(None))
    delivered = sa.exists().where(
        attempts.c.event_id == events.c.id,
        attempts.c.generation == events.c.generation,
        attempts.c.channel == digest.channel,
        attempts.c.step.is_not_distinct_from(digest.step),
        attempts.c.outcome.in_(_DELIVERED),
    )
    wanted = sa.select(*rows.EVENT_COLUMNS).where(
        events.c.user_id == digest.user_id,
        events.c.state.in_(_WAITING),
        events.c.expires_at > now,
        released(sa.literal(now, UtcDateTime())),
        sa.or_(
            sa.and_(events.c.group_key.is_(None), events.c.run_id.in_(runs)),
            events.c.group_key.in_(groups),
        ),
        ~delivered,
    )
    if unknown_limit is not None:
        wanted = wanted.where(_unknown_attempts(digest) <= unknown_limit)
    if refused:
        wanted = wanted.where(events.c["class"].notin_(refused))
    if classes:
        allowed = events.c["class"].in_(classes)
        wanted = wanted.where(sa.or_(allowed, events.c.digest_id == digest.id))
    found = connection.execute(wanted.order_by(events.c.position).limit(MAX_MEMBERS))
    return [rows.stored(row) for row in found]


def _unknown_attempts(digest: rows.AnyRow) -> sa.ScalarSelect[int]:
    """Number of attempts by which the digest's step may have delivered the event."""
    return (
        sa.select(sa.func.count())
        .where(
            attempts.c.event_id == events.c.id,
            attempts.c.generation == events.c.generation,
            attempts.c.channel == digest.channel,
            attempts.c.step.is_not_distinct_from(digest.step),
            attempts.c.outcome == Outcome.UNKNOWN,
        )
        .scalar_subquery()
    )


def listed(connection: Connection, digest_id: str) -> tuple[str, ...]:
    """The ids in a digest's message, in order of their attempts, without those of failed attempts,
    which were never sent (unless a receipt reported the failure), and without events that were
    started anew since. A retry has the same link and lists the earlier members and new ones."""
    first = sa.func.min(attempts.c.id)
    wanted = (
        sa.select(attempts.c.event_id)
        .join(
            events,
            sa.and_(
                events.c.id == attempts.c.event_id, events.c.generation == attempts.c.generation
            ),
        )
        .where(
            attempts.c.digest_id == digest_id,
            sa.or_(attempts.c.outcome.in_(MAY_BE_OUT), attempts.c.receipt.isnot(None)),
        )
        .group_by(attempts.c.event_id)
        .order_by(first)
    )
    return tuple(connection.execute(wanted).scalars())


_SENT = (Outcome.DELIVERED, Outcome.CONFIRMED, Outcome.UNKNOWN)
EMPTY = "nothing was left to send"


class DigestSql:
    """``DigestStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def join(
        self,
        claim: Claim,
        channel: str,
        *,
        by: Sequence[str],
        window: float,
        min_interval: float,
        step: str | None = None,
    ) -> Digest:
        """Put the event into its open digest, or open one; see ``digest_joining``.

        An event whose claim was lost does not join; an empty digest is closed when it is due.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            return digest_joining.join(
                *(connection, now, claim, channel, by, window, min_interval, step)
            )

    def claim(
        self,
        digest_id: str,
        lease: float,
        *,
        classes: Sequence[str] = (),
        unknown_limit: int | None = None,
        refusable: Sequence[str] = (),
    ) -> DigestClaim | None:
        """Claim an open, due digest and read its members.

        Args:
            classes: classes whose events the message may list besides those that joined; any if
                empty.
            unknown_limit: an event with more attempts of unknown outcome on this channel is not
                listed again; ``None`` for no limit.
            refusable: classes of events that are left out where the user refuses them here.

        Returns:
            ``None`` if it is claimed, closed, not due, or without members (then it is closed).
        """
        with self._database.write() as connection:
            row = self._locked(connection, digest_id)
            if row is None or not _is_ready(row, row.now):
                return None
            now: datetime = row.now
            _end_lost(connection, digest_id, now)
            contact = _contact(connection, row.user_id)
            refused = [one for one in refusable if contact.refuses(row.channel, one)]
            due = members(connection, row, now, classes, unknown_limit, refused)
            if not due:
                _close(connection, digest_id, now, state="dropped", error=EMPTY)
                return None
            changes = {
                "token": row.token + 1,
                "number": row.number + 1,
                "claimed_until": now + timedelta(seconds=lease),
            }
            digest = rows.digest(
                connection.execute(
                    sa.update(digests)
                    .where(digests.c.id == digest_id)
                    .values(changes)
                    .returning(*rows.DIGEST_COLUMNS)
                ).one()
            )
            begun = _begin(connection, digest, due, now)
            unverified = contact.unverified_channels()
            contact = contact.only_verified()
            barred = suppressions.of_contacts(connection, now, [contact]).get(contact.user_id, {})
            why = barred[digest.channel].why if digest.channel in barred else None
            return DigestClaim(digest, begun, contact, now, why or unverified.get(digest.channel))

    def end(self, claim: DigestClaim, result: Result, *, retry_in: float | None) -> bool:
        """Record one outcome for every member.

        Args:
            retry_in: seconds until the digest is due again; ``None`` closes it.

        Returns:
            ``False`` if another worker has claimed it since; nothing was written.
        """
        digest = claim.digest
        with self._database.write() as connection:
            row = self._locked(connection, digest.id)
            if row is None or row.state != "open" or row.token != digest.token:
                return False
            now: datetime = row.now
            ended = set(
                connection.execute(
                    sa.update(attempts)
                    .where(
                        *_attempts_of(digest),
                        # A receipt may have been faster, and said more.
                        attempts.c.receipt.is_(None),
                    )
                    .values(outcome_values(result, now))
                    .returning(attempts.c.event_id)
                ).scalars()
            )
            _audit(
                connection,
                [member for member in claim.members if member.event.id in ended],
                "outcome",
                now,
                channel=digest.channel,
                digest_id=digest.id,
                outcome=result.outcome.value,
                error=result.error,
            )
            if retry_in is not None:
                _reopen(connection, digest, now + timedelta(seconds=retry_in), result)
            elif result.outcome in _SENT:
                _close(
                    connection,
                    digest.id,
                    now,
                    state="sent",
                    error=result.error,
                    sent_at=now,
                    provider_id=result.provider_id,
                )
            else:
                _close(connection, digest.id, now, state="failed", error=result.error)
            return True

    def count_message(
        self, user_id: str, channel: str, *, most: int, period: float
    ) -> datetime | None:
        """Count a message to a user that is no digest; see the port."""
        with self._database.write() as connection:
            return digest_joining.count_message(
                connection, self._database.now(connection), user_id, channel, most, period
            )

    def get(self, digest_id: str) -> tuple[Digest, tuple[str, ...]] | None:
        """A digest and the ids its message listed; ``None`` if there is none."""
        if not rows.is_id(digest_id):
            return None
        return self._find(digests.c.id == digest_id)

    def _locked(self, connection: Connection, digest_id: str) -> rows.AnyRow | None:
        """Lock and return the digest's row, with the ledger's clock as ``now``."""
        if not rows.is_id(digest_id):
            return None
        return connection.execute(
            sa.select(digests, self._database.clock().label("now"))
            .where(digests.c.id == digest_id)
            .with_for_update()
        ).one_or_none()

    def _find(self, *conditions: sa.ColumnElement[bool]) -> tuple[Digest, tuple[str, ...]] | None:
        newest = sa.select(digests).where(*conditions).order_by(digests.c.created_at.desc())
        with self._database.read() as connection:
            row = connection.execute(newest.limit(1)).one_or_none()
            if row is None:
                return None
            return rows.digest(row), listed(connection, row.id)


def _is_ready(row: rows.AnyRow, now: datetime) -> bool:
    return (
        row.state == "open"
        and row.due_at is not None
        and row.due_at <= now
        and (row.claimed_until is None or row.claimed_until <= now)
    )


def _end_lost(connection: Connection, digest_id: str, now: datetime) -> None:
    """End unfinished attempts of a lost worker as unknown: the message may have been sent."""
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.digest_id == digest_id, attempts.c.outcome == Outcome.STARTED.value)
        .values(outcome=Outcome.UNKNOWN.value, ended_at=now, error=LOST_WORKER)
    )


def _attempts_of(digest: Digest) -> tuple[sa.ColumnElement[bool], ...]:
    """The attempts that this claim of the digest made."""
    return attempts.c.digest_id == digest.id, attempts.c.token == digest.token


def _begin(
    connection: Connection, digest: Digest, due: Sequence[Stored], now: datetime
) -> tuple[Stored, ...]:
    """Write one ``started`` attempt per member; an event that got another attempt on this channel
    at the same time (a skip) is not a member."""
    ids = [member.event.id for member in due]
    last = (
        sa.select(attempts.c.event_id, attempts.c.generation, sa.func.max(attempts.c.number))
        .where(any_of(attempts.c.event_id, ids), attempts.c.channel == digest.channel)
        .group_by(attempts.c.event_id, attempts.c.generation)
    )
    numbers = {(row[0], row[1]): row[2] for row in connection.execute(last)}
    connection.execute(
        insert(connection, attempts).on_conflict_do_nothing(),
        [
            rows.attempt_values(
                member.event.id,
                member.generation,
                digest.channel,
                numbers.get((member.event.id, member.generation), 0) + 1,
                Outcome.STARTED,
                started_at=now,
                digest_id=digest.id,
                token=digest.token,
                step=digest.step,
            )
            for member in due
        ],
    )
    written = sa.select(attempts.c.event_id).where(*_attempts_of(digest))
    begun = set(connection.execute(written).scalars())
    joined = tuple(member for member in due if member.event.id in begun)
    _audit(connection, joined, "attempt", now, channel=digest.channel, digest_id=digest.id)
    return joined


def _reopen(connection: Connection, digest: Digest, due_at: datetime, result: Result) -> None:
    connection.execute(
        sa.update(digests)
        .where(digests.c.id == digest.id)
        .values(due_at=due_at, claimed_until=None, error=result.error)
    )
    # Locked in order of ids, as by every writer of many events.
    waiting = connection.execute(
        sa.select(events.c.id)
        .where(
            events.c.digest_id == digest.id,
            events.c.step == digest.step_name,
            transitions.on_chain(),
        )
        .order_by(events.c.id)
        .with_for_update()
    ).scalars()
    due = transitions.not_after_expiry(sa.literal(due_at, UtcDateTime()))
    connection.execute(
        sa.update(events)
        .where(any_of(events.c.id, waiting.all()), transitions.on_chain())
        .values(due_at=due, turn=None)
    )


def _close(connection: Connection, digest_id: str, now: datetime, **values: Any) -> None:
    connection.execute(
        sa.update(digests)
        .where(digests.c.id == digest_id)
        .values(due_at=None, claimed_until=None, ended_at=now, **values)
    )


def _contact(connection: Connection, user_id: str) -> Contact:
    row = connection.execute(sa.select(contacts).where(contacts.c.user_id == user_id)).one_or_none()
    return Contact(user_id) if row is None else rows.contact(row)


def _audit(
    connection: Connection, stored: Sequence[Stored], kind: str, now: datetime, **facts: Any
) -> None:
    audit.record(
        connection,
        kind,
        now,
        [
            audit.Subject(
                one.event.id,
                one.event.user_id,
                one.event.event_class,
                {**facts, "generation": one.generation},
            )
            for one in stored
        ],
    )
