"""Alert groups: one firing group per event class, for any number of dead events, and one for all
figures that are out of their limits.

Owns: membership (``events.digest_id``) and the present counts. Never does: send an alert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import uuid_utils
from sqlalchemy.engine import Connection

from delivery.domain.channels import EXTERNAL, Channel
from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Outcome, State
from delivery.domain.operators.figures import AlertGroup, Condition, Failure
from delivery.domain.records import Claim
from delivery.ledger.sql import rows, transitions
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, lock
from delivery.ledger.sql.tables import attempts, digests, events
from delivery.ledger.stores.fallback.fencing import held

OPERATORS = "*"
SAMPLE = 5
MAX_FAULTS = 3
"""Distinct errors that a group keeps."""
MAX_FAILURES, MAX_ERROR = 3, 300
"""Reasons that a group tells, and the length of each."""
MAX_ATTEMPTS = 500
"""Attempts of the sample that are looked at."""
_WITHOUT_SUCCESS = (Outcome.FAILED.value, Outcome.UNKNOWN.value, Outcome.SKIPPED.value)
THRESHOLDS = "thresholds"
"""The ``class`` of the group for figures out of their limits."""

_NOTHING = "[]"
# The previous release knows the conditions in ``error`` alone. Its processes may run beside this
# one, so both columns are written, and ``error`` is read: every writer of either release sets it.
_LISTED = sa.func.coalesce(digests.c.error, digests.c.conditions)
_listed = sa.select(_LISTED)
_TROUBLED = events.c.state.in_([State.FALLING_BACK.value, State.DEAD.value])


class AlertSql:
    """``AlertStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fire(
        self, event_class: EventClass, claims: Sequence[Claim], faults: Sequence[str] = ()
    ) -> AlertGroup:
        """Put claimed events into the firing group of their class; one whose claim was lost does
        not join.

        Args:
            faults: internal errors that ended events' chains; the group keeps the last few.
        """
        with self._database.write() as connection:
            lock(connection, Channel.ALERT, event_class.value)
            firing = sa.select(*rows.DIGEST_COLUMNS).where(
                *_is_firing(), digests.c["class"] == event_class.value
            )
            row = connection.execute(firing).one_or_none()
            is_new = row is None
            if row is None:
                self._open(connection, event_class.value)
                row = connection.execute(firing).one()
            ours = held(connection, self._database.clock(), claims, transitions.on_chain())
            connection.execute(
                sa.update(events).where(any_of(events.c.id, ours.ids)).values(digest_id=row.id)
            )
            if faults:
                row = _add_faults(connection, row, faults)
            return _group(connection, row, is_new=is_new)

    def watch(self, conditions: Sequence[Condition]) -> None:
        """See the port."""
        standing = (*_is_firing(), digests.c["class"] == THRESHOLDS)
        with self._database.read() as connection:
            if connection.execute(_listed.where(*standing)).first() is None and not conditions:
                return
        with self._database.write() as connection:
            lock(connection, Channel.ALERT, THRESHOLDS)
            if connection.execute(sa.select(digests.c.id).where(*standing)).first() is None:
                if not conditions:
                    return
                self._open(connection, THRESHOLDS)
            old = connection.execute(_listed.where(*standing)).scalar_one()
            text = rows.dump(list(conditions))
            values: dict[str, Any] = {"conditions": text, "error": text}
            if {c.name for c in conditions} - {c.name for c in _conditions(old)}:
                values["notified_at"] = None
            connection.execute(sa.update(digests).where(*standing).values(values))

    def notified(self, group_id: str) -> None:
        """Record that operators were notified now."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(digests)
                .where(digests.c.id == group_id, digests.c.channel == Channel.ALERT)
                .values(notified_at=self._database.clock())
            )

    def firing(self) -> list[AlertGroup]:
        """Firing groups, oldest first, with present counts; ``count`` 0 means that it is over."""
        wanted = sa.select(*rows.DIGEST_COLUMNS).where(*_is_firing())
        with self._database.read() as connection:
            found = connection.execute(wanted.order_by(digests.c.created_at)).all()
            return [_group(connection, row, is_new=False) for row in found]

    def resolve(self, group_id: str) -> None:
        """Close the group, unless events have joined since its count was 0."""
        with self._database.write() as connection:
            mine = digests.c.id == group_id
            subject: str | None = connection.execute(
                sa.select(digests.c["class"]).where(mine, *_is_firing())
            ).scalar_one_or_none()
            if subject is None:
                return
            lock(connection, Channel.ALERT, subject)
            over = (
                _LISTED == _NOTHING
                if subject == THRESHOLDS
                else ~sa.exists().where(events.c.digest_id == group_id, _TROUBLED)
            )
            connection.execute(
                sa.update(digests)
                .where(mine, *_is_firing(), over)
                .values(state="resolved", ended_at=self._database.clock())
            )

    def _open(self, connection: Connection, subject: str) -> None:
        group_id = str(uuid_utils.uuid7())
        values: dict[str, Any] = {
            "id": group_id,
            "user_id": OPERATORS,
            "channel": Channel.ALERT,
            "class": subject,
            "state": "firing",
            "message_id": group_id,
            "created_at": self._database.clock(),
        }
        connection.execute(sa.insert(digests).values(values))


def _is_firing() -> tuple[sa.ColumnElement[bool], ...]:
    return (
        digests.c.user_id == OPERATORS,
        digests.c.channel == Channel.ALERT,
        digests.c.state == "firing",
    )


def _add_faults(
    connection: Connection, row: rows.AnyRow, faults: Sequence[str]
) -> sa.Row[*tuple[Any, ...]]:
    kept = list(dict.fromkeys([*_faults(row.faults), *faults]))[-MAX_FAULTS:]
    mine = digests.c.id == row.id
    connection.execute(sa.update(digests).where(mine).values(faults=rows.dump(kept)))
    return connection.execute(sa.select(*rows.DIGEST_COLUMNS).where(mine)).one()


def _faults(text: str | None) -> tuple[str, ...]:
    return msgspec.json.decode(text or _NOTHING, type=tuple[str, ...])


def _conditions(text: str | None) -> tuple[Condition, ...]:
    return msgspec.json.decode(text or _NOTHING, type=tuple[Condition, ...])


def _group(connection: Connection, row: rows.AnyRow, *, is_new: bool) -> AlertGroup:
    if row._mapping["class"] == THRESHOLDS:
        return _out_of_limits(row)
    mine = (events.c.digest_id == row.id, _TROUBLED)
    count, users = connection.execute(
        sa.select(sa.func.count(), sa.func.count(events.c.user_id.distinct())).where(*mine)
    ).one()
    sample = (
        connection.execute(
            sa.select(events.c.id).where(*mine).order_by(events.c.position).limit(SAMPLE)
        )
        .scalars()
        .all()
    )
    return AlertGroup(
        id=row.id,
        event_class=rows.class_of(row._mapping["class"]),
        since=row.created_at,
        count=count,
        users=users,
        sample=tuple(sample),
        notified_at=row.notified_at,
        is_new=is_new,
        faults=_faults(row.faults),
        failures=_failures(connection, sample),
    )


def _failures(connection: Connection, sample: Sequence[str]) -> tuple[Failure, ...]:
    """What stopped a few events: failures before skips, channels of a provider before ours."""
    found = connection.execute(
        sa.select(attempts.c.event_id, attempts.c.channel, attempts.c.outcome, attempts.c.error)
        .join(events, events.c.id == attempts.c.event_id)
        .where(
            any_of(attempts.c.event_id, sample),
            attempts.c.generation == events.c.generation,
            attempts.c.channel != Channel.ALERT,
            attempts.c.outcome.in_(_WITHOUT_SUCCESS),
            attempts.c.error.is_not(None),
        )
        .limit(MAX_ATTEMPTS)
    )
    stopped: dict[tuple[bool, bool, str, str], set[str]] = {}
    for event_id, channel, outcome, error in found:
        key = (outcome == Outcome.SKIPPED, channel not in EXTERNAL, channel, error)
        stopped.setdefault(key, set()).add(event_id)
    top = sorted(stopped, key=lambda key: (key[0], key[1], -len(stopped[key]), key[2:]))
    return tuple(
        Failure(channel, error[:MAX_ERROR], len(stopped[key]))
        for key in top[:MAX_FAILURES]
        for _, _, channel, error in [key]
    )


def _out_of_limits(row: rows.AnyRow) -> AlertGroup:
    conditions = _conditions(row.conditions if row.error is None else row.error)
    return AlertGroup(
        id=row.id,
        event_class=None,
        since=row.created_at,
        count=len(conditions),
        users=0,
        sample=(),
        notified_at=row.notified_at,
        is_new=False,
        conditions=conditions,
    )
