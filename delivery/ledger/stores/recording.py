"""Group commit: many events, their runs, first attempts and confirmations in one transaction.

Owns: the rows of a new event, the test for duplicates, and sequence numbers. Locks are taken on
runs (sorted), then on events, so two batches that share runs take turns.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
import uuid_utils
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from delivery.domain.channels import Channel
from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.options import NOTHING, Options
from delivery.domain.records import Entry, First, Receipted, Recorded, SideAttempt
from delivery.ledger import counting
from delivery.ledger.sql import bulk, driver
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.rows import (
    EVENT_COLUMNS,
    attempt_values,
    dump,
    option_values,
    options_of,
)
from delivery.ledger.sql.rows import event as event_of
from delivery.ledger.sql.tables import attempts, events
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.confirmations import as_stored, store_confirmations
from delivery.ledger.stores.runs import add_tokens
from delivery.ledger.stores.webhooks import outcomes

logger = logging.getLogger(__name__)

_CLASS = {one: one.value for one in EventClass}  # a dict lookup is faster than the property


class RecordingSql:
    """``RecordingStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation] = (),
        *,
        drained: bool = False,
        missed: list[Confirmation] | None = None,
    ) -> list[Receipted]:
        """See the port ``RecordingStore.commit``."""
        try:
            answers, unknown = self._commit(
                entries, confirmations, is_repeated=drained, drained=drained
            )
        except (sa.exc.IntegrityError, sqlite3.IntegrityError, driver.UniqueViolation):
            # An id is taken: too rare to pay for a query before every insert.
            answers, unknown = self._commit(
                entries, confirmations, is_repeated=True, drained=drained
            )
        if missed is not None and unknown:
            missed += [
                confirmation for confirmation in confirmations if confirmation.event_id in unknown
            ]
        return answers

    def _commit(
        self,
        entries: Sequence[Entry],
        confirmations: Sequence[Confirmation],
        *,
        is_repeated: bool,
        drained: bool,
    ) -> tuple[list[Receipted], set[str]]:
        unknown: set[str] = set()
        first: tuple[First, ...] = ()
        with self._database.write() as connection:
            now: datetime | None = None
            known = _known(connection, entries) if is_repeated else {}
            answers, fresh = _split(entries, known, drained)
            inserted = [entry for _, entry in fresh]
            if fresh:
                seqs = _number(connection, inserted)
                # The clock is read after the runs are locked: within a run, later means later.
                now = self._database.now(connection)
                _insert(connection, fresh, seqs, now)
                add_tokens(connection, (entry.event for _, entry in fresh))
                if drained:
                    twins = [entry.event.id for _, entry in fresh if isinstance(entry, _Twin)]
                    outcomes.record_ended(connection, twins, State.DEAD, now)
                new = Recorded.NEW
                for (index, entry), seq in zip(fresh, seqs, strict=True):
                    answers[index] = Receipted(entry.event.id, new, seq)
            if confirmations:
                now = now or self._database.now(connection)
                stored = store_confirmations(connection, confirmations, now)
                unknown.update(stored.unknown)
                first = stored.first
        counting.inserted(inserted)
        counting.confirmed(first)
        return list(_resolved(answers)), unknown

    def add_attempts(self, made: Sequence[SideAttempt]) -> list[SideAttempt]:
        """See the port ``RecordingStore.add_attempts``."""
        ids = list(dict.fromkeys(one.event_id for one in made))
        with self._database.write() as connection:
            # Locked in order of ids, as by every writer of many events: the chain numbers next.
            found = connection.execute(
                sa.select(events.c.id, events.c.generation)
                .where(any_of(events.c.id, ids))
                .order_by(events.c.id)
                .with_for_update()
            )
            generations = {row.id: row.generation for row in found}
            known = [one for one in made if one.event_id in generations]
            if known:
                bulk.insert_attempts(connection, _side_rows(connection, known, generations))
        return [one for one in made if one.event_id not in generations]


class _Twin(Entry):
    """A copy, under a new id, of an accepted event whose id is taken."""


Answers = list[Receipted | int]
"""Per entry its answer, or the index of the entry in the same batch that it repeats."""
Fresh = list[tuple[int, Entry]]


class Content(NamedTuple):
    """What an id stands for."""

    event: Event
    options: Options | None


def _split(
    entries: Sequence[Entry], known: Mapping[str, Content], drained: bool
) -> tuple[Answers, Fresh]:
    """Separate new entries from repeated ones.

    Args:
        known: events in the ledger, by id.
    """
    if not known and len({entry.event.id for entry in entries}) == len(entries):
        return list(range(len(entries))), list(enumerate(entries))
    answers: Answers = []
    fresh: Fresh = []
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        identity = entry.event.id
        before = known.get(identity)
        earlier = first.get(identity)
        if before is None and earlier is None:
            first[identity] = index
            fresh.append((index, entry))
            answers.append(index)
            continue
        original = before if before is not None else _content(entries[first[identity]])
        if _is_same(original, _content(entry)):
            answers.append(
                Receipted(identity, Recorded.DUPLICATE, original.event.seq)
                if before is not None
                else first[identity]
            )
        else:
            answers.append(Receipted(identity, Recorded.CONFLICT, original.event.seq))
            if drained:
                fresh.append((index, _conflicting(entry)))
    return answers, fresh


