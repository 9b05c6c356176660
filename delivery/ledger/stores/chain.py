"""Due times, claims and moves of the fallback chain.

Owns: every change of an event's place on the chain. Each write names the claim's token and
generation, so whoever lost a claim changes nothing. Never decides what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Cause, Outcome
from delivery.domain.records import Claim, Result, Swept
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import among, insert
from delivery.ledger.sql.tables import UtcDateTime, attempts, events
from delivery.ledger.stores import claims, sweep
from delivery.ledger.stores.audit import AuditRow, audit_rows

Start = tuple[Claim, int]
"""A claimed event and the number of its attempt."""
Move = tuple[Claim, str, datetime]
"""A claimed event, its next step and when that is due."""

Skipped = tuple[Claim, str, str]
"""A claimed event, a channel that it skips, and why."""


class ChainSql:
    """``ChainStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep(self, limit: int = 500) -> Swept:
        """Take one page of what is due; see ``sweeping``."""
        with self._database.write() as connection:
            return sweep.sweep(connection, self._database.now(connection), limit)

    def oldest_overdue(self) -> float:
        """Age in seconds of the oldest due time that nobody has served; 0.0 if none."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            oldest: datetime | None = connection.execute(
                sa.select(sa.func.min(events.c.due_at)).where(events.c.due_at <= now)
            ).scalar_one()
        return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())

    def claim(self, ids: Sequence[str], lease: float) -> list[Claim]:
        """Claim, for ``lease`` seconds, those on the chain that are free; see ``claiming``."""
        wanted = [event_id for event_id in ids if rows.is_id(event_id)]
        if not wanted:
            return []
        with self._database.write() as connection:
            return claims.claim(connection, self._database.now(connection), wanted, lease)

    def begin(self, claim: Claim, channel: str, number: int) -> bool:
        """``begin_all`` for one event."""
        return self.begin_all([(claim, number)], channel)[0]

    def begin_all(self, starts: Sequence[Start], channel: str) -> list[bool]:
        """Write the ``started`` attempts before their side effect, in one transaction.

        Returns:
            Per event ``False`` if it has left the chain, its claim was lost or the number is taken.
        """
        with self._database.write() as connection:
            held = _held_of(connection, [claim for claim, _ in starts], transitions.on_chain())
            now = self._database.now(connection)
            values = [
                _attempt(claim, channel, number, Outcome.STARTED, started_at=now)
                for claim, number in starts
                if claim.stored.event.id in held
            ]
            written = _write_all(connection, values)
            for claim, number in starts:
                if (claim.stored.event.id, channel) in written:
                    _audit(connection, claim, "attempt", now, channel=channel, number=number)
            return [(claim.stored.event.id, channel) in written for claim, _ in starts]

    def end(self, claim: Claim, channel: str, number: int, result: Result) -> bool:
        """``end_all`` for one event."""
        return self.end_all([(claim, number)], channel, result)[0]

    def end_all(self, starts: Sequence[Start], channel: str, result: Result) -> list[bool]:
        """Record how begun attempts ended, all alike, also of events confirmed meanwhile.

        Returns:
            Per event ``False`` if another worker holds the claim now; nothing was written for it.
        """
        with self._database.write() as connection:
            held = _held_of(connection, [claim for claim, _ in starts])
            now = self._database.now(connection)
            ours = [(claim, number) for claim, number in starts if claim.stored.event.id in held]
            begun = _begun(connection, ours, channel)
            connection.execute(
                sa.update(attempts)
                .where(among(attempts.c.id, begun.values()))
                .values(outcome_values(result, now))
            )
            for claim, number in ours:
                if claim.stored.event.id in begun:
                    _audit(connection, claim, "outcome", now, channel=channel, number=number,
                           outcome=result.outcome.value, error=result.error)  # fmt: skip
            return [claim.stored.event.id in begun for claim, _ in starts]

    def skip(self, claim: Claim, channel: str, reason: str) -> bool:
        """``skip_all`` for one event and channel."""
        return self.skip_all([(claim, channel, reason)])[0]

    def skip_all(self, skips: Sequence[Skipped]) -> list[bool]:
        """Record ``skipped`` attempts in one go; an event may skip several channels.

        Returns:
            Per skip ``False`` if the claim does not hold any more.
        """
        with self._database.write() as connection:
            held = _held_of(connection, [claim for claim, _, _ in skips], transitions.on_chain())
            now = self._database.now(connection)
            ours = [one for one in skips if one[0].stored.event.id in held]
            numbers = _next_numbers(connection, ours)
            values = [
                _attempt(claim, channel, numbers[claim.stored.event.id, channel], Outcome.SKIPPED,
                         started_at=now, ended_at=now, error=reason)
                for claim, channel, reason in ours
            ]  # fmt: skip
            written = _write_all(connection, values)
            for claim, channel, reason in ours:
                key = claim.stored.event.id, channel
                if key in written:  # else a digest took the event along at this very moment
                    _audit(connection, claim, "outcome", now, channel=channel, number=numbers[key],
                           outcome=Outcome.SKIPPED.value, error=reason)  # fmt: skip
            return [(claim.stored.event.id, channel) in written for claim, channel, _ in skips]

    def move(self, claim: Claim, step: str, due_at: datetime) -> bool:
        """``move_all`` for one event."""
        return self.move_all([(claim, step, due_at)])[0]

    def move_all(self, moves: Sequence[Move]) -> list[bool]:
        """Release the claims, each event on its step, due then or when it expires.

        Returns:
            Per event ``False`` if it has left the chain or the claim was lost.
        """
        places: dict[tuple[str, datetime], list[str]] = {}
        with self._database.write() as connection:
            held = _held_of(connection, [claim for claim, _, _ in moves], transitions.on_chain())
            for claim, step, due_at in moves:
                if claim.stored.event.id in held:
                    places.setdefault((step, due_at), []).append(claim.stored.event.id)
            for (step, due_at), ids in places.items():
                due = transitions.not_after_expiry(sa.literal(due_at, UtcDateTime()))
                connection.execute(
                    sa.update(events)
                    .where(among(events.c.id, ids), transitions.on_chain())
                    .values(claimed_until=None, publishes=0, step=step, due_at=due)
                )
        return [claim.stored.event.id in held for claim, _, _ in moves]

    def finish(self, claim: Claim, *, alerted: bool) -> bool:
        """The chain is over: ``dead`` if operators were alerted, else ``parked``."""
        cause = Cause.EXHAUSTED if alerted else Cause.PARK
        due_at = None if alerted else events.c.expires_at
        return self._release(claim, cause, step=None, due_at=due_at)

    def _release(self, claim: Claim, cause: Cause, **values: Any) -> bool:
        with self._database.write() as connection:
            moved = connection.execute(
                sa.update(events)
                .where(*_held_by(claim), transitions.before(cause))
                .values(claimed_until=None, publishes=0, state=transitions.after(cause), **values)
            )
            if moved.rowcount != 1:
                return False
            now = self._database.now(connection)
            _audit(
                connection, claim, "state", now, state=transitions.after(cause), cause=cause.value
            )
            return True


def holds(connection: Connection, claim: Claim, *conditions: sa.ColumnElement[bool]) -> bool:
    """Whether the claim is the event's last one; the row stays locked until the transaction ends,
    so that the answer does."""
    wanted = sa.select(events.c.id).where(*_held_by(claim), *conditions).with_for_update()
    return connection.execute(wanted).one_or_none() is not None


def _held_of(
    connection: Connection, claims: Sequence[Claim], *conditions: sa.ColumnElement[bool]
) -> set[str]:
    """Ids of the events whose last claim is the one given; their rows stay locked until the
    transaction ends, taken in order of their ids."""
    tokens = {one.stored.event.id: (one.token, one.stored.generation) for one in claims}
    wanted = (
        sa.select(events.c.id, events.c.token, events.c.generation)
        .where(among(events.c.id, sorted(tokens)), *conditions)
        .order_by(events.c.id)
        .with_for_update()
    )
    return {
        row.id
        for row in connection.execute(wanted)
        if tokens[row.id] == (row.token, row.generation)
    }


def _begun(connection: Connection, starts: Sequence[Start], channel: str) -> dict[str, int]:
    """The rows of attempts under these very claims: event id -> attempt id."""
    wanted = {
        claim.stored.event.id: (claim.stored.generation, number, claim.token)
        for claim, number in starts
    }
    found = connection.execute(
        sa.select(
            attempts.c.id,
            attempts.c.event_id,
            attempts.c.generation,
            attempts.c.number,
            attempts.c.token,
        ).where(among(attempts.c.event_id, wanted), attempts.c.channel == channel)
    )
    return {
        row.event_id: row.id
        for row in found
        if wanted[row.event_id] == (row.generation, row.number, row.token)
    }


def outcome_values(result: Result, now: datetime) -> dict[str, Any]:
    """What an attempt's row says when it has ended."""
    return {
        "outcome": result.outcome.value,
        "error": result.error,
        "retryable": result.retryable,
        "retry_after_ms": rows.milliseconds(result.retry_after),
        "provider_id": result.provider_id,
        "ended_at": now,
    }


