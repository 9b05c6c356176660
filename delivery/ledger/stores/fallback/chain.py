"""Due times, claims and moves of the fallback chain.

Owns: every change of an event's step. Each write is fenced by the claim's token and generation, so
a worker that lost a claim changes nothing. A claim takes the same few statements for any number of
events; rows are locked in order of their ids and locked ones are skipped, so overlapping claims
never wait for each other. Never does: choose the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Cause, Outcome, State
from delivery.domain.records import Claim, HandedOn, Lane, NextTurns, Result, Swept
from delivery.ledger import counting
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import attempts, events
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.fallback import shares, sweep
from delivery.ledger.stores.fallback.claiming import claim_free
from delivery.ledger.stores.fallback.fencing import Held, held
from delivery.ledger.stores.fallback.shares import lane_of
from delivery.ledger.stores.webhooks import outcomes

Start = tuple[Claim, int]
"""A claimed event and the number of its attempt."""
Skipped = tuple[Claim, str, str, str | None]
"""A claimed event, a channel that it skips, why, and the step's name if it is not the channel's."""
Move = tuple[Claim, str, datetime]
"""A claimed event, its next step and when that is due."""
HandOn = tuple[Claim, str]
"""A claimed event and its next step, of which a worker is told now."""
Finish = tuple[Claim, bool]
"""A claimed event, and whether its chain ended with operators alerted."""

NO_STEPS: Mapping[str, str] = MappingProxyType({})


class ChainSql:
    """``ChainStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep(
        self, limit: int = 500, *, ack_timeout: Callable[[EventClass], float] = lambda _: 5.0
    ) -> Swept:
        """Take one page of due events; see the module ``sweep``."""
        with self._database.write() as connection:
            swept = sweep.sweep(connection, self._database.now(connection), limit, ack_timeout)
        counting.ended(State.EXPIRED, swept.expired)
        counting.handed_over(sweep.TIMED_OUT, swept.entered)
        return swept

    def next_turns(self, limit: int = 500, after: Lane | None = None) -> NextTurns:
        """Take one page of events whose turn has come; see the module ``shares``."""
        with self._database.read() as connection:
            if not shares.is_any_waiting(connection):
                return NextTurns((), None)
        with self._database.write() as connection:
            return sweep.next_turns(connection, self._database.now(connection), limit, after)

    def oldest_overdue(self) -> float:
        """Seconds since the oldest due time that no sweep has served; 0.0 if none is overdue."""
        with self._database.read() as connection:
            return sweep.oldest_overdue(connection, self._database.clock())

    def claim(self, ids: Sequence[str], lease: float) -> list[Claim]:
        """Claim the free events on the chain for ``lease`` seconds; expired ones end instead."""
        wanted = [event_id for event_id in ids if rows.is_id(event_id)]
        if not wanted:
            return []
        with self._database.write() as connection:
            claims, expired = claim_free(connection, self._database.now(connection), wanted, lease)
        counting.ended(State.EXPIRED, expired)
        return claims

    def begin_all(
        self, starts: Sequence[Start], channel: str, steps: Mapping[str, str] = NO_STEPS
    ) -> list[bool]:
        """Write the ``started`` attempts before their side effect, in one transaction.

        Args:
            steps: event id -> name of its step, where that is not the channel's.

        Returns:
            Per event ``False`` if it has left the chain, its claim was lost or the number is taken.
        """
        with self._database.write() as connection:
            ours = self._on_chain(connection, (claim for claim, _ in starts))
            values = [
                _attempt(
                    *(claim, channel, number, Outcome.STARTED),
                    started_at=ours.now,
                    step=steps.get(claim.id),
                )
                for claim, number in starts
                if claim.id in ours.ids
            ]
            written = _write_all(connection, values)
            begun = [(claim.id, channel, number) in written for claim, number in starts]
            audit.record(
                connection,
                "attempt",
                ours.now,
                [
                    _subject(claim, channel=channel, number=number)
                    for (claim, number), is_begun in zip(starts, begun, strict=True)
                    if is_begun
                ],
            )
            return begun

    def end_all(self, starts: Sequence[Start], channel: str, result: Result) -> list[bool]:
        """Record one result for begun attempts, also of events that were confirmed meanwhile.

        Returns:
            Per event ``False`` if another worker has claimed it since; nothing was written for it.
        """
        with self._database.write() as connection:
            ours = held(connection, self._database.clock(), [claim for claim, _ in starts])
            mine = [(claim, number) for claim, number in starts if claim.id in ours.ids]
            begun = _begun(connection, mine, channel)
            if begun:
                connection.execute(
                    sa.update(attempts)
                    .where(any_of(attempts.c.id, begun.values()))
                    .values(outcome_values(result, ours.now))
                )
            facts = {"outcome": result.outcome.value, "error": result.error}
            audit.record(
                connection,
                "outcome",
                ours.now,
                [
                    _subject(claim, channel=channel, number=number, **facts)
                    for claim, number in mine
                    if claim.id in begun
                ],
            )
            return [claim.id in begun for claim, _ in starts]

    def skip_all(self, skips: Sequence[Skipped]) -> list[bool]:
        """Record ``skipped`` attempts in one transaction; an event may skip several channels.

        Returns:
            Per skip ``False`` if the claim does not hold any more.
        """
        with self._database.write() as connection:
            ours = self._on_chain(connection, (claim for claim, *_ in skips))
            mine = [skip for skip in skips if skip[0].id in ours.ids]
            numbers = _next_numbers(connection, mine)
            ends = {"started_at": ours.now, "ended_at": ours.now}
            written = _write_all(
                connection,
                [
                    _attempt(
                        claim,
                        channel,
                        number,
                        Outcome.SKIPPED,
                        error=reason,
                        step=step,
                        **ends,
                    )
                    for (claim, channel, reason, step), number in zip(mine, numbers, strict=True)
                ],
            )
            audit.record(
                connection,
                "outcome",
                ours.now,
                [
                    _subject(
                        claim,
                        channel=channel,
                        number=number,
                        outcome=Outcome.SKIPPED.value,
                        error=reason,
                    )
                    for (claim, channel, reason, _), number in zip(mine, numbers, strict=True)
                    # Else a digest wrote an attempt with this number at the same time.
                    if (claim.id, channel, number) in written
                ],
            )
            done = {
                id(skip): (skip[0].id, skip[1], number) in written
                for skip, number in zip(mine, numbers, strict=True)
            }
            return [done.get(id(skip), False) for skip in skips]

    def move_all(self, moves: Sequence[Move]) -> list[bool]:
        """Release the claims and set each event's step and due time, its expiry at the latest.

        Returns:
            Per event ``False`` if it has left the chain or the claim was lost.
        """
        places: dict[tuple[str, datetime], list[str]] = {}
        with self._database.write() as connection:
            ours = self._on_chain(connection, (claim for claim, _, _ in moves))
            for claim, step, due_at in moves:
                if claim.id in ours.ids:
                    places.setdefault((step, due_at), []).append(claim.id)
            for (step, due_at), ids in places.items():
                due = transitions.not_after_expiry(sa.literal(due_at, UtcDateTime()))
                connection.execute(
                    sa.update(events)
                    .where(any_of(events.c.id, ids), transitions.on_chain())
                    .values(_at(step, due_at=due, publishes=0))
                )
        return [claim.id in ours.ids for claim, _, _ in moves]

    def hand_on_all(self, hand_ons: Sequence[HandOn], pause: float) -> list[HandedOn]:
        """See the port."""
        with self._database.write() as connection:
            ours = self._on_chain(connection, (claim for claim, _ in hand_ons))
            steps = {claim.id: step for claim, step in hand_ons if claim.id in ours.ids}
            lanes = {
                claim.id: _lane(claim, step) for claim, step in hand_ons if claim.id in ours.ids
            }
            chosen = shares.within(connection, lanes, lanes.keys())
            due = sa.literal(ours.now + timedelta(seconds=pause), UtcDateTime())
            published = {"due_at": transitions.not_after_expiry(due), "publishes": 1}
            groups: dict[tuple[str, str | None], list[str]] = {}
            for event_id, (_, name) in lanes.items():
                waits = None if event_id in chosen else name
                groups.setdefault((steps[event_id], waits), []).append(event_id)
            for (step, waits), ids in groups.items():
                values = published if waits is None else shares.waiting(waits, ours.now)
                connection.execute(
                    sa.update(events)
                    .where(any_of(events.c.id, ids), transitions.on_chain())
                    .values(_at(step, **values))
                )
        return [_handed_on(claim.id, ours, chosen) for claim, _ in hand_ons]

    def finish_all(self, finishes: Sequence[Finish]) -> list[bool]:
        """End the chains: ``dead`` where operators were alerted, else ``parked``.

        Returns:
            Per event ``False`` if it has left the chain or the claim was lost.
        """
        with self._database.write() as connection:
            ours = self._on_chain(connection, (claim for claim, _ in finishes))
            for is_alerted, cause in ((True, Cause.EXHAUSTED), (False, Cause.PARK)):
                over = [
                    claim
                    for claim, alerted in finishes
                    if alerted is is_alerted and claim.id in ours.ids
                ]
                if over:
                    _end(connection, over, cause, ours.now)
        mine = [is_alerted for claim, is_alerted in finishes if claim.id in ours.ids]
        counting.finished(dead=sum(mine), parked=len(mine) - sum(mine))
        return [claim.id in ours.ids for claim, _ in finishes]

    def _on_chain(self, connection: Connection, claims: Iterable[Claim]) -> Held:
        return held(connection, self._database.clock(), list(claims), transitions.on_chain())