def _known(connection: Connection, entries: Sequence[Entry]) -> dict[str, Content]:
    found: dict[str, Content] = {}
    for page in bulk.pages([entry.event.id for entry in entries]):
        rows = connection.execute(sa.select(*EVENT_COLUMNS).where(any_of(events.c.id, page)))
        found.update((row._mapping["id"], Content(event_of(row), options_of(row))) for row in rows)
    return found


def _content(entry: Entry) -> Content:
    return Content(entry.event, entry.options)


def _is_same(before: Content, now: Content) -> bool:
    """Whether two events with one id have the same content. Source: docs/problems.md,
    ``id-conflict``."""
    one, other = before.event, now.event
    return (
        one.type == other.type
        and one.user_id == other.user_id
        and one.run_id == other.run_id
        and one.thread_id == other.thread_id
        and one.data == other.data
        and _callers_meta(one.meta) == _callers_meta(other.meta)
        and (before.options is now.options or _is_same_choice(before, now))
    )


def _is_same_choice(before: Content, now: Content) -> bool:
    """Whether both callers chose the same. A class that the policies gave does not count: they may
    have changed between two attempts to send one event."""
    one, other = before.options or NOTHING, now.options or NOTHING
    is_chosen = one.event_class is not None or other.event_class is not None
    if is_chosen and before.event.event_class != now.event.event_class:
        return False
    return _compared(one) == _compared(other)


def _compared(chosen: Options) -> Options:
    return replace(chosen, event_class=None, traceparent=None)


def _callers_meta(meta: dict[str, Any] | None) -> dict[str, Any]:
    """The caller's part of ``meta``: a later release may set other flags on the same event."""
    return {name: value for name, value in (meta or {}).items() if name != "flags"}


def _conflicting(entry: Entry) -> _Twin:
    """An accepted event must not be lost: this one is kept, as dead, for operators."""
    event = entry.event
    logger.error(
        "id of spooled event %s is taken by another event; kept as dead under a new id", event.id
    )
    meta = {**(event.meta or {}), "conflicts_with": event.id}
    twin = event.evolve(id=str(uuid_utils.uuid7()), meta=meta)
    values = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    return _Twin(**(values | {"event": twin, "confirmations": [], "pushes": []}))


def _number(connection: Connection, entries: Sequence[Entry]) -> list[int | None]:
    """Sequence numbers; assigned ones are recorded in ``runs``, missing ones reserved there."""
    assigned: dict[tuple[str, str], int] = {}
    wanted: dict[tuple[str, str], int] = {}
    numbers: list[int | None] = []
    for entry in entries:
        event = entry.event
        seq = event.seq
        numbers.append(seq)
        key = (event.user_id, event.run_id)
        if seq is None:
            wanted[key] = wanted.get(key, 0) + 1
        elif seq > assigned.get(key, 0):
            assigned[key] = seq
    bulk.raise_runs(connection, assigned)
    if not wanted:
        return numbers
    last = bulk.advance_runs(connection, wanted)
    following = {key: last[key] - count for key, count in wanted.items()}
    for index, entry in enumerate(entries):
        if numbers[index] is None:
            key = (entry.event.user_id, entry.event.run_id)
            following[key] += 1
            numbers[index] = following[key]
    return numbers


def _insert(
    connection: Connection, fresh: Fresh, seqs: Sequence[int | None], now: datetime
) -> None:
    shapes = _Shapes(connection, now, any(entry.options is not None for _, entry in fresh))
    rows: list[bulk.EventRow] = []
    confirmations: list[Confirmation] = []
    pushes: list[dict[str, Any]] = []
    audited: list[audit.Subject] = []
    for (_, entry), seq in zip(fresh, seqs, strict=True):
        # Once per event, while the loop waits for the interpreter: no calls but those needed.
        event = entry.event
        at = shapes.last_text if event.at is shapes.last_at else shapes.text_of(event.at)
        data = str(event.raw_data, "utf-8")  # the very bytes that were validated
        own = [event.id, event.type, event.user_id, event.run_id, seq, at, data]
        rows.append((own, shapes.of(entry)))
        if entry.confirmations:
            confirmations += entry.confirmations
        is_audited = audit.is_audited(event.event_class)
        if entry.pushes or is_audited:
            pushes += _push_rows(entry, now)
        if is_audited:
            audited.append(_subject(entry))
    bulk.insert_events(connection, rows, shapes.has_options)
    if pushes:
        bulk.insert_attempts(connection, pushes)
    if confirmations:
        bulk.insert_confirmations(connection, as_stored(confirmations), now)
    audit.record(connection, "accepted", now, audited)