def _held_by(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        events.c.id == claim.stored.event.id,
        events.c.token == claim.token,
        events.c.generation == claim.stored.generation,
    )


def _attempt(
    claim: Claim, channel: str, number: int, outcome: Outcome, **more: Any
) -> dict[str, Any]:
    return rows.attempt_values(
        claim.stored.event.id,
        claim.stored.generation,
        channel,
        number,
        outcome,
        token=claim.token,
        **more,
    )


def _write_all(connection: Connection, values: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Insert attempts; event and channel of those whose number was free."""
    if not values:
        return set()
    statement = insert(connection, attempts).values(list(values)).on_conflict_do_nothing()
    written = connection.execute(statement.returning(attempts.c.event_id, attempts.c.channel))
    return {(row.event_id, row.channel) for row in written}


def _next_numbers(connection: Connection, skips: Sequence[Skipped]) -> dict[tuple[str, str], int]:
    """Event and channel -> the number that comes next in the event's generation."""
    generations = {claim.stored.event.id: claim.stored.generation for claim, _, _ in skips}
    numbers = {(claim.stored.event.id, channel): 1 for claim, channel, _ in skips}
    found = connection.execute(
        sa.select(
            attempts.c.event_id, attempts.c.channel, attempts.c.generation, attempts.c.number
        ).where(among(attempts.c.event_id, generations))
    )
    for row in found:
        key = row.event_id, row.channel
        if key in numbers and row.generation == generations[row.event_id]:
            numbers[key] = max(numbers[key], row.number + 1)
    return numbers


def _audit(connection: Connection, claim: Claim, kind: str, now: datetime, **facts: Any) -> None:
    event = claim.stored.event
    if event.event_class is EventClass.AUTH:
        facts["generation"] = claim.stored.generation
        audit_rows(connection, [AuditRow(kind, event.id, event.user_id, facts, now)])