def _at(step: str, **values: Any) -> dict[str, Any]:
    """The values of an event that stands unclaimed on a step."""
    return {"claimed_until": None, "turn": None, "step": step, **values}


def _lane(claim: Claim, step: str) -> Lane:
    event = claim.stored.event
    return lane_of(event.user_id, event.event_class, step)


def _handed_on(event_id: str, ours: Held, chosen: Container[str]) -> HandedOn:
    if event_id not in ours.ids:
        return HandedOn.LOST
    return HandedOn.PUBLISH if event_id in chosen else HandedOn.WAITS


def _end(connection: Connection, claims: Sequence[Claim], cause: Cause, now: datetime) -> None:
    due_at = events.c.expires_at if cause is Cause.PARK else None
    state = transitions.after(cause)
    connection.execute(
        sa.update(events)
        .where(any_of(events.c.id, [claim.id for claim in claims]), transitions.before(cause))
        .values(claimed_until=None, publishes=0, state=state, step=None, due_at=due_at)
    )
    outcomes.record_ended(connection, [claim.id for claim in claims], State(state), now)
    facts = {"state": state, "cause": cause.value}
    audit.record(connection, "state", now, [_subject(claim, **facts) for claim in claims])


def _begun(connection: Connection, starts: Sequence[Start], channel: str) -> dict[str, int]:
    """Attempts with the token and number of these claims: event id -> attempt id."""
    wanted = {claim.id: (claim.stored.generation, number, claim.token) for claim, number in starts}
    found = connection.execute(
        sa.select(
            attempts.c.id,
            attempts.c.event_id,
            attempts.c.generation,
            attempts.c.number,
            attempts.c.token,
        ).where(any_of(attempts.c.event_id, wanted), attempts.c.channel == channel)
    )
    return {
        row.event_id: row.id
        for row in found
        if wanted[row.event_id] == (row.generation, row.number, row.token)
    }