class _Shapes:
    """Shapes of the rows of a batch, and its instants as text; a batch has few different ones.

    Attributes:
        has_options: an entry of the batch has options, so that all shapes end with them.
        last_at, last_text: the instant of the event before, which most events share.
    """

    def __init__(self, connection: Connection, now: datetime, has_options: bool) -> None:
        self._connection = connection
        self._at = now
        self._after: dict[float, str] = {}
        self._known: dict[object, bulk.Values] = {}
        self.has_options = has_options
        self.last_at = now
        self._now = self.last_text = bulk.stamp(connection, now)

    def text_of(self, instant: datetime) -> str:
        self.last_at, self.last_text = instant, bulk.stamp(self._connection, instant)
        return self.last_text

    def of(self, entry: Entry) -> bulk.Values:
        """The values of ``EVENT_SHAPE`` (and ``EVENT_OPTIONS``)."""
        event = entry.event
        state = _state(entry)
        if event.meta is not None or entry.options is not None:  # the event's own
            return self._make(entry, state)
        key = (state, event.event_class, entry.ttl, entry.ack_timeout, event.thread_id)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._make(entry, state)
        return found

    def _make(self, entry: Entry, state: str) -> bulk.Values:
        event = entry.event
        due = handed_over = None
        expires = self._text_after(entry.ttl)
        if state == "accepted" and entry.options is not None and entry.is_held:
            due, expires = self._held(entry.options, entry.ttl)
        elif state == "falling_back":
            due = handed_over = self._now
        elif state in ("sent", "accepted"):
            due = self._text_after(min(entry.ack_timeout, entry.ttl))
        shape = (
            event.thread_id,
            _CLASS.get(event.event_class) or event.event_class.value,
            None if event.meta is None else dump(event.meta),
            state,
            due,
            expires,
            handed_over,
            self._now,
            self._now if state == "confirmed" else None,
        )
        if self.has_options:
            return (*shape, *option_values(entry.options, self.text_of))
        return shape

    def _held(self, options: Options, ttl: float) -> tuple[str, str]:
        """When an event that is held back is due, and when it expires."""
        due = options.not_before or self._at
        return self.text_of(due), self.text_of(max(due, self._at) + timedelta(seconds=ttl))

    def _text_after(self, seconds: float) -> str:
        found = self._after.get(seconds)
        if found is None:
            at = self._at + timedelta(seconds=seconds)
            found = self._after[seconds] = bulk.stamp(self._connection, at)
        return found


def _state(entry: Entry) -> str:
    """The state in which an event is inserted."""
    if isinstance(entry, _Twin):
        return "dead"
    if entry.confirmations and _is_confirmed(entry):
        return "confirmed"
    if entry.options is not None and entry.is_held:
        return "accepted"
    if entry.hand_over:
        return "falling_back"
    return "sent" if entry.sent else "accepted"


def _is_confirmed(entry: Entry) -> bool:
    user_id = entry.event.user_id
    if entry.confirmations[0].user_id == user_id:  # the most frequent case
        return True
    return any(confirmation.user_id == user_id for confirmation in entry.confirmations)


def _side_rows(
    connection: Connection, made: Sequence[SideAttempt], generations: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Rows of attempts beside the chain, numbered after those that are there."""
    columns = (attempts.c.event_id, attempts.c.generation, attempts.c.channel)
    query = (
        sa.select(*columns, sa.func.max(attempts.c.number))
        .where(any_of(attempts.c.event_id, list(generations)))
        .group_by(*columns)
    )
    last = {(row[0], row[1], row[2]): row[3] for row in connection.execute(query)}
    rows = []
    for one in made:
        key = one.event_id, generations[one.event_id], one.channel
        last[key] = number = last.get(key, 0) + 1
        rows.append(
            attempt_values(
                *key,
                number,
                one.outcome,
                started_at=one.started_at,
                ended_at=one.ended_at,
                error=one.error,
            )
        )
    return rows


def _push_rows(entry: Entry, now: datetime) -> Iterable[dict[str, Any]]:
    if audit.is_audited(entry.event.event_class):
        # For a sign-in event the insert is itself an attempt, beside the push and the queue copy.
        at = entry.event.at
        yield attempt_values(
            *(entry.event.id, 1, Channel.DATABASE, 1, Outcome.DELIVERED),
            started_at=at,
            ended_at=max(at, now),
        )
    for number, (outcome, error) in enumerate(entry.pushes, start=1):
        yield attempt_values(
            entry.event.id,
            1,
            Channel.WEBSOCKET,
            number,
            outcome,
            started_at=entry.event.at,
            ended_at=now,
            error=error,
        )


def _subject(entry: Entry) -> audit.Subject:
    event = entry.event
    facts: dict[str, object] = {
        "type": event.type,
        "run_id": event.run_id,
        "confirmed": bool(entry.confirmations),
    }
    return audit.Subject(event.id, event.user_id, event.event_class, facts)


def _resolved(answers: Answers) -> Iterable[Receipted]:
    """Replace references to an earlier entry of the batch by a duplicate's answer."""
    for answer in answers:
        if isinstance(answer, Receipted):
            yield answer
            continue
        original = answers[answer]
        if not isinstance(original, Receipted):
            raise AssertionError("an entry of the batch was neither inserted nor answered")
        yield Receipted(original.id, Recorded.DUPLICATE, original.seq)
