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
from delivery.ledger import claiming, edges, rows, sweeping
from delivery.ledger.audit import AuditRow, audit_rows
from delivery.ledger.database import Database
from delivery.ledger.models import UtcDateTime, attempts, events
from delivery.ledger.upsert import insert


class ChainSql:
    """``ChainStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep(self, limit: int = 500) -> Swept:
        """Take one page of what is due; see ``sweeping``."""
        with self._database.write() as connection:
            return sweeping.sweep(connection, self._database.now(connection), limit)

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
            return claiming.claim(connection, self._database.now(connection), wanted, lease)

    def begin(self, claim: Claim, channel: str, number: int) -> bool:
        """Write the ``started`` attempt before its side effect.

        Returns:
            ``False`` if the event has left the chain, the claim was lost or the number is taken.
        """
        with self._database.write() as connection:
            if not holds(connection, claim, edges.on_chain()):
                return False
            now = self._database.now(connection)
            values = _attempt(claim, channel, number, Outcome.STARTED, started_at=now)
            if not _write(connection, values):
                return False
            _audit(connection, claim, "attempt", now, channel=channel, number=number)
            return True

    def end(self, claim: Claim, channel: str, number: int, result: Result) -> bool:
        """Record how a begun attempt ended, also when the event was confirmed meanwhile.

        Returns:
            ``False`` if another worker holds the claim now; nothing was written.
        """
        with self._database.write() as connection:
            if not holds(connection, claim):
                return False
            now = self._database.now(connection)
            written = connection.execute(
                sa.update(attempts)
                .where(
                    attempts.c.event_id == claim.stored.event.id,
                    attempts.c.generation == claim.stored.generation,
                    attempts.c.channel == channel,
                    attempts.c.number == number,
                    attempts.c.token == claim.token,
                )
                .values(outcome_values(result, now))
            )
            if written.rowcount != 1:
                return False
            _audit(connection, claim, "outcome", now, channel=channel, number=number,
                   outcome=result.outcome.value, error=result.error)  # fmt: skip
            return True

    def skip(self, claim: Claim, channel: str, reason: str) -> bool:
        """Record a ``skipped`` attempt in one go; ``False`` if the claim does not hold any more."""
        with self._database.write() as connection:
            if not holds(connection, claim, edges.on_chain()):
                return False
            now = self._database.now(connection)
            number = _next_number(connection, claim, channel)
            values = _attempt(claim, channel, number, Outcome.SKIPPED, started_at=now,
                              ended_at=now, error=reason)  # fmt: skip
            if not _write(connection, values):
                return False  # a digest took the event along at this very moment
            _audit(connection, claim, "outcome", now, channel=channel, number=number,
                   outcome=Outcome.SKIPPED.value, error=reason)  # fmt: skip
            return True

    def move(self, claim: Claim, step: str, due_at: datetime) -> bool:
        """Release the claim with the event on ``step``, due then or when it expires."""
        due = sa.literal(due_at, UtcDateTime())
        return self._release(claim, step=step, due_at=edges.not_after_expiry(due))

    def finish(self, claim: Claim, *, alerted: bool) -> bool:
        """The chain is over: ``dead`` if operators were alerted, else ``parked``."""
        cause = Cause.EXHAUSTED if alerted else Cause.PARK
        due_at = None if alerted else events.c.expires_at
        return self._release(claim, cause, step=None, due_at=due_at)

    def _release(self, claim: Claim, cause: Cause | None = None, **values: Any) -> bool:
        if cause is not None:
            values["state"] = edges.after(cause)
        allowed = edges.on_chain() if cause is None else edges.before(cause)
        with self._database.write() as connection:
            moved = connection.execute(
                sa.update(events)
                .where(*_held_by(claim), allowed)
                .values(claimed_until=None, publishes=0, **values)
            )
            if moved.rowcount != 1:
                return False
            if cause is not None:
                now = self._database.now(connection)
                _audit(connection, claim, "state", now, state=values["state"], cause=cause.value)
            return True


def holds(connection: Connection, claim: Claim, *conditions: sa.ColumnElement[bool]) -> bool:
    """Whether the claim is the event's last one; the row stays locked until the transaction ends,
    so that the answer does."""
    wanted = sa.select(events.c.id).where(*_held_by(claim), *conditions).with_for_update()
    return connection.execute(wanted).one_or_none() is not None


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


def _write(connection: Connection, values: dict[str, Any]) -> bool:
    """Insert an attempt; ``False`` if its number is taken."""
    statement = insert(connection, attempts).values(values).on_conflict_do_nothing()
    written = connection.execute(statement.returning(attempts.c.id))
    return written.one_or_none() is not None


def _next_number(connection: Connection, claim: Claim, channel: str) -> int:
    last = connection.execute(
        sa.select(sa.func.max(attempts.c.number)).where(
            attempts.c.event_id == claim.stored.event.id,
            attempts.c.generation == claim.stored.generation,
            attempts.c.channel == channel,
        )
    ).scalar_one()
    return (last or 0) + 1


def _audit(connection: Connection, claim: Claim, kind: str, now: datetime, **facts: Any) -> None:
    event = claim.stored.event
    if event.event_class is EventClass.AUTH:
        facts["generation"] = claim.stored.generation
        audit_rows(connection, [AuditRow(kind, event.id, event.user_id, facts, now)])