def outcome_values(result: Result, now: datetime) -> dict[str, Any]:
    """The columns of an attempt that has ended."""
    return {
        "outcome": result.outcome.value,
        "error": result.error,
        "retryable": result.retryable,
        "retry_after_ms": rows.milliseconds(result.retry_after),
        "provider_id": result.provider_id,
        "provider": result.provider,
        "ended_at": now,
    }


def _attempt(
    claim: Claim, channel: str, number: int, outcome: Outcome, **more: Any
) -> dict[str, Any]:
    return rows.attempt_values(
        claim.id,
        claim.stored.generation,
        channel,
        number,
        outcome,
        token=claim.token,
        **more,
    )


def _write_all(
    connection: Connection, values: Sequence[dict[str, Any]]
) -> set[tuple[str, str, int]]:
    """Insert attempts; returns event, channel and number of those whose number was free."""
    if not values:
        return set()
    statement = insert(connection, attempts).values(list(values)).on_conflict_do_nothing()
    written = connection.execute(
        statement.returning(attempts.c.event_id, attempts.c.channel, attempts.c.number)
    )
    return {(row.event_id, row.channel, row.number) for row in written}


def _next_numbers(connection: Connection, skips: Sequence[Skipped]) -> list[int]:
    """The number of each skip's attempt, behind those of its event's generation and channel."""
    generations = {claim.id: claim.stored.generation for claim, *_ in skips}
    last = {(claim.id, channel): 0 for claim, channel, *_ in skips}
    found = connection.execute(
        sa.select(
            attempts.c.event_id, attempts.c.channel, attempts.c.generation, attempts.c.number
        ).where(any_of(attempts.c.event_id, generations))
    )
    for row in found:
        key = row.event_id, row.channel
        if key in last and row.generation == generations[row.event_id]:
            last[key] = max(last[key], row.number)
    numbers = []
    for claim, channel, *_ in skips:
        last[claim.id, channel] += 1
        numbers.append(last[claim.id, channel])
    return numbers


def _subject(claim: Claim, **facts: Any) -> audit.Subject:
    event = claim.stored.event
    facts["generation"] = claim.stored.generation
    return audit.Subject(event.id, event.user_id, event.event_class, facts)
